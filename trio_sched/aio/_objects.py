"""What the blocks give: the objects of `trio_sched`, to be called from asyncio."""

from __future__ import annotations

import asyncio
import inspect
import os
import subprocess
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from math import isinf
from typing import Any, Generic, NoReturn, Self, TypeVar, TypeVarTuple, Unpack

import trio

from trio_sched._support.arguments import check_async
from trio_sched.aio._guest import Block, Guest
from trio_sched.etcd_shim import Auth, Client, Cluster, Compare, Maintenance, TxnResult
from trio_sched.etcd_shim.kv import Operation
from trio_sched.host.local import HostStatistics, LocalHost
from trio_sched.host.newest import NewestOnly
from trio_sched.host.observation import Observation, PathObservation
from trio_sched.host.once import TickOutcome
from trio_sched.host.result import HostChanges, Result, ResultStatistics
from trio_sched.host.slot import Slot
from trio_sched.host.ticks import OnCrash
from trio_sched.model.path_state import PathState
from trio_sched.model.records import Hosts
from trio_sched.model.roster import Roster
from trio_sched.model.ticks import TickSchedule

__all__ = [
    "AioClient",
    "AioHost",
    "AioObservation",
    "AioPathObservation",
    "AioResult",
    "AioSlot",
    "AioStream",
]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class _Reader(Generic[T]):
    """Reads a stream of Trio's. A task that is cancelled meanwhile loses nothing of it."""

    def __init__(self, guest: Guest, stream: Any) -> None:
        self._guest = guest
        self._stream = stream
        self._kept: deque[T] = deque()  # that came in the moment of a cancellation

    async def _read(self, fn: Callable[[], Awaitable[T]]) -> T:
        if self._kept:
            await asyncio.sleep(0)
            return self._kept.popleft()
        return await self._guest.call(fn, keep=self._keep)

    def _keep(self, item: T) -> None:
        self._kept.append(item)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        """Wait for the next item. Cancelled, it loses none."""
        return await self._read(self._stream.__anext__)


class AioStream(_Reader[T]):
    """A stream of Trio's, such as a watch, that is read from asyncio. Iterate it.

    Methods and attributes are those of Trio's; a method that waits there waits here.
    """

    def __getattr__(self, name: str) -> Any:
        return _bridged(self._guest, getattr(self._stream, name))


class _Bridge:
    """Gives what an object of Trio's has, to be called from asyncio."""

    def __init__(self, guest: Guest, of_trio: Any) -> None:
        self._guest = guest
        self._of_trio = of_trio

    def __getattr__(self, name: str) -> Any:
        return _bridged(self._guest, getattr(self._of_trio, name))


class AioClient(_Bridge):
    """An etcd client for asyncio. Its methods are those of `trio_sched.Client`.

    What waits there is awaited here: ``await client.get("/key")``. What is a block there is one
    here: ``async with client.watch("/jobs/", prefix=True) as events:``, and what it gives is an
    `AioStream`. ``client.maintenance`` and the like, and ``client.namespace()``, are for asyncio,
    too.
    """

    def __init__(self, guest: Guest, client: Client) -> None:
        super().__init__(guest, client)
        self.trio_client: Client = client


def _bridged(guest: Guest, found: Any) -> Any:
    """Return something of Trio's so that asyncio's code can use it."""
    if inspect.iscoroutinefunction(found):
        return lambda *args, **options: guest.call(partial(found, *args, **options))
    if inspect.ismethod(found):
        return lambda *args, **options: _wrapped(guest, found(*args, **options))
    return _wrapped(guest, found)


def _wrapped(guest: Guest, given: Any) -> Any:
    """Return what an attribute of Trio's is, or a method gives, as one for asyncio."""
    if isinstance(given, AbstractAsyncContextManager):
        return Block(lambda: given, AioStream, guest)
    if isinstance(given, Client):
        return AioClient(guest, given)
    return _Bridge(guest, given) if isinstance(given, (Auth, Cluster, Maintenance)) else given


class _NewestReader(_Reader[T]):
    """Reads what only the newest counts of: that, if one did not come to its reader."""

    _stream: NewestOnly[T]

    def _keep(self, _item: T) -> None:
        with suppress(RuntimeError):  # it has ended
            self._guest.run_soon(self._stream._feed.put_back)  # noqa: SLF001 # both are ours


class AioObservation(_NewestReader[Hosts]):
    """As `trio_sched.Observation`: iterate it for decisions."""

    def __init__(self, guest: Guest, observation: Observation) -> None:
        super().__init__(guest, observation)
        self._observation = observation
        self.path: str = observation.path

    @property
    def newest(self) -> Hosts | None:
        """The newest decision; None if there is none yet. It is not waited for."""
        return self._observation.newest

    async def next(self) -> Hosts:
        """Wait for the next decision. Cancelled, it loses none. Raises as Trio's does."""
        return await self._read(self._observation.next)


