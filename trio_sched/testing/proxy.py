"""A TCP proxy between us and etcd that misbehaves on demand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import trio

from trio_sched.etcd_shim.channel import Endpoint

__all__ = ["FaultyLink", "open_faulty_link"]

_CHUNK = 65536


class FaultyLink:
    """Connections to one endpoint, through us. Made by `open_faulty_link`.

    Attributes:
        endpoint: the URL to connect to in place of the real one.
        target: the real one.
        connections: how many were made.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self._open: set[trio.CancelScope] = set()
        self._flowing = trio.Event()
        self._flowing.set()
        self._answering = trio.Event()
        self._answering.set()
        self._refusing = False
        self.endpoint = ""
        self.connections: int = 0

    def cut(self) -> None:
        """Close all connections; new ones are let through."""
        for scope in tuple(self._open):
            scope.cancel()

    def stall(self) -> None:
        """Let no byte through, either way; connections stay open, new ones too."""
        self._flowing = trio.Event()

    def mute(self) -> None:
        """Let requests through, and no answers."""
        self._answering = trio.Event()

    def refuse(self) -> None:
        """Close all connections, and each new one at once."""
        self._refusing = True
        self.cut()

    def heal(self) -> None:
        """Behave again. What was held back is let through."""
        self._refusing = False
        self._flowing.set()
        self._answering.set()

    async def serve(self, ours: trio.SocketStream) -> None:
        """Carry one connection to its end."""
        self.connections += 1
        async with ours:
            if self._refusing:
                return
            host, port = _address(self.target)
            try:
                theirs = await trio.open_tcp_stream(host, port)
            except OSError:
                return  # the endpoint is down, and so are we
            async with theirs, trio.open_nursery() as nursery:
                self._open.add(nursery.cancel_scope)
                try:
                    nursery.start_soon(self._pump, ours, theirs, self._flowing_only)
                    await self._pump(theirs, ours, self._answers_too)
                finally:
                    self._open.discard(nursery.cancel_scope)
                    nursery.cancel_scope.cancel()

    async def _flowing_only(self) -> None:
        await self._flowing.wait()

    async def _answers_too(self) -> None:
        await self._flowing.wait()
        await self._answering.wait()

    async def _pump(
        self,
        source: trio.SocketStream,
        sink: trio.SocketStream,
        gate: Callable[[], Awaitable[None]],
    ) -> None:
        try:
            while data := await source.receive_some(_CHUNK):
                await gate()
                await sink.send_all(data)
            await sink.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # the other pump ends the connection


def _address(endpoint: str) -> tuple[str, int]:
    parts = urlsplit(endpoint)
    if parts.hostname is None or parts.port is None:
        raise ValueError(f"{endpoint!r} has no host and port")
    return parts.hostname, parts.port


@asynccontextmanager
async def open_faulty_link(endpoint: str) -> AsyncIterator[FaultyLink]:
    """Stand between clients and an endpoint, on a loopback port of our own.

    Raises:
        TypeError: the endpoint is not a text.
        ValueError: it is no URL with a host and a port.
    """
    Endpoint.parse(endpoint)
    _address(endpoint)
    link = FaultyLink(endpoint)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    link.endpoint = f"{urlsplit(endpoint).scheme}://127.0.0.1:{port}"
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, link.serve, listeners)
        try:
            yield link
        finally:
            nursery.cancel_scope.cancel()
