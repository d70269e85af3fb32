"""The child's beginning and end, step by step."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import pytest
import trio

from tests.reaper.process_tools import alive, eventually, exists, proc_bytes
from trio_sched._support import processes
from trio_sched._support.processes import wait_ended
from trio_sched.cli.run.child import CannotRun, Child, start_child
from trio_sched.reaper.helper import groups, helper_command
from trio_sched.reaper.owner import Reaper

SLEEP = ["sleep", "300"]


class Recorder:
    """Stands for a reaper, and reads what is there when it is sent a group."""

    def __init__(self) -> None:
        self.groups: list[tuple[int | None, bytes]] = []

    def group(self, pgid: int | None) -> None:
        self.groups.append((pgid, proc_bytes(pgid, "cmdline") if pgid else b""))


async def start(recorder: Recorder, *command: str) -> Child:
    return await start_child(command, os.environ, cast("Reaper", recorder))


def never() -> float:
    return trio.current_time() + 1000


async def test_the_reaper_knows_the_group_before_the_command_runs() -> None:
    recorder = Recorder()
    child = await start(recorder, *SLEEP)
    assert proc_bytes(child.pid, "cmdline") == b"sleep\x00300\x00"
    ((pgid, command),) = recorder.groups
    assert pgid == child.pid
    assert not command.startswith(b"sleep\x00")
    assert not await child.end(signal.SIGTERM, never)
    assert recorder.groups[1:] == [(None, b"")]
    assert child.code == 143
    assert not exists(child.pid)


async def test_the_number_stays_ours_until_the_reaper_knows() -> None:
    class Looking(Recorder):
        def group(self, pgid: int | None) -> None:
            assert exists(self.groups[0][0] or 0) if self.groups else True
            super().group(pgid)

    recorder = Looking()
    child = await start(recorder, "true")
    assert await child.wait() == 0
    assert await child.wait() == 0, "it may be asked again"
    assert not await child.end(signal.SIGTERM, never)
    assert len(recorder.groups) == 2


async def test_a_cancelled_start_starts_nothing_or_gives_a_child() -> None:
    recorder = Recorder()
    with trio.CancelScope() as scope:
        scope.cancel()
        await start(recorder, *SLEEP)
    assert not recorder.groups


async def test_a_command_that_is_not_there() -> None:
    recorder = Recorder()
    with pytest.raises(CannotRun) as caught:
        await start(recorder, "/no/such/command")
    assert caught.value.code == 127
    assert [pgid is None for pgid, _ in recorder.groups] == [False, True]
    assert not exists(recorder.groups[0][0] or 0)


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
    assert child.code == 137


# ---- the helper that becomes the command ----------------------------------------------------


@contextmanager
def gate(parent: int) -> Iterator[tuple[socket.socket, subprocess.Popen[bytes]]]:
    """The helper, waiting at its gate, with the parent that it was given."""
    ours, theirs = socket.socketpair()
    command = helper_command("exec_child", str(theirs.fileno()), str(parent), "echo", "it runs")
    with (
        ours,
        subprocess.Popen(command, pass_fds=[theirs.fileno()], stdout=subprocess.PIPE) as process,
    ):
        theirs.close()
        yield ours, process
        process.kill()


def test_without_a_word_it_never_runs() -> None:
    with gate(os.getpid()) as (ours, process):
        ours.shutdown(socket.SHUT_WR)
        assert process.communicate()[0] == b""


def test_an_orphan_never_runs() -> None:
    """Its parent died before it could ask to die with it."""
    with gate(os.getpid() + 1) as (ours, process):
        ours.send(b"!")
        assert process.communicate()[0] == b""


def test_with_a_word_it_runs() -> None:
    with gate(os.getpid()) as (ours, process):
        ours.send(b"!")
        assert process.communicate()[0] == b"it runs\n"
        assert ours.recv(16) == b""


# ---- where the system offers less -----------------------------------------------------------


async def test_without_pidfds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    child = await start(Recorder(), "sh", "-c", "sleep 300 & exit 3")
    assert await child.wait() == 3
    assert not await child.end(signal.SIGTERM, never)
    assert child.code == 3
    await wait_ended(child.pid)  # which is gone
    assert not processes._there(child.pid)


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
