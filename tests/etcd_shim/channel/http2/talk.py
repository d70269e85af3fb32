"""A client under test, and a server without rules, that says what a test wants frame by frame."""

from __future__ import annotations

from hpack import Decoder, Encoder

from trio_sched.etcd_shim.channel.http2 import Http2Connection, frames as f
from trio_sched.etcd_shim.channel.http2.errors import ErrorCode
from trio_sched.etcd_shim.channel.http2.events import CallEnded, ConnectionBroken, Message
from trio_sched.etcd_shim.channel.http2.messages import encode_message
from trio_sched.etcd_shim.errors import EtcdError, RemoteProtocolError

__all__ = ["GRPC", "OK", "REQUEST", "Fields", "Frame", "Talk", "settings"]

Fields = tuple[tuple[bytes, bytes], ...]
Frame = tuple[int, int, int, bytes]  # type, flags, stream, body

REQUEST: Fields = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/etcdserverpb.KV/Put"),
    (b":authority", b"127.0.0.1:2379"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
)
GRPC: Fields = ((b":status", b"200"), (b"content-type", b"application/grpc"))
OK: Fields = ((b"grpc-status", b"0"),)
WHOLE = f.END_HEADERS | f.END_STREAM


def settings(*values: tuple[int, int]) -> bytes:
    """Return a SETTINGS frame."""
    body = b"".join(key.to_bytes(2) + value.to_bytes(4) for key, value in values)
    return f.frame(f.SETTINGS, 0, 0, body)


class Talk:
    """Begun by both sides, unless `first` is something else than SETTINGS."""

    def __init__(self, first: bytes = settings(), **options: int) -> None:  # bytes do not change
        self.client = Http2Connection(**options)
        self.encoder = Encoder()
        self.decoder = Decoder()
        self.client.start()
        self.client.take_output()
        self.client.receive(first)
        self.client.take_output()

    def call(self, payload: bytes = b"question", *, end: bool = True) -> int:
        """Begin a call, and return its stream."""
        stream_id = self.client.open(REQUEST)
        assert stream_id is not None
        self.client.send(stream_id, payload, end=end)
        return stream_id

    def sent(self) -> list[Frame]:
        """Return the frames that the client has sent since the last time."""
        data, frames = self.client.take_output(), list[Frame]()
        while data:
            end = 9 + int.from_bytes(data[:3])
            frames.append((data[3], data[4], int.from_bytes(data[5:9]), data[9:end]))
            data = data[end:]
        return frames

    def resets(self) -> list[tuple[int, ErrorCode]]:
        """Return the streams that the client has reset since the last time, and why."""
        return [
            (stream_id, ErrorCode(int.from_bytes(body)))
            for kind, _, stream_id, body in self.sent()
            if kind == f.RST_STREAM
        ]

    # ---- what the server says ------------------------------------------------

    def head(self, stream_id: int, fields: Fields = GRPC, flags: int = f.END_HEADERS) -> bytes:
        return f.frame(f.HEADERS, flags, stream_id, self.encoder.encode(fields))

    def trailers(self, stream_id: int, fields: Fields = OK, flags: int = WHOLE) -> bytes:
        return f.frame(f.HEADERS, flags, stream_id, self.encoder.encode(fields))

    def message(self, stream_id: int, payload: bytes = b"answer", flags: int = 0) -> bytes:
        return f.frame(f.DATA, flags, stream_id, encode_message(payload))

    def answer(self, stream_id: int, payload: bytes = b"answer") -> bytes:
        return self.head(stream_id) + self.message(stream_id, payload) + self.trailers(stream_id)

    # ---- what must come of it --------------------------------------------------

    def expect_answer(self, data: bytes, stream_id: int, payload: bytes = b"answer") -> None:
        """Deliver bytes that end a call well, with one message."""
        assert self.client.receive(data) == [
            Message(stream_id, payload),
            CallEnded(stream_id, None),
        ]

    def expect_fine(self) -> None:
        """Make a call, as if nothing had been; header blocks are still understood."""
        call = self.call()
        self.expect_answer(self.answer(call), call)

    def expect_break(self, data: bytes, code: ErrorCode) -> None:
        """Deliver bytes that must end the connection (RFC 9113, 5.4.1)."""
        events = self.client.receive(data)
        last = events[-1]
        assert isinstance(last, ConnectionBroken)
        assert isinstance(last.error, RemoteProtocolError)
        kind, _, stream_id, body = self.sent()[-1]
        assert (kind, stream_id, ErrorCode(int.from_bytes(body[4:8]))) == (f.GOAWAY, 0, code)
        assert self.client.receive(data) == []

    def expect_end(
        self, data: bytes, stream_id: int, code: ErrorCode | None, others: tuple[int, ...] = ()
    ) -> EtcdError:
        """Deliver bytes that must end one call, by a RST_STREAM with that code (5.4.2)."""
        self.sent()
        end = self.client.receive(data)[-1]
        assert isinstance(end, CallEnded)
        assert end.stream_id == stream_id
        assert end.error is not None
        assert self.resets() == ([] if code is None else [(stream_id, code)])
        for other in others:
            self.expect_answer(self.answer(other), other)
        self.expect_fine()
        return end.error
