"""What happens in the demo: what is done to host processes, and what must come of it.

Each step does one thing to the hosts, waits until all of them know what follows from it, and
measures how long that took: from the action, by the demo's clock, to the last host's report, by
that host's clock. They are one clock, CLOCK_MONOTONIC of this machine. When a host is killed, it is
asked before how long its lease would go on: the others would wait for that without its reaper.

A host process is this module, run with the arguments of `host` as JSON. It writes events of the
board to its stdout, one on a line, and leaves when its stdin ends: because the demo wants so, or
is gone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import trio

from trio_sched import open_client, schedule
from trio_sched._support.tasks import open_plain_nursery
from trio_sched.cli.demo.board import Board, HostState, PathView
from trio_sched.etcd_shim import Client
from trio_sched.exceptions import TrioSchedError
from trio_sched.model.keys import PathKeys
from trio_sched.model.path_state import PathState
from trio_sched.testing import open_etcd

__all__ = ["DemoFailed", "host", "run_demo"]

# Names and not code, so that a test can put something in their place that fails.
HOST_MODULE = "trio_sched.cli.demo.story"
REAPER = True
PATH = "/demo"
NAMES = ("host-a", "host-b", "host-c", "host-d")
NEWCOMER = "host-e"
MAX_COUNT = 2
TTL = 10  # seconds, the default; after a crash without a reaper the others wait for this
LIMIT = 34.0  # seconds for all of it; what is left of 40 is for ending etcd and the hosts
_POLL_INTERVAL = 0.05  # seconds between reads, as etcd has no event for the end of a lease


class DemoFailed(Exception):
    """Something did not happen as it had to."""


async def host(name: str, endpoint: str) -> None:
    """Be a host: join, report decisions, and leave at the end of stdin."""
    post_state = partial(_post, "host", host=name, pid=os.getpid())
    async with open_plain_nursery() as nursery:
        nursery.start_soon(_leave_at_end_of_stdin, nursery.cancel_scope)
        async with open_client(endpoint) as client:
            post_state(state="joining")
            async with schedule(
                client, PATH, name, max_count=MAX_COUNT, session_ttl=TTL, reaper=REAPER
            ) as result:
                post_state(state="joined")
                async for hosts in result:
                    decision = {"revision": hosts.revision, "leader": hosts.leader}
                    _post("decision", host=name, hosts=list(hosts), **decision)
    post_state(state="left")


async def _leave_at_end_of_stdin(scope: trio.CancelScope) -> None:
    await trio.lowlevel.wait_readable(sys.stdin)  # nothing is ever written to it
    scope.cancel()


def _post(kind: str, **fields: Any) -> None:
    # A line fits into the pipe's buffer, so this does not block.
    sys.stdout.write(json.dumps({"kind": kind, "t": time.monotonic(), **fields}) + "\n")
    sys.stdout.flush()


async def run_demo(
    board: Board, pace: float, executable: Path | None, *, limit: float = LIMIT
) -> int:
    """Run it from beginning to end, and return the exit code: 1 if `Board.failure` says why.

    It rests `pace` seconds before each step, and all of it takes `limit` seconds at most. The etcd
    is `executable`, or, if that is None, one that is found.
    """
    reason = None
    try:
        with trio.fail_after(limit):
            await _run(board, pace, executable)
    except trio.TooSlowError:
        awaited = f"the end of: {board.steps[-1].title}" if board.steps else "etcd"
        reason = f"not over within {limit:g} s; was waiting for {awaited}"
    except (DemoFailed, TrioSchedError, OSError) as error:
        reason = f"{type(error).__name__}: {error}"
    now, ok = time.monotonic(), reason is None
    if not ok:
        board.post("failed", now, reason=reason)
    steps = [{"title": step.title, "seconds": step.seconds} for step in board.steps]
    left = {"keys": board.path.keys, "leases": board.path.leases}
    board.post("summary", now, ok=ok, reason=reason, steps=steps, **left)
    return int(not ok)


async def _run(board: Board, pace: float, executable: Path | None) -> None:
    async with (
        open_etcd(executable=executable) as etcd,
        open_client(etcd.endpoint) as client,
        open_plain_nursery() as nursery,
    ):
        version = (await client.status()).version
        board.post("etcd", time.monotonic(), endpoint=etcd.endpoint, version=version, path=PATH)
        await _Scenario(board, pace, etcd.endpoint, client, nursery).play()


@dataclass
class _Scenario:
    """The steps. Each leaves the hosts as the next one expects them."""

    board: Board
    pace: float
    endpoint: str
    client: Client
    nursery: trio.Nursery
    processes: dict[str, trio.Process] = field(default_factory=dict)
    leader_lease: int = 0  # of the leader's session; 0 if none leads

    async def play(self) -> None:
        """Take all steps."""
        board = self.board
        await self._step(f"{len(NAMES)} hosts join, {MAX_COUNT} shall run", NAMES, "starting")
        # Better one that does not lead: the loss of the leader has a step of its own.
        name = next(name for name in board.path.scheduled if name != board.path.leader)
        await self._step(f"{name}, scheduled, leaves", [name], "leaving")
        leader = board.path.leader
        assert leader is not None  # all hosts have agreed
        await self._step(f"kill -9 {leader}, the leader", [leader], "killed")
        await self._step(f"{NEWCOMER} joins, none moves", [NEWCOMER], "starting")
        await self._step("all hosts leave", [host.name for host in board.alive], "leaving")
        await self._begin("no key and no lease is left in etcd")
        await self._until(lambda: board.path == PathView())
        self._measured(time.monotonic() - board.last("left"), "after the last host left")

    async def _step(self, title: str, names: Iterable[str], state: HostState) -> None:
        """Bring hosts into a state, wait until all hosts know the outcome, and check it."""
        board, kept = self.board, {*self.board.path.scheduled} - {*names}
        await self._begin(title)
        left = await self._lease_left() if state == "killed" else None
        for name in names:
            await (self._start(name) if state == "starting" else self._end(name, state))
            if len(self.processes) == 1:  # so that the first one leads, and is scheduled
                await self._until(lambda: len(board.agreed or ()) == 1)
        count = min(MAX_COUNT, len(board.alive))
        await self._until(lambda: board.agreed is not None and len(board.agreed) == count)
        # No host may have seen a decision without those that go on, not even for a moment.
        lost = [chosen for chosen in board.steps[-1].reports if not kept <= {*chosen}]
        if lost:
            raise DemoFailed(f"{', '.join(sorted(kept))} should have been kept; reported: {lost}")
        began = max(board.steps[-1].began, board.last("joining"), board.last("killed"))
        note = f"now {', '.join(board.path.scheduled)}; {board.path.leader} leads"
        seconds = board.last_report(began)
        self._measured(seconds, note if count else "all processes have ended", left)
        if left is not None and seconds >= left:
            raise DemoFailed(f"the reaper was no faster than the lease, which had {left} s left")

    async def _lease_left(self) -> int:
        """Seconds for which etcd would keep the leader's lease if it was killed now."""
        return (await self.client.lease_time_to_live(self.leader_lease)).ttl

    async def _begin(self, title: str) -> None:
        await trio.sleep(self.pace)
        self.board.post("step", time.monotonic(), title=title)

    def _measured(self, seconds: float, note: str, lease_left: int | None = None) -> None:
        title, rounded = self.board.steps[-1].title, round(seconds, 4)
        fields = {"title": title, "seconds": rounded, "note": note, "lease_left": lease_left}
        self.board.post("measured", time.monotonic(), **fields)

    async def _until(self, holds: Callable[[], bool]) -> None:
        """Read etcd, by a client that has no part in the scheduling, until something holds."""
        while True:
            found = await self.client.get_prefix(f"{PATH}/")
            state = PathState.decode(PathKeys(PATH), found, found.revision)
            self.leader_lease = 0 if state.leader is None else state.leader.lease
            self.board.post(
                "path",
                time.monotonic(),
                pool=tuple(state.pool),
                leader=state.leader and state.leader.name,
                scheduled=tuple(state.hosts),
                keys=len(found),
                leases=len(await self.client.lease_list()),
            )
            if holds():
                return
            await trio.sleep(_POLL_INTERVAL)

    async def _start(self, name: str) -> None:
        run = partial(
            trio.run_process,
            [sys.executable, "-m", HOST_MODULE, json.dumps([name, self.endpoint])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            start_new_session=True,  # a Ctrl-C is for the demo alone
        )
        self.processes[name] = await self.nursery.start(run)
        self._post_state(name, "starting")
        self.nursery.start_soon(self._follow, name, self.processes[name])

    def _post_state(self, name: str, state: HostState) -> None:
        pid = self.processes[name].pid
        self.board.post("host", time.monotonic(), host=name, pid=pid, state=state)

    async def _end(self, name: str, state: HostState) -> None:
        process = self.processes[name]
        assert process.stdin is not None
        self._post_state(name, state)
        if state == "killed":
            process.kill()
        await process.stdin.aclose()

    async def _follow(self, name: str, process: trio.Process) -> None:
        """Post the events that a host writes, until it ends, which must be as it was wanted."""
        assert process.stdout is not None
        rest, error = b"", b""
        async for chunk in process.stdout:
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if line.startswith(b'{"kind"'):
                    self.board.post(**json.loads(line))
                else:
                    error = line  # of its stderr, the last line
        code = await process.wait()
        if (self.board.hosts[name].state, code) not in {("killed", -signal.SIGKILL), ("left", 0)}:
            self._post_state(name, "died")
            raise DemoFailed(f"{name} ended with exit code {code}: {error.decode()}")


if __name__ == "__main__":
    trio.run(host, *json.loads(sys.argv[1]))
