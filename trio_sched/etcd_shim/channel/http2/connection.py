"""A gRPC client's half of HTTP/2: bytes in, events out, and the other way round.

Theory of operation
-------------------
Nothing here waits, reads a clock or touches a socket.

*Sending.* `send` takes a whole message. As much as the windows allow is turned
into DATA frames at once; the rest stays with its stream, and goes out as windows
open, one frame for each waiting call in turn. `RequestSent` says that a call has
nothing left, so a caller that waits for it before it sends more keeps at most
one message of each call here.

*Receiving.* Each frame has one handler, in `_HANDLERS`. The connection's window is
acknowledged on receipt, that of data which is dropped, too; a call's when its
messages are *consumed*: a slow reader of one call holds up that call alone, and
can make us keep no more than one window and one message. A message larger than
the window could never complete that way. So the bytes of an incomplete message
are acknowledged on receipt, as long as no complete one is waiting before it.

*Ending.* gRPC's status is in the trailers. It makes one `CallEnded`, whatever
HTTP/2 did to get there: trailers, trailers only, a reset, or END_STREAM without
a status. A server that ends a call before we ended our half is answered with
RST_STREAM, so that neither side keeps it.

*Faults.* Handlers raise `StreamFault`, which ends one call, or `ConnectionFault`,
which makes a `ConnectionBroken`, after the events of the good bytes before it,
and a GOAWAY with the error code. `receive` never raises.

*Bounds.* Frames are at most 16 KiB; a header block, and the CONTINUATIONs in it;
answers that the server does not read; and empty DATA frames in a row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final

from trio_sched.etcd_shim.channel.http2 import events as e, frames as f, settings as s
from trio_sched.etcd_shim.channel.http2.errors import (
    ConnectionFault,
    ErrorCode,
    StreamFault,
    name_of,
)
from trio_sched.etcd_shim.channel.http2.events import Event
from trio_sched.etcd_shim.channel.http2.header_blocks import OpenBlock, ResponseDecoder
from trio_sched.etcd_shim.channel.http2.messages import MessageDecoder, whole_message
from trio_sched.etcd_shim.channel.http2.responses import (
    NO_STATUS,
    BlockKind,
    HeaderBlock,
    Progress,
    Step,
)
from trio_sched.etcd_shim.channel.http2.sending import Sender
from trio_sched.etcd_shim.channel.http2.streams import Stream
from trio_sched.etcd_shim.errors import ConnectionLost, EtcdError, RemoteProtocolError

__all__ = ["Http2Connection", "connection_preface"]

MAX_ANSWERS: Final = 10_000  # to PING and SETTINGS, queued
MAX_EMPTY_DATA: Final = 1000  # frames in a row

_PROTOCOL_ERROR: Final = ErrorCode.PROTOCOL_ERROR
_HEAD: Final = f.FRAME_HEAD_SIZE
# Looked up once, as they are for each frame of each answer.
_END_STREAM, _END_HEADERS, _PADDED = f.END_STREAM, f.END_HEADERS, f.PADDED
_EXTRAS: Final = f.PADDED | f.WITH_PRIORITY
_BEGIN, _FINISH, _MALFORMED = Step.BEGIN, Step.FINISH, Step.MALFORMED
_BODY: Final = Progress.BODY
_LENGTH_AND_TYPE: Final = 4  # bytes at the beginning of a frame's head


def _check(holds: bool, code: ErrorCode, section: str, fault: str) -> None:  # noqa: FBT001 # as assert
    if not holds:
        raise ConnectionFault(code, section, fault)


class Http2Connection(Sender):
    """A gRPC client's connection, sans-I/O. See the head of the module.

    Args:
        max_message_size: the largest message accepted, in bytes.
        call_window: how much the server may send for one call before its
            messages are consumed, in bytes.
        connection_window: how much it may send before any of it is received.
    """

    def __init__(
        self,
        *,
        max_message_size: int = 64 * 2**20,
        call_window: int = 2**20,
        connection_window: int = 2**20,
    ) -> None:
        super().__init__(call_window, connection_window)
        self._max_message_size = max_message_size
        self._decoder = ResponseDecoder(s.MAX_HEADER_LIST)
        self._input = b""  # of a frame that is not complete
        self._open_block: OpenBlock | None = None
        self._saw_settings = False
        self._empty_data = 0
        self._goaway_id = f.MAX_STREAM_ID

    def receive(self, data: bytes) -> list[Event]:
        """Take bytes from the server and return what they mean."""
        events: list[Event] = []
        if self._closed:
            return events
        try:
            self._receive(data, events)
        except ConnectionFault as exc:
            error = RemoteProtocolError(f"the peer does not speak HTTP/2 as it should: {exc!r}")
            error.__cause__ = exc
            events.append(e.ConnectionBroken(error))
            self._input = b""
            self._close(exc.code)
        return events

    def receive_eof(self) -> list[Event]:
        """Take the end of the server's bytes."""
        if self._closed:
            return []
        self._closed = True
        return [e.ConnectionBroken(ConnectionLost("the server closed the connection"))]

    # ---- frames ------------------------------------------------------------

    def _receive(self, data: bytes, events: list[Event]) -> None:
        if self._input:
            data = self._input + data
        start, size = 0, len(data)
        unpack, handlers = f.FRAME_HEAD.unpack_from, self._HANDLERS
        while size - start >= _HEAD:
            high, low, kind, flags, stream_id = unpack(data, start)
            body = start + _HEAD
            end = body + (high << 16 | low)
            if end - body > f.DEFAULT_FRAME_SIZE or not self._saw_settings:
                self._check_head(data[start : start + 24])
            if end > size:
                break
            if self._open_block is not None or kind >= f.CONTINUATION:
                self._receive_seldom(kind, flags, stream_id, data[body:end], events)
            else:
                stream_id &= f.STREAM_ID_MASK
                try:
                    handlers[kind](self, flags, stream_id, data[body:end], events)
                except StreamFault as exc:
                    self._fail(stream_id, exc, events)
            start = end
        self._input = data[start:]
        if len(self._input) >= _LENGTH_AND_TYPE:
            self._check_head(self._input[:24])

    def _check_head(self, head: bytes) -> None:
        """Judge a frame before all of it is there (RFC 9113, 3.4 and 4.2).

        An acknowledgement before the server's own SETTINGS is let pass: a server sends
        it that has read our preface before it sent its own.
        """
        if not self._saw_settings and head[3] != f.SETTINGS:
            message = f"it began with {head!r}, not with SETTINGS"
            raise ConnectionFault(_PROTOCOL_ERROR, "3.4", message)
        length = int.from_bytes(head[:3])
        if length > f.DEFAULT_FRAME_SIZE:
            message = f"a frame of {length} bytes"
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "4.2", message)

    def _receive_seldom(
        self, kind: int, flags: int, stream_id: int, body: bytes, events: list[Event]
    ) -> None:
        """Take a CONTINUATION, or a frame of an unknown type (RFC 9113, 6.10 and 5.5)."""
        block = self._open_block
        if block is None:
            if kind == f.CONTINUATION:
                raise ConnectionFault(_PROTOCOL_ERROR, "6.10", "CONTINUATION of nothing")
            return
        if kind != f.CONTINUATION or stream_id & f.STREAM_ID_MASK != block.stream_id:
            raise ConnectionFault(_PROTOCOL_ERROR, "6.10", "a header block that was broken off")
        block.add(body)
        if flags & f.END_HEADERS:
            self._open_block = None
            try:
                self._take_block(block.stream_id, bytes(block.data), events, ends=block.ends)
            except StreamFault as exc:
                self._fail(block.stream_id, exc, events)

    def _check_not_idle(self, stream_id: int) -> None:
        """Refuse a frame of a stream that we have not opened (RFC 9113, 5.1 and 5.1.1)."""
        if not stream_id & 1 or stream_id > self._last_stream_id:
            raise ConnectionFault(_PROTOCOL_ERROR, "5.1", f"a frame of stream {stream_id}")

    # ---- the handlers --------------------------------------------------------

    def _take_data(self, flags: int, stream_id: int, body: bytes, events: list[Event]) -> None:
        """RFC 9113, 6.1 and 6.9."""
        size = len(body)
        self._unacknowledged += size
        if self._unacknowledged * 2 >= self._connection_window:
            self._acknowledge_connection()
        if flags & _PADDED:
            body = f.strip_padding(flags & _PADDED, body)
        stream = self._streams.get(stream_id)
        if stream is None:
            self._check_not_idle(stream_id)
            self._count_empty(size)  # dropped: 5.1
            return
        if not stream.progress:
            raise StreamFault(_PROTOCOL_ERROR, "8.1", "DATA before the head of the answer")
        stream.receive_window -= size
        if stream.receive_window < 0:
            raise StreamFault(ErrorCode.FLOW_CONTROL_ERROR, "6.9.1", "more than the window")
        if size:
            self._empty_data = 0
        elif not flags & _END_STREAM:
            self._count_empty(size)
        self._take_content(stream_id, stream, body, events)
        if size > len(body) and stream_id in self._streams:
            self._acknowledge(stream_id, stream, size - len(body))
        if flags & _END_STREAM and stream_id in self._streams:
            error = RemoteProtocolError(NO_STATUS)
            self._end(stream_id, error, events)

    def _acknowledge_connection(self) -> None:
        if self._unacknowledged > self._connection_window:
            message = "more than the connection's window"
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "6.9.1", message)
        self._output += f.window_update_frame(0, self._unacknowledged)
        self._unacknowledged = 0

    def _count_empty(self, size: int) -> None:
        self._empty_data = 0 if size else self._empty_data + 1
        if self._empty_data > MAX_EMPTY_DATA:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "10.5", "too much empty DATA")

    def _take_content(
        self, stream_id: int, stream: Stream, data: bytes, events: list[Event]
    ) -> None:
        """Cut messages out of a DATA frame (gRPC: Length-Prefixed-Message)."""
        decoder = stream.decoder
        if decoder is None or not decoder.partial:
            payload = whole_message(data, self._max_message_size)
            if payload is not None:
                stream.waiting += 1
                events.append(e.Message(stream_id, payload))
                return
        if decoder is None:
            decoder = stream.decoder = MessageDecoder(self._max_message_size)
        messages = decoder.feed(data)
        if messages:
            events += [e.Message(stream_id, payload) for payload in messages]
            # What was acknowledged of the first of them is not acknowledged again.
            stream.unacknowledged -= stream.partial
            stream.partial = 0
            stream.waiting += len(messages)
        if decoder.error is not None:
            self._end(stream_id, decoder.error, events, reset=ErrorCode.CANCEL)
        elif not stream.waiting:
            self._acknowledge_partial(stream_id, stream)

    def _take_headers(self, flags: int, stream_id: int, body: bytes, events: list[Event]) -> None:
        """RFC 9113, 6.2."""
        if flags & _EXTRAS:
            body = f.strip_padding(flags, body)
        ends = bool(flags & _END_STREAM)
        if flags & _END_HEADERS:
            self._take_block(stream_id, body, events, ends=ends)
        else:
            self._check_not_idle(stream_id)
            self._open_block = OpenBlock(stream_id, body, ends=ends)

    def _take_block(self, stream_id: int, body: bytes, events: list[Event], *, ends: bool) -> None:
        """Take a whole header block (RFC 9113, 8.1); one of a closed stream is decoded (4.3)."""
        stream = self._streams.get(stream_id)
        if stream is None:
            self._check_not_idle(stream_id)
        block = self._decoder.decode(body)
        if stream is None:
            return
        step = block.steps[stream.progress + ends]
        if step is _BEGIN:
            stream.progress = _BODY
        elif step is _FINISH:
            self._finish(stream_id, stream, block, events, ends=ends)
        elif step is _MALFORMED:
            out_of_place = f"{block.kind.value}, with END_STREAM {ends}, out of place"
            detail = str(block.error) if block.kind is BlockKind.INVALID else out_of_place
            raise StreamFault(_PROTOCOL_ERROR, "8.1.1", detail)

    def _finish(
        self, stream_id: int, stream: Stream, block: HeaderBlock, events: list[Event], *, ends: bool
    ) -> None:
        error = block.error
        if error is None and stream.decoder is not None and stream.decoder.partial:
            error = RemoteProtocolError("the answer ended within a message")
        self._end(stream_id, error, events, reset=None if ends else ErrorCode.CANCEL)

    def _take_priority(self, _flags: int, stream_id: int, body: bytes, _: list[Event]) -> None:
        """RFC 9113, 6.3: it means nothing, and may come for any stream."""
        if not stream_id:
            raise ConnectionFault(_PROTOCOL_ERROR, "6.3", "PRIORITY of stream 0")
        if len(body) != 5:
            raise StreamFault(ErrorCode.FRAME_SIZE_ERROR, "6.3", f"PRIORITY of {len(body)} bytes")

    def _take_reset(self, _flags: int, stream_id: int, body: bytes, events: list[Event]) -> None:
        """RFC 9113, 6.4.

        By 8.7, REFUSED_STREAM means that nothing was done, so that a call may be sent again. It is
        not believed: HAProxy says it of calls that it has sent on, when the member's connection
        ends before it answers, so that writes would be carried out twice, or more often.
        """
        _check(len(body) == 4, ErrorCode.FRAME_SIZE_ERROR, "6.4", "RST_STREAM of another length")
        if stream_id not in self._streams:
            self._check_not_idle(stream_id)
            return
        code = int.from_bytes(body)
        error = ConnectionLost(f"the server reset the call: {name_of(code)}")
        self._forget(stream_id)
        events.append(e.CallEnded(stream_id, error))

    def _take_settings(self, flags: int, stream_id: int, body: bytes, events: list[Event]) -> None:
        """RFC 9113, 6.5."""
        _check(not stream_id, _PROTOCOL_ERROR, "6.5", "SETTINGS of a stream")
        if flags & f.ACK:
            _check(not body, ErrorCode.FRAME_SIZE_ERROR, "6.5", "an acknowledgement that says more")
            return
        values = s.parse_settings(body)
        if not self._saw_settings:
            self._saw_settings = True
            self._max_calls = 2**32  # 6.5.2: without a value there is no limit
        for key, value in values:
            self._apply_setting(key, value)
        self._answer(f.frame(f.SETTINGS, f.ACK, 0))
        events.append(e.SettingsChanged())
        self._push_blocked(events)

    def _apply_setting(self, key: int, value: int) -> None:
        if key == s.SettingCode.HEADER_TABLE_SIZE:
            self._encoder.resize(value)
        elif key == s.SettingCode.MAX_CONCURRENT_STREAMS:
            self._max_calls = value
        elif key == s.SettingCode.MAX_FRAME_SIZE:
            self._max_frame_size = value
        elif (
            key == s.SettingCode.INITIAL_WINDOW_SIZE
        ):  # 6.9.2: windows in use change by the difference
            difference, self._initial_window = value - self._initial_window, value
            for stream in self._streams.values():
                stream.send_window += difference
                if stream.send_window > s.MAX_WINDOW:
                    message = "a stream's window over 2**31 - 1 by SETTINGS"
                    raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "6.9.2", message)

    def _answer(self, answer: bytes) -> None:
        """Queue the answer to a PING or SETTINGS."""
        self._answers += 1
        if self._answers > MAX_ANSWERS:
            message = "it asks for answers, and does not read them"
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "10.5", message)
        self._output += answer

    def _take_push(self, _flags: int, _stream_id: int, _body: bytes, _events: list[Event]) -> None:
        """RFC 9113, 8.4: we have said that we take none."""
        raise ConnectionFault(_PROTOCOL_ERROR, "8.4", "PUSH_PROMISE, though push is disabled")

    def _take_ping(self, flags: int, stream_id: int, body: bytes, _events: list[Event]) -> None:
        """RFC 9113, 6.7."""
        _check(not stream_id, _PROTOCOL_ERROR, "6.7", "PING of a stream")
        _check(len(body) == 8, ErrorCode.FRAME_SIZE_ERROR, "6.7", "PING of another length")
        if not flags & f.ACK:
            self._answer(b"\0\0\x08\x06\x01\0\0\0\0" + body)

    def _take_goaway(self, _flags: int, stream_id: int, body: bytes, events: list[Event]) -> None:
        """RFC 9113, 6.8: the last stream's id may fall, and is never taken to rise."""
        _check(not stream_id, _PROTOCOL_ERROR, "6.8", "GOAWAY of a stream")
        _check(len(body) >= 8, ErrorCode.FRAME_SIZE_ERROR, "6.8", "GOAWAY that is too short")
        last = int.from_bytes(body[:4]) & f.STREAM_ID_MASK
        self._goaway_id = min(self._goaway_id, last)
        events.append(e.GoAway(self._goaway_id, int.from_bytes(body[4:8]), body[8:]))

    def _take_window(self, _flags: int, stream_id: int, body: bytes, events: list[Event]) -> None:
        """RFC 9113, 6.9."""
        _check(len(body) == 4, ErrorCode.FRAME_SIZE_ERROR, "6.9", "WINDOW_UPDATE of another length")
        increment = int.from_bytes(body) & s.MAX_WINDOW
        if stream_id:
            self._take_stream_window(stream_id, increment, events)
            return
        if not increment:
            raise ConnectionFault(_PROTOCOL_ERROR, "6.9", "WINDOW_UPDATE of 0")
        self._send_window += increment
        if self._send_window > s.MAX_WINDOW:
            message = "the connection's window over 2**31 - 1"
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "6.9.1", message)
        if self._blocked:
            self._push_blocked(events)

    def _take_stream_window(self, stream_id: int, increment: int, events: list[Event]) -> None:
        stream = self._streams.get(stream_id)
        if stream is None:
            self._check_not_idle(stream_id)  # of a closed one it is ignored: 5.1
            return
        if not increment:
            raise StreamFault(_PROTOCOL_ERROR, "6.9", "WINDOW_UPDATE of 0")
        stream.send_window += increment
        if stream.send_window > s.MAX_WINDOW:
            message = "a stream's window over 2**31 - 1"
            raise StreamFault(ErrorCode.FLOW_CONTROL_ERROR, "6.9.1", message)
        self._push_again(stream_id, events)

    # ---- how a call ends -----------------------------------------------------

    def _fail(self, stream_id: int, fault: StreamFault, events: list[Event]) -> None:
        """End one call by a stream error (RFC 9113, 5.4.2)."""
        if stream_id not in self._streams:
            return
        error = RemoteProtocolError(f"the server broke the rules of a call: {fault!r}")
        error.__cause__ = fault
        self._end(stream_id, error, events, reset=fault.code)

    def _end(
        self,
        stream_id: int,
        error: EtcdError | None,
        events: list[Event],
        *,
        reset: ErrorCode | None = None,
    ) -> None:
        """End a call; reset its stream if either half may still be open."""
        stream = self._streams[stream_id]
        if reset is None and not stream.half_closed:
            reset = ErrorCode.CANCEL
        if reset is None:
            self._forget(stream_id)
        else:
            self._reset(stream_id, reset)
        events.append(e.CallEnded(stream_id, error))

    # By the type of the frame; CONTINUATION and unknown types are `_receive_seldom`'s.
    _HANDLERS: ClassVar[Sequence[Callable[[Any, int, int, bytes, list[Event]], None]]] = (
        _take_data,
        _take_headers,
        _take_priority,
        _take_reset,
        _take_settings,
        _take_push,
        _take_ping,
        _take_goaway,
        _take_window,
    )


def connection_preface() -> bytes:
    """Return what any connection with the usual windows queues at its `start`."""
    return _PREFACE


def _make_preface() -> bytes:
    connection = Http2Connection()
    connection.start()
    return connection.take_output()


_PREFACE: Final = _make_preface()
