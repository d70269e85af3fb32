"""Endpoints: the URLs of etcd members, and how a byte stream to one is opened."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from dataclasses import dataclass, field, replace
from functools import lru_cache
from ipaddress import ip_address
from typing import ClassVar, Final, Self
from urllib.parse import urlsplit

import trio

from trio_sched._support.arguments import check_text, shown
from trio_sched.etcd_shim.channel._alpn import offering_h2

__all__ = [
    "ByteStream",
    "Endpoint",
    "SocketByteStream",
    "TLSByteStream",
    "open_byte_stream",
    "resolve",
    "root_cause",
]

_MAX_NAME: Final = 253  # letters, in what DNS takes
_SCHEMES = "http://HOST:PORT, https://HOST:PORT or unix:///PATH"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an etcd member listens.

    Attributes:
        url: as it was given.
        scheme: ``http``, ``https`` or ``unix``.
        host: name or address; for ``unix``, the socket's path.
        port: TCP port; 0 for ``unix``.
        address: one of those that the resolver has for the host; empty if it was not asked.
        siblings: whether it has others.
    """

    url: str
    scheme: str
    host: str
    port: int
    address: str = ""
    siblings: bool = field(default=False, compare=False)

    @classmethod
    def parse(cls, url: str) -> Self:
        """Return the endpoint that a URL stands for.

        Raises:
            TypeError: it is not a string.
            ValueError: it is not one of the forms that are understood.
        """
        check_text("an endpoint", url)
        return cls(*_split(url))

    def __hash__(self) -> int:
        return hash(self.url)  # which a str remembers: each call looks its headers up

    @property
    def family(self) -> socket.AddressFamily | None:
        """Of the address, if it is a numeric one."""
        return _family(self.address or self.host)

    @property
    def authority(self) -> bytes:
        """The ``:authority`` of a request to it."""
        if self.scheme == "unix":
            return b"localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}".encode()

    @property
    def label(self) -> str:
        """What to call it where each address counts."""
        return f"{self.url} ({self.address})" if self.address else self.url

    def __str__(self) -> str:
        return self.url


@lru_cache(maxsize=64)
def _split(url: str) -> tuple[str, str, str, int]:
    """Return the fields of an `Endpoint`."""
    if any(letter < " " or letter == "\x7f" for letter in url):
        raise ValueError(
            f"endpoint {shown(_redacted(url))} holds a control character; use {_SCHEMES}"
        )
    try:
        parts = urlsplit(url)
        port = parts.port if parts.scheme != "unix" else None
    except ValueError:  # its words may hold a part of a password
        words = f"endpoint {shown(_redacted(url))} is not understood; use {_SCHEMES}"
        raise ValueError(words) from None
    if parts.scheme == "unix":
        path = parts.netloc + parts.path
        if not path:
            raise ValueError(f"endpoint {shown(url)} names no socket; use {_SCHEMES}")
        return url, "unix", path, 0
    extra = parts.path.strip("/") or parts.query or parts.fragment or parts.username
    if parts.scheme not in ("http", "https") or not parts.hostname or extra or port == 0:
        raise ValueError(f"endpoint {shown(_redacted(url))} is not understood; use {_SCHEMES}")
    if ":" not in parts.hostname:  # an address of IPv6 has no labels
        _check_labels(parts.hostname)
    return url, parts.scheme, parts.hostname, port or 2379


def _check_labels(host: str) -> None:
    """Raise ValueError for a name that no resolver takes."""
    try:
        name = host.removesuffix(".").encode("idna")
    except UnicodeError:
        name = b""
    if not 0 < len(name) <= _MAX_NAME:
        raise ValueError(
            f"host {shown(host)} of an endpoint is no name: it must be at most {_MAX_NAME} "
            "letters, in labels of 1 to 63 letters with dots between them"
        )


@lru_cache(maxsize=64)
def _family(host: str) -> socket.AddressFamily | None:
    try:
        version = ip_address(host).version
    except ValueError:
        return None
    return socket.AF_INET if version == 4 else socket.AF_INET6


def _redacted(url: str) -> str:
    """Leave out what stands before an ``@``, as it may be a password."""
    head, at, tail = url.rpartition("@")
    return f"{head.partition('//')[0]}//…@{tail}" if at else url


class ByteStream:
    """Bytes to and from a member. `send_nowait` is what a trio stream lacks.

    Attributes:
        tries: whether `send_nowait` ever sends anything.
    """

    __slots__ = ()

    tries: ClassVar[bool] = False

    def send_nowait(self, _data: bytes) -> int:
        """Send what fits without waiting and return how much that was."""
        return 0

    async def send_all(self, data: bytes) -> None:
        """Send all of it. Cancelled, it may have sent a part."""
        raise NotImplementedError

    async def receive_some(self) -> bytes:
        """Wait for bytes and return them; nothing means the end."""
        raise NotImplementedError

    def close(self) -> None:
        """Close it at once, without a closing handshake."""
        raise NotImplementedError


