"""Watches: what one delivers, and what it asks for. The stream that they share is `WatchHub`'s.

Each watcher has a buffer of its own, counted in events. A watcher that does not
read fills its buffer, and then gets `WatchOverflow`; it delays no other.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

import trio

from trio_sched._support.arguments import check_bools, check_int
from trio_sched._support.tasks import Wakeup
from trio_sched.etcd_shim._backoff import Backoff
from trio_sched.etcd_shim._pb import messages_pb2 as pb
from trio_sched.etcd_shim.errors import EtcdError, WatchOverflow, again
from trio_sched.etcd_shim.kv import Key, KeyValue, prefix_range, to_bytes

__all__ = ["Event", "EventType", "WatchBatch", "Watcher", "creation"]

# etcd ends a stream, with all that is on it, for a request that is larger than what it is
# configured to take, and half a MiB is always added to that.
_MAX_KEYS: Final = 500 * 1024

_EVENTS_IN_A_TURN: Final = 63  # more, after the first


class EventType(enum.Enum):
    """What happened to a key."""

    PUT = "put"
    DELETE = "delete"


_PUT, _DELETE = EventType.PUT, EventType.DELETE
_DELETED: Final = pb.Event.DELETE
_new: Final = tuple.__new__


class Event(NamedTuple):
    """A change of one key.

    Attributes:
        type: what happened.
        kv: the key afterwards. Of a deleted key only `key` and `mod_revision`,
            the revision of its deletion, mean something.
        prev_kv: the key before, if that was asked for and it existed.
    """

    type: EventType
    kv: KeyValue
    prev_kv: KeyValue | None

    @property
    def is_create(self) -> bool:
        """Whether the key was put that was not there before."""
        return self.type is _PUT and self.kv.version == 1

    @property
    def is_modify(self) -> bool:
        """Whether the key was put that was there already."""
        return self.type is _PUT and self.kv.version > 1

    @classmethod
    def decode(cls, event: pb.Event) -> Self:
        """Return the value for a message. In line, as thousands may come in a second."""
        prev_kv = KeyValue.decode(event.prev_kv) if event.HasField("prev_kv") else None
        now = event.kv
        created, modified, version = now.create_revision, now.mod_revision, now.version
        kv = _new(KeyValue, (now.key, now.value, created, modified, version, now.lease))
        return _new(cls, (_DELETE if event.type == _DELETED else _PUT, kv, prev_kv))


@dataclass(frozen=True, slots=True)
class WatchBatch:
    """Events that arrived together. One revision is never split over two batches.

    Attributes:
        events: in order of their revisions; empty if this is only progress.
        revision: everything up to this revision has been delivered.
    """

    events: tuple[Event, ...]
    revision: int


class Watcher:
    """One watch. Made by `Client.watch`; iterate it, or call `receive`.

    Attributes:
        next_revision: the first revision that has not been delivered by etcd.
        created_revision: the store's revision when the watch was created first; events
            up to it come by etcd's slow path, which takes up to 0.1 s.
        heard_at: by trio's clock, when etcd sent something for it last.
    """

    def __init__(
        self,
        watch_id: int,
        request: pb.WatchCreateRequest,
        buffer_size: int,
        stripped: int = 0,
        ask: Callable[[], Awaitable[int]] | None = None,
    ) -> None:
        self._id = watch_id
        self._ask = ask  # for progress, once
        self._progress = trio.Event()  # etcd has answered that, or never will
        self._progress_revision = 0
        self._request = request
        self._buffer_size = buffer_size
        self._stripped = stripped  # bytes, off the front of each key
        self.next_revision: int = request.start_revision
        self.created_revision: int = 0
        self.heard_at: float = trio.current_time()
        self._created = trio.Event()  # or refused
        self._was_created = False
        self._arrived: list[Event] = []
        self._arrived_revision: int | None = None  # up to which; None if nothing has
        self._unread: list[Event] = []  # of a batch that is being iterated; the next one last
        self._unread_revision = 0  # that batch's
        self._turn = 0  # how many of them may still be taken before others get a turn
        self._fragments: list[pb.Event] = []
        self._error: EtcdError | None = None
        self._wakeup = Wakeup()
        self._waking = False  # the task that waits was woken, and has not run yet
        self.refusals = 0  # in a row, of its creation
        self.refusal_backoff: Backoff = Backoff(cap=1.0)

    async def receive(self) -> WatchBatch:
        """Wait for the next events and return all that arrived together.

        What is left of a batch that was iterated comes first. Cancelled, it loses none.

        Raises:
            Compacted: the history to be watched is gone.
            WatchCanceled: etcd ended the watch.
            WatchOverflow: the buffer was full; what is in it is returned first.
            EtcdError: the watch cannot go on.
            trio.BusyResourceError: another task is waiting already.
        """
        if self._unread:
            await trio.lowlevel.checkpoint()
            unread, self._unread = self._unread, []
            return WatchBatch(tuple(reversed(unread)), self._unread_revision)
        await self._wait()
        revision, self._arrived_revision = self._arrived_revision, None
        events, self._arrived = self._arrived, []
        assert revision is not None
        return WatchBatch(tuple(events), revision)

    async def request_progress(self) -> int:
        """Ask up to which revision everything has been delivered; wait for the answer.

        What came is then in the buffer, and `receive` returns without an event if there is none.
        etcd answers when all watches of this client have caught up, and does not say so before:
        it is asked again and again. It says what the member knows, which may be a little less
        than what another one has answered to a write: compare, and ask again if it is too old.

        Cancelled, it loses nothing.

        Returns:
            The revision.

        Raises:
            Unimplemented: this version of etcd may answer too early (etcd issues 15220 and
                17507): before 3.4.31, and 3.5.0 to 3.5.12.
            EtcdError: the watch cannot go on.
        """
        assert self._ask is not None
        answered, backoff = self._progress, Backoff(first=0.1, cap=1.0)
        while True:
            if self._error is not None:
                await trio.lowlevel.checkpoint()
                raise again(self._error)
            reached = await self._ask()
            if reached < self.next_revision:  # nothing has happened since
                self._note_revision(reached)
                return reached
            with trio.move_on_after(backoff.next()):
                await answered.wait()
            if answered.is_set() and self._error is None:
                return self._progress_revision

    async def _wait(self) -> None:
        """Wait until something has arrived. A checkpoint."""
        if self._arrived_revision is not None:
            await trio.lowlevel.checkpoint()
        while self._arrived_revision is None:
            if self._error is not None:
                await trio.lowlevel.checkpoint()
                raise again(self._error)
            self._waking = False
            await self._wakeup.wait()
        self._waking = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """Wait for the next event. Raises as `receive` does.

        Each step is a point at which it can be cancelled. Others get a turn when
        events are waited for, and after each 64 that are there already.
        """
        if not self._unread:
            while not self._unread:
                batch = await self.receive()
                self._unread[:0] = reversed(batch.events)
                self._unread_revision = batch.revision
            self._turn = _EVENTS_IN_A_TURN
        elif self._turn:
            self._turn -= 1
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            self._turn = _EVENTS_IN_A_TURN
            await trio.lowlevel.checkpoint()
        return self._unread.pop()

    # ---- what the hub says ---------------------------------------------------

    def _creation(self) -> pb.WatchRequest:
        """Return the request that begins the watch, or resumes it."""
        request = pb.WatchCreateRequest()
        request.CopyFrom(self._request)
        request.start_revision = self.next_revision
        self._fragments.clear()
        return pb.WatchRequest(create_request=request)

    def _note_created(self, revision: int) -> None:
        if not self.next_revision:
            self.next_revision = revision + 1
        if not self._was_created:
            self.created_revision = revision
        self._was_created = True
        self._created.set()

    def _take(self, answer: pb.WatchResponse) -> None:
        if answer.fragment or self._fragments:
            self._fragments.extend(answer.events)
            if answer.fragment:
                return
            events: Sequence[pb.Event] = tuple(self._fragments)
            self._fragments.clear()
        else:
            events = answer.events
        if self._error is not None:
            return
        if events:
            found = [Event.decode(event) for event in events]
            stripped = self._stripped
            self._deliver([_stripped(event, stripped) for event in found] if stripped else found)
        else:
            self._note_revision(answer.header.revision)

    def _deliver(self, events: list[Event]) -> None:
        if self._arrived and len(self._arrived) + len(events) > self._buffer_size:
            self._fail(WatchOverflow(self._buffer_size, self.next_revision - 1))
            return
        self._arrived += events
        self._note_revision(events[-1].kv.mod_revision)

    def _note_revision(self, revision: int) -> None:
        """Note up to where all has arrived, and wake the task that waits."""
        if revision >= self.next_revision:
            self.next_revision = revision + 1
        self._arrived_revision = revision
        if not self._waking:  # else it was noted in this tick already
            self.heard_at = trio.current_time()
            self._waking = self._wakeup.notify()

    @property
    def _asks(self) -> bool:
        """Whether `request_progress` waits for an answer."""
        return self._progress.statistics().tasks_waiting > 0

    def _note_progress(self, revision: int) -> None:
        """Note what etcd has answered to `request_progress`, if that was called."""
        if self._asks and self._error is None:
            self._progress_revision = revision
            self._note_revision(revision)
            self._end_asking()

    def _end_asking(self) -> None:
        self._progress.set()
        self._progress = trio.Event()

    def _fail(self, error: EtcdError) -> None:
        if self._error is None:
            self._error = error
            self._created.set()
            self._end_asking()
            self._wakeup.notify()


def _stripped(event: Event, count: int) -> Event:
    """Return it with so many bytes less at the front of its key."""
    kv, before = event.kv, event.prev_kv
    if before is not None:
        before = before._replace(key=before.key[count:])
    return event._replace(kv=kv._replace(key=kv.key[count:]), prev_kv=before)


def creation(
    key: Key,
    *,
    prefix: bool,
    range_end: Key,
    start_revision: int,
    prev_kv: bool,
    puts: bool,
    deletes: bool,
    progress_notify: bool,
) -> pb.WatchCreateRequest:
    """Return the request for a watch, its id aside."""
    check_bools(
        prefix=prefix,
        prev_kv=prev_kv,
        puts=puts,
        deletes=deletes,
        progress_notify=progress_notify,
    )
    start, end = to_bytes(key), to_bytes(range_end)
    if prefix and end:
        raise ValueError("give prefix or range_end, not both")
    if prefix:
        start, end = prefix_range(start)
    if not start:
        raise ValueError("a key must not be empty; watch b'\\0' with range_end=ALL_KEYS for all")
    if len(start) + len(end) > _MAX_KEYS:
        raise ValueError(f"the keys of a watch must be at most {_MAX_KEYS} bytes together")
    if not puts and not deletes:
        raise ValueError("a watch of neither puts nor deletes delivers nothing")
    check_int("start_revision", start_revision, 0)
    filters = [] if puts else [pb.WatchCreateRequest.NOPUT]
    if not deletes:
        filters.append(pb.WatchCreateRequest.NODELETE)
    return pb.WatchCreateRequest(
        key=start,
        range_end=end,
        start_revision=start_revision,
        prev_kv=prev_kv,
        progress_notify=progress_notify,
        filters=filters,
        fragment=True,
    )
