"""`Result` and `Observation`: what ``schedule()`` and ``observe()`` give."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Protocol, TypedDict, TypeVar, TypeVarTuple, Unpack

import trio

from trio_sched.exceptions import EndOfResults
from trio_sched.host.newest import NewestOnly
from trio_sched.host.publishing import Offering
from trio_sched.host.slots import Slot
from trio_sched.model.records import Hosts

__all__ = ["Observation", "Result", "ResultStatistics"]

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
        healed: how often a read showed what no watch had told.
        deadline: by trio's clock, until when the newest decision may be acted on,
            unless it is renewed; minus infinity if it may not.
    """

    decisions: int
    returned: int
    sessions: int
    leading: bool
    healed: int
    deadline: float


class Observation(NewestOnly[Hosts]):
    """The stream of decisions of a path.

    Iterate it, or call `next`. Every method that waits is a checkpoint, and a
    cancelled one loses no decision. Revisions never go down, and the same
    decision is not returned twice in a row.

    Attributes:
        path: the path.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._newest: Hosts | None = None
        self._says: tuple[tuple[str, ...], bool] | None = None  # the newest decision
        self._said: tuple[tuple[str, ...], bool] | None = None  # the one that was read last
        self._changed = trio.lowlevel.ParkingLot()
        self._decisions = 0
        self._returned = 0

    def __repr__(self) -> str:
        """Show the path and the newest decision."""
        return f"<{type(self).__name__} of {self.path!r}: {self._newest!r}>"

    @property
    def newest(self) -> Hosts | None:
        """The newest decision, read or not; None before the first."""
        return self._newest

    def _read(self) -> Hosts:
        assert self._newest is not None
        self._said = self._says
        self._returned += 1
        return self._newest

    # ---- what the scheduler says ------------------------------------------------

    def _publish(self, hosts: Hosts, *, ours: bool = False) -> None:
        """Take a decision in, unless it is older than the newest.

        It is to be read if it differs from the one that was read last: in whom it
        names, or in whether our name there means us (`ours`), and not a life of
        this host that has ended.
        """
        if self._newest is not None and hosts.revision < self._newest.revision:
            return
        self._decisions += self._newest is None or hosts.revision > self._newest.revision
        self._newest = hosts
        self._says = (tuple(hosts), ours)
        self._unread = False  # until we know that it says something else than what was read
        if self._said != self._says:
            self._note_news()
        self._changed.unpark_all()

    def _end(self) -> None:
        super()._end()
        self._changed.unpark_all()


class HostChanges(TypedDict, total=False):
    """What `Result.update` takes."""

    weight: float
    zone: str | None
    priority: int
    data: Mapping[str, object]


class Backstage(Protocol):
    """What a `Result` needs of the membership behind it."""

    def believe(self) -> float:
        """Return until when a decision for our name may be acted on."""

    def statistics(self) -> tuple[int, bool, int]:
        """Return the numbers of sessions, whether we lead, and what was healed."""

    @property
    def offering(self) -> Offering:
        """Return what this host tells about itself."""

    async def run_work(
        self, work: Callable[[Slot], Awaitable[T]], grace: float | None, *, restart: bool
    ) -> T:
        """Run work while this host is scheduled."""


class Result(Observation):
    """The stream of decisions of a path, and this host's place in it.

    Attributes:
        path: the path that the hosts share.
        hostname: the name of this host.
    """

    def __init__(
        self,
        path: str,
        hostname: str,
        membership: Backstage,
    ) -> None:
        super().__init__(path)
        self.hostname = hostname
        self._membership = membership
        self._life = trio.CancelScope()  # of all that the scheduler does for this host
        self._stopped = trio.Event()

    @property
    def deadline(self) -> float:
        """By trio's clock, until when this host is scheduled, unless that is renewed.

        Minus infinity if it is not chosen. Whoever acts on being scheduled has to
        have stopped by then.
        """
        newest = self._newest
        if self._ended or newest is None or self.hostname not in newest:
            return -inf
        return self._membership.believe()

    @property
    def scheduled(self) -> bool:
        """True while this host is chosen and its session may be believed in.

        False after the block was left. It asks the clock each time, so it is
        right even if this process was stopped in between.
        """
        return trio.current_time() < self.deadline

    async def wait_scheduled(self) -> Hosts:
        """Wait until this host is scheduled; return the decision that says so.

        Raises:
            EndOfResults: the block was left, or `shutdown` called.
        """
        await trio.lowlevel.checkpoint()
        while not self.scheduled:
            if self._ended:
                raise EndOfResults(f"{self.hostname!r} has left {self.path!r}")
            await self._changed.park()
        assert self._newest is not None
        return self._newest

    async def wait_unscheduled(self) -> None:
        """Wait until this host is not scheduled, by a decision, a loss, or the clock."""
        await trio.lowlevel.checkpoint()
        while self.scheduled:
            with trio.move_on_at(self.deadline):
                await self._changed.park()

    async def run_while_scheduled(
        self,
        fn: Callable[[Slot, *Ts], Awaitable[T]],
        *args: *Ts,
        grace: float | None = None,
        restart: bool = False,
    ) -> T:
        """Run ``fn(slot, *args)`` whenever this host is scheduled; return what it returns.

        Each time this host is chosen it takes a slot, of which there are `max_count`
        on the path, and runs `fn`. It is cancelled when a decision drops the host,
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
            TypeError: `fn` cannot be called.
            ValueError: `grace` is not allowed.
            EndOfResults: the block was left, or `shutdown` called.
            trio.BusyResourceError: another task runs something already.

        Cancellation: cancels `fn`, waits for its end, and frees the slot, in a
        second at most if etcd does not answer.
        """

        def work(slot: Slot) -> Awaitable[T]:
            return fn(slot, *args)

        if not callable(fn):
            raise TypeError(f"run_while_scheduled needs an async function, not {fn!r}")
        return await self._membership.run_work(work, grace, restart=restart)

    async def update(self, **changes: Unpack[HostChanges]) -> None:
        """Change what this host tells about itself, without leaving the pool.

        Returns when it is published; a lost session is waited for. Cancelled, it is
        published all the same.

        Args:
            changes: any of `weight`, `zone`, `priority` and `data`, as for `schedule`.

        Raises:
            TypeError: one of them is of a wrong type; nothing has changed.
            ValueError: one of them is out of its bounds; nothing has changed.
            EndOfResults: the block was left, or `shutdown` called.
        """
        unknown = changes.keys() - HostChanges.__annotations__.keys()
        if unknown:
            raise TypeError(f"a host does not tell {', '.join(sorted(unknown))}")
        await self._membership.offering.update(changes)

    async def drain(self, reason: str = "drained by itself") -> None:
        """Let this host not be chosen any more; it stays in the pool.

        Returns when that is published; a decision without it follows.

        Args:
            reason: why, to be shown to others; clipped to 200 characters.

        Raises:
            EndOfResults: the block was left, or `shutdown` called.
        """
        await self._membership.offering.drain(reason)

    async def undrain(self) -> None:
        """End what `drain` began. What an operator drained stays so.

        Raises:
            EndOfResults: the block was left, or `shutdown` called.
        """
        await self._membership.offering.drain(None)

    async def shutdown(self) -> None:
        """Leave the pool now; return when this host's keys are revoked.

        Work that goes on is cancelled, and waited for. Decisions end. Leaving the
        block does the same by itself. Cancelled, the departure goes on, and leaving
        the block waits for it.
        """
        self._life.cancel()
        await self._stopped.wait()

    def statistics(self) -> ResultStatistics:
        """Return how this host's life on the path goes."""
        sessions, leading, healed = self._membership.statistics()
        return ResultStatistics(
            decisions=self._decisions,
            returned=self._returned,
            sessions=sessions,
            leading=leading,
            healed=healed,
            deadline=self.deadline,
        )

    # ---- what the scheduler says ------------------------------------------------

    def _publish(self, hosts: Hosts, *, ours: bool = False) -> None:
        super()._publish(hosts, ours=ours and self.hostname in hosts)

    def _lose(self) -> None:
        """The session is lost: nothing is decided for this host."""
        if self._newest is not None:
            self._publish(Hosts(revision=self._newest.revision))
        self._changed.unpark_all()

    def _end(self) -> None:
        super()._end()
        self._stopped.set()
