"""SETTINGS: what we send, and what the server may send (RFC 9113, 6.5)."""

from __future__ import annotations

import enum
import struct
from typing import Final

from trio_sched.etcd_shim.channel.http2.errors import ConnectionFault, ErrorCode

__all__ = [
    "DEFAULT_TABLE_SIZE",
    "DEFAULT_WINDOW",
    "MAX_HEADER_LIST",
    "MAX_WINDOW",
    "SettingCode",
    "our_settings",
    "parse_settings",
]


class SettingCode(enum.IntEnum):
    """RFC 9113, 6.5.2."""

    HEADER_TABLE_SIZE = 0x1
    ENABLE_PUSH = 0x2
    MAX_CONCURRENT_STREAMS = 0x3
    INITIAL_WINDOW_SIZE = 0x4
    MAX_FRAME_SIZE = 0x5
    MAX_HEADER_LIST_SIZE = 0x6


DEFAULT_WINDOW: Final = 2**16 - 1  # 6.9.2
MAX_WINDOW: Final = 2**31 - 1  # 6.9.1
DEFAULT_TABLE_SIZE: Final = 4096  # RFC 7541, 4.2 and 6.5.2
MAX_HEADER_LIST: Final = 2**16  # what we accept of a header list, in bytes: 10.5.1

_SETTING: Final = struct.Struct(">HL")

# The least and the most of each setting that has such bounds, and the error: 6.5.2. Of
# ENABLE_PUSH, a server may send no other value than 0.
_BOUNDS: Final = {
    SettingCode.ENABLE_PUSH: (0, 0, ErrorCode.PROTOCOL_ERROR),
    SettingCode.INITIAL_WINDOW_SIZE: (0, MAX_WINDOW, ErrorCode.FLOW_CONTROL_ERROR),
    SettingCode.MAX_FRAME_SIZE: (2**14, 2**24 - 1, ErrorCode.PROTOCOL_ERROR),
}


def our_settings(call_window: int) -> bytes:
    """Return the body of our SETTINGS frame.

    Args:
        call_window: how many bytes the server may send for a new stream.
    """
    values = ((SettingCode.ENABLE_PUSH, 0), (SettingCode.INITIAL_WINDOW_SIZE, call_window))
    return b"".join(
        _SETTING.pack(*value)
        for value in (*values, (SettingCode.MAX_HEADER_LIST_SIZE, MAX_HEADER_LIST))
    )


def parse_settings(body: bytes) -> list[tuple[int, int]]:
    """Return the settings in a frame's body, in their order; unknown ones, too.

    Raises:
        ConnectionFault: one has a value that it must not have.
    """
    if len(body) % _SETTING.size:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "6.5", f"SETTINGS of {len(body)} bytes")
    settings = list(_SETTING.iter_unpack(body))
    for key, value in settings:
        least, most, code = _BOUNDS.get(key, (0, 2**32 - 1, ErrorCode.PROTOCOL_ERROR))
        if not least <= value <= most:
            raise ConnectionFault(code, "6.5.2", f"setting {key:#x} of {value}")
    return settings
