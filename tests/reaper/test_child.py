"""A command and its tree: asked, killed, killed at once, and without its keeper."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.reaper.process_tools import alive, eventually, exists
from tests.reaper.tree_tools import has_cgroups, marked
from trio_sched.reaper.child import NO_CGROUP, Child, KeeperLost, keeper_command, open_gate

FAR = 1e6  # seconds


@asynccontextmanager
async def open_child(*command: str, begin: bool = True) -> AsyncIterator[tuple[Child, int]]:
    """A child, and the id of its keeper."""
    gate, theirs = open_gate()
    keeper = keeper_command(theirs, command, os.environ)
    process = subprocess.Popen(keeper, pass_fds=[theirs.fileno()], process_group=0)  # noqa: ASYNC220 # not waited for
    theirs.close()
    child = Child(gate, process.pid, None)
    try:
        if begin:
            assert await child.begin(trio.current_time() + FAR) == 0
        yield child, process.pid
    finally:
        process.kill()
        process.wait()


@pytest.fixture(params=["cgroup", "no cgroup"])
def means(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With a cgroup, and without."""
    if request.param == "no cgroup":
        monkeypatch.setenv(NO_CGROUP, "1")
    elif not has_cgroups():
        pytest.skip("no cgroup may be made here")
    return str(request.param)


async def test_the_keepers_end_of_the_gate_is_no_standard_file() -> None:
    """It would be lost when the process is given a standard input or output."""
    words = "import sys; from trio_sched.reaper.child import open_gate\n"
    words += "ends = open_gate(); sys.exit(7 if ends[1].fileno() > 2 else 1)"
    for closing in ("0>&-", "0>&- 1>&-", "0>&- 1>&- 2>&-"):
        command = ["sh", "-c", f'exec "$@" {closing}', "sh", sys.executable, "-c", words]
        assert (await trio.run_process(command, check=False)).returncode == 7


def never() -> float:
    return trio.current_time() + FAR


def asks(mark: str) -> list[str]:
    """It answers SIGTERM by exit code 7, and has a descendant elsewhere."""
    return ["sh", "-c", f"trap 'exit 7' TERM; setsid sleep {mark} & sleep {mark} & wait; wait"]


@pytest.mark.usefixtures("means")
async def test_it_is_asked_first(mark: str) -> None:
    async with open_child(*asks(mark)) as (child, keeper):
        await eventually(lambda: len(marked(mark)) == 2)
        assert not await child.end(signal.SIGTERM, never)
        assert child.code == 7
        assert not marked(mark)
        assert not alive(keeper)


@pytest.mark.usefixtures("means")
async def test_at_once_it_is_not_asked(mark: str) -> None:
    async with open_child(*asks(mark)) as (child, _):
        await eventually(lambda: len(marked(mark)) == 2)
        assert await child.end(signal.SIGTERM, never, at_once=True)
        assert child.code == -9
        assert not marked(mark)


@pytest.mark.usefixtures("means")
async def test_what_changes_meanwhile_counts(mark: str) -> None:
    """It is being waited for, for a long time, and then it has to end now."""
    words = f"trap '' TERM; setsid sleep {mark} & sleep {mark}"
    until = [trio.current_time() + FAR]
    async with open_child("sh", "-c", words) as (child, _):
        await eventually(lambda: len(marked(mark)) == 2)
        async with trio.open_nursery() as nursery:

            async def end() -> None:
                assert await child.end(signal.SIGTERM, lambda: until[0])
                nursery.cancel_scope.cancel()

            nursery.start_soon(end)
            await trio.testing.wait_all_tasks_blocked()
            until[0] = -FAR
            await trio.sleep_forever()
        assert not marked(mark)


@pytest.mark.usefixtures("means")
async def test_a_keeper_that_is_killed(mark: str) -> None:
    async with open_child(*asks(mark)) as (child, keeper):
        await eventually(lambda: len(marked(mark)) == 2)
        os.kill(keeper, signal.SIGKILL)
        assert await child.wait() == -9
        await child.end(signal.SIGTERM, never)
        assert child.code == -9
        assert not marked(mark)


@pytest.mark.usefixtures("means")
async def test_a_keeper_that_is_stopped(mark: str) -> None:
    async with open_child(*asks(mark)) as (child, keeper):
        await eventually(lambda: len(marked(mark)) == 2)
        os.kill(keeper, signal.SIGSTOP)
        assert not await child.end(signal.SIGTERM, never)
        assert child.code == 7
        assert not marked(mark)


async def test_a_keeper_that_is_killed_before_the_command_runs(mark: str) -> None:
    async with open_child("sleep", mark, begin=False) as (child, keeper):
        os.kill(keeper, signal.SIGKILL)
        with pytest.raises(KeeperLost):
            await child.begin(trio.current_time() + FAR)
        await child.end(signal.SIGTERM, never)
        assert not marked(mark)


async def test_a_cgroup_is_removed(mark: str, means: str) -> None:
    async with open_child("sleep", mark) as (child, _):
        folder = child._work.cgroup
        assert bool(folder) is (means == "cgroup")
        await child.end(signal.SIGTERM, never)
        assert not folder or not is_folder(folder)
        assert not exists(child.pid)


def is_folder(name: str) -> bool:
    return Path(name).is_dir()
