"""What happens in the demo, and what must come of it.

Each step does one thing to the hosts, waits until all of them know what follows from it, and
measures how long that took: from the action, by the demo's clock, to the last host's report, by
that host's clock. They are one clock, CLOCK_MONOTONIC of this machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import trio

from trio_sched import open_client
from trio_sched._support.tasks import open_plain_nursery
from trio_sched.cli.demo.board import Board, Event, HostState, PathView
from trio_sched.cli.demo.hosts import DemoFailed, run_host
from trio_sched.etcd_shim import Client
from trio_sched.exceptions import TrioSchedError
from trio_sched.model.keys import PathKeys
from trio_sched.model.path_state import PathState
from trio_sched.testing import open_etcd

__all__ = ["run_demo"]

PATH = "/demo"
NAMES = ("host-a", "host-b", "host-c", "host-d")
NEWCOMER = "host-e"
MAX_COUNT = 2
TTL = 2  # seconds; the crash of a host is noticed after this
LIMIT = 34.0  # seconds for all of it; what is left of 40 is for ending etcd and the hosts
# A leader that is gone leaves a decision lease of three TTLs behind it, and etcd looks for lapsed
# leases twice a second.
LAPSE = 3 * TTL + 3.0
_POLL_INTERVAL = 0.25  # seconds between reads of the leases, for whose end etcd has no event


async def run_demo(
    board: Board, *, pace: float = 0.0, executable: Path | None = None, limit: float = LIMIT
) -> int:
    """Run it from beginning to end, and return the exit code: 1 if `Board.failure` says why.

    Args:
        board: gets all events.
        pace: seconds of rest before each step.
        executable: which etcd; None looks for one.
        limit: seconds for all of it.
    """
    run, reason = _Run(board, pace), ""
    scope = trio.CancelScope(relative_deadline=limit)
    try:
        with scope:
            await run.whole(executable)
    except DemoFailed as failure:
        reason = str(failure)
    except (TrioSchedError, OSError) as error:
        reason = f"{type(error).__name__}: {error}"
    if not reason and scope.cancelled_caught:
        reason = f"not over within {limit:g} s; was waiting for {run.waiting_for}"
    if reason:
        board.post("failed", time.monotonic(), reason=reason)
    board.post(
        "summary",
        time.monotonic(),
        ok=not reason,
        reason=board.failure,
        steps=[{"title": step.title, "seconds": step.seconds} for step in board.steps],
        keys=board.path.keys,
        leases=board.path.leases,
    )
    return int(board.failure is not None)


class _Run:
    """The scenario. Every step leaves the hosts as the next one expects them."""

    def __init__(self, board: Board, pace: float) -> None:
        self.waiting_for = "etcd"
        self._board = board
        self._pace = pace
        self._changed = trio.Event()
        self._processes: dict[str, trio.Process] = {}
        board.listeners.append(self._notify)

    def _notify(self, _event: Event) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def whole(self, executable: Path | None) -> None:
        """Start etcd, do everything, and end everything."""
        async with (
            open_etcd(executable=executable) as etcd,
            open_client(etcd.endpoint) as client,
            open_plain_nursery() as nursery,
        ):
            version = (await client.status()).version
            self._post("etcd", endpoint=etcd.endpoint, version=version, path=PATH)
            await nursery.start(self._watch, client)
            self._client, self._nursery, self._endpoint = client, nursery, etcd.endpoint
            await self._four_join()
            await self._one_leaves()
            await self._leader_is_killed()
            await self._one_joins()
            await self._all_leave()
            await self._nothing_is_left()
            nursery.cancel_scope.cancel()

    # ---- the steps -------------------------------------------------------------------------

    async def _four_join(self) -> None:
        self._post("step", title=f"{len(NAMES)} hosts join, {MAX_COUNT} are to run")
        for name in NAMES:
            await self._start(name)
        await self._agreement("all four hosts to know the decision")
        called = max(host.reached[HostState.JOINING] for host in self._board.alive)
        self._measured(self._board.last_report(called), "after the last one called schedule()")

    async def _one_leaves(self) -> None:
        path = self._board.path
        # Better one that does not lead: the loss of the leader has a step of its own.
        name = next((name for name in path.scheduled if name != path.leader), path.scheduled[0])
        await self._begin(f"{name}, which is scheduled, leaves")
        began = await self._leave(name)
        chosen = await self._replacement(path.scheduled, name)
        self._measured(self._board.last_report(began), f"now {', '.join(chosen)}")

    async def _leader_is_killed(self) -> None:
        path = self._board.path
        name = path.leader
        if name is None:
            raise DemoFailed("there is no leader")
        await self._begin(f"kill -9 {name}, which leads")
        began = self._post_state(name, HostState.KILLED)
        self._processes[name].kill()
        await self._replacement(path.scheduled, name)
        note = f"{self._board.path.leader} leads; session TTL {TTL} s"
        self._measured(self._board.last_report(began), note)

    async def _one_joins(self) -> None:
        before = self._board.path.scheduled
        await self._begin(f"{NEWCOMER} joins, and the scheduled hosts stay")
        await self._start(NEWCOMER)
        chosen = await self._agreement(f"{NEWCOMER} to know what the others know")
        if not set(before) <= set(chosen):
            raise DemoFailed("the newcomer has displaced a scheduled host")
        host = self._board.hosts[NEWCOMER]
        self._measured(host.since - host.reached[HostState.JOINING], "after it called schedule()")

    async def _all_leave(self) -> None:
        await self._begin("all hosts leave")
        began = time.monotonic()
        for host in self._board.alive:
            await self._leave(host.name)
        ended = {HostState.LEFT, HostState.KILLED}
        hosts = self._board.hosts.values()
        await self._until(
            "the last host to leave", lambda: all(host.state in ended for host in hosts)
        )
        self._measured(self._last_left() - began, "all processes have ended")

    async def _nothing_is_left(self) -> None:
        self._post("step", title="no key and no lease is left in etcd")
        board = self._board
        with trio.move_on_after(LAPSE):
            await self._until("keys and leases to be gone", lambda: board.path == PathView())
        await self._read(self._client)
        if board.path != PathView():
            raise DemoFailed(f"{board.path.keys} keys and {board.path.leases} leases are left")
        self._measured(time.monotonic() - self._last_left(), "since the last host has left")

    # ---- actions ---------------------------------------------------------------------------

    def _post(self, event: str, **fields: object) -> float:
        now = time.monotonic()
        self._board.post(event, now, **fields)
        return now

    async def _begin(self, title: str) -> None:
        await trio.sleep(self._pace)
        self._post("step", title=title)

    def _measured(self, seconds: float, note: str) -> None:
        title = self._board.steps[-1].title
        self._post("measured", title=title, seconds=round(seconds, 4), note=note)

    async def _start(self, name: str) -> None:
        options = {"strategy": "rr", "max_count": MAX_COUNT, "session_ttl": TTL}
        self._processes[name] = await self._nursery.start(
            run_host, self._board, name, self._endpoint, PATH, options
        )

    def _post_state(self, name: str, state: HostState) -> float:
        return self._post("host", host=name, pid=self._processes[name].pid, state=state)

    async def _leave(self, name: str) -> float:
        """Let a host leave; return when."""
        now = self._post_state(name, HostState.LEAVING)
        stdin = self._processes[name].stdin
        assert stdin is not None
        await stdin.aclose()
        return now

    # ---- waiting and checking --------------------------------------------------------------

    async def _until(self, what: str, holds: Callable[[], bool]) -> None:
        """Wait until something holds, checking whenever the board has changed."""
        self.waiting_for = what
        while not holds():
            await self._changed.wait()

    async def _agreement(self, what: str) -> tuple[str, ...]:
        """Wait until all hosts alive know the same final decision; return it."""
        board = self._board

        def holds() -> bool:
            names = {host.name for host in board.alive}
            agreed = board.agreed or ()
            full = len(agreed) == min(MAX_COUNT, len(names))
            return full and names >= {board.path.leader, *agreed}

        await self._until(what, holds)
        return board.path.scheduled

    async def _replacement(self, before: tuple[str, ...], gone: str) -> tuple[str, ...]:
        """Wait until the other hosts know who runs instead of one that has gone; return it."""
        chosen = await self._agreement(f"the others to know who runs instead of {gone}")
        kept = {*before} - {gone}
        # No host may have seen a decision without those that go on, not even for a moment.
        lost = [chosen for chosen in self._board.steps[-1].reports if not kept <= {*chosen}]
        if lost:
            raise DemoFailed(f"{', '.join(sorted(kept))} should have been kept; reported: {lost}")
        return chosen

    def _last_left(self) -> float:
        return max(host.reached.get(HostState.LEFT, 0.0) for host in self._board.hosts.values())

    # ---- what etcd holds -------------------------------------------------------------------

    async def _watch(
        self, client: Client, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Keep the board's view of etcd, by a client that has no part in the scheduling."""
        async with client.watch(f"{PATH}/", prefix=True) as changes:
            task_status.started()
            while True:
                with trio.move_on_after(_POLL_INTERVAL):
                    await changes.receive()
                await self._read(client)

    async def _read(self, client: Client) -> None:
        found = await client.get_prefix(f"{PATH}/")
        state = PathState.decode(PathKeys(PATH), found, found.revision)
        self._post(
            "path",
            pool=tuple(state.pool),
            leader=state.leader and state.leader.name,
            scheduled=tuple(state.hosts),
            keys=len(found),
            leases=len(await client.lease_list()),
        )
