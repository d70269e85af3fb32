"""The server's half of an HTTP/2 connection, for tests: h2's own state machine, and no I/O.

`Peer` keeps the rules of HTTP/2 unless it is asked to send raw frames. `Wire` ties a `Peer` to the
`Http2Connection` under test and carries their bytes to and fro until neither has anything to say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import h2.events as h2e
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError, StreamClosedError
from h2.settings import SettingCodes, Settings
from hyperframe.frame import Frame, GoAwayFrame, RstStreamFrame

from trio_sched.etcd_shim.channel.http2 import Http2Connection
from trio_sched.etcd_shim.channel.http2.events import Event
from trio_sched.etcd_shim.channel.http2.messages import MessageDecoder, encode_message

__all__ = ["GRPC", "REQUEST", "Peer", "Request", "Wire", "call_headers"]

Fields = Iterable[tuple[bytes, bytes]]

GRPC: Fields = ((b":status", b"200"), (b"content-type", b"application/grpc"))


def call_headers(path: bytes = b"/etcdserverpb.KV/Range") -> list[tuple[bytes, bytes]]:
    return [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"localhost:2379"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
    ]


REQUEST = call_headers()


@dataclass
class Request:
    """What the peer has received of one call."""

    headers: dict[bytes, bytes]
    messages: list[bytes] = field(default_factory=list)
    received: int = 0
    ended: bool = False
    reset: int | None = None
    decoder: MessageDecoder = field(default_factory=lambda: MessageDecoder(2**30))


@dataclass
class _Backlog:
    """What the peer wants to send for one call and has no window for yet."""

    body: bytearray = field(default_factory=bytearray)
    trailers: Fields | None = None


class Peer:
    """A server.

    Args:
        settings: in its SETTINGS frame.
        gives_windows: whether it gives windows back for what it receives.
    """

    def __init__(
        self, settings: Mapping[SettingCodes, int] | None = None, *, gives_windows: bool = True
    ) -> None:
        self.h2 = H2Connection(
            H2Configuration(
                client_side=False,
                header_encoding=None,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self.h2.local_settings = Settings(client=False, initial_values=dict(settings or {}))
        self.h2.max_inbound_frame_size = self.h2.local_settings.max_frame_size
        self.gives_windows = gives_windows
        self.requests: dict[int, Request] = {}
        self.accepted: set[int] = set()
        self.order: list[int] = []  # the calls of the DATA frames, as they came
        self.pings = 0
        self.resets: list[tuple[int, int]] = []
        self.goaways = 0
        self.frames: list[tuple[int, int]] = []  # type and call of each frame that came
        self._unparsed = bytearray()
        self._preface = 24
        self._backlogs: dict[int, _Backlog] = {}
        self._output = bytearray()

    def start(self) -> None:
        self.h2.initiate_connection()

    # ---- what the client says ------------------------------------------------

    def receive(self, data: bytes) -> list[h2e.Event]:
        self._note_frames(data)
        events = self.h2.receive_data(data)
        for event in events:
            self._take(event)
        self._pump()
        return events

    def _note_frames(self, data: bytes) -> None:
        """Count what h2 would not report, such as a second reset of a call."""
        self._unparsed += data
        if self._preface and len(self._unparsed) >= self._preface:
            del self._unparsed[: self._preface]
            self._preface = 0
        while not self._preface and len(self._unparsed) >= 9:
            end = 9 + int.from_bytes(self._unparsed[:3])
            if len(self._unparsed) < end:
                return
            self.frames.append((self._unparsed[3], int.from_bytes(self._unparsed[5:9])))
            del self._unparsed[:end]

    def reset_frames(self, stream_id: int) -> int:
        """How many RST_STREAM frames came for a call."""
        return self.frames.count((RstStreamFrame.type, stream_id))

    def _take(self, event: h2e.Event) -> None:
        match event:
            case h2e.RequestReceived():
                self.requests[event.stream_id] = Request(dict(event.headers))
            case h2e.DataReceived():
                self._take_data(event)
            case h2e.StreamEnded():
                self.requests[event.stream_id].ended = True
            case h2e.StreamReset():
                self.requests[event.stream_id].reset = int(event.error_code)
                self.resets.append((event.stream_id, int(event.error_code)))
                self._backlogs.pop(event.stream_id, None)
            case h2e.PingReceived():
                self.pings += 1
            case h2e.ConnectionTerminated():
                self.goaways += 1

    def _take_data(self, event: h2e.DataReceived) -> None:
        request = self.requests[event.stream_id]
        request.received += len(event.data)
        request.messages += request.decoder.feed(event.data)
        if event.data:
            self.order.append(event.stream_id)
        if self.gives_windows:
            self.give(event.stream_id, event.flow_controlled_length)

    def give(self, stream_id: int, size: int) -> None:
        """Let the client send `size` more bytes of a call, and on the connection."""
        if size:
            self.h2.increment_flow_control_window(size)
            try:
                self.h2.increment_flow_control_window(size, stream_id)
            except (StreamClosedError, KeyError):  # h2 forgets a closed call after a while
                return

    # ---- what the server says --------------------------------------------------

    def take_output(self) -> bytes:
        self._output += self.h2.data_to_send()
        output, self._output = bytes(self._output), bytearray()
        return output

    def accept(self, stream_id: int, fields: Fields = GRPC) -> None:
        """Send the head of an answer."""
        self.accepted.add(stream_id)
        self.h2.send_headers(stream_id, fields)

    def message(self, stream_id: int, payload: bytes) -> None:
        self.body(stream_id, encode_message(payload))

    def body(self, stream_id: int, data: bytes) -> None:
        """Send bytes of an answer, as the windows allow."""
        self._backlogs.setdefault(stream_id, _Backlog()).body += data
        self._pump()

    def finish(self, stream_id: int, status: bytes = b"0", message: bytes | None = None) -> None:
        """Send the trailers, after the bytes that wait."""
        trailers = [(b"grpc-status", status)]
        if message is not None:
            trailers.append((b"grpc-message", message))
        self._backlogs.setdefault(stream_id, _Backlog()).trailers = trailers
        self._pump()

    def answer(self, stream_id: int, payload: bytes = b"") -> None:
        """Send a whole answer of one message."""
        self.accept(stream_id)
        self.message(stream_id, payload)
        self.finish(stream_id)

    def refuse(self, stream_id: int, status: bytes, message: bytes | None = None) -> None:
        """Send an answer of trailers only."""
        fields = [*GRPC, (b"grpc-status", status)]
        if message is not None:
            fields.append((b"grpc-message", message))
        self.h2.send_headers(stream_id, fields, end_stream=True)

    def reset(self, stream_id: int, code: int = ErrorCodes.INTERNAL_ERROR) -> None:
        self._backlogs.pop(stream_id, None)
        self.h2.reset_stream(stream_id, code)

    def goaway(
        self,
        last_stream_id: int,
        code: int = ErrorCodes.NO_ERROR,
        reason: bytes = b"",
    ) -> None:
        """Send GOAWAY, and go on: h2's own would close the connection."""
        self.raw(GoAwayFrame(0, last_stream_id, code, reason))

    def raw(self, frame: Frame) -> None:
        """Send a frame behind the back of the state machine."""
        self.raw_bytes(frame.serialize())

    def raw_bytes(self, data: bytes) -> None:
        self._output += self.h2.data_to_send()
        self._output += data

    def unsent(self, stream_id: int) -> int:
        """How many bytes of an answer wait for a window."""
        backlog = self._backlogs.get(stream_id)
        return len(backlog.body) if backlog is not None else 0

    def _pump(self) -> None:
        for stream_id in tuple(self._backlogs):
            try:
                self._pump_call(stream_id, self._backlogs[stream_id])
            except ProtocolError:
                del self._backlogs[stream_id]
                raise

    def _pump_call(self, stream_id: int, backlog: _Backlog) -> None:
        while backlog.body:
            window = self.h2.local_flow_control_window(stream_id)
            room = min(window, self.h2.max_outbound_frame_size, len(backlog.body))
            if room <= 0:
                return
            self.h2.send_data(stream_id, bytes(backlog.body[:room]))
            del backlog.body[:room]
        if backlog.trailers is not None:
            self.h2.send_headers(stream_id, backlog.trailers, end_stream=True)
            del self._backlogs[stream_id]


class Wire:
    """A `Http2Connection` and a `Peer`, and the bytes between them."""

    def __init__(self, client: Http2Connection | None = None, peer: Peer | None = None) -> None:
        self.client = client or Http2Connection()
        self.peer = peer or Peer()
        self.events: list[Event] = []
        self.client.start()
        self.peer.start()

    def exchange(self) -> list[Event]:
        """Carry bytes until all is quiet; return the client's new events."""
        news: list[Event] = []
        while True:
            request, answer = self.client.take_output(), self.peer.take_output()
            if not request and not answer:
                self.events += news
                return news
            if request:
                self.peer.receive(request)
            if answer:
                news += self.client.receive(answer)

    def call(self, payload: bytes | None = b"", *, end: bool = True) -> int:
        """Begin a call, by default a unary one, and let it arrive."""
        stream_id = self.client.open(REQUEST)
        assert stream_id is not None
        if payload is not None:
            self.client.send(stream_id, payload, end=end)
        self.exchange()
        return stream_id
