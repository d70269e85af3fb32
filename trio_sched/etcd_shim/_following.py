"""`Client.follow`: first the state, then each change, whatever happens between.

A watch cannot always go on where it stopped: the history may be compacted while
we are away, or its reader be so slow that its buffer overflows. Then the state
is read again and compared with what was delivered before, and the difference is
delivered as events, deletions too. So applying all events to the first state
gives the state, always.

A watch can also fall silent, or lose an event, by a fault of the server; it has
happened (etcd issues 15402, 18089). Nothing in the watch itself shows it. With
`reconcile`, the state is read anew every so many seconds, linearizably, so it is
the newest; that proves that nothing was missed, or heals it.

`Client.follow` waits out faults on the way to etcd, for as long as its block lasts: a member
that starts again is read again, and the watch goes on, or begins anew where it cannot.

The watch comes before the read, so it is never behind what was read; what it brings of
the time before is dropped. A watch that begins at a revision behind the store's gets its
first events by a slow path, up to 0.1 s late. Where that cannot be avoided, as the state
was read already, it is read again at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from math import inf
from types import MappingProxyType
from typing import Self

import trio

from trio_sched.etcd_shim._about import TRANSIENT
from trio_sched.etcd_shim._backoff import Backoff
from trio_sched.etcd_shim.errors import Compacted, WatchOverflow
from trio_sched.etcd_shim.kv import GetResult, KeyValue
from trio_sched.etcd_shim.watch import Event, EventType, WatchBatch, Watcher

__all__ = ["Follower", "Read", "Watch", "open_follower"]

Read = Callable[[], Awaitable[GetResult]]
Watch = Callable[[int], AbstractAsyncContextManager[Watcher]]

_MAX_DELAY = 1.0  # seconds between two attempts while etcd is away


class Follower:
    """The keys of a range, kept up to date. Made by `Client.follow`.

    Attributes:
        first: the state at the beginning.
        healed: how often the state had to be read again, and was not as delivered.
        fresh_at: by trio's clock, when `state` was known to be the newest last.
    """

    def __init__(
        self,
        read: Read,
        watch: Watch,
        reconcile: float | None,
        *,
        at_once: bool,
        patient: bool = False,
    ) -> None:
        self.first: GetResult = GetResult((), 0, 0, more=False)
        self.healed: int = 0
        self.fresh_at: float = trio.current_time()
        self._read = read
        self._watch = watch
        self._reconcile = inf if reconcile is None else reconcile
        self._at_once = at_once
        self._patient = patient
        self._backoff = Backoff(cap=_MAX_DELAY)
        self._heard_at = self.fresh_at  # when what was received last had come
        self._state: dict[bytes, KeyValue] = {}
        self._revision = 0
        self._read_at = 0  # events up to this revision are known already
        self._unread: deque[Event] = deque()
        self._watching = AsyncExitStack()
        self._watcher: Watcher | None = None
        self._late = False  # whether the state has to be read at once
        # Revision from which to watch anew, 0 for now; None if the watch can go on.
        self._restart_at: int | None = None

    @property
    def state(self) -> Mapping[bytes, KeyValue]:
        """The keys by name, with all batches applied that were received; a live view."""
        return MappingProxyType(self._state)

    @property
    def revision(self) -> int:
        """The revision that `state` stands for."""
        return self._revision

    @property
    def answered_at(self) -> float:
        """By trio's clock, when etcd last sent a change that is in `state`, or answered a read.

        So `state` is known to be no older than that. With `reconcile`, and as long as a task
        waits for changes, it is a little more than that ago at most while etcd answers; without,
        a range in which nothing changes gets old though all is well.
        """
        return max(self._heard_at, self.fresh_at)

    async def receive(self) -> WatchBatch:
        """Wait for changes and return all that arrived together.

        What is left of a batch that was iterated comes first. Cancelled, it loses none. While etcd
        is away, it waits.

        Raises:
            EtcdError: the watch cannot go on, as etcd refuses.
            trio.BusyResourceError: another task is waiting already.
        """
        if self._unread:
            await trio.lowlevel.checkpoint()
            unread, self._unread = self._unread, deque()
            return WatchBatch(tuple(unread), self._revision)
        while True:
            try:
                events, revision = await self._next()
            except (Compacted, WatchOverflow):
                self._restart_at = 0  # what was missed is in the read that comes then
                self.healed += 1
                continue
            except TRANSIENT:
                if not self._patient:
                    raise
                await trio.sleep(self._backoff.next())
                continue
            self._backoff.reset()
            self._revision = revision
            if events:
                self._apply(events)
                return WatchBatch(events, revision)

    async def _next(self) -> tuple[tuple[Event, ...], int]:
        """Wait for what the watch brings; read anew if it is time to, or at once if it is late."""
        if self._restart_at is not None:
            await self._watch_from(self._restart_at)
            self._restart_at = None
        if self._late:
            found = await self._read_again()
            self._late = False
            return found
        assert self._watcher is not None
        while (due_at := self.fresh_at + self._reconcile) > trio.current_time():
            with trio.move_on_at(due_at):
                try:
                    batch = await self._watcher.receive()
                except TRANSIENT:
                    self._restart_at = self._revision + 1
                    raise
                self._heard_at = getattr(self._watcher, "heard_at", trio.current_time())
                fresh = tuple(each for each in batch.events if each.kv.mod_revision > self._read_at)
                return fresh, max(self._revision, batch.revision)
        known = self._revision
        events, revision = await self._read_again()
        if events or revision < known:  # what this watch did not bring it may never bring
            self.healed += 1
            self._restart_at = revision + 1
        return events, revision

    def note_fresh(self, asked_at: float) -> None:
        """Note that `state` was the newest at this moment, by trio's clock, as is known elsewhere.

        So it need not be read to be sure of that until `reconcile` seconds later.
        """
        self.fresh_at = max(self.fresh_at, asked_at)

    async def _read_again(self) -> tuple[tuple[Event, ...], int]:
        """Read the state; return how it differs, and its revision."""
        asked_at = trio.current_time()
        now = await self._read()
        events = tuple(self._differences(now, anew=now.revision < self._revision))
        self._read_at, self.fresh_at = now.revision, asked_at
        return events, now.revision

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """Wait for the next change. Raises as `receive` does."""
        if self._unread:
            await trio.lowlevel.checkpoint()
        else:
            self._unread.extend((await self.receive()).events)
        return self._unread.popleft()

    async def begin(self, first: GetResult | None) -> None:
        """Begin with what was read already, or watch and read now."""
        if first is None:
            await self._watch_from(0)
            asked_at = trio.current_time()
            first = await self._read()
            self.fresh_at = asked_at
            self._late = self._created_revision > first.revision  # it was read before, after all
        else:
            await self._watch_from(first.revision + 1)
        self.first = first
        self._state = {kv.key: kv for kv in first}
        self._revision = self._read_at = first.revision

    async def _watch_from(self, revision: int) -> None:
        """Watch from `revision` on, or from now for 0, in place of what was watched before."""
        fresh = AsyncExitStack()
        self._watcher = await fresh.enter_async_context(self._watch(revision))
        self._late = not revision or (self._at_once and revision <= self._created_revision)
        stale, self._watching = self._watching, fresh
        await stale.aclose()

    @property
    def _created_revision(self) -> int:
        # One that wraps a watcher need not say how late it is; then only its events count.
        return getattr(self._watcher, "created_revision", 0)

    async def end(self) -> None:
        """Watch no more."""
        await self._watching.aclose()

    def _differences(self, now: GetResult, *, anew: bool) -> Iterator[Event]:
        """Yield what leads from the state to what was read.

        Args:
            now: what was read. Nothing is received meanwhile, so it is not older.
            anew: True if the store's revision went back: the same may mean another thing.
        """
        here = {kv.key: kv for kv in now}
        for key, kv in self._state.items():
            if key not in here:
                gone = KeyValue(key, b"", 0, now.revision, 0, 0)
                yield Event(EventType.DELETE, gone, kv)
        for kv in sorted(now, key=lambda kv: kv.mod_revision):
            before = self._state.get(kv.key)
            if before is None or before.mod_revision != kv.mod_revision or (anew and before != kv):
                yield Event(EventType.PUT, kv, before)

    def _apply(self, events: tuple[Event, ...]) -> None:
        for event in events:
            if event.type is EventType.PUT:
                self._state[event.kv.key] = event.kv
            else:
                self._state.pop(event.kv.key, None)


@asynccontextmanager
async def open_follower(
    read: Read,
    watch: Watch,
    reconcile: float | None,
    first: GetResult | None = None,
    *,
    at_once: bool = True,
    patient: bool = False,
) -> AsyncIterator[Follower]:
    """Follow what `read` reads by what `watch` watches from a revision on.

    Args:
        read: reads the state, linearizably.
        watch: opens a watch from a revision on; 0 for now.
        reconcile: seconds from one read of the state to the next; None for never.
        first: the state, if it was read already.
        at_once: whether to read again if the watch began too late to be fast.
        patient: whether to wait out faults on the way to etcd, once it has begun.
    """
    follower = Follower(read, watch, reconcile, at_once=at_once, patient=patient)
    try:
        await follower.begin(first)
        yield follower
    finally:
        await follower.end()  # noqa: ASYNC102 # leaving a watch never waits
