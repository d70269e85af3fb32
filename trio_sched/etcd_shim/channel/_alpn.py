"""Offering HTTP/2 by ALPN, without changing what a context of the user's offers to others.

Theory of operation
-------------------
What a TLS client offers is a setting of its context, and a connection copies it when it is made
(OpenSSL's ``SSL_new``). Python can set it, for all connections to come, and cannot read it. So the
context is given ``h2``, the connection is made, and the context is given back what it had. What
that was is read out of what it would send: a connection that is never carried anywhere begins its
handshake, and its first message, ClientHello, has the list in clear (RFC 8446, 4.1.2; RFC 7301,
3.1).

All that happens without a checkpoint. Another thread that makes a connection of the same context in
that moment offers ``h2``, too.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

__all__ = ["offered_protocols", "offering_h2"]

_H2: Final = "h2"
_HELLO: Final = 5 + 4 + 2 + 32  # bytes: heads of record and message, version, random
_ALPN: Final = 16


@contextmanager
def offering_h2(context: ssl.SSLContext, hostname: str) -> Iterator[None]:
    """Let a connection that is made in this block offer ``h2`` and nothing else.

    Args:
        context: that of the connection.
        hostname: whom the connection is to.
    """
    before = offered_protocols(context, hostname)
    context.set_alpn_protocols([_H2])
    try:
        yield
    finally:
        with suppress(MemoryError):  # OpenSSL 1.1 says that of an empty list, and takes it
            context.set_alpn_protocols(before)


def offered_protocols(context: ssl.SSLContext, hostname: str) -> list[str]:
    """Return what a client of a context offers by ALPN."""
    sent = ssl.MemoryBIO()
    connection = context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=hostname)
    with suppress(ssl.SSLWantReadError):
        connection.do_handshake()
    return _protocols(sent.read())


def _protocols(hello: bytes) -> list[str]:
    """Return the list in a ClientHello that fills one record."""
    _, rest = _split(hello[_HELLO:], 1)  # session id
    _, rest = _split(rest, 2)  # cipher suites
    _, rest = _split(rest, 1)  # compression methods
    extensions, _ = _split(rest, 2)
    while extensions:
        kind = int.from_bytes(extensions[:2], "big")
        data, extensions = _split(extensions[2:], 2)
        if kind == _ALPN:
            return list(_names(_split(data, 2)[0]))
    return []


def _names(data: bytes) -> Iterator[str]:
    while data:
        name, data = _split(data, 1)
        yield name.decode("ascii")


def _split(data: bytes, width: int) -> tuple[bytes, bytes]:
    """Return what is behind a length of so many bytes, and the rest."""
    end = width + int.from_bytes(data[:width], "big")
    return data[width:end], data[end:]
