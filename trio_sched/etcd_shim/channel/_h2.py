"""h2's connection, with the rules changed that a gRPC client needs changed.

*GOAWAY.* Plain h2 closes the connection at once: it drops what it was about to
send, and answers that are still due become protocol errors. But a server that
shuts down gracefully says with GOAWAY which calls it will still finish. So here
GOAWAY is an event like any other; not opening new calls is up to the caller.

*Garbage.* Plain h2 looks at a frame only when all of it is there, and what is
not HTTP/2 at all may announce 16 MB to come. Here a frame's header is judged as
soon as it is there, and the first frame must be SETTINGS (RFC 9113, 3.4).

*One frame at a time.* Plain h2 returns the events of all the bytes that it was
given, or raises, and then the events before the bad byte are lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from h2.connection import H2Connection
from h2.events import ConnectionTerminated, Event
from h2.exceptions import ProtocolError

if TYPE_CHECKING:
    from hyperframe.frame import Frame, GoAwayFrame

__all__ = ["PatientH2Connection"]

_FRAME_HEADER_SIZE = 9
_SETTINGS_TYPE = 4


class PatientH2Connection(H2Connection):
    """A client's `H2Connection` by the rules above."""

    _saw_preface = False

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
            yield from self._receive_frame(frame)
            self._judge_next_frame()

    def _judge_next_frame(self) -> None:
        waiting = self.incoming_buffer._data  # noqa: SLF001 # h2 has no other way to peek
        if len(waiting) < _FRAME_HEADER_SIZE:
            return
        length = int.from_bytes(waiting[:3])
        if not self._saw_preface:
            self._saw_preface = True
            if waiting[3] != _SETTINGS_TYPE:
                raise ProtocolError(f"it began with {bytes(waiting[:24])!r}, not with SETTINGS")
        if length > self.max_inbound_frame_size:
            raise ProtocolError(f"a frame of {length} bytes")

    def _receive_goaway_frame(self, frame: GoAwayFrame) -> tuple[list[Frame], list[Event]]:
        event = ConnectionTerminated()
        event.error_code = frame.error_code
        event.last_stream_id = frame.last_stream_id
        event.additional_data = frame.additional_data or None
        return [], [event]
