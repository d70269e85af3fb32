"""What the blocks give: the objects of `trio_sched`, to be called from asyncio."""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from math import isinf
from typing import Any, Generic, Self, TypeVar, TypeVarTuple, Unpack

import trio

from trio_sched._support.arguments import check_async
from trio_sched.aio._guest import Block, Guest
from trio_sched.etcd_shim import Client
from trio_sched.host.local import HostStatistics, LocalHost
from trio_sched.host.newest import NewestOnly
from trio_sched.host.observation import Observation, PathObservation
from trio_sched.host.result import HostChanges, Result, ResultStatistics
from trio_sched.host.slot import Slot
from trio_sched.model.path_state import PathState
from trio_sched.model.records import Hosts

__all__ = [
    "AioClient",
    "AioHost",
    "AioObservation",
    "AioPathObservation",
    "AioResult",
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


class AioClient:
    """An etcd client for asyncio. Its methods are those of `trio_sched.Client`.

    What waits there is awaited here: ``await client.get("/key")``. What is a block there is one
    here: ``async with client.watch("/jobs/", prefix=True) as events:``, and what it gives is an
    `AioStream`.
    """

    def __init__(self, guest: Guest, client: Client) -> None:
        self._guest = guest
        self.trio_client: Client = client

    def __getattr__(self, name: str) -> Any:
        return _bridged(self._guest, getattr(self.trio_client, name))


def _bridged(guest: Guest, found: Any) -> Any:
    """Return something of Trio's so that asyncio's code can use it."""
    if inspect.iscoroutinefunction(found):
        return lambda *args, **options: guest.call(partial(found, *args, **options))
    if not inspect.ismethod(found):
        return found

    def call(*args: Any, **options: Any) -> Any:
        given = found(*args, **options)
        if isinstance(given, AbstractAsyncContextManager):
            return Block(lambda: given, AioStream, guest)
        return given

    return call


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
        deadline = self.trio_result.deadline
        if isinf(deadline):
            return deadline
        return asyncio.get_running_loop().time() + deadline - trio.current_time()

    async def wait_scheduled(self) -> Hosts:
        """Wait until this host is scheduled. As `trio_sched.Result.wait_scheduled`."""
        return await self._guest.call(self.trio_result.wait_scheduled)

    async def wait_unscheduled(self) -> None:
        """Wait until this host is not scheduled, by a decision, a loss, or the clock."""
        await self._guest.call(self.trio_result.wait_unscheduled)

    async def run_while_scheduled(
        self,
        fn: Callable[[Slot, *Ts], Awaitable[T]],
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
        check_async("fn", fn)
        guest = self._guest

        async def work(slot: Slot) -> T:
            return await guest.run_in_asyncio(fn, slot, *args)

        async def run() -> T:
            return await self.trio_result.run_while_scheduled(work, grace=grace, restart=restart)

        return await guest.call(run)

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
