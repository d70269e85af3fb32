"""The pure half of a connection: bytes in, events out, and the other way round.

Theory of operation
-------------------
h2 keeps HTTP/2's state machines. This class adds what gRPC needs on top, and
nothing here waits, reads a clock or touches a socket.

*Sending.* `send` takes a whole message. As much as the windows allow is turned
into DATA frames at once; the rest stays with its call, and goes out as windows
open, one frame for each waiting call in turn. `RequestSent` says that a call has
nothing left, so a caller that waits for it before it sends more keeps at most
one message of each call here.

*Receiving.* The connection's window is given back on receipt, a call's when its
messages are *consumed*: a slow reader of one call holds up that call alone, and
can make us keep no more than one window and one message. A message larger than
the window could never complete that way. So the bytes of an incomplete message
are given back on receipt, as long as no complete one is waiting before it.

*Ending.* gRPC's status is in the trailers. It makes one `CallEnded`, whatever
HTTP/2 did to get there: trailers, trailers only, a reset, or END_STREAM without
a status. A server that ends a call before we ended our half is answered with
RST_STREAM, so that neither side keeps it.

`receive` never raises. What cannot be understood is a `ConnectionBroken`, after
the events of the good bytes before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from typing import Any, Final
from urllib.parse import unquote

import h2.events as h2e
from grpclib.const import Status
from h2.errors import ErrorCodes
from h2.exceptions import H2Error, NoAvailableStreamIDError
from h2.settings import SettingCodes
from hpack import HPACKError
from hyperframe.exceptions import HyperframeError

from trio_sched.etcd_shim.channel._events import (
    CallEnded,
    ConnectionBroken,
    Event,
    GoAway,
    Headers,
    Message,
    Metadata,
    Pong,
    RequestSent,
    SettingsChanged,
)
from trio_sched.etcd_shim.channel._framing import PREFIX_SIZE, MessageDecoder, encode_message
from trio_sched.etcd_shim.channel._h2 import PatientH2Connection
from trio_sched.etcd_shim.errors import (
    ConnectionLost,
    EtcdError,
    RemoteProtocolError,
    Unavailable,
    rpc_error,
)

__all__ = ["Protocol", "check_response"]

# What the server is assumed to take before it has said how many calls it does.
CAUTIOUS_CONCURRENCY = 100

_DEFAULT_WINDOW = 65535  # RFC 9113, 6.9.2
_HTTP_UNAVAILABLE = {b"429", b"502", b"503", b"504"}  # gRPC's http-grpc-status-mapping


class _Call:
    """What is kept for one call."""

    __slots__ = (
        "decoder",
        "end_queued",
        "half_closed",
        "outgoing",
        "owed",
        "partial_owed",
        "waiting",
    )

    def __init__(self, limit: int) -> None:
        self.decoder = MessageDecoder(limit)
        self.outgoing = b""  # what the windows had no room for
        self.end_queued = False  # our half ends after `outgoing`
        self.half_closed = False  # our half has ended
        self.waiting = 0  # messages reported and not yet consumed
        self.owed = 0  # window to give back, not yet said to the peer
        self.partial_owed = 0  # of the incomplete message: given back already


class Protocol:
    """A gRPC client's connection, sans I/O. See the head of the module.

    Args:
        max_message_size: the largest message accepted, in bytes.
        call_window: how much the server may send for one call before its
            messages are consumed, in bytes.
        connection_window: how much it may send before any of it is received.
    """

    __slots__ = (
        "_blocked",
        "_broken",
        "_call_window",
        "_calls",
        "_connection_owed",
        "_connection_window",
        "_h2",
        "_max_message_size",
        "_settings_seen",
    )

    def __init__(
        self,
        *,
        max_message_size: int = 64 * 2**20,
        call_window: int = 2**20,
        connection_window: int = 2**20,
    ) -> None:
        self._max_message_size = max_message_size
        self._call_window = call_window
        self._connection_window = connection_window
        self._connection_owed = 0
        self._calls: dict[int, _Call] = {}
        self._blocked: dict[int, None] = {}  # an ordered set: who waits for a window
        self._settings_seen = False
        self._broken = False
        self._h2 = PatientH2Connection(
            {SettingCodes.ENABLE_PUSH: 0, SettingCodes.INITIAL_WINDOW_SIZE: call_window}
        )

    # ---- what the caller wants --------------------------------------------

    def start(self) -> None:
        """Queue the connection preface and our settings."""
        self._h2.initiate_connection()
        if self._connection_window > _DEFAULT_WINDOW:
            self._h2.increment_flow_control_window(self._connection_window - _DEFAULT_WINDOW)

    def open(self, headers: Sequence[tuple[bytes, bytes]]) -> int | None:
        """Begin a call and return its stream id.

        None means that this connection's ids are used up (after 2**30 calls).
        """
        try:
            stream_id = self._h2.begin_call(headers)
        except NoAvailableStreamIDError:
            return None
        self._note_call(stream_id)
        return stream_id

    def _note_call(self, stream_id: int) -> None:
        self._calls[stream_id] = _Call(self._max_message_size)

    def send(self, stream_id: int, payload: bytes, *, end: bool) -> bool:
        """Queue a message, and the end of our half if `end`.

        Returns:
            True if all of it found room; otherwise `RequestSent` will tell.
        """
        call = self._calls[stream_id]
        call.outgoing += encode_message(payload)
        call.end_queued = end
        return self._push(stream_id, call)

    def end(self, stream_id: int) -> bool:
        """End our half of a call, after what is queued; returns as `send` does."""
        call = self._calls[stream_id]
        call.end_queued = True
        return self._push(stream_id, call)

    def reset(self, stream_id: int) -> None:
        """Cancel a call. No more events come of it."""
        if self._calls.pop(stream_id, None) is None:
            return
        self._blocked.pop(stream_id, None)
        self._reset_stream(stream_id)

    def consumed(self, stream_id: int, payload: bytes) -> None:
        """Say that a message was taken, so that its window can be given back."""
        call = self._calls.get(stream_id)
        if call is None:
            return
        call.waiting -= 1
        self._give_back(stream_id, call, len(payload) + PREFIX_SIZE)
        if not call.waiting:
            self._give_back_partial(stream_id, call)

    def ping(self, payload: bytes) -> None:
        """Queue a PING of eight bytes; `Pong` will carry the same."""
        self._h2.ping(payload)

    def close(self) -> None:
        """Queue a GOAWAY: nothing more is wanted."""
        if not self._broken:
            self._broken = True
            self._h2.close_connection()

    def take_output(self) -> bytes:
        """Return the bytes to send, and forget them."""
        return self._h2.data_to_send()

    @property
    def output_size(self) -> int:
        """How many bytes wait to be sent."""
        return len(self._h2._data_to_send)  # noqa: SLF001 # h2 only gives the bytes away

    @property
    def open_calls(self) -> int:
        """How many calls are under way."""
        return len(self._calls)

    @property
    def max_calls(self) -> int:
        """How many calls the server takes at once, as far as is known."""
        if not self._settings_seen:
            return CAUTIOUS_CONCURRENCY
        return self._h2.remote_settings.max_concurrent_streams

    # ---- what the server says ----------------------------------------------

    def receive(self, data: bytes) -> list[Event]:
        """Take bytes from the server and return what they mean."""
        events: list[Event] = []
        if self._broken:
            return events
        try:
            self._take(data, events)
        except (H2Error, HPACKError, HyperframeError) as exc:
            self._broken = True
            error = RemoteProtocolError(f"the peer does not speak HTTP/2 as it should: {exc!r}")
            error.__cause__ = exc
            events.append(ConnectionBroken(error))
        return events

    def _take(self, data: bytes, events: list[Event]) -> None:
        """Take bytes, and add what they mean to `events`."""

        def take(piece: h2e.Event) -> None:
            handler = _HANDLERS.get(type(piece))
            if handler is not None:
                handler(self, piece, events)

        self._h2.receive(data, take)

    def receive_eof(self) -> list[Event]:
        """Take the end of the server's bytes."""
        if self._broken:
            return []
        self._broken = True
        return [ConnectionBroken(ConnectionLost("the server closed the connection"))]

    def _on_response(self, piece: h2e.ResponseReceived, events: list[Event]) -> None:
        call = self._calls.get(piece.stream_id)
        if call is None:
            return
        fields = dict(piece.headers)
        error = check_response(fields)
        if error is not None:
            self._end(piece.stream_id, error, events, reset=True)
        elif b"grpc-status" in fields:  # trailers only
            self._finish(piece.stream_id, piece.headers, events)
        else:
            events.append(Headers(piece.stream_id, piece.headers))

    def _on_data(self, piece: h2e.DataReceived, events: list[Event]) -> None:
        size = piece.flow_controlled_length
        self._give_back_all(size)
        call = self._calls.get(piece.stream_id)
        if call is None:
            return
        self._take_data(piece.stream_id, call, piece.data, events)
        padding = size - len(piece.data)
        if padding:
            self._give_back(piece.stream_id, call, padding)

    def _take_data(self, stream_id: int, call: _Call, data: bytes, events: list[Event]) -> None:
        messages = call.decoder.feed(data)
        events += [Message(stream_id, payload) for payload in messages]
        if messages:
            # What was given back of the first of them is not given back again.
            call.owed -= call.partial_owed
            call.partial_owed = 0
            call.waiting += len(messages)
        if call.decoder.error is not None:
            self._end(stream_id, call.decoder.error, events, reset=True)
        elif not call.waiting:
            self._give_back_partial(stream_id, call)

    def _on_trailers(self, piece: h2e.TrailersReceived, events: list[Event]) -> None:
        if piece.stream_id in self._calls:
            self._finish(piece.stream_id, piece.headers, events)

    def _on_stream_ended(self, piece: h2e.StreamEnded, events: list[Event]) -> None:
        if piece.stream_id in self._calls:
            error = RemoteProtocolError("the answer ended without a gRPC status")
            self._end(piece.stream_id, error, events)

    def _on_reset(self, piece: h2e.StreamReset, events: list[Event]) -> None:
        call = self._calls.get(piece.stream_id)
        if call is None:
            return
        code = int(piece.error_code)
        error = ConnectionLost(
            f"the server reset the call: {_code_name(code)}",
            processed=code != ErrorCodes.REFUSED_STREAM,
        )
        self._end(piece.stream_id, error, events)

    def _on_window(self, piece: h2e.WindowUpdated, events: list[Event]) -> None:
        if piece.stream_id == 0:
            self._push_blocked(events)
        else:
            self._push_again(piece.stream_id, events)

    def _on_settings(self, _piece: h2e.RemoteSettingsChanged, events: list[Event]) -> None:
        self._settings_seen = True
        events.append(SettingsChanged())
        self._push_blocked(events)

    def _on_pong(self, piece: h2e.PingAckReceived, events: list[Event]) -> None:
        events.append(Pong(piece.ping_data))

    def _on_goaway(self, piece: h2e.ConnectionTerminated, events: list[Event]) -> None:
        events.append(
            GoAway(
                piece.last_stream_id or 0, int(piece.error_code or 0), piece.additional_data or b""
            )
        )

    # ---- how a call ends -----------------------------------------------------

    def _finish(self, stream_id: int, trailers: Metadata, events: list[Event]) -> None:
        """End a call by the status in its trailers."""
        fields = dict(trailers)
        error = _status_error(fields.get(b"grpc-status"), fields.get(b"grpc-message", b""))
        self._end(stream_id, error, events, trailers)

    def _end(
        self,
        stream_id: int,
        error: EtcdError | None,
        events: list[Event],
        trailers: Metadata = (),
        *,
        reset: bool = False,
    ) -> None:
        """End a call; reset it if either half may still be open."""
        del self._calls[stream_id]
        self._blocked.pop(stream_id, None)
        if reset or not self._h2.forget(stream_id):
            self._reset_stream(stream_id)
        events.append(CallEnded(stream_id, error, trailers))

    def _reset_stream(self, stream_id: int) -> None:
        with suppress(H2Error):  # it has ended by itself, which is as good
            self._h2.reset_stream(stream_id, ErrorCodes.CANCEL)
        self._h2.forget(stream_id)

    # ---- windows ---------------------------------------------------------------

    def _push(self, stream_id: int, call: _Call) -> bool:
        """Send what the windows have room for; tell whether that was all."""
        while call.outgoing:
            if not self._push_frame(stream_id, call):
                self._blocked[stream_id] = None
                return False
        if call.end_queued and not call.half_closed:
            call.half_closed = True
            self._h2.end_stream(stream_id)
        return True

    def _push_frame(self, stream_id: int, call: _Call) -> bool:
        room = self._h2.room(stream_id)
        if room <= 0:
            return False
        outgoing = call.outgoing
        if room >= len(outgoing):
            call.outgoing = b""
            call.half_closed = call.end_queued
            self._h2.send_message(stream_id, outgoing, end=call.end_queued)
        else:
            call.outgoing = outgoing[room:]
            self._h2.send_message(stream_id, outgoing[:room], end=False)
        return True

    def _push_again(self, stream_id: int, events: list[Event]) -> None:
        call = self._calls.get(stream_id)
        if call is not None and stream_id in self._blocked and self._push(stream_id, call):
            del self._blocked[stream_id]
            events.append(RequestSent(stream_id))

    def _push_blocked(self, events: list[Event]) -> None:
        """Give each waiting call a frame in turn, as long as that gets anywhere."""
        moved = True
        while moved:
            moved = False
            for stream_id in tuple(self._blocked):
                call = self._calls[stream_id]
                moved |= self._push_frame(stream_id, call)
                if not call.outgoing:
                    self._push_again(stream_id, events)

    def _give_back_all(self, size: int) -> None:
        """Let the server send `size` more bytes on the connection; told in large steps."""
        self._connection_owed += size
        if self._connection_owed * 2 >= self._connection_window:
            self._h2.increment_flow_control_window(self._connection_owed)
            self._connection_owed = 0

    def _give_back(self, stream_id: int, call: _Call, size: int) -> None:
        """Let the server send `size` more bytes of a call; told in large steps."""
        call.owed += size
        if call.owed * 2 < self._call_window:
            return
        owed, call.owed = call.owed, 0
        try:
            self._h2.increment_flow_control_window(owed, stream_id)
        except H2Error:
            return  # the server's half has ended: it needs no window

    def _give_back_partial(self, stream_id: int, call: _Call) -> None:
        fresh = call.decoder.partial - call.partial_owed
        if fresh > 0:
            call.partial_owed += fresh
            self._give_back(stream_id, call, fresh)


