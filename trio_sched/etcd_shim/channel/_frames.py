"""The frames that make up nearly all traffic, parsed and built without ceremony.

hyperframe makes an object with a set of flags of every frame, in several steps;
for the small frames of gRPC that costs as much as h2's state machines behind it.
h2's handlers need no more than a few attributes. So DATA, HEADERS, SETTINGS, PING
and WINDOW_UPDATE in their plain form, unpadded and without priorities, are read into
light objects that have just those. Anything else is hyperframe's.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

__all__ = [
    "DATA",
    "FRAME_HEADER_SIZE",
    "HEADERS",
    "PING",
    "SETTINGS",
    "WINDOW_UPDATE",
    "LightFrame",
    "data_frame",
    "light_frame",
    "parse_frame_header",
    "pong_frame",
    "request_frames",
]

FRAME_HEADER_SIZE: Final = 9
DATA: Final = 0
HEADERS: Final = 1
SETTINGS: Final = 4
PING: Final = 6
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

_END_STREAM: Final = 0x1
_ACK: Final = 0x1
_END_HEADERS: Final = 0x4

_HEADER = struct.Struct(">BHBBL")
_SETTING = struct.Struct(">HL")
_PING_SIZE: Final = 8
_INCREMENT_SIZE: Final = 4

# By type, what flags mean; a combination that is not here is hyperframe's.
_FLAGS: dict[int, dict[int, frozenset[str]]] = {
    DATA: {0: frozenset(), _END_STREAM: frozenset({"END_STREAM"})},
    HEADERS: {
        _END_HEADERS: frozenset({"END_HEADERS"}),
        _END_HEADERS | _END_STREAM: frozenset({"END_HEADERS", "END_STREAM"}),
    },
    SETTINGS: {0: frozenset(), _ACK: frozenset({"ACK"})},
    PING: {0: frozenset(), _ACK: frozenset({"ACK"})},
    WINDOW_UPDATE: {0: frozenset()},
}


@dataclass(slots=True)
class LightFrame:
    """What h2's handlers look at, of whatever kind the frame is."""

    stream_id: int
    flags: frozenset[str]
    data: bytes
    flow_controlled_length: int = 0
    window_increment: int = 0

    @property
    def opaque_data(self) -> bytes:
        """The payload of a PING."""
        return self.data

    @property
    def settings(self) -> dict[int, int]:
        """The values in SETTINGS."""
        return dict(_SETTING.iter_unpack(self.data))


def light_frame(kind: int, flags: int, stream_id: int, body: bytes) -> LightFrame | None:
    """Return the frame, of one of the five kinds, or None if it is not in a plain form."""
    names = _FLAGS[kind].get(flags)
    if names is None or stream_id >> 31:  # a bit that is reserved
        return None
    if kind in (DATA, HEADERS):
        return LightFrame(stream_id, names, body, len(body)) if stream_id else None
    if kind == PING:
        return LightFrame(0, names, body) if not stream_id and len(body) == _PING_SIZE else None
    if kind == SETTINGS:
        plain = not stream_id and len(body) % _SETTING.size == 0 and not (names and body)
        return LightFrame(0, names, body) if plain else None
    increment = int.from_bytes(body)
    if len(body) != _INCREMENT_SIZE or not 1 <= increment < 2**31:
        return None
    return LightFrame(stream_id, names, body, window_increment=increment)


def _frame_header(length: int, kind: int, flags: int, stream_id: int) -> bytes:
    """Return the nine bytes before a frame's body."""
    return _HEADER.pack(length >> 16, length & 0xFFFF, kind, flags, stream_id)


def parse_frame_header(raw: bytes | bytearray, start: int) -> tuple[int, int, int, int]:
    """Return length, type, flags and stream id of the frame that begins at `start`."""
    high, low, kind, flags, stream_id = _HEADER.unpack_from(raw, start)
    return (high << 16) | low, kind, flags, stream_id


def request_frames(stream_id: int, block: bytes, limit: int) -> bytes:
    """Return the HEADERS frame of a request that goes on, and what continues it."""
    if len(block) <= limit:
        return _frame_header(len(block), HEADERS, _END_HEADERS, stream_id) + block
    frames = []
    for start in range(0, len(block), limit):
        part = block[start : start + limit]
        kind = CONTINUATION if start else HEADERS
        flags = _END_HEADERS if start + limit >= len(block) else 0
        frames.append(_frame_header(len(part), kind, flags, stream_id) + part)
    return b"".join(frames)


def data_frame(stream_id: int, data: bytes, *, end: bool) -> bytes:
    """Return a DATA frame."""
    return _frame_header(len(data), DATA, _END_STREAM if end else 0, stream_id) + data


def pong_frame(payload: bytes) -> bytes:
    """Return the acknowledgement of a PING."""
    return _frame_header(len(payload), PING, _ACK, 0) + payload
