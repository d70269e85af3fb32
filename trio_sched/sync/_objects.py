"""What the blocks give: the objects of `trio_sched`, to be called from blocking code."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from functools import partial
from typing import Any, Generic, NoReturn, Self, TypeVar, TypeVarTuple, Unpack

import trio

from trio_sched._support.arguments import check_blocking
from trio_sched.etcd_shim import Auth, Client, Cluster, Maintenance
from trio_sched.host.local import HostStatistics, LocalHost
from trio_sched.host.observation import Observation, PathObservation
from trio_sched.host.once import TickOutcome
from trio_sched.host.result import HostChanges, Result, ResultStatistics
from trio_sched.host.slot import Slot
from trio_sched.host.ticks import OnCrash
from trio_sched.model.path_state import PathState
from trio_sched.model.records import Hosts
from trio_sched.model.ticks import TickSchedule
from trio_sched.sync._portal import Block, Portal
from trio_sched.sync._work import SyncSlot, Turn, Turns, monotonic

__all__ = [
    "SyncClient",
    "SyncHost",
    "SyncObservation",
    "SyncPathObservation",
    "SyncResult",
    "SyncStream",
]

R = TypeVar("R")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class _Reader(Generic[T]):
    """Reads a stream of Trio's."""

    def __init__(self, portal: Portal, stream: Any) -> None:
        self._portal = portal
        self._stream = stream

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        """Block until there is another item. The end of them ends the iteration."""
        try:
            item: T = self._portal.call(self._stream.__anext__)
        except StopAsyncIteration:
            raise StopIteration from None
        return item


class SyncStream(_Reader[T]):
    """A stream of Trio's, such as a watch, that is read by blocking code. Iterate it.

    Methods and attributes are those of Trio's; a method that waits there blocks here.
    """

    def __getattr__(self, name: str) -> Any:
        return _bridged(self._portal, self._stream, name)


class _Bridge:
    """Gives what an object of Trio's has, to be called by blocking code."""

    def __init__(self, portal: Portal, of_trio: Any) -> None:
        self._portal = portal
        self._of_trio = of_trio

    def __getattr__(self, name: str) -> Any:
        return _bridged(self._portal, self._of_trio, name)


class SyncClient(_Bridge):
    """An etcd client for blocking code. Its methods are those of `trio_sched.Client`.

    What waits there blocks here: ``client.get("/key")``. What is a block there is one here:
    ``with client.watch("/jobs/", prefix=True) as events:``, and what it gives is a `SyncStream`.
    It can be used from several threads.
    """

    def __init__(self, portal: Portal, client: Client) -> None:
        super().__init__(portal, client)
        self.trio_client: Client = client


def _bridged(portal: Portal, owner: Any, name: str) -> Any:
    """Return something of Trio's so that blocking code can use it."""
    found = inspect.getattr_static(type(owner), name, None)
    if isinstance(found, property):
        return _wrapped(portal, portal.ask(getattr, owner, name))
    value = getattr(owner, name)
    if inspect.iscoroutinefunction(value):
        return lambda *args, **options: portal.call(partial(value, *args, **options))
    if inspect.ismethod(value):
        return lambda *args, **options: _wrapped(
            portal, portal.ask(partial(value, *args, **options))
        )
    return _wrapped(portal, value)


def _wrapped(portal: Portal, given: Any) -> Any:
    """Return what an attribute of Trio's is, or a method gives, as one for blocking code."""
    if isinstance(given, AbstractAsyncContextManager):
        return Block(lambda: portal, lambda: given, SyncStream)
    if isinstance(given, Client):
        return SyncClient(portal, given)
    return _Bridge(portal, given) if isinstance(given, (Auth, Cluster, Maintenance)) else given


class SyncObservation(_Reader[Hosts]):
    """As `trio_sched.Observation`: iterate it for decisions."""

    def __init__(self, portal: Portal, observation: Observation) -> None:
        super().__init__(portal, observation)
        self._observation = observation
        self.path: str = observation.path

    @property
    def newest(self) -> Hosts | None:
        """The newest decision; None if there is none yet. It is not waited for."""
        return self._observation.newest

    def next(self) -> Hosts:
        """Block until the next decision. Raises as Trio's does."""
        return self._portal.call(self._observation.next)


