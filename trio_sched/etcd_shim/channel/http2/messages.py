"""gRPC's framing of messages: one byte of flags, four of length, the message."""

from __future__ import annotations

import struct

from trio_sched.etcd_shim.errors import EtcdError, MessageTooLarge, RemoteProtocolError

__all__ = ["PREFIX_SIZE", "MessageDecoder", "encode_message", "whole_message"]

_PREFIX = struct.Struct(">BI")
PREFIX_SIZE = _PREFIX.size


def encode_message(payload: bytes) -> bytes:
    """Return `payload` as it goes into DATA frames, uncompressed."""
    return _PREFIX.pack(0, len(payload)) + payload


def whole_message(data: bytes, limit: int) -> bytes | None:
    """Return the message if `data` is exactly one; the common case."""
    size = len(data) - PREFIX_SIZE
    if size < 0 or size > limit:
        return None
    flags, length = _PREFIX.unpack_from(data)
    return data[PREFIX_SIZE:] if not flags and length == size else None


class MessageDecoder:
    """Cuts the bytes of DATA frames into messages. Pure.

    It stops at the first message that is not acceptable: `error` says why, and
    the messages before it are returned all the same, so that it makes no
    difference how the bytes were split.

    Args:
        limit: the largest message that is accepted, in bytes.
    """

    __slots__ = ("_buffer", "_limit", "error")

    def __init__(self, limit: int) -> None:
        self._buffer = bytearray()
        self._limit = limit
        self.error: EtcdError | None = None

    @property
    def partial(self) -> int:
        """How many bytes of a message that is not complete are kept."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes and return the messages that are complete with them."""
        if self.error is not None:
            return []
        self._buffer += data
        return self._cut()

    def _cut(self) -> list[bytes]:
        buffer = self._buffer
        messages = []
        start = 0
        while len(buffer) - start >= PREFIX_SIZE:
            flags, length = _PREFIX.unpack_from(buffer, start)
            self.error = self._check(flags, length)
            if self.error is not None:
                break
            end = start + PREFIX_SIZE + length
            if end > len(buffer):
                break
            messages.append(bytes(buffer[start + PREFIX_SIZE : end]))
            start = end
        del buffer[:start]
        return messages

    def _check(self, flags: int, length: int) -> EtcdError | None:
        if flags:
            return RemoteProtocolError(
                f"a message with flags {flags:#x}, though only uncompressed ones were asked for"
            )
        if length > self._limit:
            return MessageTooLarge(length, self._limit)
        return None
