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
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from h2.connection import H2Connection
from h2.events import ConnectionTerminated, Event
from h2.exceptions import ProtocolError
from h2.stream import StreamClosedBy
from hyperframe.frame import RstStreamFrame

if TYPE_CHECKING:
    from hyperframe.frame import Frame, GoAwayFrame

__all__ = ["PatientH2Connection"]

_LENGTH_AND_TYPE = 4  # bytes at the head of a frame's header
_SETTINGS_TYPE = 4


class PatientH2Connection(H2Connection):
    """A client's `H2Connection` by the rules above."""

    _saw_preface = False
    _was_reset = False  # the frame at hand belongs to a call that we have reset

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
            closed_by = self._stream_closed_by(frame.stream_id)
            self._was_reset = closed_by is StreamClosedBy.SEND_RST_STREAM
            events = self._receive_frame(frame)
            self._was_reset = False
            yield from events
            self._judge_next_frame()
        self._judge_next_frame()  # the iterator takes a block of headers in one step

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

    def _prepare_for_sending(self, frames: list[Frame]) -> None:
        if self._was_reset:
            frames = [frame for frame in frames if not isinstance(frame, RstStreamFrame)]
        super()._prepare_for_sending(frames)

    def _receive_goaway_frame(self, frame: GoAwayFrame) -> tuple[list[Frame], list[Event]]:
        event = ConnectionTerminated()
        event.error_code = frame.error_code
        event.last_stream_id = frame.last_stream_id
        event.additional_data = frame.additional_data or None
        return [], [event]
