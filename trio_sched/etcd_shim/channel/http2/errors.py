"""Error codes (RFC 9113, 7) and the two kinds of errors that HTTP/2 knows (5.4).

Inside this package they are raised, and say which section was broken. They never
leave it: `Http2Connection.receive` turns them into events.
"""

from __future__ import annotations

import enum

__all__ = ["ConnectionFault", "ErrorCode", "Fault", "StreamFault", "name_of"]


class ErrorCode(enum.IntEnum):
    """RFC 9113, 7."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


def name_of(code: int) -> str:
    """Return the name of an error code; its number if it has none (RFC 9113, 7)."""
    try:
        return ErrorCode(code).name
    except ValueError:
        return hex(code)


class Fault(Exception):
    """The peer broke a rule.

    Attributes:
        code: what the peer is sent.
        section: of RFC 9113, unless it names another document.
    """

    def __init__(self, code: ErrorCode, section: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.section = section

    def __repr__(self) -> str:
        return f"{self.code.name}: {self} (RFC 9113, {self.section})"


class ConnectionFault(Fault):
    """The connection cannot go on: GOAWAY (RFC 9113, 5.4.1)."""


class StreamFault(Fault):
    """One stream cannot go on: RST_STREAM (RFC 9113, 5.4.2)."""
