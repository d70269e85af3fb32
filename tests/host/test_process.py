"""`Slot.run_process`: work that is a process, and everything that it starts. F55."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.reaper.process_tools import ended_with_block, eventually
from tests.reaper.tree_tools import marked
from trio_sched import Slot, open_client, schedule
from trio_sched.etcd_shim import Client
from trio_sched.etcd_shim._keep import margin_of
from trio_sched.host.process import run_process
from trio_sched.reaper.child import NO_CGROUP
from trio_sched.reaper.owner import Reaper
from trio_sched.testing import open_etcd

PROGRAM = Path(__file__).with_name("process_host.py")
PATIENCE = 40  # seconds; far more than anything here takes
TREE = "trap '' TERM; setsid sleep {0} & timeout 600 sleep {0} & sleep {0}"
TREE_SIZE = 4  # `timeout` has the number among its words, too


@dataclass
class Right:
    """A right to run that is not lost unless a test says so."""

    deadline: float
    reaper: Reaper | None = None
    lost: bool = False


def right() -> Right:
    return Right(trio.current_time() + 1000)


@pytest.fixture(autouse=True)
def without_cgroups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NO_CGROUP, "1")


# ---- as trio.run_process --------------------------------------------------------------------


async def both(command: Any, **options: Any) -> tuple[Any, Any]:
    """What trio's own and ours give, whether it is a value or an error."""
    found: list[Any] = []
    for run in (trio.run_process, lambda *args, **kw: run_process(right(), *args, **kw)):
        try:
            done = await run(command, **options)
        except (OSError, ValueError, TypeError, subprocess.CalledProcessError) as exc:
            found.append((type(exc), getattr(exc, "errno", None), vars(exc)))
        else:
            found.append((done.returncode, done.stdout, done.stderr, done.args))
    return found[0], found[1]


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (["true"], {}),
        (["false"], {"check": False}),
        (["false"], {}),
        (["sh", "-c", "kill -9 $$"], {"check": False}),
        (["sh", "-c", "echo out; echo err >&2; exit 3"], {"capture_stdout": True}),
        (
            ["sh", "-c", "echo out; echo err >&2"],
            {"capture_stdout": True, "capture_stderr": True},
        ),
        (["sh", "-c", "echo both >&2"], {"capture_stdout": True, "stderr": subprocess.STDOUT}),
        (["cat"], {"stdin": b"x" * 300_000, "capture_stdout": True}),
        (["true"], {"stdin": b"x" * 300_000}),
        (["cat"], {"capture_stdout": True}),
        (["pwd"], {"cwd": "/", "capture_stdout": True}),
        (["sh", "-c", "echo $A"], {"env": {"A": "b"}, "capture_stdout": True}),
        (["sh", "-c", "umask"], {"umask": 0o77, "capture_stdout": True}),
        ("echo $((6 * 7))", {"shell": True, "capture_stdout": True}),
        (["/no/such/program"], {}),
        (["/etc/passwd"], {}),
        (["true"], {"cwd": "/no/such/folder"}),
    ],
)
async def test_it_gives_what_trio_gives(command: Any, options: dict[str, Any]) -> None:
    theirs, ours = await both(command, **options)
    if isinstance(theirs[0], type) and issubclass(theirs[0], OSError):
        theirs, ours = theirs[:2], ours[:2]
    assert ours == theirs


@pytest.mark.parametrize(
    ("command", "options", "error"),
    [
        ("true", {}, TypeError),
        (["true"], {"shell": True}, TypeError),
        ([], {}, ValueError),
        (["true"], {"stdin": "text"}, TypeError),
        (["true"], {"stdin": subprocess.PIPE}, ValueError),
        (["true"], {"stdout": subprocess.PIPE}, ValueError),
        (["true"], {"grace": -1}, ValueError),
        (["true"], {"deliver_cancel": print}, TypeError),
        (["true"], {"executable": "/bin/true"}, TypeError),
    ],
)
async def test_bad_arguments(command: Any, options: dict[str, Any], error: type) -> None:
    with pytest.raises(error):
        await run_process(right(), command, **options)


async def test_a_file_is_passed_on() -> None:
    theirs, ours = os.pipe()
    command = ["sh", "-c", f"echo here > /proc/self/fd/{ours}"]
    await run_process(right(), command, pass_fds=[ours])
    os.close(ours)
    async with trio.lowlevel.FdStream(theirs) as reads:
        assert [chunk async for chunk in reads] == [b"here\n"], "and nothing holds it any more"


# ---- what it starts -------------------------------------------------------------------------


async def test_f55_what_it_leaves_behind_is_ended_before_it_returns(mark: str) -> None:
    command = ["sh", "-c", f"setsid sleep {mark} & exit 3"]
    done = await run_process(right(), command, check=False)
    assert done.returncode == 3
    assert not marked(mark)


@pytest.mark.parametrize("deaf", [False, True])
async def test_f55_cancelled_it_ends_the_whole_tree(mark: str, *, deaf: bool) -> None:
    words = TREE if deaf else TREE.removeprefix("trap '' TERM; ")
    command = ["sh", "-c", words.format(mark)]
    async with trio.open_nursery() as nursery:
        grace = 0.1 if deaf else 1000
        nursery.start_soon(lambda: run_process(right(), command, grace=grace))
        await eventually(lambda: len(marked(mark)) == TREE_SIZE)
        nursery.cancel_scope.cancel()
    assert not marked(mark)