@cache
def greeting() -> bytes:
    """Return what any connection with the usual windows queues at its `start`."""
    protocol = Protocol()
    protocol.start()
    return protocol.take_output()


_HANDLERS: Final[dict[type, Callable[[Protocol, Any, list[Event]], None]]] = {
    h2e.ResponseReceived: Protocol._on_response,  # noqa: SLF001 # in this module
    h2e.DataReceived: Protocol._on_data,  # noqa: SLF001
    h2e.TrailersReceived: Protocol._on_trailers,  # noqa: SLF001
    h2e.StreamEnded: Protocol._on_stream_ended,  # noqa: SLF001
    h2e.StreamReset: Protocol._on_reset,  # noqa: SLF001
    h2e.WindowUpdated: Protocol._on_window,  # noqa: SLF001
    h2e.RemoteSettingsChanged: Protocol._on_settings,  # noqa: SLF001
    h2e.PingAckReceived: Protocol._on_pong,  # noqa: SLF001
    h2e.ConnectionTerminated: Protocol._on_goaway,  # noqa: SLF001
}


def check_response(fields: dict[bytes, bytes]) -> EtcdError | None:
    """Return what is wrong with the head of an answer, if it is not gRPC's."""
    status = fields.get(b":status", b"")
    if status != b"200":
        words = f"HTTP status {status.decode('ascii', 'replace')} instead of a gRPC answer"
        if status in _HTTP_UNAVAILABLE:
            return Unavailable(Status.UNAVAILABLE, words)
        return RemoteProtocolError(words)
    content_type = fields.get(b"content-type", b"")
    if not content_type.startswith(b"application/grpc"):
        return RemoteProtocolError(f"an answer of type {content_type!r} instead of gRPC's")
    return None


def _status_error(status: bytes | None, message: bytes) -> EtcdError | None:
    if status == b"0":
        return None
    if status is None:
        return RemoteProtocolError("the answer ended without a gRPC status")
    words = unquote(message.decode("utf-8", "replace"), errors="replace")
    try:
        return rpc_error(Status(int(status)), words)
    except ValueError:
        return rpc_error(Status.UNKNOWN, words or f"gRPC status {status!r}")


def _code_name(code: int) -> str:
    try:
        return ErrorCodes(code).name
    except ValueError:
        return hex(code)