class SyncPathObservation(_Reader[PathState]):
    """As `trio_sched.PathObservation`: iterate it for all that lies below a path."""

    def __init__(self, portal: Portal, observation: PathObservation) -> None:
        super().__init__(portal, observation)
        self._observation = observation
        self.path: str = observation.path

    @property
    def newest(self) -> PathState:
        """The newest state. It is not waited for."""
        return self._observation.newest

    def next(self) -> PathState:
        """Block until the next state. Raises as Trio's does."""
        return self._portal.call(self._observation.next)


class SyncResult(SyncObservation):
    """As `trio_sched.Result`: a host's place on a path. It can be used from several threads.

    Attributes:
        path: the path that the hosts share.
        hostname: the name of this host.
    """

    def __init__(self, portal: Portal, result: Result) -> None:
        super().__init__(portal, result)
        self.hostname: str = result.hostname
        self._result = result

    @property
    def scheduled(self) -> bool:
        """True while this host is chosen and its session is certain to live. Asks the clock."""
        return self._portal.ask(lambda: self._result.scheduled)

    @property
    def deadline(self) -> float:
        """By ``time.monotonic()``, until when this host is scheduled; minus infinity if not."""
        return monotonic(self._portal, lambda: self._result.deadline)

    def wait_scheduled(self) -> Hosts:
        """Block until this host is scheduled; return the decision that says so."""
        return self._portal.call(self._result.wait_scheduled)

    def wait_unscheduled(self) -> None:
        """Block until this host is not scheduled, by a decision, a loss, or the clock."""
        self._portal.call(self._result.wait_unscheduled)

    def run_while_scheduled(
        self,
        fn: Callable[[SyncSlot, threading.Event, *Ts], T],
        *args: *Ts,
        grace: float | None = None,
        restart: bool = False,
    ) -> T:
        """Run ``fn(slot, stop, *args)`` whenever this host is scheduled; return what it returns.

        As `trio_sched.Result.run_while_scheduled`, but that a thread cannot be cancelled: `stop` is
        set instead when the slot is lost, or `grace` seconds before its deadline, and `fn` has to
        return soon. Until it has, the slot is not freed; beyond the deadline it can be taken from
        it, and that is logged as an error. `fn` runs in the thread that calls this. What it returns
        after `stop` was set does not count: it is run again at the next turn.

        Raises:
            TypeError: an argument is of a wrong type.
            ValueError: `grace` is not allowed.
            EndOfResults: the block was left.
        """

        def start(work: Callable[[Slot], Awaitable[T]]) -> Awaitable[T]:
            return self._result.run_while_scheduled(work, grace=grace, restart=restart)

        return self._in_turns(start, fn, args)

    def run_once(
        self,
        key: str,
        fn: Callable[[SyncSlot, threading.Event, *Ts], T],
        *args: *Ts,
        keep: int = 86400,
        on_crash: OnCrash = "again",
        attempts: int = 5,
        grace: float | None = None,
    ) -> TickOutcome[T]:
        """Run ``fn(slot, stop, *args)`` on one of all hosts that call this with the same key.

        Arguments and errors as of `trio_sched.Result.run_once`; `fn` as of `run_while_scheduled`:
        if it returns after `stop` was set, it is not done.
        """

        def start(work: Callable[[Slot], Awaitable[T]]) -> Awaitable[TickOutcome[T]]:
            return self._result.run_once(
                key, work, keep=keep, on_crash=on_crash, attempts=attempts, grace=grace
            )

        return self._in_turns(start, fn, args)

    def run_ticks(
        self,
        schedule: TickSchedule,
        fn: Callable[[SyncSlot, threading.Event, str], object],
        *,
        on_crash: OnCrash = "again",
        attempts: int = 5,
        grace: float | None = None,
    ) -> NoReturn:
        """Run ``fn(slot, stop, name)`` at each tick, on one of all hosts that call this.

        Arguments and errors as of `trio_sched.Result.run_ticks`; `fn` as of `run_once`.
        """

        def start(work: Callable[[Slot, str], Awaitable[object]]) -> Awaitable[NoReturn]:
            return self._result.run_ticks(
                schedule, work, on_crash=on_crash, attempts=attempts, grace=grace
            )

        self._in_turns(start, fn, ())

    def _in_turns(
        self, start: Callable[..., Awaitable[R]], fn: Callable[..., T], args: tuple[Any, ...]
    ) -> R:
        """Run ``fn(slot, stop, *more, *args)`` in this thread, at each turn.

        Args:
            start: called in Trio, with an async function of a slot and perhaps more; each call of
                that is a turn.
            fn: the work.
            args: what it gets at last.

        Returns:
            What that, once started, has returned.
        """
        check_blocking("fn", fn)
        turns: Turns[T] = Turns()
        portal, outcome = self._portal, list[R]()

        async def work(slot: Slot, *more: str) -> T:
            turn: Turn[T] = Turn(SyncSlot(portal, slot), more)
            turns.give(turn)
            try:
                await turn.ended.wait()
            except trio.Cancelled:
                turn.ask_to_stop()
                with trio.CancelScope(shield=True):
                    await turn.ended.wait()
                if turn.was_stopped:
                    raise
            if turn.failure is not None:
                raise turn.failure
            if not turn.values:  # it was not begun, as no more turns are taken: we are cancelled
                await trio.sleep_forever()
            return turn.values[0]

        async def run() -> None:
            try:
                outcome.append(await start(work))
            finally:
                turns.give(None)

        running = portal.begin(run)
        try:
            while (turn := turns.wait()) is not None:
                turn.take(portal, fn, *args)
        except BaseException:  # of a signal, while this waits for a turn
            turns.refuse(portal)
            running.cancel()
            raise
        running.wait()
        return outcome[0]

    def update(self, **changes: Unpack[HostChanges]) -> None:
        """Change what this host says of itself. As `trio_sched.Result.update`."""
        self._portal.call(partial(self._result.update, **changes))

    def drain(self, reason: str = "drained by itself") -> None:
        """Let this host not be chosen any more. As `trio_sched.Result.drain`."""
        self._portal.call(self._result.drain, reason)

    def undrain(self) -> None:
        """End what `drain` began."""
        self._portal.call(self._result.undrain)

    def shutdown(self) -> None:
        """Leave the pool now; return when this host's keys are revoked."""
        self._portal.call(self._result.shutdown)

    def statistics(self) -> ResultStatistics:
        """Return how this host's life on the path goes; times are by Trio's clock."""
        return self._portal.ask(self._result.statistics)


