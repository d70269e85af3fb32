"""`Result`: what ``schedule()`` gives."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import NoReturn, TypedDict, TypeVar, TypeVarTuple, Unpack

import trio

from trio_sched._support.arguments import (
    check_async,
    check_blocking,
    check_bool,
    check_instance,
)
from trio_sched.etcd_shim.client import Client
from trio_sched.host.observation import Observation
from trio_sched.host.once import Once, TickOutcome, TickWork
from trio_sched.host.publishing import HostPublisher
from trio_sched.host.slot import Slot
from trio_sched.host.state import HostState
from trio_sched.host.ticks import OnCrash, check_tick_options
from trio_sched.host.work import Worker
from trio_sched.model.records import Hosts
from trio_sched.model.ticks import TickSchedule, check_tick_name

__all__ = ["Result", "ResultStatistics", "check_changes"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


@dataclass(frozen=True, slots=True)
class ResultStatistics:
    """A snapshot of how a host's life on a path goes.

    Attributes:
        decisions: how many were learned.
        returned: how many of them were returned to the reader.
        sessions: how many sessions were begun; more than one after losses.
        leading: whether this host leads.
        healed: how often a read showed what no watch had brought.
        deadline: by trio's clock, until when the newest decision may be acted on,
            unless it is renewed; minus infinity if it may not.
        trouble: why etcd refuses what this host asks of it, which it waits out; None
            if it does not.
        valid_until: by trio's clock, until when its session lives for certain and the newest
            decision is known to be the newest, whatever that says; minus infinity if not.
        losses: how many sessions were lost, by cause.
        renewals: how many of the session's lease were acknowledged, in all sessions.
        renewed_at: by trio's clock, when the newest of them, or the grant, was sent; minus
            infinity if there was none.
        decisions_written: how many it has written as the leader.
        write_seconds: how long these took, from the event that each was due to, in all.
        write_buckets: how many of them took up to so many seconds, the last up to infinity;
            as in a histogram of Prometheus.
        holds_slot: whether it holds a slot.
        waits_for_slot: whether it is chosen, has work to run, and waits for a slot.
        works: how many pieces of work have ended, by cause.
        owed_deletions: how many slots are still to be released in etcd.
    """

    decisions: int
    returned: int
    sessions: int
    leading: bool
    healed: int
    deadline: float
    trouble: str | None = None
    valid_until: float = -inf
    losses: Mapping[str, int] = field(default_factory=dict)
    renewals: int = 0
    renewed_at: float = -inf
    decisions_written: int = 0
    write_seconds: float = 0.0
    write_buckets: Mapping[float, int] = field(default_factory=dict)
    holds_slot: bool = False
    waits_for_slot: bool = False
    works: Mapping[str, int] = field(default_factory=dict)
    owed_deletions: int = 0


class HostChanges(TypedDict, total=False):
    """What `Result.update` takes."""

    weight: float
    zone: str | None
    priority: int
    data: Mapping[str, object]


def check_changes(changes: Mapping[str, object]) -> None:
    """Refuse what a host does not say of itself."""
    unknown = changes.keys() - HostChanges.__annotations__.keys()
    if unknown:
        raise TypeError(f"a host has no {', '.join(sorted(unknown))}")


class Result(Observation):
    """The stream of decisions of a path, and this host's place in it.

    Attributes:
        path: the path that the hosts share.
        hostname: the name of this host.
    """

    def __init__(self, state: HostState, publisher: HostPublisher, worker: Worker) -> None:
        super().__init__(state.decisions)
        self.hostname: str = state.hostname
        self._state = state
        self._publisher = publisher
        self._worker = worker
        self._once = Once(state, worker)

    @property
    def client(self) -> Client:
        """The client that it was joined with."""
        session = self._state.session
        assert session is not None  # it has joined
        return session.client

    @property
    def deadline(self) -> float:
        """By trio's clock, until when this host is scheduled, unless that is renewed.

        Minus infinity if it is not chosen. Code that acts on being scheduled has to
        have stopped by then.
        """
        return self._state.deadline

    @property
    def scheduled(self) -> bool:
        """True while this host is chosen and its session is certain to live.

        False after the block was left. It asks the clock each time, so it is
        right even if this process was stopped in between.
        """
        return self._state.scheduled

    async def wait_scheduled(self) -> Hosts:
        """Wait until this host is scheduled; return the decision that says so.

        Raises:
            EndOfResults: the block was left, or `shutdown` called.
        """
        return await self._state.wait_scheduled()

    async def wait_unscheduled(self) -> None:
        """Wait until this host is not scheduled, by a decision, a loss, or the clock."""
        await trio.lowlevel.checkpoint()
        while self.scheduled:
            with trio.move_on_at(self.deadline):
                await self._state.wait_changed()

    async def run_while_scheduled(
        self,
        fn: Callable[[Slot, *Ts], Awaitable[T]],
        *args: *Ts,
        grace: float | None = None,
        restart: bool = False,
    ) -> T:
        """Run ``fn(slot, *args)`` whenever this host is scheduled; return what it returns.

        Each time this host is chosen it takes one of the `max_count` slots of the
        path, and runs `fn`. It is cancelled when a decision drops the host,
        when the slot or the session is lost, or `grace` seconds before the deadline.
        The slot is freed when it has ended, never before; then the next time is
        waited for. An exception of `fn` frees the slot and passes through. What can
        be relied on is in ``docs/guarantees.md``.

        Args:
            fn: the work; an async function. It must end soon when it is cancelled:
                before `Slot.deadline`, another host may not run.
                What it returns in the moment of a cancellation counts only if
                it has no checkpoint after its result is known.
            args: what it gets after the `Slot`.
            grace: seconds before the deadline at which it is cancelled, from 0 to
                half the TTL; None for a tenth of the TTL, a second at most.
            restart: when `fn` has returned, run it again, without end.

        Raises:
            TypeError: an argument is of a wrong type, such as an `fn` that is not async.
            ValueError: `grace` is not allowed.
            EndOfResults: the block was left, or `shutdown` called.
            trio.BusyResourceError: another task runs something already.

        Cancellation: cancels `fn`, waits for its end, and frees the slot, in a
        second at most if etcd does not answer.
        """
        check_async("fn", fn)
        check_bool("restart", restart)

        def work(slot: Slot) -> Awaitable[T]:
            return fn(slot, *args)

        return await self._worker.run(work, grace, restart=restart)

    async def run_once(
        self,
        key: str,
        fn: Callable[[Slot, *Ts], Awaitable[T]],
        *args: *Ts,
        keep: int = 86400,
        on_crash: OnCrash = "again",
        attempts: int = 5,
        grace: float | None = None,
    ) -> TickOutcome[T]:
        """Run ``fn(slot, *args)`` on one of all hosts of the path that call this with the same key.

        The host that is scheduled takes a slot, claims the key in a transaction that the slot
        guards, and runs `fn`. The others wait until it is over. It returns at once if that was so
        before. See ``docs/cron.md``.

        Args:
            key: what is to be done once: such as a date, or the id of an order. Without ``/`` and
                control characters, 255 bytes at most.
            fn: the work; an async function. If it returns, or raises an `Exception`, it is done,
                and is not begun again. If it is cancelled, it is not.
            args: what it gets after the `Slot`.
            keep: seconds for which what was done is remembered after its end.
            on_crash: ``"again"``: when it was begun and its host was lost, or ended it before it
                was done, another begins it again, so it is done at least once; ``"skip"``: no other
                does, so it is done at most once.
            attempts: how often it is begun at most; those that were ended in good order are not
                counted. After that it is given up, so work that kills its host does not kill them
                all.
            grace: as for `run_while_scheduled`.

        Returns:
            What is recorded of it, and what `fn` returned if this host ran it.

        Raises:
            TypeError: an argument is of a wrong type, such as an `fn` that is not async.
            ValueError: an argument is not allowed.
            EndOfResults: the block was left, or `shutdown` called.
            trio.BusyResourceError: another task runs something already.

        What `fn` raises passes through. Cancellation: as of `run_while_scheduled`.
        """
        options = check_tick_options(keep, on_crash, attempts)
        check_async("fn", fn)

        async def work(slot: Slot, _name: str) -> T:
            return await fn(slot, *args)

        return await self._once.run_named(
            check_tick_name(key), TickWork(work, options, lambda _: 0, grace)
        )

    async def run_ticks(
        self,
        schedule: TickSchedule,
        fn: Callable[[Slot, str], Awaitable[T]],
        *,
        on_crash: OnCrash = "again",
        attempts: int = 5,
        grace: float | None = None,
        each: Callable[[TickOutcome[T]], object] = lambda _: None,
        code_of: Callable[[T], int | None] = lambda _: 0,
    ) -> NoReturn:
        """Run ``fn(slot, name)`` at each tick, on one of all hosts of the path that call this.

        What is due when this is called is done, unless it was: after a time without hosts the
        newest tick is made up for, and no other. Ticks are remembered for their period and a day.

        Args:
            schedule: when something is due.
            fn: the work, as for `run_once`; given the name of the tick as well.
            on_crash: as for `run_once`.
            attempts: as for `run_once`.
            grace: as for `run_while_scheduled`.
            each: called with what came of each tick that was due, on whichever host.
            code_of: gives the exit code to be recorded for what `fn` has returned; None if it is
                not done, and is to be begun again.

        Raises:
            TypeError: an argument is of a wrong type.
            ValueError: an argument is not allowed.
            EndOfResults: the block was left, or `shutdown` called.
            trio.BusyResourceError: another task runs something already.

        What `fn` and `each` raise passes through. Cancellation: as of `run_while_scheduled`.
        """
        check_instance("schedule", schedule, TickSchedule, "a TickSchedule")
        check_async("fn", fn)
        check_blocking("each", each)
        check_blocking("code_of", code_of)
        options = check_tick_options(schedule.keep, on_crash, attempts)
        await self._once.run_every(schedule, TickWork(fn, options, code_of, grace), each)

    async def update(self, **changes: Unpack[HostChanges]) -> None:
        """Change what this host says of itself, without leaving the pool.

        Returns when it is published; a lost session is waited for. Cancelled, it is
        published all the same.

        Args:
            changes: any of `weight`, `zone`, `priority` and `data`, as for `schedule`.

        Raises:
            TypeError: one of them is of a wrong type; nothing has changed.
            ValueError: one of them is out of its bounds; nothing has changed.
            EndOfResults: the block was left, or `shutdown` called.
        """
        check_changes(changes)
        await self._publisher.wait_published(self._publisher.change(changes))

    async def drain(self, reason: str = "drained by itself") -> None:
        """Let this host not be chosen any more; it stays in the pool.

        Returns when that is published; a decision without it follows.

        Args:
            reason: why, to be shown to others; clipped to 200 characters.

        Raises:
            TypeError: `reason` is not a text.
            EndOfResults: the block was left, or `shutdown` called.
        """
        check_instance("reason", reason, str, "a str")
        await self._publisher.wait_published(self._publisher.drain(reason))

    async def undrain(self) -> None:
        """End what `drain` began. What an operator drained stays so.

        Raises:
            EndOfResults: the block was left, or `shutdown` called.
        """
        await self._publisher.wait_published(self._publisher.drain(None))

    async def shutdown(self) -> None:
        """Leave the pool now; return when this host's keys are revoked.

        Work that goes on is cancelled, and waited for. Decisions end. Leaving the
        block does the same by itself. Cancelled, the departure goes on, and leaving
        the block waits for it.
        """
        self._state.life.cancel()
        await self._state.left.wait()

    def statistics(self) -> ResultStatistics:
        """Return how this host's life on the path goes."""
        state, counts = self._state, self._state.counts
        session = state.session
        return ResultStatistics(
            decisions=state.decisions.count,
            returned=state.decisions.returned,
            sessions=state.sessions,
            leading=state.leads,
            healed=state.healed,
            deadline=self.deadline,
            trouble=state.patience.trouble,
            valid_until=state.valid_until,
            losses=dict(counts.losses),
            renewals=counts.renewals + (session.renewals if session is not None else 0),
            renewed_at=session.renewed_at if session is not None else -inf,
            decisions_written=sum(counts.writes),
            write_seconds=counts.write_seconds,
            write_buckets=counts.write_buckets(),
            holds_slot=self._worker.holding,
            waits_for_slot=counts.waiting and not self._worker.holding,
            works=dict(counts.works),
            owed_deletions=self._worker.owed,
        )
