"""What happens in the demo, and what must come of it.

Each step does one thing to the hosts, waits until all of them know what follows from it, and
measures how long that took: from the deed, by the demo's clock, to the last host's report, by that
host's clock. They are one clock, CLOCK_MONOTONIC of this machine.
"""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from trio_sched import open_client
from trio_sched._support.tasks import open_plain_nursery
from trio_sched.cli.demo.board import Board, Event, HostState, HostView, Step
from trio_sched.cli.demo.hosts import HostSettings, run_host
from trio_sched.etcd_shim import Client
from trio_sched.exceptions import TrioSchedError
from trio_sched.model.keys import PathKeys
from trio_sched.model.records import decode_scheduled
from trio_sched.testing import open_etcd

__all__ = ["DemoSettings", "run_demo"]

PATH = "/demo"
NAMES = ("host-a", "host-b", "host-c", "host-d")
NEWCOMER = "host-e"
MAX_COUNT = 2
STRATEGY = "rr"
TTL = 2  # seconds; the crash of a host is noticed after this
LIMIT = 34.0  # seconds for all of it; what is left of 40 is for ending etcd and the hosts
# A leader that is gone leaves a decision lease of three TTLs behind it, and etcd looks for lapsed
# leases twice a second.
LAPSE = 3 * TTL + 3.0
_LOOK = 0.25  # seconds between two looks at the leases, for whose end etcd has no event


@dataclass(frozen=True)
class DemoSettings:
    """How the demo runs.

    Attributes:
        pace: seconds of rest before each step.
        executable: which etcd; None looks for one.
        limit: seconds for all of it.
    """

    pace: float = 0.0
    executable: Path | None = None
    limit: float = LIMIT


class _Failed(Exception):
    """The board says why."""


async def run_demo(board: Board, settings: DemoSettings) -> None:
    """Run it from beginning to end. How it went is on the board: see `Board.failure`."""
    run = _Run(board, settings)
    try:
        with trio.move_on_after(settings.limit) as scope:
            await run.whole()
    except _Failed:
        pass
    except (TrioSchedError, OSError) as error:
        board.note_failure(time.monotonic(), f"{type(error).__name__}: {error}")
    else:
        if scope.cancelled_caught:
            reason = f"not over within {settings.limit:g} s; was waiting for {run.waiting_for}"
            board.note_failure(time.monotonic(), reason)
    board.note_end(time.monotonic())


