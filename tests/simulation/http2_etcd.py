"""The etcd in memory behind HTTP/2: the channel's own bytes, and h2 as the other half.

Only the network is not there. So what concerns the channel can be shown without a socket.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import ClassVar

from grpclib.const import Status
from h2 import events as h2e
from h2.config import H2Configuration
from h2.connection import H2Connection

from trio_sched.etcd_shim.channel import ClientProtocol, Transport
from trio_sched.etcd_shim.channel.http2 import Http2Connection, connection_preface
from trio_sched.etcd_shim.channel.http2.messages import MessageDecoder, encode_message
from trio_sched.simulation import MemoryEtcd
from trio_sched.simulation.memory_cluster import Member
from trio_sched.simulation.memory_server import ServerSession
from trio_sched.simulation.memory_wire import Frame, FrameReader, Kind, frame
from trio_sched.simulation.network import MakeSession, MemoryTransport

__all__ = ["Http2MemoryEtcd"]

_LIMIT = 64 * 2**20


class Http2Session:
    """A member's half of a connection, as h2 has it; calls go to a `ServerSession` behind it."""

    def __init__(
        self, member: Member, send: Callable[[bytes], None], on_close: Callable[[], None]
    ) -> None:
        self._send = send
        self._h2 = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        self._h2.initiate_connection()
        self._decoders: dict[int, MessageDecoder] = {}
        self._unsent: dict[int, bytearray] = {}
        self._ends: dict[int, list[tuple[str, str]]] = {}  # trailers of what is to end
        self._began: set[int] = set()
        self._frames = FrameReader()
        self._inner = ServerSession(member, self._take_answer, on_close)
        self._flush()

    # ---- from the client

    def receive(self, data: bytes) -> None:
        for event in self._h2.receive_data(data):
            self._take(event)
        for stream in [*self._unsent]:
            self._push(stream)
        self._flush()

    def close(self) -> None:
        self._inner.close()

    def _take(self, event: h2e.Event) -> None:
        match event:
            case h2e.RequestReceived():
                assert event.headers is not None
                headers = b"\0".join(part for header in event.headers for part in header)
                self._decoders[event.stream_id] = MessageDecoder(_LIMIT)
                self._inner.receive(frame(Kind.OPEN, event.stream_id, headers))
            case h2e.DataReceived():
                size = event.flow_controlled_length
                self._h2.acknowledge_received_data(size, event.stream_id)
                for message in self._decoders[event.stream_id].feed(event.data):
                    self._inner.receive(frame(Kind.MESSAGE, event.stream_id, message))
            case h2e.StreamEnded():
                self._inner.receive(frame(Kind.END, event.stream_id))
            case h2e.StreamReset():
                self._unsent.pop(event.stream_id, None)
                self._ends.pop(event.stream_id, None)
                self._inner.receive(frame(Kind.RESET, event.stream_id))

    # ---- from the member

    def _take_answer(self, data: bytes) -> None:
        for one in self._frames.feed(data):
            if one.kind == Kind.MESSAGE:
                self._begin(one.call)
                self._unsent.setdefault(one.call, bytearray()).extend(encode_message(one.payload))
                self._push(one.call)
            elif one.kind == Kind.STATUS:
                self._end(one)
        self._flush()

    def _begin(self, stream: int) -> None:
        if stream not in self._began:
            self._began.add(stream)
            self._h2.send_headers(
                stream, [(":status", "200"), ("content-type", "application/grpc")]
            )

    def _end(self, one: Frame) -> None:
        (code,) = struct.unpack_from(">B", one.payload)
        trailers = [("grpc-status", str(Status(code).value))]
        if words := one.payload[1:].decode():
            trailers.append(("grpc-message", words))
        self._begin(one.call)
        self._ends[one.call] = trailers
        self._push(one.call)

    def _push(self, stream: int) -> None:
        """Send what the windows allow, and the trailers behind it."""
        waiting = self._unsent.get(stream, bytearray())
        while waiting:
            window = self._h2.local_flow_control_window(stream)
            room = min(window, self._h2.max_outbound_frame_size)
            if room <= 0:
                return
            self._h2.send_data(stream, bytes(waiting[:room]))
            del waiting[:room]
        self._unsent.pop(stream, None)
        trailers = self._ends.pop(stream, None)
        if trailers is not None:
            self._h2.send_headers(stream, trailers, end_stream=True)

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data:
            self._send(data)


class Http2Transport(MemoryTransport):
    """Connects to the etcd in memory by HTTP/2."""

    make_session: ClassVar[MakeSession] = Http2Session

    def protocol(self, max_message_size: int) -> ClientProtocol:
        return Http2Connection(max_message_size=max_message_size)

    def preface(self) -> bytes:
        return connection_preface()


class Http2MemoryEtcd(MemoryEtcd):
    """An etcd in memory whose clients speak HTTP/2."""

    def _transport(self, host: str) -> Transport:
        return Http2Transport(self.network, host)
