"""What a member of an etcd in memory does with the calls of one connection.

Sans-I/O: bytes come in, answers go out by `send`, at once or when the member has come to it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.message import DecodeError, Message
from grpclib.const import Status

from trio_sched.etcd_shim._pb import messages_pb2 as pb
from trio_sched.etcd_shim.errors import RpcError, rpc_error
from trio_sched.simulation.memory_watches import Watch, encode_events
from trio_sched.simulation.memory_wire import (
    Frame,
    FrameReader,
    Kind,
    decode_headers,
    frame,
    status,
)

if TYPE_CHECKING:
    from trio_sched.simulation.memory_cluster import Member

__all__ = ["ServerSession"]

_REQUESTS: Final[Mapping[str, Any]] = {
    "KV/Range": pb.RangeRequest,
    "KV/Put": pb.PutRequest,
    "KV/DeleteRange": pb.DeleteRangeRequest,
    "KV/Txn": pb.TxnRequest,
    "KV/Compact": pb.CompactionRequest,
    "Lease/LeaseGrant": pb.LeaseGrantRequest,
    "Lease/LeaseRevoke": pb.LeaseRevokeRequest,
    "Lease/LeaseTimeToLive": pb.LeaseTimeToLiveRequest,
    "Lease/LeaseLeases": pb.LeaseLeasesRequest,
    "Maintenance/Status": pb.StatusRequest,
    "Auth/Authenticate": pb.AuthenticateRequest,
}
_MANUAL_PROGRESS: Final = -1  # in place of a watch's id, as etcd has it


class ServerSession:
    """One connection, as its member has it.

    Args:
        member: that serves it.
        send: takes bytes for the client.
        on_close: called when the member ends it.
    """

    def __init__(
        self, member: Member, send: Callable[[bytes], None], on_close: Callable[[], None]
    ) -> None:
        self.member = member
        self.send = send
        self._on_close = on_close
        self._reader = FrameReader()
        self._calls: dict[int, _ServerCall] = {}
        self._held: list[bytes] = []  # what came while the member stood still
        member.sessions[self] = None
        if not member.paused:
            send(frame(Kind.SETTINGS))
        else:
            self._held.append(frame(Kind.SETTINGS))

    def receive(self, data: bytes) -> None:
        """Take bytes from the client."""
        if self.member.paused:
            self._held.append(data)
            return
        for one in self._reader.feed(data):
            self._take(one)

    def wake(self) -> None:
        """Go on after the member stood still."""
        held, self._held = self._held, []
        for data in held:
            if data == frame(Kind.SETTINGS):
                self.send(data)
            else:
                self.receive(data)

    def _take(self, one: Frame) -> None:
        kind, number, payload = one
        if kind == Kind.OPEN:
            self._open(number, decode_headers(payload))
        elif kind == Kind.PING:
            self.send(frame(Kind.PONG, 0, payload))
        elif kind == Kind.MESSAGE and number in self._calls:
            self._calls[number].message(payload)
        elif kind == Kind.RESET and number in self._calls:
            self._calls.pop(number).close()

    def _open(self, number: int, headers: Mapping[bytes, bytes]) -> None:
        method = headers[b":path"].decode().removeprefix("/etcdserverpb.")
        call: _ServerCall
        if method == "Watch/Watch":
            call = _WatchCall(self, number, headers)
        elif method == "Lease/LeaseKeepAlive":
            call = _KeepAliveCall(self, number, headers)
        elif method in _REQUESTS:
            call = _UnaryCall(self, number, headers, method)
        else:
            self.send(status(number, rpc_error(Status.UNIMPLEMENTED, f"unknown method {method}")))
            return
        self._calls[number] = call

    def end(self, number: int, error: RpcError | None = None) -> None:
        """End a call, once."""
        call = self._calls.pop(number, None)
        if call is not None:
            call.close()
            self.send(status(number, error))

    def end_streams(self, error: RpcError) -> None:
        """End the calls that asked for a member which knows a leader."""
        for number, call in [*self._calls.items()]:
            if call.needs_leader:
                self.end(number, error)

    def close(self) -> None:
        """Forget all of it, as the connection is gone."""
        self.member.sessions.pop(self, None)
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.close()

    def cut(self) -> None:
        """End the connection from this side."""
        self.close()
        self._on_close()


class _ServerCall(ABC):
    """A call under way."""

    def __init__(self, session: ServerSession, number: int, headers: Mapping[bytes, bytes]) -> None:
        self.session = session
        self.number = number
        self.needs_leader = b"hasleader" in headers

    @abstractmethod
    def message(self, payload: bytes) -> None:
        """Take a message from the client."""

    def close(self) -> None:
        """Forget it: the client has what it gets."""
        self.needs_leader = False

    def send(self, message: Message | bytes) -> None:
        """Send a message to the client."""
        payload = message if isinstance(message, bytes) else message.SerializeToString()
        self.session.send(frame(Kind.MESSAGE, self.number, payload))


class _UnaryCall(_ServerCall):
    """One request, one answer."""

    def __init__(
        self,
        session: ServerSession,
        number: int,
        headers: Mapping[bytes, bytes],
        method: str,
    ) -> None:
        super().__init__(session, number, headers)
        self._method = method

    def message(self, payload: bytes) -> None:
        try:
            request = _REQUESTS[self._method].FromString(payload)
        except DecodeError as exc:
            self._answer(rpc_error(Status.INTERNAL, f"grpc: failed to unmarshal: {exc}"))
            return
        self.session.member.handle(
            self._method, request, self._answer, needs_leader=self.needs_leader
        )

    def _answer(self, answer: Message | RpcError) -> None:
        if isinstance(answer, RpcError):
            self.session.end(self.number, answer)
        else:
            self.send(answer)
            self.session.end(self.number)


class _KeepAliveCall(_ServerCall):
    """Renewals, answered in their order."""

    def message(self, payload: bytes) -> None:
        request = pb.LeaseKeepAliveRequest.FromString(payload)
        self.session.member.handle(
            "Lease/LeaseKeepAlive", request, self._answer, needs_leader=self.needs_leader
        )

    def _answer(self, answer: Message | RpcError) -> None:
        if isinstance(answer, RpcError):
            self.session.end(self.number, answer)
        else:
            self.send(answer)


class _WatchCall(_ServerCall):
    """Watches that share a call."""

    def __init__(self, session: ServerSession, number: int, headers: Mapping[bytes, bytes]) -> None:
        super().__init__(session, number, headers)
        self._watches: dict[int, Watch] = {}
        self._ids = count()

    def message(self, payload: bytes) -> None:
        request = pb.WatchRequest.FromString(payload)
        match request.WhichOneof("request_union"):
            case "create_request":
                self._create(request.create_request)
            case "cancel_request":
                self._cancel(request.cancel_request.watch_id)
            case "progress_request":
                self._progress(_MANUAL_PROGRESS, self._watches.values())

    def close(self) -> None:
        super().close()
        for watch in self._watches.values():
            self.session.member.forget_watch(watch)
        self._watches.clear()

    def _create(self, request: pb.WatchCreateRequest) -> None:
        member = self.session.member
        answer = self._new_answer(request.watch_id, created=True)
        refusal = member.refuse_watch(request)
        if not refusal and request.watch_id and request.watch_id in self._watches:
            refusal = "mvcc: duplicate watch ID provided on the WatchStream"
        if refusal:
            answer.watch_id, answer.canceled, answer.cancel_reason = -1, True, refusal
            self.send(answer)
            return
        watch_id = request.watch_id or next(each for each in self._ids if each not in self._watches)
        answer.watch_id = watch_id
        self.send(answer)
        self._begin(watch_id, request)

    def _begin(self, watch_id: int, request: pb.WatchCreateRequest) -> None:
        member, filters = self.session.member, [*request.filters]
        watch = Watch(
            watch_id,
            request.key or b"\0",
            request.range_end,
            request.start_revision or member.revision + 1,
            pb.WatchCreateRequest.NOPUT in filters,
            pb.WatchCreateRequest.NODELETE in filters,
            request.prev_kv,
            self.send,
            request.start_revision,
        )
        self._watches[watch_id] = watch
        if watch.next_revision > member.revision:
            member.watches.add(watch)
        else:
            member.later(partial(self._catch_up, watch))
        if request.progress_notify:
            member.each_progress(partial(self._progress_now, watch))

    def _catch_up(self, watch: Watch) -> None:
        """Deliver what a watch has missed, and let it be synced."""
        if self._watches.get(watch.id) is not watch:
            return
        member = self.session.member
        try:
            missed = [*member.commits_from(watch.next_revision)]
        except RpcError:
            self._compacted(watch)
            return
        events = watch.wanted(event for _, events in missed for event in events)
        if events:
            watch.deliver(
                encode_events(events, member.header(member.revision), prev_kv=watch.prev_kv)
            )
        watch.next_revision = member.revision + 1
        member.watches.add(watch)

    def _compacted(self, watch: Watch) -> None:
        answer = self._new_answer(watch.id, canceled=True)
        answer.header.ClearField("revision")
        answer.compact_revision = self.session.member.compacted_revision
        del self._watches[watch.id]
        self.send(answer)

    def _cancel(self, watch_id: int) -> None:
        watch = self._watches.pop(watch_id, None)
        if watch is not None:
            self.session.member.forget_watch(watch)
            self.send(self._new_answer(watch_id, canceled=True))

    def _progress_now(self, watch: Watch) -> bool:
        """Say how far a watch has come; False if there is no such watch any more."""
        if self._watches.get(watch.id) is not watch:
            return False
        self._progress(watch.id, [watch])
        return True

    def _progress(self, watch_id: int, watches: Collection[Watch]) -> None:
        """Say how far watches have come, if all are synced and have begun."""
        revision = self.session.member.revision
        if watches and all(each.synced and each.asked_from <= revision for each in watches):
            self.send(self._new_answer(watch_id))

    def _new_answer(
        self, watch_id: int, *, created: bool = False, canceled: bool = False
    ) -> pb.WatchResponse:
        member = self.session.member
        header = member.header(member.revision)
        return pb.WatchResponse(
            header=header, watch_id=watch_id, created=created, canceled=canceled
        )
