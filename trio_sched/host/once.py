"""Doing a tick once for all hosts of a path: what is behind `Result.run_once` and `run_ticks`.

Theory of operation
-------------------
Every host does the same: it waits to be scheduled, takes a slot, and within it claims what is due
(``ticks.py``). Who is not scheduled watches the record of the tick meanwhile, and is done when that
says so. So whichever hosts there are, and whichever of them are lost, one that is left comes to the
tick, and finds it over, or does it.

What is due is asked for in the slot, and not before: a host that has waited for long does what is
due now. Before that it does what others have begun and not ended: as they were lost, these ticks
would be forgotten otherwise. Work that is longer than the period holds up the next tick, as a slot
is held all the while; those that were due in between are left out.

The clock on the wall may jump. It is asked again at least each half minute.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import inf
from typing import Final, Generic, NamedTuple, NoReturn, TypeVar

import trio

from trio_sched._support.tasks import open_plain_nursery, open_service_nursery, run_shielded
from trio_sched._support.wall_time import wall_clock
from trio_sched.etcd_shim import EtcdError
from trio_sched.etcd_shim._backoff import Backoff
from trio_sched.exceptions import SessionLost, SlotLost
from trio_sched.host.slot import Slot
from trio_sched.host.state import HostState
from trio_sched.host.ticks import Claim, TickClaims, TickOptions
from trio_sched.host.work import Worker
from trio_sched.model.ticks import Tick, TickSchedule

__all__ = ["Once", "TickOutcome", "TickWork"]

T = TypeVar("T")

_CLOCK_INTERVAL: Final = 30.0  # seconds between two looks at the clock on the wall
_CLAIM_TIMEOUT: Final = 1.0  # seconds for an answer, when we are cancelled
_RECHECK: Final = 1.0  # seconds between two looks at who holds a claim
_MAX_DELAY: Final = 1.0  # seconds between two attempts to watch
_MOMENT: Final = 0.001  # seconds: clocks are read to the microsecond, and timers may be early
_MIN_RECORDING: Final = 0.1  # seconds for recording the end when there is hardly time left
_MAX_RECORDING: Final = 1.0


@dataclass(frozen=True, slots=True)
class TickOutcome(Generic[T]):
    """What came of a tick.

    Attributes:
        name: of the tick.
        tick: as it was recorded; None if the one after it had been begun before, so that it is left
            out.
        ran: whether this host did it, in this call.
        value: what the work returned; None if it was another host's.
    """

    name: str
    tick: Tick | None
    ran: bool
    value: T | None = None


@dataclass(frozen=True, slots=True)
class TickWork(Generic[T]):
    """What is done for a tick.

    Attributes:
        fn: given the slot and the name of the tick.
        options: how.
        code_of: gives the exit code for what `fn` has returned; None if it is not done, and is to
            be begun again.
        grace: as for `Result.run_while_scheduled`.
    """

    fn: Callable[[Slot, str], Awaitable[T]]
    options: TickOptions
    code_of: Callable[[T], int | None]
    grace: float | None = None


class _Due(NamedTuple):
    """What is due now: its name, that of the one after it, and seconds until that is due."""

    name: str
    next_name: str | None = None
    seconds: float = inf


def _due(schedule: TickSchedule) -> _Due:
    now = wall_clock()
    tick = schedule.due(now)
    return _Due(tick.name, tick.next_name, (tick.end - now).total_seconds())


class Once:
    """Does ticks for one host on a path.

    Args:
        state: what is known of the host.
        worker: that takes slots.
    """

    def __init__(self, state: HostState, worker: Worker) -> None:
        self._state = state
        self._worker = worker
        slots = worker.slots
        self._claims = TickClaims(slots.keys_of_path, state.hostname, slots.pause)

    async def run_named(self, name: str, work: TickWork[T]) -> TickOutcome[T]:
        """Do one tick, unless another host does."""
        return await self._run(lambda: _Due(name), work)

    async def run_due(self, schedule: TickSchedule, work: TickWork[T]) -> TickOutcome[T]:
        """Do what is due now, or when it is this host's turn, unless another host does."""
        return await self._run(lambda: _due(schedule), work, schedule.may_name)

    async def run_every(
        self,
        schedule: TickSchedule,
        work: TickWork[T],
        each: Callable[[TickOutcome[T]], object] = lambda _: None,
    ) -> NoReturn:
        """Do what is due, again and again."""
        while True:
            outcome = await self.run_due(schedule, work)
            each(outcome)
            await _wait_for_another(schedule, outcome.name)

    async def _run(
        self,
        due: Callable[[], _Due],
        work: TickWork[T],
        sweeps: Callable[[str], bool] | None = None,
    ) -> TickOutcome[T]:
        run = _Run(self._state, self._claims, due, work, sweeps)
        async with open_plain_nursery() as nursery:
            nursery.start_soon(run.watch_others, nursery.cancel_scope)
            found = await self._worker.run(run.in_slot, work.grace, restart=False)
            run.found = found
            nursery.cancel_scope.cancel()
        assert run.found is not None
        return run.found