class AioPathObservation(_NewestReader[PathState]):
    """As `trio_sched.PathObservation`: iterate it for all that lies below a path."""

    def __init__(self, guest: Guest, observation: PathObservation) -> None:
        super().__init__(guest, observation)
        self._observation = observation
        self.path: str = observation.path

    @property
    def newest(self) -> PathState:
        """The newest state. It is not waited for."""
        return self._observation.newest

    async def next(self) -> PathState:
        """Wait for the next state. Cancelled, it loses none. Raises as Trio's does."""
        return await self._read(self._observation.next)


class AioSlot:
    """As `trio_sched.Slot`: the right to run.

    Attributes:
        index: its number.
        token: a fencing token.
        key: its key in etcd.
        lease: id of the session lease that it hangs on.
        trio_slot: the object of Trio's.
    """

    def __init__(self, guest: Guest, slot: Slot) -> None:
        self._guest = guest
        self.index: int = slot.index
        self.token: int = slot.token
        self.key: bytes = slot.key
        self.lease: int = slot.lease
        self.trio_slot: Slot = slot

    @property
    def deadline(self) -> float:
        """By the loop's clock, when the work must have ended; later after each renewal."""
        return _by_the_loop(self.trio_slot.deadline)

    @property
    def session_alive(self) -> bool:
        """True as long as the session that it hangs on is not known to be lost."""
        return self.trio_slot.session_alive

    @property
    def lost(self) -> bool:
        """True once the slot is known to be gone, so that another host may have it."""
        return self.trio_slot.lost

    async def wait_lost(self) -> None:
        """Wait until the slot is known to be gone. Returns when its work has ended, too."""
        await self._guest.call(self.trio_slot.wait_lost)

    async def run_process(
        self,
        command: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        **options: Any,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a process as work under this slot. As `trio_sched.Slot.run_process`."""
        return await self._guest.call(partial(self.trio_slot.run_process, command, **options))

    def guard(self) -> tuple[Compare, ...]:
        """Return what makes a transaction of yours fail once the slot is lost."""
        return self.trio_slot.guard()

    async def txn(
        self,
        compare: Sequence[Compare] = (),
        success: Sequence[Operation] = (),
        failure: Sequence[Operation] = (),
    ) -> TxnResult:
        """Carry out a transaction if the slot is held still. As `trio_sched.Slot.txn`."""
        return await self._guest.call(self.trio_slot.txn, compare, success, failure)

    async def read_roster(self) -> Roster:
        """Ask etcd which slots of the path are held now. As `trio_sched.Slot.read_roster`."""
        return await self._guest.call(self.trio_slot.read_roster)


def _by_the_loop(moment: float) -> float:
    """Return a moment of Trio's clock, by that of the running loop."""
    if isinf(moment):
        return moment
    return asyncio.get_running_loop().time() + moment - trio.current_time()


class AioResult(AioObservation):
    """As `trio_sched.Result`: a host's place on a path.

    Attributes:
        path: the path that the hosts share.
        hostname: the name of this host.
        trio_result: the object of Trio's.
    """

    def __init__(self, guest: Guest, result: Result) -> None:
        super().__init__(guest, result)
        self.hostname: str = result.hostname
        self.trio_result: Result = result

    @property
    def scheduled(self) -> bool:
        """True while this host is chosen and its session is certain to live. Asks the clock."""
        return self.trio_result.scheduled

    @property
    def deadline(self) -> float:
        """By the loop's clock (``loop.time()``), until when this host is scheduled.

        Minus infinity if it is not chosen.
        """
        return _by_the_loop(self.trio_result.deadline)

    async def wait_scheduled(self) -> Hosts:
        """Wait until this host is scheduled. As `trio_sched.Result.wait_scheduled`."""
        return await self._guest.call(self.trio_result.wait_scheduled)

    async def wait_unscheduled(self) -> None:
        """Wait until this host is not scheduled, by a decision, a loss, or the clock."""
        await self._guest.call(self.trio_result.wait_unscheduled)

    async def run_while_scheduled(
        self,
        fn: Callable[[AioSlot, *Ts], Awaitable[T]],
        *args: *Ts,
        grace: float | None = None,
        restart: bool = False,
    ) -> T:
        """Run asyncio's ``fn(slot, *args)`` whenever this host is scheduled.

        As `trio_sched.Result.run_while_scheduled`. `fn` runs as a task of asyncio's, which is
        cancelled when the slot is lost, and waited for before it is freed.

        Raises:
            asyncio.CancelledError: also if `fn` has cancelled itself.
        """
        work = self._work_of(fn, *args)

        async def run() -> T:
            return await self.trio_result.run_while_scheduled(work, grace=grace, restart=restart)

        return await self._guest.call(run)

    def _work_of(
        self, fn: Callable[..., Awaitable[T]], *args: object
    ) -> Callable[..., Coroutine[Any, Any, T]]:
        """Return Trio's work for asyncio's: ``fn(slot, *more, *args)`` as a task of asyncio's.

        Raises:
            TypeError: `fn` is not async.
        """
        check_async("fn", fn)
        guest = self._guest

        async def work(slot: Slot, *more: str) -> T:
            begin = partial(fn, AioSlot(guest, slot), *more, *args)
            return await guest.run_in_asyncio(begin)

        return work

    async def run_once(
        self,
        key: str,
        fn: Callable[[AioSlot, *Ts], Awaitable[T]],
        *args: *Ts,
        keep: int = 86400,
        on_crash: OnCrash = "again",
        attempts: int = 5,
        grace: float | None = None,
    ) -> TickOutcome[T]:
        """Run asyncio's ``fn(slot, *args)`` on one of all hosts that call this with the same key.

        Arguments and errors as of `trio_sched.Result.run_once`; `fn` as of `run_while_scheduled`.
        """
        work = self._work_of(fn, *args)

        async def run() -> TickOutcome[T]:
            return await self.trio_result.run_once(
                key, work, keep=keep, on_crash=on_crash, attempts=attempts, grace=grace
            )

        return await self._guest.call(run)

    async def run_ticks(
        self,
        schedule: TickSchedule,
        fn: Callable[[AioSlot, str], Awaitable[T]],
        *,
        on_crash: OnCrash = "again",
        attempts: int = 5,
        grace: float | None = None,
        each: Callable[[TickOutcome[T]], object] = lambda _: None,
        code_of: Callable[[T], int | None] = lambda _: 0,
    ) -> NoReturn:
        """Run asyncio's ``fn(slot, name)`` at each tick, on one of all hosts that call this.

        Arguments and errors as of `trio_sched.Result.run_ticks`; `fn` as of `run_while_scheduled`.
        """
        work = self._work_of(fn)

        async def run() -> NoReturn:
            await self.trio_result.run_ticks(
                schedule,
                work,
                on_crash=on_crash,
                attempts=attempts,
                grace=grace,
                each=each,
                code_of=code_of,
            )

        await self._guest.call(run)

    async def update(self, **changes: Unpack[HostChanges]) -> None:
        """Change what this host says of itself. As `trio_sched.Result.update`."""
        await self._guest.call(partial(self.trio_result.update, **changes))

    async def drain(self, reason: str = "drained by itself") -> None:
        """Let this host not be chosen any more. As `trio_sched.Result.drain`."""
        await self._guest.call(self.trio_result.drain, reason)

    async def undrain(self) -> None:
        """End what `drain` began."""
        await self._guest.call(self.trio_result.undrain)

    async def shutdown(self) -> None:
        """Leave the pool now; return when this host's keys are revoked."""
        await self._guest.call(self.trio_result.shutdown)

    def statistics(self) -> ResultStatistics:
        """Return how this host's life on the path goes; times are by Trio's clock."""
        return self.trio_result.statistics()


class AioHost:
    """As `trio_sched.LocalHost`: a host on many paths, under one session.

    Attributes:
        hostname: the name of this host on all its paths.
        trio_host: the object of Trio's.
    """

    def __init__(self, guest: Guest, host: LocalHost) -> None:
        self._guest = guest
        self.hostname: str = host.hostname
        self.trio_host: LocalHost = host

    def schedule(self, path: str, **options: Any) -> AbstractAsyncContextManager[AioResult]:
        """Join a path. Arguments as of `trio_sched.LocalHost.schedule`."""
        return Block(lambda: self.trio_host.schedule(path, **options), AioResult, self._guest)

    async def update(self, **changes: Unpack[HostChanges]) -> None:
        """Change what this host says of itself on all its paths."""
        await self._guest.call(partial(self.trio_host.update, **changes))

    async def drain(self, reason: str = "drained by itself") -> None:
        """Let this host not be chosen on any path any more."""
        await self._guest.call(self.trio_host.drain, reason)

    async def undrain(self) -> None:
        """End what `drain` began."""
        await self._guest.call(self.trio_host.undrain)

    def statistics(self) -> HostStatistics:
        """Return how this host's life goes on all its paths; times are by Trio's clock."""
        return self.trio_host.statistics()


def opened_by(client: AioClient) -> tuple[Guest, Client]:
    """Return the guest and Trio's client of one of ours.

    Raises:
        TypeError: it is none of ours.
    """
    if isinstance(client, AioClient):
        return client._guest, client.trio_client  # noqa: SLF001 # ours
    raise TypeError(f"client must be an AioClient, of trio_sched.aio.open_client, not {client!r}")


def async_check(
    guest: Guest, check: Callable[[], Awaitable[bool]] | None
) -> Callable[[], Awaitable[bool]] | None:
    """Return Trio's health check for one of asyncio's."""
    if check is None:
        return None
    check_async("health_check", check)

    async def ask() -> bool:
        try:
            return await guest.run_in_asyncio(check)
        except asyncio.CancelledError:  # the check's own: it is one more way to fail
            raise RuntimeError("it was cancelled") from None

    return ask
