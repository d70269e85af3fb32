"""Watches: many on one stream, resumed without a gap or a repeat.

Theory of operation
-------------------
A service task, `WatchHub._serve`, owns the Watch call that all watchers of a
client share. Each watcher has an id of our own choosing and knows `next_revision`,
the first revision that it has not been given. When the call ends with a fault
that another connection may not have, the task begins a new call, and asks for
each watcher again from there. So a watcher sees every event exactly once.

Each watcher has a buffer of its own, counted in events. A watcher that does not
read fills its buffer, and then gets `WatchOverflow`; it delays no other.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, Self, TypeAlias

import trio
from grpclib.const import Status

from trio_sched._support.arguments import check_bools, check_int
from trio_sched._support.tasks import Wakeup
from trio_sched.etcd_shim._about import TRANSIENT
from trio_sched.etcd_shim._backoff import Backoff
from trio_sched.etcd_shim._pb import messages_pb2 as pb
from trio_sched.etcd_shim.channel import deliver, send_message_nowait
from trio_sched.etcd_shim.errors import (
    AuthStoreChanged,
    ClientClosed,
    Compacted,
    ConnectionLost,
    EtcdError,
    PermissionDenied,
    Unauthenticated,
    WatchCanceled,
    WatchOverflow,
    again,
)
from trio_sched.etcd_shim.kv import Key, KeyValue, prefix_range, to_bytes

if TYPE_CHECKING:
    from grpclib.client import Stream

    from trio_sched._support.tasks import ServiceNursery
    from trio_sched.etcd_shim._pb.services_grpc import WatchStub
    from trio_sched.etcd_shim.channel import Channel

__all__ = ["Event", "EventType", "WatchBatch", "WatchHub", "Watcher"]

_Call: TypeAlias = "Stream[pb.WatchRequest, pb.WatchResponse]"

HAS_LEADER = {"hasleader": "true"}

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

    def __init__(self, watch_id: int, request: pb.WatchCreateRequest, buffer_size: int) -> None:
        self._id = watch_id
        self._request = request
        self._buffer_size = buffer_size
        self.next_revision = request.start_revision
        self.created_revision = 0
        self.heard_at = trio.current_time()
        self._created = trio.Event()  # or refused
        self._was_created = False
        self._arrived: list[Event] = []
        self._arrived_revision: int | None = None  # up to which; None if nothing has
        self._unread: list[Event] = []  # the next one last
        self._turn = 0  # how many of them may still be taken before others get a turn
        self._fragments: list[pb.Event] = []
        self._error: EtcdError | None = None
        self._wakeup = Wakeup()
        self.refused_token: str | None = None  # with which it was not let in

    async def receive(self) -> WatchBatch:
        """Wait for the next events and return all that arrived together.

        Cancelled, it loses none.

        Raises:
            Compacted: the history to be watched is gone.
            WatchCanceled: etcd ended the watch.
            WatchOverflow: the buffer was full; what is in it is returned first.
            EtcdError: the watch cannot go on.
            trio.BusyResourceError: another task is waiting already.
        """
        await self._wait()
        revision, self._arrived_revision = self._arrived_revision, None
        events, self._arrived = self._arrived, []
        assert revision is not None
        return WatchBatch(tuple(events), revision)

    async def _wait(self) -> None:
        """Wait until something has arrived. A checkpoint."""
        if self._arrived_revision is not None:
            await trio.lowlevel.checkpoint()
        while self._arrived_revision is None:
            if self._error is not None:
                await trio.lowlevel.checkpoint()
                raise again(self._error)
            await self._wakeup.wait()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """Wait for the next event. Raises as `receive` does.

        Each step is a point at which it can be cancelled. Others get a turn when
        events are waited for, and after each 64 that are there already.
        """
        if not self._unread:
            while not self._unread:
                self._unread[:0] = reversed((await self.receive()).events)
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
            self._deliver([Event.decode(event) for event in events])
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
        self.heard_at = trio.current_time()
        self._wakeup.notify()

    def _fail(self, error: EtcdError) -> None:
        if self._error is None:
            self._error = error
            self._created.set()
            self._wakeup.notify()


class WatchHub:
    """The shared stream of watches. See the head of the module."""

    def __init__(self, services: ServiceNursery, channel: Channel, stub: WatchStub) -> None:
        self._services = services
        self._channel = channel
        self._stub = stub
        self._watchers: dict[int, Watcher] = {}
        self._last_id = 0
        self._outgoing: list[pb.WatchRequest] = []
        self._creating: list[int] = []  # ids whose creation is not answered yet
        self._serving = False
        self._call: _Call | None = None
        self._token: str | None = None  # which the call has

    def watch(
        self, request: pb.WatchCreateRequest, buffer_size: int
    ) -> AbstractAsyncContextManager[Watcher]:
        """Open a watch; it is created at the server when the block is entered."""
        check_int("buffer_size", buffer_size, 1)
        return self._watching(request, buffer_size)

    @asynccontextmanager
    async def _watching(
        self, request: pb.WatchCreateRequest, buffer_size: int
    ) -> AsyncIterator[Watcher]:
        if self._services.closing:
            raise ClientClosed("the client's block was left")
        self._last_id += 1
        request.watch_id = self._last_id
        watcher = Watcher(self._last_id, request, buffer_size)
        self._watchers[watcher._id] = watcher
        self._start(watcher)
        try:
            await watcher._created.wait()
            if watcher._error is not None and not watcher._was_created:
                raise again(watcher._error)
            yield watcher
        finally:
            self._forget(watcher)

    def _start(self, watcher: Watcher) -> None:
        if not self._serving:
            self._serving = True
            self._services.start_soon(self._serve)
        elif self._call is not None:
            self._send(self._call, watcher._creation())

    def _forget(self, watcher: Watcher) -> None:
        known = self._watchers.pop(watcher._id, None)
        if known is not None and self._call is not None:
            cancel = pb.WatchCancelRequest(watch_id=watcher._id)
            self._send(self._call, pb.WatchRequest(cancel_request=cancel))

    def _send(self, call: _Call, request: pb.WatchRequest) -> None:
        """Send a request at once, or in its turn when that takes waiting."""
        if request.HasField("create_request"):
            self._creating.append(request.create_request.watch_id)
        if self._outgoing or not send_message_nowait(call, request):
            self._outgoing.append(request)
            if len(self._outgoing) == 1:
                self._services.start_soon(self._send_outgoing, call)

    @property
    def awaits_answer(self) -> bool:
        """Whether a watch was asked for that is not created yet."""
        return self._call is not None and bool(self._creating)

    # ---- the service task ------------------------------------------------------

    async def _serve(self) -> None:
        """Keep a Watch call open as long as there is a watcher that needs it."""
        backoff = Backoff(cap=2.0)
        error: EtcdError | None = None
        try:
            while error is None and (self._watchers or not backoff.used):
                self._token = self._channel.token
                error = await self._serve_call(backoff)
                if isinstance(error, TRANSIENT):
                    error = None
                    await trio.sleep(backoff.next())
                elif isinstance(error, (Unauthenticated, AuthStoreChanged)):
                    error = await self._refresh_token(self._token, error)
            if error is None:
                return
            for watcher in tuple(self._watchers.values()):
                self._drop(watcher, error)
        except trio.Cancelled:
            for watcher in tuple(self._watchers.values()):
                self._drop(watcher, ClientClosed("the client's block was left"))
            raise
        finally:
            self._serving = False

    async def _refresh_token(self, stale: str | None, refusal: EtcdError) -> EtcdError | None:
        """Get a token in place of one that was refused; return why that is no use."""
        try:
            return None if await self._channel.refresh_token(stale) else refusal
        except TRANSIENT:
            return None  # another round will show
        except EtcdError as exc:
            return exc

    async def _serve_call(self, backoff: Backoff) -> EtcdError:
        """Run one Watch call to its end and return why it ended."""
        try:
            async with self._stub.Watch.open(metadata=HAS_LEADER) as call:
                await call.send_request()
                self._outgoing.clear()
                self._creating.clear()
                self._call = call
                for watcher in self._watchers.values():
                    self._send(call, watcher._creation())
                answer = await call.recv_message()
                if answer is not None:
                    backoff.reset()
                    self._take(answer)
                    await deliver(call, self._take)
        except EtcdError as exc:
            return exc
        finally:
            self._call = None
        return ConnectionLost("the stream of watches ended")

    async def _send_outgoing(self, call: _Call) -> None:
        with suppress(EtcdError):  # the call has ended, as its reader learns, too
            while self._outgoing and self._call is call:
                await call.send_message(self._outgoing[0])
                self._outgoing.pop(0)

    def _take(self, answer: pb.WatchResponse) -> None:
        watch_id = answer.watch_id
        if self._creating and answer.created:
            # Creations are answered in their order; etcd 3.4 refuses one without its id.
            watch_id = self._creating.pop(0)
        watcher = self._watchers.get(watch_id)
        if watcher is None:
            return
        if answer.canceled:
            self._take_cancellation(watcher, answer)
        elif answer.created:
            watcher._note_created(answer.header.revision)
        else:
            watcher._take(answer)
            if watcher._error is not None:  # it overflowed
                self._forget(watcher)

    def _take_cancellation(self, watcher: Watcher, answer: pb.WatchResponse) -> None:
        error = _cancellation(answer)
        token = self._channel.token
        if isinstance(error, PermissionDenied) and token and watcher.refused_token is None:
            # A token that has expired reads like a permission that we do not have. A stream's
            # token is the one that it began with, so the stream begins anew, with a new one.
            watcher.refused_token = token
            raise Unauthenticated(Status.UNAUTHENTICATED, answer.cancel_reason)
        self._drop(watcher, error)

    def _drop(self, watcher: Watcher, error: EtcdError) -> None:
        self._watchers.pop(watcher._id, None)
        watcher._fail(again(error))


def _cancellation(answer: pb.WatchResponse) -> EtcdError:
    if answer.compact_revision:
        return Compacted(answer.cancel_reason, answer.compact_revision)
    if "permission denied" in answer.cancel_reason or "auth token" in answer.cancel_reason:
        return PermissionDenied(Status.PERMISSION_DENIED, answer.cancel_reason)
    return WatchCanceled(answer.cancel_reason)


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
