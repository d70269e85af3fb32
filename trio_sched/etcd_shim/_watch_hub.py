"""The stream of watches: many on one, resumed without a gap or a repeat.

Theory of operation
-------------------
A service task, `WatchHub._serve`, owns the Watch call that all watchers of a
client share. Each watcher has an id of our own choosing and knows `next_revision`,
the first revision that it has not been given. When the call ends with a fault
that another connection may not have, the task begins a new call, and asks for
each watcher again from there. So a watcher sees every event exactly once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import trio
from grpclib.const import Status

from trio_sched._support.arguments import check_int
from trio_sched.etcd_shim._about import TRANSIENT, is_odd_end
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
    Unimplemented,
    WatchCanceled,
    again,
)
from trio_sched.etcd_shim.watch import Watcher

if TYPE_CHECKING:
    from grpclib.client import Stream

    from trio_sched._support.tasks import ServiceNursery
    from trio_sched.etcd_shim._pb.services_grpc import WatchStub
    from trio_sched.etcd_shim.channel import Channel
    from trio_sched.etcd_shim.maintenance import MemberStatus

__all__ = ["WatchHub"]

_Call: TypeAlias = "Stream[pb.WatchRequest, pb.WatchResponse]"

HAS_LEADER: Final = {"hasleader": "true"}

_MAX_REFUSALS: Final = 9  # of a token, or of a watch that its user may have, in a row
_MAX_ODD_ENDS: Final = 5  # in a row, of calls that have brought nothing
_ALL: Final = -1  # the id in an answer that is about all watches of a call
_Read: TypeAlias = Callable[[bytes, bytes], Awaitable[object]]


@dataclass(slots=True)
class _Creation:
    """One watch on this call, from when it was asked for.

    Attributes:
        doubtful: how many answers about progress may still come that etcd gave before; that a
            watch is created is sent by another way, and overtakes them.
        revision: the store's when it was created; 0 before.
    """

    doubtful: int
    revision: int = 0


class WatchHub:
    """The shared stream of watches. See the head of the module.

    Args:
        services: where its tasks are started.
        channel: what the stub is on; has the token.
        stub: to call with.
        read: reads a key of a range, to see whether that is permitted.
        status: asks a member how it does.
    """

    def __init__(
        self,
        services: ServiceNursery,
        channel: Channel,
        stub: WatchStub,
        read: _Read,
        status: Callable[[], Awaitable[MemberStatus]],
    ) -> None:
        self._services = services
        self._channel = channel
        self._stub = stub
        self._read = read
        self._status = status
        self._watchers: dict[int, Watcher] = {}
        self._last_id = 0
        self._outgoing: list[pb.WatchRequest] = []
        self._creating: list[int] = []  # ids whose creation is not answered yet
        self._serving = False
        self._call: _Call | None = None
        self._call_scope = trio.CancelScope()
        self._token: str | None = None  # which the call has
        self._member = 0  # id of the one at the other end; 0 while it is not known
        self._token_refusals = 0  # in a row
        self._token_backoff = Backoff(cap=1.0)
        self._refused: dict[int, EtcdError] = {}  # for it, by the ids of their watches
        self._creations: dict[int, _Creation] = {}  # on this call, by the ids of their watches
        self._unanswered = 0  # how often it was asked for progress and has not answered, or will
        # Where the server numbers watches itself:
        self._one_at_a_time = False
        self._to_create: list[int] = []  # ids of watches that wait for their turn
        self._ours: dict[int, int] = {}  # ids by the server's
        self._theirs: dict[int, int] = {}  # and the other way

    def watch(
        self, request: pb.WatchCreateRequest, buffer_size: int, stripped: int = 0
    ) -> AbstractAsyncContextManager[Watcher]:
        """Open a watch; it is created at the server when the block is entered.

        Args:
            request: for it.
            buffer_size: how many events may wait to be read.
            stripped: how many bytes to take off the front of each key.
        """
        check_int("buffer_size", buffer_size, 1)
        return self._watching(request, buffer_size, stripped)

    @asynccontextmanager
    async def _watching(
        self, request: pb.WatchCreateRequest, buffer_size: int, stripped: int
    ) -> AsyncIterator[Watcher]:
        if self._services.closing:
            raise ClientClosed("the client's block was left")
        self._last_id += 1
        request.watch_id = self._last_id
        watcher = Watcher(self._last_id, request, buffer_size, stripped, self._ask_progress)
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
            self._create(self._call, watcher)

    def _forget(self, watcher: Watcher) -> None:
        known = self._watchers.pop(watcher._id, None)
        self._creations.pop(watcher._id, None)
        if known is None or self._call is None:
            return
        theirs: int | None = watcher._id
        if self._one_at_a_time:
            theirs = self._theirs.pop(watcher._id, None)  # None until it is created
        if theirs is not None:
            self._ours.pop(theirs, None)
            self._cancel(self._call, theirs)

    def _cancel(self, call: _Call, theirs: int) -> None:
        cancel = pb.WatchCancelRequest(watch_id=theirs)
        self._send(call, pb.WatchRequest(cancel_request=cancel))

    def _create(self, call: _Call, watcher: Watcher) -> None:
        """Ask for a watch, or resume it; in its turn where that is needed."""
        if self._one_at_a_time and self._creating:
            self._to_create.append(watcher._id)
        else:
            self._creating.append(watcher._id)
            self._creations[watcher._id] = _Creation(self._unanswered)
            self._send(call, watcher._creation())

    def _send(self, call: _Call, request: pb.WatchRequest) -> None:
        """Send a request at once, or in its turn when that takes waiting."""
        if self._outgoing or not send_message_nowait(call, request):
            self._outgoing.append(request)
            if len(self._outgoing) == 1:
                self._services.start_soon(self._send_outgoing, call)

    async def _ask_progress(self) -> int:
        """Ask how far all watches have come; return the revision of the member's store.

        It is asked if it is known to answer in time. It is silent about a watch that is to begin
        at a later revision than the store's, as one does that was resumed.
        """
        from trio_sched.etcd_shim._versions import reports_progress  # noqa: PLC0415 # not at once

        status = await self._status()
        if not reports_progress(status.version):
            words = f"etcd {status.version} may report progress before it sends what was before"
            raise Unimplemented(Status.UNIMPLEMENTED, f"{words} (etcd issues 15220 and 17507)")
        if self._call is not None and self._member == status.member_id:
            self._send_progress_request(self._call)
        return status.revision

    def _send_progress_request(self, call: _Call) -> None:
        self._unanswered += 1
        self._send(call, pb.WatchRequest(progress_request=pb.WatchProgressRequest()))

    @property
    def awaits_answer(self) -> bool:
        """Whether a watch was asked for that is not created yet."""
        return self._call is not None and bool(self._creating)

    # ---- the service task ------------------------------------------------------

    async def _serve(self) -> None:
        """Keep a Watch call open as long as there is a watcher that needs it."""
        backoff = Backoff(cap=2.0)
        error: EtcdError | None = None
        failures = 0  # in a row, of calls that have brought nothing
        try:
            while error is None and (self._watchers or not backoff.used):
                self._token = self._channel.token
                ended, brought = await self._serve_call(backoff)
                failures = 0 if brought else failures + 1
                error = await self._recover(ended, failures, backoff)
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

    async def _recover(
        self, error: EtcdError | None, failures: int, backoff: Backoff
    ) -> EtcdError | None:
        """Get ready for another call; return why that is no use.

        Args:
            error: what the call ended by; None if we ended it.
            failures: how many in a row have brought nothing.
            backoff: to wait by.
        """
        if error is None:
            return None
        if isinstance(error, TRANSIENT) or (is_odd_end(error) and failures < _MAX_ODD_ENDS):
            await trio.sleep(backoff.next())
            return None
        if isinstance(error, (Unauthenticated, AuthStoreChanged)) and failures < _MAX_REFUSALS:
            if failures > 1:  # one that lives a second may be late
                await trio.sleep(backoff.next())
            return await self._refresh_token(error)
        return error

    async def _refresh_token(self, refusal: EtcdError) -> EtcdError | None:
        """Get a token in place of one that was refused; return why that is no use."""
        try:
            return None if await self._channel.refresh_token(self._token) else refusal
        except TRANSIENT:
            return None  # another round will show
        except EtcdError as exc:
            return exc

    async def _serve_call(self, backoff: Backoff) -> tuple[EtcdError | None, bool]:
        """Run one Watch call to its end; return why it ended, and whether it brought anything."""
        brought = False
        try:
            with trio.CancelScope() as self._call_scope:
                async with self._stub.Watch.open(metadata=HAS_LEADER) as call:
                    await call.send_request()
                    self._begin(call)
                    answer = await call.recv_message()
                    if answer is not None:
                        brought = True
                        backoff.reset()
                        self._take(answer)
                        await deliver(call, self._take)
        except EtcdError as exc:
            return exc, brought
        finally:
            self._call = None
        if self._call_scope.cancelled_caught:
            return None, True
        return ConnectionLost("the stream of watches ended"), brought

    def _begin(self, call: _Call) -> None:
        for stale in (self._outgoing, self._creating, self._to_create):
            stale.clear()
        for known in (self._ours, self._theirs, self._refused, self._creations):
            known.clear()
        self._member = self._unanswered = 0
        self._call, self._token = call, self._channel.token
        for watcher in self._watchers.values():
            self._create(call, watcher)

    async def _send_outgoing(self, call: _Call) -> None:
        with suppress(EtcdError):  # the call has ended, as its reader learns, too
            while self._outgoing and self._call is call:
                await call.send_message(self._outgoing[0])
                if self._call is call:  # else what is there is for the next call
                    self._outgoing.pop(0)

    def _take(self, answer: pb.WatchResponse) -> None:
        watch_id = answer.watch_id
        if self._creating and answer.created:
            watch_id = self._take_creation(answer)
        elif self._one_at_a_time:
            watch_id = self._ours.get(watch_id, 0)
        watcher = self._watchers.get(watch_id)
        if watcher is None:
            if answer.watch_id == _ALL and not answer.canceled:
                self._take_progress(answer.header.revision)
            return
        if answer.canceled:
            self._take_cancellation(watcher, answer)
        elif answer.created:
            self._token_refusals = 0
            self._token_backoff.reset()
            watcher.refusals = 0
            watcher.refusal_backoff.reset()
            self._creations[watcher._id].revision = answer.header.revision
            watcher._note_created(answer.header.revision)
        else:
            self._channel.counts.watch_events += len(answer.events)
            watcher._take(answer)
            if watcher._error is not None:  # it overflowed
                self._forget(watcher)

    def _take_progress(self, revision: int) -> None:
        """Take what is about each watch that was created at the server when it said so.

        Nothing in it says which request it answers, and some are never answered. So one that may
        be older than a watch proves nothing of it, and another one is asked for.
        """
        self._unanswered = max(0, self._unanswered - 1)
        in_doubt = False
        for watch_id, creation in tuple(self._creations.items()):
            watcher = self._watchers.get(watch_id)
            if watcher is None or not creation.revision:
                continue
            if creation.doubtful and watcher.next_revision <= revision <= creation.revision:
                creation.doubtful -= 1
                in_doubt |= watcher._asks
            else:
                watcher._note_progress(revision)
        if in_doubt and self._call is not None:
            self._send_progress_request(self._call)

    def _take_creation(self, answer: pb.WatchResponse) -> int:
        """Return whose creation is answered; 0 if that is not known."""
        # They are answered in their order; etcd 3.4 refuses one without its id.
        watch_id = self._creating.pop(0)
        self._member = answer.header.member_id
        if not answer.canceled and answer.watch_id != watch_id:
            if self._creating:  # whose it is cannot be known
                self._one_at_a_time = True
                self._call_scope.cancel()
                return 0
            self._one_at_a_time = True
        if self._one_at_a_time:
            if watch_id in self._watchers:
                self._ours[answer.watch_id] = watch_id
                self._theirs[watch_id] = answer.watch_id
            elif self._call is not None and not answer.canceled:  # left before it had a number
                self._cancel(self._call, answer.watch_id)
            self._create_next()
        return watch_id

    def _create_next(self) -> None:
        while self._to_create and self._call is not None:
            watcher = self._watchers.get(self._to_create.pop(0))
            if watcher is not None:
                self._create(self._call, watcher)
                return

    def _take_cancellation(self, watcher: Watcher, answer: pb.WatchResponse) -> None:
        self._creations.pop(watcher._id, None)
        error = _cancellation(answer)
        if not isinstance(error, PermissionDenied) or self._channel.token is None:
            self._drop(watcher, error)
        elif any(words in answer.cancel_reason for words in _TOKEN_REFUSALS):
            self._refused[watcher._id] = error
            if len(self._refused) == 1:  # once for all that are being created
                self._services.start_soon(self._renew_token, self._call, error)
        else:
            self._services.start_soon(self._check_permission, watcher, self._call, error)

    async def _renew_token(self, call: _Call | None, refusal: EtcdError) -> None:
        """Begin another call with a new token, in place of one whose token was refused."""
        self._token_refusals += 1
        if self._token_refusals > 1:
            await trio.sleep(self._token_backoff.next())
        error = await self._refresh_token(refusal)
        if self._call is not call:
            return  # there is another one already
        refused, self._refused = self._refused, {}
        if error is None and self._token_refusals <= _MAX_REFUSALS:
            self._call_scope.cancel()
            return
        for watch_id, its_own in refused.items():
            if watch_id in self._watchers:
                self._drop(self._watchers[watch_id], error or its_own)

    async def _check_permission(
        self, watcher: Watcher, call: _Call | None, refusal: EtcdError
    ) -> None:
        """See whether a watch that was refused is forbidden, or the stream's token too old."""
        watcher.refusals += 1
        request = watcher._request
        try:
            await self._read(request.key, request.range_end)
        except PermissionDenied:
            self._drop(watcher, refusal)
            return
        except (AuthStoreChanged, Unauthenticated):
            pass  # another round will show
        except TRANSIENT:
            pass  # likewise
        except EtcdError as exc:
            self._drop(watcher, exc)
            return
        if watcher.refusals > 1:
            await trio.sleep(watcher.refusal_backoff.next())
        if watcher.refusals > _MAX_REFUSALS:
            self._drop(watcher, refusal)
        elif self._call is call is not None and watcher._id in self._watchers:
            if self._token == self._channel.token:  # its user may have been granted it just now
                self._create(call, watcher)
            else:
                self._call_scope.cancel()

    def _drop(self, watcher: Watcher, error: EtcdError) -> None:
        self._watchers.pop(watcher._id, None)
        self._creations.pop(watcher._id, None)
        watcher._fail(again(error))


def _cancellation(answer: pb.WatchResponse) -> EtcdError:
    if answer.compact_revision:
        return Compacted(answer.cancel_reason, answer.compact_revision)
    if any(words in answer.cancel_reason for words in _REFUSALS):
        return PermissionDenied(Status.PERMISSION_DENIED, answer.cancel_reason)
    return WatchCanceled(answer.cancel_reason)


_TOKEN_REFUSALS: Final = (
    "auth token",
    "auth store is old",
    "revision in header is old",
    "user name is empty",
)
_REFUSALS: Final = ("permission denied", *_TOKEN_REFUSALS)
