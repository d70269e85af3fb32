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

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final, TypeAlias

import trio
from grpclib.const import Status

from trio_sched._support.arguments import check_int
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
    again,
)
from trio_sched.etcd_shim.watch import Watcher

if TYPE_CHECKING:
    from grpclib.client import Stream

    from trio_sched._support.tasks import ServiceNursery
    from trio_sched.etcd_shim._pb.services_grpc import WatchStub
    from trio_sched.etcd_shim.channel import Channel

__all__ = ["WatchHub"]

_Call: TypeAlias = "Stream[pb.WatchRequest, pb.WatchResponse]"

HAS_LEADER: Final = {"hasleader": "true"}


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