class _Run:
    """The scenario. Every step leaves the hosts as the next one expects them."""

    def __init__(self, board: Board, settings: DemoSettings) -> None:
        self.waiting_for = "etcd"
        self._board = board
        self._settings = settings
        self._changed = trio.Event()
        self._processes: dict[str, trio.Process] = {}
        board.listeners.append(self._ring)

    async def whole(self) -> None:
        """Start etcd, do everything, and end everything."""
        async with (
            open_etcd(executable=self._settings.executable) as etcd,
            open_client(etcd.endpoint) as client,
            open_plain_nursery() as nursery,
        ):
            version = (await client.status()).version
            self._board.note_etcd(time.monotonic(), etcd.endpoint, version, PATH)
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
        async with self._step(
            f"{len(NAMES)} hosts join, {MAX_COUNT} are to run", rest=False
        ) as step:
            for name in NAMES:
                await self._start(name)
            await self._agreement("all four hosts to know the decision")
            called = max(host.called for host in self._board.alive)
            self._done(
                step, self._board.last_report(called), "after the last one called schedule()"
            )

    async def _one_leaves(self) -> None:
        before = self._board.scheduled
        # Better one that does not lead: the loss of the leader has a step of its own.
        leaver = next((name for name in before if name != self._board.leader), before[0])
        async with self._step(f"{leaver}, which is scheduled, leaves") as step:
            began = self._leave(leaver)
            await self._until(
                f"{leaver} to have left", lambda: self._state(leaver) is HostState.LEFT
            )
            chosen = await self._agreement("the others to know who runs instead", without=leaver)
            self._check_kept(set(before) - {leaver}, step)
            self._done(step, self._board.last_report(began), f"now {', '.join(chosen)}")

    async def _leader_is_killed(self) -> None:
        before, leader = self._board.scheduled, self._board.leader
        if leader is None:
            raise self._failed("nobody leads")
        async with self._step(f"kill -9 {leader}, which leads") as step:
            began = self._kill(leader)
            await self._until("another leader", lambda: self._board.leader not in {leader, None})
            await self._agreement("the survivors to know who runs instead", without=leader)
            self._check_kept(set(before) - {leader}, step)
            note = f"{self._board.leader} leads; session TTL {TTL} s"
            self._done(step, self._board.last_report(began), note)

    async def _one_joins(self) -> None:
        before = self._board.scheduled
        async with self._step(f"{NEWCOMER} joins, and nobody has to make way") as step:
            await self._start(NEWCOMER)
            chosen = await self._agreement(f"{NEWCOMER} to know what the others know")
            self._check(set(before) <= set(chosen), "a newcomer has displaced somebody")
            host = self._board.hosts[NEWCOMER]
            self._done(step, host.since - host.called, "after it called schedule()")

    async def _all_leave(self) -> None:
        async with self._step("everybody leaves") as step:
            leaving = [host.name for host in self._board.alive]
            began = min(self._leave(name) for name in leaving)
            ended = [self._board.hosts[name] for name in leaving]
            await self._until("the last host to leave", lambda: _all_left(ended))
            self._done(step, max(host.ended for host in ended) - began, "all processes have ended")

    async def _nothing_is_left(self) -> None:
        gone = max(host.ended for host in self._board.hosts.values())
        async with self._step("no key and no lease is left in etcd", rest=False) as step:
            with trio.move_on_after(LAPSE):
                await self._until("keys and leases to be gone", lambda: self._nothing)
            await self._look(self._client)
            left = f"{self._board.keys} keys and {self._board.leases} leases are left"
            self._check(self._nothing, left)
            self._done(step, time.monotonic() - gone, "since the last host has left")

    # ---- deeds -----------------------------------------------------------------------------

    async def _start(self, name: str) -> None:
        settings = HostSettings(self._endpoint, PATH, name, STRATEGY, MAX_COUNT, TTL)
        self._processes[name] = await self._nursery.start(run_host, self._board, settings)

    def _leave(self, name: str) -> float:
        """Ask a host to leave; return when."""
        now = time.monotonic()
        self._board.note_state(now, name, HostState.LEAVING)
        self._processes[name].terminate()
        return now

    def _kill(self, name: str) -> float:
        """Kill a host with SIGKILL; return when."""
        now = time.monotonic()
        self._board.note_state(now, name, HostState.KILLED)
        self._processes[name].send_signal(signal.SIGKILL)
        return now

    # ---- waiting and judging ---------------------------------------------------------------

    @asynccontextmanager
    async def _step(self, title: str, *, rest: bool = True) -> AsyncIterator[Step]:
        if rest:
            await trio.sleep(self._settings.pace)
        yield self._board.note_step(time.monotonic(), title)

    async def _until(self, what: str, holds: Callable[[], bool]) -> None:
        """Wait until something holds, looking whenever the board has changed."""
        self.waiting_for = what
        self._check_no_failure()
        while not holds():
            await self._changed.wait()
            self._check_no_failure()

    async def _agreement(self, what: str, *, without: str = "") -> tuple[str, ...]:
        """Wait until all hosts alive know the same decision, one that may stay; return it.

        One that may stay has as many hosts as can be had, and not one that has gone.
        """

        def holds() -> bool:
            agreed = self._board.agreed or ()
            expected = min(MAX_COUNT, len(self._board.alive))
            return len(agreed) == expected and without not in agreed

        await self._until(what, holds)
        return self._board.scheduled

    def _ring(self, _event: Event) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _state(self, name: str) -> HostState:
        return self._board.hosts[name].state

    @property
    def _nothing(self) -> bool:
        return self._board.keys == 0 and self._board.leases == 0

    def _check_no_failure(self) -> None:
        """A host has died, perhaps: then what is waited for might seem to hold without it."""
        if self._board.failure is not None:
            raise _Failed(self._board.failure)

    def _check_kept(self, kept: set[str], step: Step) -> None:
        """Nobody may have seen a decision without those who go on, not even for a moment."""
        lost = [chosen for chosen in step.reports if not kept <= set(chosen)]
        self._check(not lost, f"{', '.join(sorted(kept))} should have been kept; was told {lost}")

    def _check(self, holds: bool, otherwise: str) -> None:  # noqa: FBT001 - reads like assert
        if not holds:
            raise self._failed(otherwise)

    def _failed(self, reason: str) -> _Failed:
        self._board.note_failure(time.monotonic(), reason)
        return _Failed(reason)

    def _done(self, step: Step, seconds: float, note: str) -> None:
        self._board.note_measured(time.monotonic(), step, seconds, note)

    # ---- what etcd holds -------------------------------------------------------------------

    async def _watch(
        self, client: Client, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Keep the board's view of etcd, by a client that has no part in the scheduling."""
        async with client.watch(f"{PATH}/", prefix=True) as changes:
            task_status.started()
            while True:
                with trio.move_on_after(_LOOK):
                    await changes.receive()
                await self._look(client)

    async def _look(self, client: Client) -> None:
        keys = PathKeys(PATH)
        found = await client.get_prefix(f"{PATH}/")
        leases = await client.lease_list()
        candidates = [kv for kv in found if kv.key.startswith(keys.election)]
        leader = min(candidates, key=lambda kv: kv.create_revision, default=None)
        scheduled = next((kv.value for kv in found if kv.key == keys.scheduled), b"")
        self._board.note_path(
            time.monotonic(),
            pool=[keys.hostname(kv.key) for kv in found if kv.key.startswith(keys.exchange)],
            leader=None if leader is None else leader.value.decode(),
            scheduled=decode_scheduled(scheduled),
            keys=len(found),
            leases=len(leases),
        )


def _all_left(hosts: list[HostView]) -> bool:
    return all(host.state is HostState.LEFT for host in hosts)
