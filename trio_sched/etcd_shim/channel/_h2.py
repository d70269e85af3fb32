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
and a stream is let go when it has ended, so the count is the number of streams;
it also remembers how each of the last 65,536 has ended, and here only those that
were reset are remembered.
The frames of which there are many take a shorter way, see ``_frames``; the state
machines that they go through are h2's. A connection has no tables of its own of
what never changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias

from h2.config import H2Configuration
from h2.connection import AllowedStreamIDs, ConnectionInputs, H2Connection, _decode_headers
from h2.events import ConnectionTerminated, Event, TrailersReceived
from h2.exceptions import (
    FlowControlError,
    ProtocolError,
    StreamClosedError,
    StreamIDTooLowError,
)
from h2.settings import SettingCodes
from h2.stream import H2Stream, StreamClosedBy, StreamInputs
from h2.utilities import is_informational_response
from hyperframe.frame import RstStreamFrame

from trio_sched.etcd_shim.channel._frames import (
    DATA,
    FRAME_HEADER_SIZE,
    HEADERS,
    PING,
    SETTINGS,
    WINDOW_UPDATE,
    data_frame,
    light_frame,
    parse_frame_header,
    pong_frame,
    request_frames,
)
from trio_sched.etcd_shim.channel._hpack import CachingDecoder, CachingEncoder
from trio_sched.etcd_shim.channel._lean import LeanSettings

if TYPE_CHECKING:
    from hyperframe.frame import Frame, GoAwayFrame, HeadersFrame, PingFrame

__all__ = ["CONFIG", "PatientH2Connection"]

_LENGTH_AND_TYPE = 4  # bytes at the head of a frame's header

_Handler: TypeAlias = Callable[["PatientH2Connection", Any], tuple[list[Any], list[Event]]]

CONFIG: Final = H2Configuration(
    client_side=True,
    header_encoding=None,
    validate_outbound_headers=False,  # they are ours, always the same few
    normalize_outbound_headers=False,
    validate_inbound_headers=False,  # what we look at, we check
    normalize_inbound_headers=False,
)


