"""The child's beginning and end, step by step."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest
import trio

from tests.cli.run.run_tools import COMMAND, PATIENCE, open_run
from tests.reaper.process_tools import alive, eventually, exists, proc_bytes
from trio_sched import open_client, schedule
from trio_sched._support import processes
from trio_sched._support.processes import wait_ended
from trio_sched.cli.exits import CannotRun
from trio_sched.cli.run import life
from trio_sched.cli.run.child import RunChild, start_child
from trio_sched.reaper.helper import groups
from trio_sched.reaper.helper.tree import Work
from trio_sched.reaper.owner import Reaper

SLEEP = ["sleep", "300"]


class Recorder:
    """Stands for a reaper, and reads what is there when it is sent a work."""

    pid = None

    def __init__(self) -> None:
        self.works: list[tuple[Work, bytes]] = []
        self.ended: list[Work] = []

    def work(self, work: Work) -> None:
        self.works.append((work, proc_bytes(work.group, "cmdline")))

    def over(self, work: Work) -> None:
        self.ended.append(work)

    def until(self, deadline: float, work: Work) -> None:
        pass


async def start(recorder: Recorder, *command: str) -> RunChild:
    return await start_child(command, os.environ, cast("Reaper", recorder))


def never() -> float:
    return trio.current_time() + 1000


async def test_the_reaper_knows_the_work_before_the_command_runs() -> None:
    recorder = Recorder()
    child = await start(recorder, *SLEEP)
    assert proc_bytes(child.pid, "cmdline") == b"sleep\x00300\x00"
    ((work, command),) = recorder.works
    assert work.group == child.pid == os.getpgid(child.pid)
    assert not command.startswith(b"sleep\x00")
    assert not await child.end(signal.SIGTERM, never)
    assert recorder.ended == [work]
    assert child.exit_code == 143
    assert not exists(child.pid)
    assert not exists(work.keeper)


async def test_what_ends_by_itself() -> None:
    recorder = Recorder()
    child = await start(recorder, "true")
    assert await child.wait() == 0
    assert await child.wait() == 0, "it may be asked again"
    assert not await child.end(signal.SIGTERM, never)
    assert len(recorder.ended) == 1


async def test_a_cancelled_start_starts_nothing_or_gives_a_child() -> None:
    recorder = Recorder()
    with trio.CancelScope() as scope:
        scope.cancel()
        await start(recorder, *SLEEP)
    assert not recorder.works


async def test_a_command_that_is_not_there() -> None:
    recorder = Recorder()
    with pytest.raises(CannotRun) as caught:
        await start(recorder, "/no/such/command")
    assert caught.value.code == 127
    assert recorder.ended == [recorder.works[0][0]]
    assert not exists(recorder.ended[0].group)


async def test_arguments_arrive_as_they_are() -> None:
    odd = ["", "a b", "-c", "--", "é", os.fsdecode(b"\xff")]
    child = await start(Recorder(), "sh", "-c", 'test "$3" = -c && exec sleep 300', "x", *odd)
    await eventually(lambda: proc_bytes(child.pid, "cmdline").startswith(b"sleep"))
    assert await child.end(signal.SIGKILL, never) is False


async def test_it_is_killed_when_asking_takes_too_long() -> None:
    words = "trap '' TERM; sleep 300 & echo $$; wait"
    child = await start(Recorder(), "sh", "-c", words)
    await eventually(lambda: len(groups.living_members(child.pid)) == 2)
    members = groups.living_members(child.pid)
    assert await child.end(signal.SIGTERM, lambda: trio.current_time() - 1)
    assert not any(alive(pid) for pid in members)
    assert child.exit_code == 137


# ---- where the system offers less -----------------------------------------------------------


async def test_without_pidfds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    child = await start(Recorder(), "sh", "-c", "sleep 300 & exit 3")
    assert await child.wait() == 3
    assert not await child.end(signal.SIGTERM, never)
    assert child.exit_code == 3
    await wait_ended(child.pid)  # which is gone
    assert not processes._there(child.pid)


@pytest.mark.parametrize(
    ("other", "found"),
    [
        ("a\0b", r"a\x00b"),
        ("\u65e5", "\u65e5"),
    ],
)
async def test_names_of_others_that_no_variable_can_hold_end_nothing(
    endpoint: str, path: str, other: str, found: str
) -> None:
    """Nor is a name to be text that this machine's locale has."""
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    words = "import os; print(os.environb[b'TRIO_SCHED_HOSTS'].hex())"
    command = [sys.executable, "-c", words]
    async with (
        open_client(endpoint) as client,
        schedule(client, path, other, max_count=2) as result,
    ):
        await result.wait_scheduled()
        async with open_run(
            endpoint, path, "-n", "2", command=command, name="zz", env=ascii_only
        ) as run:
            names = bytes.fromhex(await run.line()).decode().split(",")
            assert sorted(names) == sorted([found, "zz"])
            assert await run.code() == 0


def test_a_variable_that_would_be_too_long_is_empty() -> None:
    """A hundred names of a thousand letters are; and Linux takes 128 KiB."""
    long = ",".join(f"{number:03}{'x' * 996}" for number in range(100))
    assert life._variable(long) == long
    assert life._variable(f"{long},x") == ""
    assert life._variable("\u65e5" * 40_000) == ""


async def test_with_no_standard_files_at_all(endpoint: str, path: str, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    words = f"sleep 0.1; echo so > {mark}; exit 7"
    command = [*COMMAND, path, "--endpoints", endpoint, "--", "sh", "-c", words]
    with trio.fail_after(PATIENCE):
        closing = ["sh", "-c", 'exec "$@" 0>&- 1>&- 2>&-', "sh"]
        assert (await trio.run_process([*closing, *command], check=False)).returncode == 7
    assert mark.read_text() == "so\n"


def test_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(SLEEP, process_group=0) as process:
        monkeypatch.setattr(os, "listdir", lambda _: [])
        assert groups.living_members(process.pid) == [process.pid]
        groups.signal_group(process.pid, signal.SIGKILL)
    assert groups.living_members(process.pid) == []
    assert groups.kill_group(process.pid, 1.0)


def test_a_group_that_does_not_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "signal_group", lambda *_: True)
    with subprocess.Popen(SLEEP, process_group=0) as process:
        assert not groups.kill_group(process.pid, 0.05)
        process.kill()
