"""What we send: requests, as far as the windows allow, and acknowledgements."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from trio_sched.etcd_shim.channel.http2 import frames as f, settings as s
from trio_sched.etcd_shim.channel.http2.errors import ErrorCode
from trio_sched.etcd_shim.channel.http2.events import Event, RequestSent
from trio_sched.etcd_shim.channel.http2.header_blocks import Field, RequestEncoder
from trio_sched.etcd_shim.channel.http2.messages import PREFIX_SIZE, encode_message
from trio_sched.etcd_shim.channel.http2.streams import Stream

__all__ = ["MAX_CALLS_BEFORE_SETTINGS", "Sender"]

# What the server is assumed to take before it has said how many calls it does (6.5.2 advises
# servers not to go below this).
MAX_CALLS_BEFORE_SETTINGS: Final = 100

MAX_AHEAD: Final = 2**20  # bytes of output; DATA beyond them waits until these are taken

_MESSAGE: Final = struct.Struct(">BHBBLBL")  # the head of a DATA frame, and gRPC's prefix


class Sender:
    """The sending half of `Http2Connection`.

    Args:
        call_window: how much the server may send for one call before its
            messages are consumed, in bytes.
        connection_window: how much it may send before any of it is received.

    Attributes:
        held_back: there is room in the windows for DATA that is not in the output,
            as there was enough in it; `resume` is to be called when that is sent.
    """

    def __init__(self, call_window: int, connection_window: int) -> None:
        self._call_window = call_window
        self._connection_window = max(connection_window, s.DEFAULT_WINDOW)
        self._unacknowledged = 0  # of the connection's window
        self._streams: dict[int, Stream] = {}
        self._blocked: dict[int, None] = {}  # an ordered set: what waits for a window
        self._last_stream_id = -1
        self._encoder = RequestEncoder()
        self._output = bytearray()
        self._answers = 0  # in it, to PING and SETTINGS
        self._closed = False
        self.held_back: bool = False
        # By the server's SETTINGS; before them, the defaults of RFC 9113, 6.5.2.
        self._send_window = s.DEFAULT_WINDOW
        self._initial_window = s.DEFAULT_WINDOW
        self._max_frame_size = f.DEFAULT_FRAME_SIZE
        self._max_calls = MAX_CALLS_BEFORE_SETTINGS

    # ---- what the caller wants --------------------------------------------

    def start(self) -> None:
        """Queue the connection preface (RFC 9113, 3.4)."""
        self._output += f.PREFACE + f.frame(f.SETTINGS, 0, 0, s.our_settings(self._call_window))
        if self._connection_window > s.DEFAULT_WINDOW:
            self._output += f.window_update_frame(0, self._connection_window - s.DEFAULT_WINDOW)

    def open(self, headers: Sequence[Field]) -> int | None:
        """Begin a call and return its stream id.

        None means that this connection's ids are used up, after 2**30 calls (5.1.1).
        """
        stream_id = self._last_stream_id + 2
        if stream_id > f.MAX_STREAM_ID:
            return None
        block = self._encoder.encode(headers)
        self._output += f.header_frames(stream_id, block, self._max_frame_size)
        self._last_stream_id = stream_id
        self._streams[stream_id] = Stream(self._initial_window, self._call_window)
        return stream_id

    def send(self, stream_id: int, payload: bytes, *, end: bool) -> bool:
        """Queue a message, and the end of our half if `end`.

        Of a call that the server has ended, nothing is sent: the event that says so may not have
        been taken yet.

        Returns:
            True if all of it found room; otherwise `RequestSent` follows.

        Raises:
            KeyError: there was no such call.
            RuntimeError: our half has ended, or is to end after what is queued.
        """
        stream = self._streams.get(stream_id)
        if stream is None:
            return self._is_over(stream_id)
        size = len(payload) + PREFIX_SIZE
        if (
            stream.end_queued
            or stream.outgoing
            or size > stream.send_window
            or size > self._send_window
            or size > self._max_frame_size
            or len(self._output) >= MAX_AHEAD
        ):
            return self._send_later(stream_id, stream, payload, end=end)
        stream.send_window -= size
        self._send_window -= size
        flags = 0
        if end:
            flags = f.END_STREAM
            stream.end_queued = stream.half_closed = True
        head = _MESSAGE.pack(size >> 16, size & 0xFFFF, f.DATA, flags, stream_id, 0, size - 5)
        self._output += head + payload
        return True

    def _send_later(self, stream_id: int, stream: Stream, payload: bytes, *, end: bool) -> bool:
        if stream.end_queued:
            raise RuntimeError("the request has ended already")
        data = encode_message(payload)
        stream.outgoing = memoryview(bytes(stream.outgoing) + data if stream.outgoing else data)
        stream.end_queued = end
        return self._push(stream_id, stream)

    def end(self, stream_id: int) -> bool:
        """End our half of a call, after what is queued; returns as `send` does."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return self._is_over(stream_id)
        stream.end_queued = True
        return self._push(stream_id, stream)

    def _is_over(self, stream_id: int) -> bool:
        """Return True for a call that has ended, of which nothing waits for room."""
        if stream_id > self._last_stream_id:
            raise KeyError(stream_id)
        return True

    @property
    def awaits_answer(self) -> bool:
        """Whether a request is complete, or was ended by us, whose answer is not."""
        return any(stream.end_queued for stream in self._streams.values())

    def reset(self, stream_id: int) -> None:
        """Cancel a call (RFC 9113, 5.4.2 and 8.1). No more events come of it."""
        if stream_id in self._streams:
            self._reset(stream_id, ErrorCode.CANCEL)

    def consumed(self, stream_id: int, payload: bytes) -> None:
        """Say that a message was taken, so that its window can be acknowledged."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        stream.waiting -= 1
        self._acknowledge(stream_id, stream, len(payload) + PREFIX_SIZE)
        if stream.decoder is not None and not stream.waiting:
            self._acknowledge_partial(stream_id, stream)

    def ping(self, payload: bytes) -> None:
        """Queue a PING of eight bytes (RFC 9113, 6.7)."""
        self._output += f.frame(f.PING, 0, 0, payload)

    def close(self) -> None:
        """Queue a GOAWAY, once: nothing more is wanted (RFC 9113, 6.8)."""
        self._close(ErrorCode.NO_ERROR)

    def _close(self, code: ErrorCode) -> None:
        if not self._closed:
            self._closed = True
            self._output += f.goaway_frame(code)

    def take_output(self) -> bytes:
        """Return the bytes to send, and forget them."""
        output = bytes(self._output)
        self._output.clear()
        self._answers = 0
        return output

    def resume(self) -> list[Event]:
        """Queue DATA that was held back while too much waited to be taken; see `held_back`."""
        events: list[Event] = []
        self.held_back = False
        if not self._closed:
            self._push_blocked(events)
        return events

    @property
    def output_size(self) -> int:
        """How many bytes wait to be sent."""
        return len(self._output)

    @property
    def open_calls(self) -> int:
        """How many calls are under way."""
        return len(self._streams)

    @property
    def max_calls(self) -> int:
        """How many calls the server takes at once, as far as is known."""
        return self._max_calls

    # ---- streams and windows -----------------------------------------------

    def _forget(self, stream_id: int) -> None:
        del self._streams[stream_id]
        self._blocked.pop(stream_id, None)

    def _reset(self, stream_id: int, code: ErrorCode) -> None:
        self._forget(stream_id)
        self._output += f.reset_frame(stream_id, code)

    def _push(self, stream_id: int, stream: Stream) -> bool:
        """Send what the windows have room for; return whether that was all."""
        while stream.outgoing:
            if not self._push_frame(stream_id, stream):
                self._blocked[stream_id] = None
                return False
        if stream.end_queued and not stream.half_closed:
            stream.half_closed = True
            self._output += f.frame(f.DATA, f.END_STREAM, stream_id)
        return True

    def _push_frame(self, stream_id: int, stream: Stream) -> bool:
        """Send one DATA frame, if the windows have room for a byte (RFC 9113, 6.9.1)."""
        if len(self._output) >= MAX_AHEAD:
            self.held_back = True
            return False
        outgoing = stream.outgoing
        room = min(stream.send_window, self._send_window, self._max_frame_size, len(outgoing))
        if room <= 0:
            return False
        stream.outgoing = outgoing[room:]  # of a memoryview: nothing is copied
        flags = 0
        if stream.end_queued and not stream.outgoing:
            stream.half_closed, flags = True, f.END_STREAM
        stream.send_window -= room
        self._send_window -= room
        self._output += f.FRAME_HEAD.pack(room >> 16, room & 0xFFFF, f.DATA, flags, stream_id)
        self._output += outgoing[:room]
        return True

    def _push_again(self, stream_id: int, events: list[Event]) -> None:
        stream = self._streams[stream_id]
        if stream_id in self._blocked and self._push(stream_id, stream):
            del self._blocked[stream_id]
            events.append(RequestSent(stream_id))

    def _push_blocked(self, events: list[Event]) -> None:
        """Give each waiting call a frame in turn, as long as that gets anywhere."""
        moved = True
        while moved and self._blocked and self._send_window > 0:
            moved = False
            for stream_id in tuple(self._blocked):
                stream = self._streams[stream_id]
                moved |= self._push_frame(stream_id, stream)
                if not stream.outgoing:
                    self._push_again(stream_id, events)

    def _acknowledge(self, stream_id: int, stream: Stream, size: int) -> None:
        """Let the server send `size` more bytes of a call; said in large steps."""
        stream.unacknowledged += size
        if stream.unacknowledged * 2 >= self._call_window:
            increment, stream.unacknowledged = stream.unacknowledged, 0
            stream.receive_window += increment
            self._output += f.window_update_frame(stream_id, increment)

    def _acknowledge_partial(self, stream_id: int, stream: Stream) -> None:
        """Acknowledge an incomplete message: it could never complete in a smaller window."""
        if stream.decoder is not None:
            fresh = stream.decoder.partial - stream.partial
            if fresh > 0:
                stream.partial += fresh
                self._acknowledge(stream_id, stream, fresh)