class PatientH2Connection(H2Connection):
    """A client's `H2Connection` by the rules above.

    Args:
        settings: what we tell the server, where it differs from the defaults.
    """

    _light_handlers: ClassVar[dict[int, _Handler]] = {}  # filled below
    _heavy_handlers: ClassVar[dict[type, _Handler]] = {}  # the first connection fills it

    def __init__(self, settings: Mapping[SettingCodes, int]) -> None:
        super().__init__(CONFIG)
        self.encoder: CachingEncoder = CachingEncoder()
        self.decoder: CachingDecoder = CachingDecoder(self.DEFAULT_MAX_HEADER_LIST_SIZE)
        self.local_settings: LeanSettings = LeanSettings(client=True, values=settings)
        self.remote_settings: LeanSettings = LeanSettings(client=False, values={})
        self._saw_preface = False
        self._share_dispatch_table()

    def _share_dispatch_table(self) -> None:
        """Have one table for all connections, of functions instead of methods."""
        table: dict[type, Any] = self._frame_dispatch_table
        if not self._heavy_handlers:
            self._heavy_handlers.update({kind: method.__func__ for kind, method in table.items()})
        del self._frame_dispatch_table

    @property
    def at_a_boundary(self) -> bool:
        """Whether the next byte that is not kept already begins a frame, or goes on with one.

        That is, whether the preface is over, and no block of headers is to be continued.
        """
        return self._saw_preface and not self.incoming_buffer._headers_buffer  # noqa: SLF001

    def receive(self, data: bytes, take: Callable[[Event], None]) -> None:
        """Take bytes in; pass on the events of each whole frame before the next is looked at.

        Raises:
            H2Error: the next frame breaks the rules. The connection is over.
        """
        buffer = self.incoming_buffer
        buffer.add_data(data)
        raw = buffer._data  # noqa: SLF001 # h2 has no other way to peek
        if not self._saw_preface and len(raw) >= _LENGTH_AND_TYPE:
            self._check_preface(raw)
        start, size = 0, len(raw)
        while size - start >= FRAME_HEADER_SIZE:
            length, kind, flags, stream_id = parse_frame_header(raw, start)
            self._check_length(length)
            body, end = start + FRAME_HEADER_SIZE, start + FRAME_HEADER_SIZE + length
            if size < end:
                break
            handler = self._light_handlers.get(kind)
            light = None
            if handler is not None and not buffer._headers_buffer:  # noqa: SLF001
                light = light_frame(kind, flags, stream_id, bytes(raw[body:end]))
            if handler is not None and light is not None:
                start = end
                events = self._take_frame(handler, light)
            else:
                del raw[:start]
                events = self._take_heavy_frame()
                raw = buffer._data  # noqa: SLF001 # before h2 4.4 it is another one now
                start, size = 0, len(raw)
            for event in events:
                take(event)
        del raw[:start]
        if len(raw) >= _LENGTH_AND_TYPE:
            self._check_length(int.from_bytes(raw[:3]))

    def _check_preface(self, raw: bytearray) -> None:
        self._saw_preface = True
        if raw[3] != SETTINGS:
            raise ProtocolError(f"it began with {bytes(raw[:24])!r}, not with SETTINGS")
        self._check_length(int.from_bytes(raw[:3]))

    def _check_length(self, length: int) -> None:
        if length > self.max_inbound_frame_size:
            raise ProtocolError(f"a frame of {length} bytes")

    def _take_heavy_frame(self) -> list[Event]:
        """Take the next frame as hyperframe reads it, and what continues it if it is there."""
        self.incoming_buffer.max_frame_size = self.max_inbound_frame_size
        for frame in self.incoming_buffer:
            return self._take_frame(self._heavy_handlers[frame.__class__], frame)
        return []

    def _take_frame(self, handler: _Handler, frame: Any) -> list[Event]:
        is_open = frame.stream_id in self.streams
        try:
            frames, events = handler(self, frame)
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

    def begin_call(self, headers: Sequence[tuple[bytes, bytes]]) -> int:
        """Open a stream with a request's headers; return its id.

        As `send_headers` does, for headers that are bytes already and in order.
        """
        stream_id = self.get_next_available_stream_id()
        self.state_machine.process_input(ConnectionInputs.SEND_HEADERS)
        stream = self._begin_new_stream(stream_id, AllowedStreamIDs.ODD)
        stream.state_machine.process_input(StreamInputs.SEND_HEADERS)
        stream.request_method = b"POST"
        block = self.encoder.encode(headers, huffman=False)  # it is long once, then indices
        self._data_to_send += request_frames(stream_id, block, self.max_outbound_frame_size)
        return stream_id

    def send_message(self, stream_id: int, data: bytes, *, end: bool) -> None:
        """Send DATA for which there is room; as `send_data` does."""
        size = len(data)
        stream = self.streams[stream_id]
        if size > self.outbound_flow_control_window or size > stream.outbound_flow_control_window:
            raise FlowControlError(f"no room for {size} bytes")
        self.state_machine.process_input(ConnectionInputs.SEND_DATA)
        stream.state_machine.process_input(StreamInputs.SEND_DATA)
        if end:
            stream.state_machine.process_input(StreamInputs.SEND_END_STREAM)
        stream.outbound_flow_control_window -= size
        self.outbound_flow_control_window -= size
        self._data_to_send += data_frame(stream_id, data, end=end)

    def room(self, stream_id: int) -> int:
        """How many bytes of DATA a stream may send at once."""
        stream_window = self.streams[stream_id].outbound_flow_control_window
        return min(stream_window, self.outbound_flow_control_window, self.max_outbound_frame_size)

    def forget(self, stream_id: int) -> bool:
        """Let go of a stream if both of its halves have ended; tell whether they have.

        Only that we reset it makes a difference to what may still come for it.
        """
        stream = self.streams.get(stream_id)
        if stream is None:
            return True
        if not stream.closed:
            return False
        del self.streams[stream_id]
        if stream.closed_by is StreamClosedBy.SEND_RST_STREAM:
            self._closed_streams[stream_id] = stream.closed_by
        return True

    def _open_streams(self, remainder: int) -> int:
        return len(self.streams) if remainder else 0  # a client's ids are odd, and push is off

    def _receive_headers_frame(self, frame: HeadersFrame) -> tuple[list[Frame], list[Event]]:
        if not frame.stream_id % 2:
            raise ProtocolError(f"the server began a call of its own, {frame.stream_id}")
        stream = self.streams.get(frame.stream_id)
        if stream is None:
            return super()._receive_headers_frame(frame)
        headers = _decode_headers(self.decoder, frame.data)
        self.state_machine.process_input(ConnectionInputs.RECV_HEADERS)
        return [], _take_headers(stream, headers, ends="END_STREAM" in frame.flags)

    def _receive_ping_frame(self, frame: PingFrame) -> tuple[list[Frame], list[Event]]:
        if "ACK" in frame.flags:
            return super()._receive_ping_frame(frame)
        self.state_machine.process_input(ConnectionInputs.RECV_PING)
        self._data_to_send += pong_frame(frame.opaque_data)
        return [], []

    def _receive_goaway_frame(self, frame: GoAwayFrame) -> tuple[list[Frame], list[Event]]:
        event = ConnectionTerminated()
        event.error_code = frame.error_code
        event.last_stream_id = frame.last_stream_id
        event.additional_data = frame.additional_data or None
        return [], [event]


PatientH2Connection._light_handlers = {  # noqa: SLF001 # of this module
    DATA: PatientH2Connection._receive_data_frame,  # noqa: SLF001 # this class's, or h2's
    HEADERS: PatientH2Connection._receive_headers_frame,  # noqa: SLF001
    SETTINGS: PatientH2Connection._receive_settings_frame,  # noqa: SLF001
    PING: PatientH2Connection._receive_ping_frame,  # noqa: SLF001
    WINDOW_UPDATE: PatientH2Connection._receive_window_update_frame,  # noqa: SLF001
}


def _take_headers(stream: H2Stream, headers: Any, *, ends: bool) -> list[Event]:
    """Take a block of headers in; as `H2Stream.receive_headers` does.

    Less what gRPC has no use for: how long a body is to be, and what servers get.
    """
    if is_informational_response(headers):
        if ends:
            raise ProtocolError("an informational response that ends the call")
        events = stream.state_machine.process_input(StreamInputs.RECV_INFORMATIONAL_HEADERS)
    else:
        events = stream.state_machine.process_input(StreamInputs.RECV_HEADERS)
    event: Any = events[0]
    if ends:
        ended = stream.state_machine.process_input(StreamInputs.RECV_END_STREAM)
        event.stream_ended = ended[0]
        events += ended
    elif isinstance(event, TrailersReceived):
        raise ProtocolError("trailers that do not end the call")
    event.headers = headers
    return events
