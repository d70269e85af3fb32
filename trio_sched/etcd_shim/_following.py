"""`Client.follow`: first the state, then each change, whatever happens between.

A watch cannot always go on where it stopped: the history may be compacted while
we are away, or its reader be so slow that its buffer overflows. Then the state
is read again and compared with what was told before, and the difference is told
as events, deletions too. So whoever applies all events to the first state has
the state, always.

A watch can also fall silent, or lose an event, by a fault of the server; it has
happened. Nothing in the watch itself tells. With `reconcile`, the state is read
anew whenever nothing has been heard for so long, linearizably, so it is the
newest; that proves that nothing was missed, or heals it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from math import inf
from types import MappingProxyType
from typing import Self

import trio

from trio_sched.etcd_shim.errors import Compacted, WatchOverflow
from trio_sched.etcd_shim.kv import GetResult, KeyValue
from trio_sched.etcd_shim.watch import Event, EventType, WatchBatch, Watcher

__all__ = ["Follower", "open_follower"]

Read = Callable[[], Awaitable[GetResult]]
Watch = Callable[[int], AbstractAsyncContextManager[Watcher]]


class Follower:
    """The keys of a range, kept up to date. Made by `Client.follow`.

    Attributes:
        first: the state at the beginning.
        healed: how often the state had to be read again, and was not as told.
        fresh_at: by trio's clock, when `state` was known to be the newest last.
    """

    def __init__(self, first: GetResult, read: Read, watch: Watch, reconcile: float | None) -> None:
        self.first = first
        self.healed = 0
        self.fresh_at = trio.current_time()
        self._read = read
        self._watch = watch
        self._reconcile = inf if reconcile is None else reconcile
        self._state = {kv.key: kv for kv in first}
        self._revision = first.revision
        self._unread: deque[Event] = deque()
        self._watching = AsyncExitStack()
        self._watcher: Watcher | None = None

    @property
    def state(self) -> Mapping[bytes, KeyValue]:
        """The keys by name, with all batches applied that were received; a live view."""
        return MappingProxyType(self._state)

    @property
    def revision(self) -> int:
        """The revision that `state` stands for."""
        return self._revision

    async def receive(self) -> WatchBatch:
        """Wait for changes and return all that arrived together.

        Cancelled, it loses none.

        Raises:
            EtcdError: the watch cannot go on.
            trio.BusyResourceError: another task is waiting already.
        """
        while True:
            try:
                batch = await self._next_batch()
            except (Compacted, WatchOverflow):
                batch = await self._heal()
            self._revision = max(self._revision, batch.revision)
            if batch.events:
                self._apply(batch.events)
                return batch

    async def _next_batch(self) -> WatchBatch:
        """Wait for what the watch says; read anew if it says nothing for too long."""
        assert self._watcher is not None
        with trio.move_on_after(self._reconcile):
            return await self._watcher.receive()
        asked_at = trio.current_time()
        now = await self._read()
        batch = WatchBatch(tuple(self._differences(now)), now.revision)
        if batch.events:
            # The watch may still tell of these; a new one begins behind them.
            await self._start(now.revision)
            self.healed += 1
        self.fresh_at = asked_at
        return batch

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """Wait for the next change. Raises as `receive` does."""
        if self._unread:
            await trio.lowlevel.checkpoint()
        else:
            self._unread.extend((await self.receive()).events)
        return self._unread.popleft()

    async def _start(self, revision: int) -> None:
        """Watch from after `revision`, in place of what was watched before."""
        fresh = AsyncExitStack()
        self._watcher = await fresh.enter_async_context(self._watch(revision + 1))
        stale, self._watching = self._watching, fresh
        await stale.aclose()

    async def _heal(self) -> WatchBatch:
        asked_at = trio.current_time()
        now = await self._read()
        await self._start(now.revision)
        self.healed += 1
        self.fresh_at = asked_at
        return WatchBatch(tuple(self._differences(now)), now.revision)

    def _differences(self, now: GetResult) -> Iterator[Event]:
        here = {kv.key: kv for kv in now}
        for key, kv in self._state.items():
            if key not in here:
                gone = KeyValue(key, b"", 0, now.revision, 0, 0)
                yield Event(EventType.DELETE, gone, kv)
        for kv in sorted(now, key=lambda kv: kv.mod_revision):
            before = self._state.get(kv.key)
            if before is None or before.mod_revision != kv.mod_revision:
                yield Event(EventType.PUT, kv, before)

    def _apply(self, events: tuple[Event, ...]) -> None:
        for event in events:
            if event.type is EventType.PUT:
                self._state[event.kv.key] = event.kv
            else:
                self._state.pop(event.kv.key, None)


@asynccontextmanager
async def open_follower(
    read: Read, watch: Watch, reconcile: float | None
) -> AsyncIterator[Follower]:
    """Follow what `read` reads by what `watch` watches from a revision on."""
    first = await read()
    follower = Follower(first, read, watch, reconcile)
    try:
        await follower._start(first.revision)  # noqa: SLF001 # made here
        yield follower
    finally:
        await follower._watching.aclose()  # noqa: SLF001 # leaving a watch never waits
