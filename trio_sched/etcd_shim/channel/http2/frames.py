"""Frames: their types and flags (RFC 9113, 6), and the bytes of those that we send."""

from __future__ import annotations

import struct
from typing import Final

from trio_sched.etcd_shim.channel.http2.errors import ConnectionFault, ErrorCode

__all__ = [
    "ACK", "CONTINUATION", "DATA", "DEFAULT_FRAME_SIZE", "END_HEADERS", "END_STREAM", "FRAME_HEAD",
    "FRAME_HEAD_SIZE", "GOAWAY", "HEADERS", "MAX_STREAM_ID", "PADDED", "PING", "PREFACE",
    "PRIORITY", "PUSH_PROMISE", "RST_STREAM", "SETTINGS", "STREAM_ID_MASK", "WINDOW_UPDATE",
    "WITH_PRIORITY", "frame", "goaway_frame", "header_frames", "reset_frame", "strip_padding",
    "window_update_frame",
]  # fmt: skip

DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
WITH_PRIORITY: Final = 0x20

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # 3.4
DEFAULT_FRAME_SIZE: Final = 2**14  # 4.2; the largest that we accept, too
MAX_STREAM_ID: Final = 2**31 - 1  # 5.1.1
STREAM_ID_MASK: Final = 2**31 - 1  # the bit above is reserved, and ignored: 4.1

FRAME_HEAD: Final = struct.Struct(">BHBBL")  # length in 24 bits, type, flags, stream: 4.1
FRAME_HEAD_SIZE: Final = FRAME_HEAD.size
_TWO_NUMBERS: Final = struct.Struct(">LL")


def frame(kind: int, flags: int, stream_id: int, body: bytes = b"") -> bytes:
    """Return a frame (RFC 9113, 4.1)."""
    size = len(body)
    return FRAME_HEAD.pack(size >> 16, size & 0xFFFF, kind, flags, stream_id) + body


def header_frames(stream_id: int, block: bytes, limit: int) -> bytes:
    """Return the HEADERS frame of a request, and its CONTINUATIONs (RFC 9113, 4.3).

    Args:
        stream_id: of the request, whose body follows.
        block: the encoded header block.
        limit: the largest frame that the server takes, in bytes.
    """
    if len(block) <= limit:
        return frame(HEADERS, END_HEADERS, stream_id, block)
    parts = []
    for start in range(0, len(block), limit):
        kind = CONTINUATION if start else HEADERS
        flags = END_HEADERS if start + limit >= len(block) else 0
        parts.append(frame(kind, flags, stream_id, block[start : start + limit]))
    return b"".join(parts)


def reset_frame(stream_id: int, code: ErrorCode) -> bytes:
    """Return a RST_STREAM frame (RFC 9113, 6.4)."""
    return frame(RST_STREAM, 0, stream_id, code.to_bytes(4))


def goaway_frame(code: ErrorCode) -> bytes:
    """Return a GOAWAY frame (RFC 9113, 6.8); the server has opened no streams."""
    return frame(GOAWAY, 0, 0, _TWO_NUMBERS.pack(0, code))


def window_update_frame(stream_id: int, increment: int) -> bytes:
    """Return a WINDOW_UPDATE frame (RFC 9113, 6.9)."""
    return frame(WINDOW_UPDATE, 0, stream_id, increment.to_bytes(4))


def strip_padding(flags: int, body: bytes) -> bytes:
    """Return a DATA or HEADERS frame's content without padding and priority.

    Raises:
        ConnectionFault: there is more padding than frame, or it is cut short.
    """
    start, end = 0, len(body)
    if flags & PADDED:
        if not body:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "4.2", "no length of its padding")
        start, end = 1, end - body[0]
    if flags & WITH_PRIORITY:
        start += 5
        if start > len(body):
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "4.2", "no priority in HEADERS")
    if end < start:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "6.1", "more padding than frame")
    return body[start:end]