class SyncHost:
    """As `trio_sched.LocalHost`: a host on many paths, under one session.

    Attributes:
        hostname: the name of this host on all its paths.
    """

    def __init__(self, portal: Portal, host: LocalHost) -> None:
        self._portal = portal
        self.hostname: str = host.hostname
        self._host = host

    def schedule(self, path: str, **options: Any) -> AbstractContextManager[SyncResult]:
        """Join a path. Arguments as of `trio_sched.LocalHost.schedule`."""
        return Block(lambda: self._portal, lambda: self._host.schedule(path, **options), SyncResult)

    def update(self, **changes: Unpack[HostChanges]) -> None:
        """Change what this host says of itself on all its paths."""
        self._portal.call(partial(self._host.update, **changes))

    def drain(self, reason: str = "drained by itself") -> None:
        """Let this host not be chosen on any path any more."""
        self._portal.call(self._host.drain, reason)

    def undrain(self) -> None:
        """End what `drain` began."""
        self._portal.call(self._host.undrain)

    def statistics(self) -> HostStatistics:
        """Return how this host's life goes on all its paths; times are by Trio's clock."""
        return self._portal.ask(self._host.statistics)


def opened_by(client: SyncClient) -> tuple[Portal, Client]:
    """Return the portal and Trio's client of one of ours.

    Raises:
        TypeError: it is none of ours.
    """
    if isinstance(client, SyncClient):
        return client._portal, client.trio_client  # noqa: SLF001 # ours
    raise TypeError(f"client must be a SyncClient, of trio_sched.sync.open_client, not {client!r}")