class _Run(Generic[T]):
    """One call of these: until what is due is over.

    Args:
        state: what is known of the host.
        claims: of the host.
        due: gives what is due.
        work: what is done for it.
        sweeps: says by its name whether a tick of before is to be done if it is not over; None if
            none is.

    Attributes:
        found: what came of it; None as long as nothing has.
    """

    def __init__(
        self,
        state: HostState,
        claims: TickClaims,
        due: Callable[[], _Due],
        work: TickWork[T],
        sweeps: Callable[[str], bool] | None,
    ) -> None:
        self._state = state
        self._claims = claims
        self._due = due
        self._work = work
        self._sweeps = sweeps
        self._done: dict[str, T] = {}  # what work of ours has returned, by the name of the tick
        self._inside = False  # a slot
        self._left = trio.lowlevel.ParkingLot()
        self.found: TickOutcome[T] | None = None

    # ---- out of a slot -----------------------------------------------------------------

    async def watch_others(self, scope: trio.CancelScope) -> None:
        """End the waiting for a slot, by this scope, when what is due is over without us."""
        backoff = Backoff(cap=_MAX_DELAY)
        while True:
            while self._inside:
                await self._left.park()
            try:
                tick = await self._wait_over()
            except EtcdError:
                await trio.sleep(backoff.next())
                continue
            backoff.reset()
            if tick is not None and not self._inside:
                self.found = self._outcome(tick.name, tick)
                scope.cancel()
                return

    async def _wait_over(self) -> Tick | None:
        """Wait until what is due is over, and return it; None if something else is due."""
        name = self._due().name
        key = self._claims.keys.tick(name)
        assert self._state.session is not None  # there is a result, so it has joined
        async with self._state.session.client.follow(key) as follower:
            while (due := self._due()).name == name:
                kv = follower.state.get(key)
                tick = None if kv is None else Tick.decode(name, kv.value)
                if tick is not None and tick.over:
                    return tick
                with trio.move_on_after(min(due.seconds, _CLOCK_INTERVAL) + _MOMENT):
                    await follower.receive()
        return None

    def _outcome(self, name: str, tick: Tick | None) -> TickOutcome[T]:
        return TickOutcome(name, tick, name in self._done, self._done.get(name))

    # ---- in a slot ---------------------------------------------------------------------

    async def in_slot(self, slot: Slot) -> TickOutcome[T]:
        """Do what others have begun and not ended, and then what is due."""
        self._inside = True
        try:
            if self._sweeps is not None:
                for name in await self._claims.open_names(slot):
                    if self._sweeps(name) and name < self._due().name:
                        await self._claim_and_do(slot, name, None)
            while True:
                due = self._due()
                outcome = await self._claim_and_do(slot, due.name, due.next_name)
                if outcome.tick is None or outcome.tick.over:
                    return outcome
                # Another host does it, in another slot: until it is over, or that host is gone.
                await trio.sleep(_RECHECK)
        finally:
            self._inside = False
            self._left.unpark_all()

    async def _claim_and_do(self, slot: Slot, name: str, next_name: str | None) -> TickOutcome[T]:
        """Claim a tick and do it; or say what is known of it."""
        try:
            found = await run_shielded(
                _CLAIM_TIMEOUT, self._claims.claim, slot, name, next_name, self._work.options
            )
        except SlotLost:
            await trio.sleep_forever()  # until the worker has seen it, too
        if not isinstance(found, Claim):
            return self._outcome(name, found)
        try:
            await trio.lowlevel.checkpoint()
            if slot.lost or trio.current_time() >= slot.deadline:  # suspended in between
                await trio.sleep_forever()
            async with open_service_nursery() as services:
                services.start_soon(self._claims.keep, slot, found)
                value = await self._work.fn(slot, name)
            code = self._work.code_of(value)
        except (SlotLost, SessionLost):
            await self._record(slot, found, "interrupted")  # noqa: ASYNC120 # shielded, and short
            raise
        except Exception:
            await self._record(slot, found, "done", 1)  # noqa: ASYNC120 # as above
            raise
        except BaseException:
            await self._record(slot, found, "interrupted")  # noqa: ASYNC102 # as above
            raise
        if code is None:
            return TickOutcome(
                name, await self._record_surely(slot, found, "interrupted"), ran=False
            )
        self._done[name] = value
        return self._outcome(name, await self._record_surely(slot, found, "done", code))

    async def _record_surely(
        self, slot: Slot, claim: Claim, state: str, code: int | None = None
    ) -> Tick:
        """Record how it ended: in any case for a while, and then as long as the slot is held.

        Else it would be begun anew, in the same slot, as if its claim had just been made.
        """
        tick = await self._record(slot, claim, state, code)
        return tick or await self._claims.finish(slot, claim, state, code)

    async def _record(
        self, slot: Slot, claim: Claim, state: str, code: int | None = None
    ) -> Tick | None:
        """Try to record how it ended, even if we are cancelled; not for long."""
        left = slot.deadline - trio.current_time()
        with trio.move_on_after(max(_MIN_RECORDING, min(_MAX_RECORDING, left / 2)), shield=True):
            return await self._claims.finish(slot, claim, state, code)
        return None


async def _wait_for_another(schedule: TickSchedule, name: str) -> None:
    """Wait until something else is due."""
    while (due := _due(schedule)).name == name:  # noqa: ASYNC110 # the clock gives no event
        await trio.sleep(min(due.seconds, _CLOCK_INTERVAL) + _MOMENT)