async def test_f55_a_right_that_is_known_to_be_lost_ends_it_at_once(mark: str) -> None:
    """Without a word that it could answer, also if that is known later than that it has to end."""
    command = ["sh", "-c", TREE.format(mark)]
    for before in (True, False):
        ours = right()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(run_process, ours, command, grace=1000))
            await eventually(lambda: len(marked(mark)) == TREE_SIZE)
            ours.lost = before
            nursery.cancel_scope.cancel()
            if not before:
                nursery.start_soon(set_lost, ours)  # when it has been asked
        assert not marked(mark)


async def set_lost(lost: Right) -> None:
    with trio.CancelScope(shield=True):
        await trio.lowlevel.checkpoint()
    lost.lost = True


async def test_f55_its_deadline_ends_it_though_it_could_take_longer(mark: str) -> None:
    command = ["sh", "-c", TREE.format(mark)]
    ours = Right(trio.current_time() + 1000)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: run_process(ours, command, grace=1000))
        await eventually(lambda: len(marked(mark)) == TREE_SIZE)
        ours.deadline = trio.current_time() + 0.1
        nursery.cancel_scope.cancel()
    assert trio.current_time() >= ours.deadline - 0.2
    assert not marked(mark)


@pytest.mark.parametrize("steps", range(12))
async def test_f55_cancelled_anywhere_nothing_is_left(mark: str, steps: int) -> None:
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            command = ["sh", "-c", f"exec sleep {mark}"]
            nursery.start_soon(lambda: run_process(right(), command, grace=0))
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            scope.cancel()
    assert not marked(mark)


# ---- of a host ------------------------------------------------------------------------------


@asynccontextmanager
async def open_host(
    endpoint: str, path: str, name: str, command: list[str], **settings: Any
) -> AsyncIterator[trio.Process]:
    order = {"ttl": 60, "reaper": True, "grace": 0.2} | settings
    order |= {"endpoint": endpoint, "path": path, "name": name, "command": command}
    process = await trio.lowlevel.open_process(
        [sys.executable, str(PROGRAM), json.dumps(order)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    async with ended_with_block(process, PATIENCE):
        assert process.stdout is not None
        await process.stdout.receive_some()  # it has joined
        yield process


async def slot_taken(client: Client, path: str, name: str) -> None:
    async with client.watch(f"{path}/slots/0") as events:
        found = (await client.get(f"{path}/slots/0")).kv
        while found is None or found.value != name.encode():
            event = await anext(events)
            found = None if event.kv.value == b"" else event.kv


@pytest.mark.parametrize("blow", ["killed", "stopped"])
async def test_f55_no_process_of_a_host_runs_beside_the_next_ones(
    endpoint: str, path: str, mark: str, blow: str
) -> None:
    """Killed, the next one does not wait for a lease to lapse; stopped, it is ended by D."""
    ttl = 60 if blow == "killed" else 2
    command = ["sh", "-c", TREE.format(mark)]
    async with open_client(endpoint) as client:
        async with open_host(endpoint, path, "a", command, ttl=ttl) as first:
            await slot_taken(client, path, "a")
            await eventually(lambda: len(marked(mark)) == TREE_SIZE)
            async with open_host(endpoint, path, "b", ["sleep", "300"], ttl=ttl):
                first.send_signal(signal.SIGKILL if blow == "killed" else signal.SIGSTOP)
                await slot_taken(client, path, "b")
                assert not marked(mark)


async def test_f55_without_a_reaper_it_is_ended_all_the_same(
    endpoint: str, path: str, mark: str
) -> None:
    command = ["sh", "-c", TREE.format(mark)]
    async with open_host(endpoint, path, "a", command, reaper=False, ttl=2) as host:
        await eventually(lambda: len(marked(mark)) == TREE_SIZE)
        host.kill()
        await eventually(lambda: not marked(mark))


async def test_f55_it_is_ended_before_the_deadline_when_etcd_is_silent(
    path: str, mark: str
) -> None:
    command = ["sh", "-c", TREE.format(mark)]
    left: list[float] = []

    async def work(slot: Slot) -> None:
        try:
            await slot.run_process(command, grace=1000)
        finally:
            left.append(slot.deadline - trio.current_time())
            assert not marked(mark)

    async with open_etcd() as server:
        async with (
            open_client(server.endpoint) as client,
            schedule(client, path, "host", session_ttl=2, shutdown_timeout=0) as result,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(result.run_while_scheduled, work)
            await eventually(lambda: len(marked(mark)) == TREE_SIZE)
            (member,) = server.members
            member.pause()
            try:
                await eventually(lambda: left)
            finally:
                member.resume()
            nursery.cancel_scope.cancel()
    assert left[0] > -margin_of(2), "before etcd can have given the slot away"


async def test_f55_a_slot_knows_its_reaper(endpoint: str, path: str) -> None:
    found: list[Reaper | None] = []

    async def work(slot: Slot) -> None:
        found.append(slot.reaper)
        assert (await slot.run_process(["echo", "a"], capture_stdout=True)).stdout == b"a\n"

    async with open_client(endpoint) as client:
        for reaper in (False, True):
            async with schedule(client, path, "host", reaper=reaper) as result:
                await result.run_while_scheduled(work)
    assert found[0] is None
    assert isinstance(found[1], Reaper)
