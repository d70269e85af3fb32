"""h2's connection, with the rules changed that a gRPC client needs changed.

*GOAWAY.* Plain h2 closes the connection at once: it drops what it was about to
send, and answers that are still due become protocol errors. But a server that
shuts down gracefully says with GOAWAY which calls it will still finish. So here
GOAWAY is an event like any other; not opening new calls is up to the caller.

*Garbage.* Plain h2 looks at a frame only when all of it is there, and what is
not HTTP/2 at all may announce 16 MB to come. Here a frame is judged as soon as
its length and type are there (a TLS alert is shorter than a frame's header), and
the first frame must be SETTINGS (RFC 9113, 3.4).

*One frame at a time.* Plain h2 returns the events of all the bytes that it was
given, or raises, and then the events before the bad byte are lost.

*One reset.* Plain h2 answers each frame of a call that was reset here with one
more RST_STREAM. What was under way is dropped in silence (RFC 9113, 5.1).

*Cost.* Plain h2 makes a text of each frame that it receives, and counts all its
streams for each one that it opens. Here nothing is made of a frame but events,
and a stream is let go when it has ended, so the count is the number of streams.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, Event
from h2.exceptions import ProtocolError, StreamClosedError, StreamIDTooLowError
from h2.stream import StreamClosedBy
from hyperframe.frame import RstStreamFrame

from trio_sched.etcd_shim.channel._hpack import CachingDecoder, CachingEncoder

if TYPE_CHECKING:
    from hyperframe.frame import Frame, GoAwayFrame, HeadersFrame

__all__ = ["PatientH2Connection"]

_LENGTH_AND_TYPE = 4  # bytes at the head of a frame's header
_SETTINGS_TYPE = 4


class PatientH2Connection(H2Connection):
    """A client's `H2Connection` by the rules above."""

    def __init__(self) -> None:
        super().__init__(
            H2Configuration(
                client_side=True,
                header_encoding=None,
                validate_outbound_headers=False,  # they are ours, always the same few
                normalize_outbound_headers=False,
                validate_inbound_headers=False,  # what we look at, we check
                normalize_inbound_headers=False,
            )
        )
        self.encoder = CachingEncoder()
        self.decoder = CachingDecoder(self.DEFAULT_MAX_HEADER_LIST_SIZE)
        self._saw_preface = False

    def receive(self, data: bytes) -> Iterator[Event]:
        """Take bytes; yield the events of each whole frame in turn.

        Raises:
            H2Error: the next frame breaks the rules. The connection is over.
        """
        buffer = self.incoming_buffer
        buffer.add_data(data)
        buffer.max_frame_size = self.max_inbound_frame_size
        self._judge_next_frame()
        for frame in buffer:
            yield from self._take_frame(frame)
            self._judge_next_frame()
        self._judge_next_frame()  # the iterator takes a block of headers in one step

    def _take_frame(self, frame: Frame) -> list[Event]:
        is_open = frame.stream_id in self.streams
        frames: list[Frame]
        events: list[Event]
        try:
            frames, events = self._frame_dispatch_table[frame.__class__](frame)
        except (StreamClosedError, StreamIDTooLowError) as exc:
            if not self._was_reset_by_us(exc.stream_id):
                raise
            return list(getattr(exc, "_events", ()))
        if frames:
            if not is_open and self._was_reset_by_us(frame.stream_id):
                frames = [answer for answer in frames if not isinstance(answer, RstStreamFrame)]
            self._prepare_for_sending(frames)
        return events

    def _was_reset_by_us(self, stream_id: int) -> bool:
        return self._stream_closed_by(stream_id) is StreamClosedBy.SEND_RST_STREAM

    def _judge_next_frame(self) -> None:
        waiting = self.incoming_buffer._data  # noqa: SLF001 # h2 has no other way to peek
        if len(waiting) < _LENGTH_AND_TYPE:
            return
        length = int.from_bytes(waiting[:3])
        if not self._saw_preface:
            self._saw_preface = True
            if waiting[3] != _SETTINGS_TYPE:
                raise ProtocolError(f"it began with {bytes(waiting[:24])!r}, not with SETTINGS")
        if length > self.max_inbound_frame_size:
            raise ProtocolError(f"a frame of {length} bytes")

    def forget(self, stream_id: int) -> bool:
        """Let go of a stream if both of its halves have ended; tell whether they have."""
        stream = self.streams.get(stream_id)
        if stream is None:
            return True
        if not stream.closed:
            return False
        del self.streams[stream_id]
        self._closed_streams[stream_id] = stream.closed_by
        return True

    def _open_streams(self, remainder: int) -> int:
        return len(self.streams) if remainder else 0  # a client's ids are odd, and push is off

    def _receive_headers_frame(self, frame: HeadersFrame) -> tuple[list[Frame], list[Event]]:
        if not frame.stream_id % 2:
            raise ProtocolError(f"the server began a call of its own, {frame.stream_id}")
        return super()._receive_headers_frame(frame)

    def _receive_goaway_frame(self, frame: GoAwayFrame) -> tuple[list[Frame], list[Event]]:
        event = ConnectionTerminated()
        event.error_code = frame.error_code
        event.last_stream_id = frame.last_stream_id
        event.additional_data = frame.additional_data or None
        return [], [event]
