"""What a client and an etcd in memory say to each other in place of HTTP/2: calls in frames.

A frame has a kind, the call's number and a length. There are no windows and no header tables;
but there are pings, resets, GOAWAY and statuses, so all of the channel above works as it does
on a network.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from grpclib.const import Status

from trio_sched.etcd_shim.channel import ClientProtocol
from trio_sched.etcd_shim.channel.http2 import events as e
from trio_sched.etcd_shim.errors import ConnectionLost, RpcError, rpc_error

__all__ = ["Frame", "FrameReader", "Kind", "MemoryProtocol", "decode_headers", "frame", "status"]

_HEAD: Final = struct.Struct(">BII")
_STATUS: Final = struct.Struct(">B")
_LAST: Final = struct.Struct(">I")
_MAX_CALLS: Final = 2**31


class Kind(enum.IntEnum):
    """What a frame is about."""

    OPEN = 1
    MESSAGE = 2
    END = 3
    RESET = 4
    PING = 5
    PONG = 6
    SETTINGS = 7
    STATUS = 8
    GOAWAY = 9


class Frame(NamedTuple):
    """A frame."""

    kind: int
    call: int
    payload: bytes


def frame(kind: Kind, call: int = 0, payload: bytes = b"") -> bytes:
    """Return a frame's bytes."""
    return _HEAD.pack(kind, call, len(payload)) + payload


def status(call: int, error: RpcError | None = None) -> bytes:
    """Return the frame that ends a call."""
    if error is None:
        return frame(Kind.STATUS, call, _STATUS.pack(0))
    return frame(Kind.STATUS, call, _STATUS.pack(error.status.value) + error.message.encode())


def goaway(last_call: int) -> bytes:
    """Return the frame that says that later calls are not looked at."""
    return frame(Kind.GOAWAY, 0, _LAST.pack(last_call))


class FrameReader:
    """Cuts bytes into frames."""

    __slots__ = ("_input",)

    def __init__(self) -> None:
        self._input = b""

    def feed(self, data: bytes) -> list[Frame]:
        """Take bytes and return the frames that are complete with them."""
        if self._input:
            data = self._input + data
        frames: list[Frame] = []
        start, size = 0, len(data)
        while size - start >= _HEAD.size:
            kind, call, length = _HEAD.unpack_from(data, start)
            end = start + _HEAD.size + length
            if end > size:
                break
            frames.append(Frame(kind, call, data[start + _HEAD.size : end]))
            start = end
        self._input = data[start:]
        return frames


@lru_cache(maxsize=256)
def _encode_headers(headers: tuple[tuple[bytes, bytes], ...]) -> bytes:
    return b"\0".join(part for header in headers for part in header)


@lru_cache(maxsize=256)
def decode_headers(payload: bytes) -> dict[bytes, bytes]:
    """Return the headers of a call."""
    parts = payload.split(b"\0")
    return dict(zip(parts[::2], parts[1::2], strict=True))


class MemoryProtocol(ClientProtocol):
    """A client's half of it; see `ClientProtocol` for what the methods do."""

    def __init__(self) -> None:
        self._output = bytearray()
        self._reader = FrameReader()
        self._last_call = -1
        self._open: set[int] = set()
        self._closed = False

    max_calls = _MAX_CALLS
    held_back = False
    awaits_answer = False  # from outside; what comes from a member in memory comes by trio's clock

    @property
    def output_size(self) -> int:
        """How many bytes wait to be taken."""
        return len(self._output)

    def start(self) -> None:
        """Say nothing: the server begins."""

    def receive(self, data: bytes) -> list[e.Event]:
        """Take bytes from the server and return what they mean."""
        events: list[e.Event] = []
        for one in self._reader.feed(data):
            self._take(one, events)
        return events

    def _take(self, one: Frame, events: list[e.Event]) -> None:
        kind, call, payload = one
        if kind == Kind.MESSAGE:
            if call in self._open:
                events.append(e.Message(call, payload))
        elif kind == Kind.STATUS:
            if call in self._open:
                self._open.discard(call)
                code, words = Status(payload[0]), payload[1:].decode()
                error = rpc_error(code, words) if code is not Status.OK else None
                events.append(e.CallEnded(call, error))
        elif kind == Kind.SETTINGS:
            events.append(e.SettingsChanged())
        elif kind == Kind.GOAWAY:
            events.append(e.GoAway(_LAST.unpack(payload)[0], 0, b""))

    def receive_eof(self) -> list[e.Event]:
        """Take the end of the server's bytes."""
        return [e.ConnectionBroken(ConnectionLost("the server closed the connection"))]

    def take_output(self) -> bytes:
        """Return the bytes that are to be sent."""
        output = bytes(self._output)
        self._output.clear()
        return output

    def resume(self) -> list[e.Event]:
        """Do nothing: nothing is held back."""
        return []

    def open(self, headers: Sequence[tuple[bytes, bytes]]) -> int | None:
        """Begin a call."""
        self._last_call += 2
        self._open.add(self._last_call)
        self._output += frame(Kind.OPEN, self._last_call, _encode_headers(tuple(headers)))
        return self._last_call

    def send(self, stream_id: int, payload: bytes, *, end: bool) -> bool:
        """Send a message."""
        self._output += frame(Kind.MESSAGE, stream_id, payload)
        return self.end(stream_id) if end else True

    def end(self, stream_id: int) -> bool:
        """End our half of a call."""
        self._output += frame(Kind.END, stream_id)
        return True

    def reset(self, stream_id: int) -> None:
        """End a call."""
        self._open.discard(stream_id)
        self._output += frame(Kind.RESET, stream_id)

    def consumed(self, stream_id: int, payload: bytes) -> None:
        """Do nothing: there are no windows."""

    def ping(self, payload: bytes) -> None:
        """Ask the server whether it is there."""
        self._output += frame(Kind.PING, 0, payload)

    def close(self) -> None:
        """Say nothing: the end of the bytes says it."""
