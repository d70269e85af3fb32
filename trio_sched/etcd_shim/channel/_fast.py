"""The pure half of a connection once more, with a short way for what there is most of.

Theory of operation
-------------------
Nearly all that a client of etcd sends and gets is of five kinds: a request that
was sent like this before, the head, the message and the trailers of an answer
that goes well, and the window updates and pings of a server that measures its
bandwidth. h2 takes each through two state machines and half a dozen objects.

`FastProtocol` does what `Protocol` does with these, in one step, *on the same
state*: the streams, windows and tables are h2's own, as h2 would have left them.
There is no second account of anything. So each frame and each call can go the
one way or the other, and the rule is simple: *what is not exactly as expected is
left to h2, before anything was changed*. Each function here first looks at
everything, and then does everything.

Bytes are looked at here from the boundary of a frame on, and up to the first
frame that is not of the five kinds; what is left then is h2's, to the end of the
piece that was received. A block of headers that was not seen before is h2's, too:
it may change the dynamic table. `CachingEncoder` and `CachingDecoder` know the
blocks that came before and do not.

That it makes no difference is shown by ``tests/test_fast_properties.py``. To do without it,
delete this module, and name `Protocol` in its place in ``_channel``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from h2.connection import ConnectionState
from h2.settings import SettingCodes
from h2.stream import H2Stream, H2StreamStateMachine, StreamState
from h2.utilities import is_informational_response
from h2.windows import WindowManager

from trio_sched.etcd_shim.channel._events import CallEnded, Event, Headers, Message, Metadata
from trio_sched.etcd_shim.channel._framing import PREFIX_SIZE
from trio_sched.etcd_shim.channel._h2 import CONFIG, PatientH2Connection
from trio_sched.etcd_shim.channel._protocol import Protocol, check_response

__all__ = ["FastProtocol"]

_DATA, _HEADERS, _PING, _WINDOW_UPDATE = 0x0000, 0x0104, 0x0600, 0x0800  # type, then flags
_TRAILERS = _HEADERS | 0x01  # END_STREAM
_NEITHER: Final = -1
_END_STREAM: Final = 0x01
_PONG: Final = b"\0\0\x08\x06\x01\0\0\0\0"  # the header of a PING frame that is an answer

_FRAME = struct.Struct(">BHHL")  # a frame's header: length in 24 bits, type and flags, stream
_FRAME_SIZE: Final = _FRAME.size
_MESSAGE = struct.Struct(">BHHLBL")  # that of a DATA frame, and gRPC's prefix
_PING_SIZE: Final = 8
_INCREMENT_SIZE: Final = 4
_LARGEST_WINDOW: Final = 2**31 - 1
_INITIAL_WINDOW_SIZE: Final = SettingCodes.INITIAL_WINDOW_SIZE
_MOST_ANSWERS: Final = 128  # blocks remembered at a time; a server has about a dozen

_OPEN, _HALF_CLOSED = StreamState.OPEN, StreamState.HALF_CLOSED_LOCAL
_CLIENT_OPEN: Final = ConnectionState.CLIENT_OPEN


class FastProtocol(Protocol):
    """A `Protocol` in all respects but one. See the head of the module."""

    __slots__ = ("_answers", "_inbound", "_machine", "_streams")

    def __init__(
        self,
        *,
        max_message_size: int = 64 * 2**20,
        call_window: int = 2**20,
        connection_window: int = 2**20,
    ) -> None:
        super().__init__(
            max_message_size=max_message_size,
            call_window=call_window,
            connection_window=connection_window,
        )
        self._machine = self._h2.state_machine
        self._streams = self._h2.streams
        self._inbound = self._h2._inbound_flow_control_window_manager  # noqa: SLF001 # as all below
        self._answers: dict[bytes, tuple[int, int, Metadata]] = {}

    # ---- what the caller wants ------------------------------------------------

    def open(self, headers: Sequence[tuple[bytes, bytes]]) -> int | None:
        """Begin a call and return its stream id; see `Protocol.open`."""
        h2 = self._h2
        block = h2.encoder.known(headers)
        stream_id = h2.highest_outbound_stream_id + 2
        if (
            block is None
            or self._machine.state is not _CLIENT_OPEN
            or len(block) > h2.max_outbound_frame_size
            or stream_id > h2.HIGHEST_ALLOWED_STREAM_ID
        ):
            return super().open(headers)
        self._streams[stream_id] = _Stream(h2, stream_id)
        h2.highest_outbound_stream_id = stream_id
        size = len(block)
        h2._data_to_send += _FRAME.pack(size >> 16, size & 0xFFFF, _HEADERS, stream_id) + block  # noqa: SLF001
        self._note_call(stream_id)
        return stream_id

    def send(self, stream_id: int, payload: bytes, *, end: bool) -> bool:
        """Queue a message, and the end of our half if `end`; see `Protocol.send`."""
        h2 = self._h2
        call, stream = self._calls[stream_id], self._streams[stream_id]
        size = len(payload) + PREFIX_SIZE
        if (
            call.outgoing
            or call.end_queued
            or stream.state_machine.state is not _OPEN
            or self._machine.state is not _CLIENT_OPEN
            or size > stream.outbound_flow_control_window
            or size > h2.outbound_flow_control_window
            or size > h2.max_outbound_frame_size
        ):
            return super().send(stream_id, payload, end=end)
        if end:
            call.end_queued = call.half_closed = True
            stream.state_machine.state = _HALF_CLOSED
        stream.outbound_flow_control_window -= size
        h2.outbound_flow_control_window -= size
        kind = _DATA | _END_STREAM if end else _DATA
        head = _MESSAGE.pack(size >> 16, size & 0xFFFF, kind, stream_id, 0, len(payload))
        h2._data_to_send += head + payload  # noqa: SLF001
        return True

    def consumed(self, stream_id: int, payload: bytes) -> None:
        """Say that a message was taken; see `Protocol.consumed`."""
        call = self._calls.get(stream_id)
        if call is None:
            return
        owed = call.owed + len(payload) + PREFIX_SIZE
        if call.waiting <= 1 or owed * 2 >= self._call_window:
            super().consumed(stream_id, payload)
        else:  # there is nothing to tell yet
            call.waiting -= 1
            call.owed = owed

    # ---- what the server says ----------------------------------------------------

    def _take(self, data: bytes, events: list[Event]) -> None:
        h2 = self._h2
        buffer = h2.incoming_buffer
        start = 0
        if self._machine.state is _CLIENT_OPEN and h2.at_a_boundary:
            if kept := buffer._data:  # noqa: SLF001
                data = bytes(kept) + data
                kept.clear()
            start = self._take_frames(data, events)
        if start < len(data):
            super()._take(data[start:], events)

    def _take_frames(self, data: bytes, events: list[Event]) -> int:
        """Take whole frames as long as they are as expected; return where the rest begins."""
        start, size = 0, len(data)
        largest = self._h2.max_inbound_frame_size
        while size - start >= _FRAME_SIZE:
            high, low, kind, stream_id = _FRAME.unpack_from(data, start)
            length = high << 16 | low
            body = start + _FRAME_SIZE
            end = body + length
            take = _TAKERS.get(kind)
            if end > size or length > largest or take is None:
                break
            if not take(self, stream_id, data[body:end], events):
                break
            start = end
        return start

    # Each of these returns False, and has changed nothing then, if it is not its business.

    def _take_message(self, stream_id: int, body: bytes, events: list[Event]) -> bool:
        call = self._calls.get(stream_id)
        if call is None:
            return False
        stream = self._streams[stream_id]
        state = stream.state_machine.state
        size = len(body)
        window, all_windows = stream._inbound_window_manager, self._inbound  # noqa: SLF001
        if (
            (state is not _HALF_CLOSED and state is not _OPEN)
            or not stream.state_machine.headers_received
            or stream._expected_content_length is not None  # noqa: SLF001
            or size > window.current_window_size
            or size > all_windows.current_window_size
        ):
            return False
        window.current_window_size -= size
        all_windows.current_window_size -= size
        stream._actual_content_length += size  # noqa: SLF001
        self._give_back_all(size)
        payload = call.decoder.whole(body)
        if payload is None:
            self._take_data(stream_id, call, body, events)
        else:
            call.waiting += 1
            events.append(Message(stream_id, payload))
        return True

    def _take_head(self, stream_id: int, block: bytes, events: list[Event]) -> bool:
        headers = self._headers_of(_HEADERS, block)
        if headers is None or stream_id not in self._calls:
            return False
        machine = self._streams[stream_id].state_machine
        state = machine.state
        if machine.headers_received or (state is not _HALF_CLOSED and state is not _OPEN):
            return False
        machine.headers_received = True
        events.append(Headers(stream_id, headers))
        return True

    def _take_trailers(self, stream_id: int, block: bytes, events: list[Event]) -> bool:
        headers = self._headers_of(_TRAILERS, block)
        if headers is None or stream_id not in self._calls:
            return False
        machine = self._streams[stream_id].state_machine
        if machine.state is not _HALF_CLOSED or not machine.headers_received:
            return False
        del self._calls[stream_id], self._streams[stream_id]
        self._blocked.pop(stream_id, None)
        events.append(CallEnded(stream_id, None, headers))
        return True

    def _take_ping(self, stream_id: int, body: bytes, _events: list[Event]) -> bool:
        if stream_id or len(body) != _PING_SIZE:
            return False
        self._h2._data_to_send += _PONG + body  # noqa: SLF001
        return True

    def _take_window_update(self, stream_id: int, body: bytes, events: list[Event]) -> bool:
        increment = int.from_bytes(body)
        window = self._h2.outbound_flow_control_window + increment
        if stream_id or len(body) != _INCREMENT_SIZE:
            return False
        if not increment or window > _LARGEST_WINDOW:
            return False
        self._h2.outbound_flow_control_window = window
        if self._blocked:
            self._push_blocked(events)
        return True

    def _headers_of(self, kind: int, block: bytes) -> Metadata | None:
        """Return what a block says, if it came before and is of an answer that goes well."""
        stamp = self._h2.decoder.header_table.stamp
        known = self._answers.get(block)
        if known is None or known[0] != stamp:
            headers = self._h2.decoder.known(block)
            if headers is None:
                return None
            if len(self._answers) >= _MOST_ANSWERS:
                self._answers.clear()
            known = self._answers[block] = stamp, _kind_of(headers), headers
        return known[2] if known[1] == kind else None


_Taker: TypeAlias = Callable[[FastProtocol, int, bytes, list[Event]], bool]

_TAKERS: Final[dict[int, _Taker]] = {
    _DATA: FastProtocol._take_message,  # noqa: SLF001
    _HEADERS: FastProtocol._take_head,  # noqa: SLF001
    _TRAILERS: FastProtocol._take_trailers,  # noqa: SLF001
    _PING: FastProtocol._take_ping,  # noqa: SLF001
    _WINDOW_UPDATE: FastProtocol._take_window_update,  # noqa: SLF001
}


def _kind_of(headers: Metadata) -> int:
    """Tell whether these are the head or the trailers of an answer that goes well, or neither."""
    fields = dict(headers)
    if b"grpc-status" not in fields:
        good = check_response(fields) is None and not is_informational_response(headers)
        return _HEADERS if good else _NEITHER
    pseudo = any(name.startswith(b":") for name in fields)
    return _TRAILERS if fields[b"grpc-status"] == b"0" and not pseudo else _NEITHER


class _Machine(H2StreamStateMachine):
    """A stream's state after its request was sent; what has not changed yet is the class's."""

    client = headers_sent = True
    trailers_sent = headers_received = trailers_received = stream_closed_by = None

    def __init__(self, stream_id: int) -> None:
        self.state = _OPEN
        self.stream_id = stream_id


class _Stream(H2Stream):
    """A stream whose request was sent, as `begin_call` of h2's connection leaves it.

    What has not changed yet is the class's, so that there is less to set.
    """

    request_method = b"POST"
    _expected_content_length = _authority = None
    _actual_content_length = 0
    config = CONFIG

    def __init__(self, h2: PatientH2Connection, stream_id: int) -> None:
        self.state_machine = _Machine(stream_id)
        self.stream_id = stream_id
        self.max_outbound_frame_size = h2.max_outbound_frame_size
        self.outbound_flow_control_window = h2.remote_settings.current(_INITIAL_WINDOW_SIZE)
        self._inbound_window_manager = WindowManager(
            h2.local_settings.current(_INITIAL_WINDOW_SIZE)
        )