_RECEIVE_SIZE = 65536


class SocketByteStream(ByteStream):
    """A connected socket that does not block, so that it can be tried first."""

    __slots__ = ("_socket",)

    tries = True

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected

    def send_nowait(self, data: bytes) -> int:
        """Send what the kernel takes at once."""
        try:
            return self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            return 0

    async def send_all(self, data: bytes) -> None:
        """Send all of it, waiting for the kernel as needed."""
        await trio.lowlevel.checkpoint()
        view = memoryview(data)
        while view:
            try:
                view = view[self._socket.send(view) :]
            except (BlockingIOError, InterruptedError):
                await trio.lowlevel.wait_writable(self._socket)

    async def receive_some(self) -> bytes:
        """Wait until the kernel has bytes, and return them."""
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            try:
                return self._socket.recv(_RECEIVE_SIZE)
            except (BlockingIOError, InterruptedError):
                continue

    def close(self) -> None:
        """Close the socket."""
        trio.lowlevel.notify_closing(self._socket)
        self._socket.close()


class TLSByteStream(ByteStream):
    """TLS over a trio stream."""

    __slots__ = ("_stream",)

    def __init__(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        self._stream = stream

    async def send_all(self, data: bytes) -> None:
        """Send all of it."""
        await self._stream.send_all(data)

    async def receive_some(self) -> bytes:
        """Wait for bytes and return them."""
        return bytes(await self._stream.receive_some(_RECEIVE_SIZE))

    def close(self) -> None:
        """Close without TLS's closing handshake, as HTTP/2 has GOAWAY."""
        self._stream.transport_stream.socket.close()


async def resolve(endpoint: Endpoint) -> list[Endpoint]:
    """Return an endpoint for each address of one that holds a name.

    Raises:
        OSError: the resolver knows none.
        ValueError: it does not take such a name.
    """
    found = await trio.socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    addresses = dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found)
    siblings = len(addresses) > 1
    return [replace(endpoint, address=address, siblings=siblings) for address in addresses]


async def open_byte_stream(endpoint: Endpoint, ssl_context: ssl.SSLContext | None) -> ByteStream:
    """Connect to a member.

    Raises:
        OSError: it cannot be reached; `ssl.SSLError` is one, too.
        trio.BrokenResourceError: the TLS handshake failed; the cause says why.
    """
    if endpoint.scheme == "unix":
        return SocketByteStream(_taken_over(await trio.open_unix_socket(endpoint.host)))
    family = endpoint.family
    assert family is not None, "a name is resolved before"
    connected = await _connect(family, (endpoint.address or endpoint.host, endpoint.port))
    if endpoint.scheme == "http":
        return SocketByteStream(connected)
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(connected))
    context, host = ssl_context or ssl.create_default_context(), endpoint.host
    with offering_h2(context, host):
        tls = trio.SSLStream(stream, context, server_hostname=host, https_compatible=True)
    try:
        await tls.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(tls)
        raise
    return TLSByteStream(tls)


def _taken_over(stream: trio.SocketStream) -> socket.socket:
    """Take the socket out of a trio stream."""
    taken = socket.socket(fileno=stream.socket.detach())
    taken.settimeout(0)
    return taken


async def _connect(family: socket.AddressFamily, address: tuple[str, int]) -> socket.socket:
    """Connect to a numeric address: there is no name to resolve, and nothing to race.

    A checkpoint unless the peer answers at once, as one on this machine does.
    """
    fresh = socket.socket(family, socket.SOCK_STREAM)
    try:
        fresh.settimeout(0)
        fresh.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        error = fresh.connect_ex(address)
        if error == errno.EINPROGRESS:
            error = fresh.connect_ex(address)  # which says how far the first one has got
        if error in (errno.EINPROGRESS, errno.EALREADY):
            await trio.lowlevel.wait_writable(fresh)
            error = fresh.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error not in (0, errno.EISCONN):
            raise OSError(error, os.strerror(error))
    except BaseException:
        fresh.close()
        raise
    return fresh


def root_cause(exc: BaseException) -> BaseException:
    """Return what is behind trio's "all attempts failed" and "broken resource"."""
    inner = exc.__cause__
    if inner is None:
        return exc
    while isinstance(inner, BaseExceptionGroup):
        inner = inner.exceptions[0]
    return inner
