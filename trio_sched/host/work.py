"""Running work while a host is scheduled: what is behind `Result.run_while_scheduled`.

The work runs in the caller's own task, so that its exceptions are the caller's.
Beside it two service tasks watch the slot's key and the clock. What must
hold: the work is cancelled before the local deadline, the slot is freed only after
the work has ended, and the revoke of the session waits for that end, as long as
the session is certain to live.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from math import inf
from typing import TypeVar

import trio

from trio_sched._support.arguments import check_number
from trio_sched._support.suspension import check_interval
from trio_sched._support.tasks import open_plain_nursery, open_service_nursery, run_shielded
from trio_sched._support.tracing import span
from trio_sched.etcd_shim._keep import margin_of
from trio_sched.exceptions import SessionLost
from trio_sched.host.session import Session
from trio_sched.host.slot import Slot
from trio_sched.host.slots import SlotKeys, Taken
from trio_sched.host.state import HostState
from trio_sched.model.records import Hosts

__all__ = ["Worker", "check_grace"]

T = TypeVar("T")

_LAST_MOMENT = 0.1  # seconds
_CLEANUP_TIMEOUT = 1.0  # seconds; leaving the block revokes what could not be freed by then


class Worker:
    """Runs one piece of work at a time for a host.

    Args:
        state: what is known of the host.
        slots: the keys of slots.
        ttl: of a session, as asked for, in seconds.
        patience: seconds for what must be answered by etcd though we are cancelled.
    """

    def __init__(self, state: HostState, slots: SlotKeys, ttl: int, patience: float) -> None:
        self._state = state
        self._slots = slots
        self._ttl = ttl
        self._patience = patience
        self._busy = False
        self._slot: Slot | None = None
        self._working: Session | None = None  # under which the work goes on
        self._freeing: Session | None = None  # under which a slot is being released
        self._ended = trio.lowlevel.ParkingLot()

    @property
    def slots(self) -> SlotKeys:
        """The keys of slots."""
        return self._slots

    @property
    def holding(self) -> bool:
        """True while it holds a slot, up to when that is released, or given up."""
        return self._working is not None or self._freeing is not None

    @property
    def owed(self) -> int:
        """How many slots are still to be released in etcd."""
        return self._slots.owed

    async def wait_ended(self, session: Session) -> bool:
        """Wait until no work goes on under a session, its deadline at most; True if so.

        And a moment more: if this process stood still until then, the work hears of it only now.
        Then its slot is being released: that is waited for as well, for a moment.
        """
        with trio.CancelScope(deadline=session.deadline, shield=True):
            while self._working is session:
                await self._ended.park()
        with trio.move_on_after(_LAST_MOMENT, shield=True):
            while self._working is session:
                await self._ended.park()
        if self._working is session:
            return False
        with trio.move_on_after(_CLEANUP_TIMEOUT, shield=True):
            while self._freeing is session:
                await self._ended.park()
        return True

    def is_working(self, session: Session) -> bool:
        """Return whether work goes on under a session, or its slot is being released."""
        return session in (self._working, self._freeing)

    async def wait_idle(self, session: Session) -> None:
        """Wait until nothing goes on under a session, however long that takes."""
        while self.is_working(session):
            await self._ended.park()

    async def run(
        self, fn: Callable[[Slot], Awaitable[T]], grace: float | None, *, restart: bool
    ) -> T:
        """Run `fn` whenever this host is scheduled. See `Result.run_while_scheduled`."""
        grace = check_grace(grace, self._ttl)
        if self._busy:
            raise trio.BusyResourceError("this host runs something already")
        self._busy = True
        try:
            while True:
                await self._wait_for_turn(grace)
                values = await self._run_once(fn, grace)
                if values and not restart:
                    return values[0]
        finally:
            self._busy = False

    async def _wait_for_turn(self, grace: float) -> None:
        await self._state.wait_scheduled()
        while not self._may_run(grace):
            with trio.move_on_at(self._state.deadline):  # by then it was renewed, or is over
                await self._state.wait_changed()
            await self._state.wait_scheduled()

    async def _run_once(self, fn: Callable[[Slot], Awaitable[T]], grace: float) -> list[T]:
        """Take a slot and run `fn`; return what it returned, if it did by itself."""
        try:
            with self._state.counts.waits():
                await self._take(grace)
            if self._slot is None:
                return []
            return await self._work(self._slot, fn, grace)
        finally:
            slot, self._slot = self._slot, None
            self._freeing, self._working = self._working, None
            try:
                self._ended.unpark_all()
                # By itself, before the lease is revoked: so the next host knows that the work
                # has ended, and need not pause.
                if slot is not None:
                    with trio.move_on_after(self._patience_left(slot), shield=True):
                        await self._slots.free(slot)
            finally:
                self._freeing = None
                self._ended.unpark_all()

    def _patience_left(self, slot: Slot) -> float:
        """Return how long freeing a slot may take: not for long if we leave, or join anew."""
        cancelled = trio.current_effective_deadline() <= trio.current_time()
        is_short = cancelled or not slot.session_alive
        return min(self._patience, _CLEANUP_TIMEOUT) if is_short else self._patience

    # ---- taking a slot ---------------------------------------------------------------

    async def _take(self, grace: float) -> None:
        """Take a slot as soon as there is one, unless this host is dropped before."""
        while self._may_run(grace):
            session, decision = self._state.session, self._state.decisions.newest
            assert session is not None
            assert decision is not None
            # Answered even if we are cancelled meanwhile, so that no slot is left behind.
            taken = await run_shielded(
                self._patience, self._try_to_take, session, decision.revision
            )
            if self._slot is not None or taken is None:
                return
            await self._wait_for_a_chance(taken, decision)

    async def _try_to_take(self, session: Session, decision: int) -> Taken | None:
        """Try to take a slot; None if the session was lost meanwhile, which is no error here."""
        try:
            taken = await self._slots.take(session, decision, self._state.max_count)
        except SessionLost:
            return None
        if taken.slot is not None:
            self._slot, self._working = taken.slot, session
        return taken

    async def _wait_for_a_chance(self, taken: Taken, decision: Hosts) -> None:
        """Wait until the decision changes, or, as long as it stands, a slot is freed."""
        async with open_plain_nursery() as nursery:

            async def wait_freed() -> None:
                await self._slots.wait_freed(taken)
                nursery.cancel_scope.cancel()

            if taken.stands:
                nursery.start_soon(wait_freed)  # it is bounded by `again_at`, too
            while self._state.decisions.newest is decision and self._may_run(0):
                with trio.move_on_at(self._state.deadline):
                    await self._state.wait_changed()
            nursery.cancel_scope.cancel()

    @property
    def _check_interval(self) -> float:
        """Seconds after which to ask whether the machine was suspended: well within the margin."""
        interval = check_interval()
        return interval if interval == inf else min(interval, margin_of(self._ttl) / 2)

    def _may_run(self, grace: float) -> bool:
        return trio.current_time() < self._state.deadline - grace

    # ---- working -----------------------------------------------------------------------

    async def _work(self, slot: Slot, fn: Callable[[Slot], Awaitable[T]], grace: float) -> list[T]:
        values: list[T] = []
        async with open_service_nursery() as services:
            with trio.CancelScope() as scope:
                services.start_soon(self._watch_slot, slot, scope)
                services.start_soon(self._watch_clock, grace, scope)
                services.start_soon(self._slots.keep_marked, slot)
                if self._may_run(grace):
                    state = self._state
                    names = {"path": state.path, "host": state.hostname}
                    with (
                        state.counts.works_on(partial(self._why_cancelled, slot)),
                        span("trio_sched.work", **names, slot=slot.index, token=slot.token),
                    ):
                        values.append(await fn(slot))
        return values

    def _why_cancelled(self, slot: Slot) -> str:
        """Return in a word why the work is cancelled, as far as that shows."""
        state, session = self._state, self._working
        if state.life.cancel_called:
            return "left"
        if session is None or session.lost_reason is not None or state.session is not session:
            return "session_lost"
        if slot.lost:
            return "slot_lost"
        if not state.is_ours:
            return "dropped"
        return "cancelled" if state.scheduled else "deadline"

    async def _watch_slot(self, slot: Slot, work: trio.CancelScope) -> None:
        await self._slots.wait_lost(slot)
        work.cancel()

    async def _watch_clock(self, grace: float, work: trio.CancelScope) -> None:
        while self._may_run(grace) and self._state.session is self._working:
            # A timer would be late after a suspension.
            next_check = trio.current_time() + self._check_interval
            with trio.move_on_at(min(self._state.deadline - grace, next_check)):
                await self._state.wait_changed()
        work.cancel()
        if self._working is not None and self._working.gone:
            self._slots.note_gone()


def check_grace(grace: float | None, ttl: int) -> float:
    """Return the grace to use; raise TypeError or ValueError if it is not allowed."""
    if grace is None:
        return margin_of(ttl)
    is_nan = grace != grace  # noqa: PLR0124
    if is_nan or not 0 <= check_number("grace", grace) <= ttl / 2:
        raise ValueError(f"grace must be from 0 to half the TTL ({ttl / 2:g} s), not {grace!r}")
    return grace
