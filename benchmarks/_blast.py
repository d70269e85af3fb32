"""Puts keys for others to watch, as fast as etcd takes them and at next to no cost.

Theory of operation
-------------------
With two cores, a client that puts would take from the one under test what it needs itself. So the
puts of a burst are bytes of HTTP/2 that are made in one go and sent in one write, and what etcd
answers is thrown away. That is enough of the protocol, because a burst is small: it stays below
each window that etcd gives, the window that we give lasts for two gigabytes of answers, and etcd
minds neither that its settings nor that its pings are not acknowledged. Whether the puts worked is
seen by those who watch.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import trio

from trio_sched.etcd_shim._pb import messages_pb2 as pb

__all__ = ["Blaster", "open_blaster"]

_DATA, _HEADERS, _SETTINGS, _WINDOW_UPDATE = 0, 1, 4, 8
_END_STREAM, _END_HEADERS = 1, 4
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_WIDE_WINDOW = (2**31 - 1 - 65_535).to_bytes(4, "big")


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    head = len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big")
    return head + payload


def _literal(name: bytes, value: bytes) -> bytes:
    """Return a header that neither side need remember, spelt out."""
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


def _header_block(address: str) -> bytes:
    return (
        b"\x83\x86"  # :method POST and :scheme http have numbers
        + _literal(b":path", b"/etcdserverpb.KV/Put")
        + _literal(b":authority", address.encode())
        + _literal(b"content-type", b"application/grpc")
        + _literal(b"te", b"trailers")
    )


class Blaster:
    """A connection that only puts. Made by `open_blaster`."""

    def __init__(self, stream: trio.abc.SendStream, address: str) -> None:
        self._stream = stream
        self._headers = _header_block(address)
        self._next_id = 1

    async def put(self, prefix: bytes, count: int) -> None:
        """Put `count` keys that begin with `prefix`; return when that was sent to etcd."""
        await self._stream.send_all(b"".join(self._request(prefix, n) for n in range(count)))

    def _request(self, prefix: bytes, number: int) -> bytes:
        stream_id, self._next_id = self._next_id, self._next_id + 2
        message = pb.PutRequest(key=prefix + b"%02d" % (number % 100), value=b"0123456789")
        body = message.SerializeToString()
        return _frame(_HEADERS, _END_HEADERS, stream_id, self._headers) + _frame(
            _DATA, _END_STREAM, stream_id, b"\0" + len(body).to_bytes(4, "big") + body
        )


@asynccontextmanager
async def open_blaster(address: str) -> AsyncIterator[Blaster]:
    """Connect to ``HOST:PORT``."""
    host, _, port = address.rpartition(":")
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        greeting = _frame(_SETTINGS, 0, 0, b"") + _frame(_WINDOW_UPDATE, 0, 0, _WIDE_WINDOW)
        await stream.send_all(_PREFACE + greeting)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_discard, stream)
            yield Blaster(stream, address)
            nursery.cancel_scope.cancel()


async def _discard(stream: trio.abc.ReceiveStream) -> None:
    with suppress(trio.BrokenResourceError):
        while await stream.receive_some():
            pass
