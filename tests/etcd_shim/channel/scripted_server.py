"""A gRPC server on a loopback port that does what a test wants, well or badly.

`open_server` serves connections; for each call it runs the test's script, a function that gets a
`ServerCall`. What a connection does before and beside its calls is in `Manners`. Nothing here has
timeouts: tests wait for what the server has seen, with `ScriptedServer.until`.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import h2.events as h2e
import trio
from h2.errors import ErrorCodes
from h2.exceptions import H2Error
from h2.settings import SettingCodes

from tests.etcd_shim.channel.h2_peer import GRPC, Fields, Peer
from trio_sched.etcd_shim.channel import Endpoint

__all__ = ["Manners", "ScriptedServer", "ServerCall", "ServerConnection", "answer", "open_server"]

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]


class _Encodable(Protocol):
    def SerializeToString(self) -> bytes: ...  # noqa: N802 # protobuf's name


@dataclass
class Manners:
    """How a server behaves, apart from its calls.

    Attributes:
        settings: in its SETTINGS frame; None: it says nothing at all, ever.
        preface: raw bytes that it says instead of HTTP/2.
        hang_up: it closes the connection after its first words.
        lingers: for how many turns of trio's loop it waits before it does.
        gives_windows: whether it gives windows back for what it receives.
        connection_window: how much more it takes on a connection from the start.
    """

    settings: Mapping[SettingCodes, int] | None = field(default_factory=dict)
    preface: bytes | None = None
    hang_up: bool = False
    lingers: int = 0
    gives_windows: bool = True
    connection_window: int = 0


class ServerConnection:
    """One connection, seen by the server."""

    def __init__(self, server: ScriptedServer, stream: Stream) -> None:
        self.server = server
        self.peer = Peer(server.manners.settings, gives_windows=server.manners.gives_windows)
        self.calls: dict[int, ServerCall] = {}
        self.silent = False  # it reads, and says nothing more
        self.closed = False  # by the client
        self._stream = stream
        self._sending = trio.Lock()
        self._reading = trio.Event()
        self._reading.set()

    @property
    def open_calls(self) -> int:
        """How many calls are under way in the view of HTTP/2."""
        return self.peer.h2.open_inbound_streams

    async def serve(self) -> None:
        manners = self.server.manners
        try:
            if manners.preface is not None:
                self.peer.raw_bytes(manners.preface)
                await self.flush()
            elif manners.settings is None:
                self.silent = True
            else:
                self.peer.start()
                if manners.connection_window:
                    self.peer.h2.increment_flow_control_window(manners.connection_window)
                await self.flush()
            if not manners.hang_up:
                await self._read()
            for _ in range(manners.lingers):
                await trio.lowlevel.checkpoint()
        finally:
            self.closed = True
            for call in self.calls.values():
                call.cancelled.set()
            self.server.note()
            await trio.aclose_forcefully(self._stream)

    async def _read(self) -> None:
        async with trio.open_nursery() as nursery:
            while data := await self._receive():
                await self._reading.wait()
                if self.server.manners.preface is None:
                    for event in self.peer.receive(data):
                        self._take(event, nursery)
                self.server.note()
                await self.flush()
            nursery.cancel_scope.cancel()

    async def _receive(self) -> bytes:
        try:
            return bytes(await self._stream.receive_some(65536))
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            return b""  # the client went away, or the script did

    def _take(self, event: h2e.Event, nursery: trio.Nursery) -> None:
        match event:
            case h2e.RequestReceived():
                call = ServerCall(self, event.stream_id)
                self.calls[event.stream_id] = call
                self.server.calls.append(call)
                nursery.start_soon(self.server.run_script, call)
            case h2e.StreamReset():
                self.calls[event.stream_id].cancelled.set()

    async def flush(self) -> None:
        """Send what the peer wants to say."""
        async with self._sending:
            data = self.peer.take_output()
            if data and not self.silent:
                with suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                    await self._stream.send_all(data)

    async def goaway(
        self, last_stream_id: int, code: int = ErrorCodes.NO_ERROR, reason: bytes = b""
    ) -> None:
        """Send GOAWAY, and go on."""
        self.peer.goaway(last_stream_id, code, reason)
        await self.flush()

    async def hang_up(self) -> None:
        """Close the connection without a word."""
        await trio.aclose_forcefully(self._stream)

    def stop_reading(self) -> None:
        """Leave what comes from now on to the kernel."""
        self._reading = trio.Event()

    def go_on_reading(self) -> None:
        self._reading.set()


class ServerCall:
    """One call, seen by the server: what a script works with."""

    def __init__(self, connection: ServerConnection, stream_id: int) -> None:
        self.connection = connection
        self.stream_id = stream_id
        self.cancelled = trio.Event()  # by a reset, or with the connection

    @property
    def headers(self) -> dict[bytes, bytes]:
        return self.connection.peer.requests[self.stream_id].headers

    @property
    def method(self) -> str:
        """Its last part only, such as ``Range``."""
        return self.headers[b":path"].rpartition(b"/")[2].decode()

    @property
    def messages(self) -> list[bytes]:
        """What has come so far."""
        return self.connection.peer.requests[self.stream_id].messages

    @property
    def ended(self) -> bool:
        """Whether the client has ended its half."""
        return self.connection.peer.requests[self.stream_id].ended

    async def request(self) -> bytes:
        """Wait for all of a unary request."""
        await self.connection.server.until(lambda: self.ended)
        (message,) = self.messages
        return message

    async def accept(self, fields: Fields = GRPC) -> None:
        self.connection.peer.accept(self.stream_id, fields)
        await self.connection.flush()

    async def say(self, message: bytes | _Encodable) -> None:
        """Send a message; the head must have gone before."""
        payload = message if isinstance(message, bytes) else message.SerializeToString()
        self.connection.peer.message(self.stream_id, payload)
        await self.connection.flush()

    async def finish(self, status: int = 0, words: bytes | None = None) -> None:
        self.connection.peer.finish(self.stream_id, b"%d" % status, words)
        await self.connection.flush()

    async def answer(self, message: bytes | _Encodable = b"") -> None:
        """Send a whole answer of one message."""
        payload = message if isinstance(message, bytes) else message.SerializeToString()
        self.connection.peer.answer(self.stream_id, payload)
        await self.connection.flush()

    async def refuse(self, status: int, words: bytes | None = None) -> None:
        """Answer with an error: trailers only."""
        self.connection.peer.refuse(self.stream_id, b"%d" % status, words)
        await self.connection.flush()

    async def reset(self, code: int) -> None:
        self.connection.peer.reset(self.stream_id, code)
        await self.connection.flush()


Script = Callable[[ServerCall], Awaitable[None]]


async def answer(call: ServerCall) -> None:
    """Answer a unary call with an empty message: every response can be that."""
    await call.request()
    await call.answer()


class ScriptedServer:
    """Made by `open_server`; keeps all that it has seen."""

    def __init__(self, script: Script, manners: Manners) -> None:
        self.script = script
        self.manners = manners
        self.connections: list[ServerConnection] = []
        self.calls: list[ServerCall] = []
        self.endpoint = Endpoint("", "", "", 0)
        self._news = trio.lowlevel.ParkingLot()

    async def until(self, holds: Callable[[], object]) -> None:
        """Wait until something holds that depends on what the server has seen."""
        while not holds():
            await self._news.park()

    def note(self) -> None:
        """Let those who wait check again."""
        self._news.unpark_all()

    async def run_script(self, call: ServerCall) -> None:
        try:
            await self.script(call)
        except H2Error:
            if not call.cancelled.is_set():
                raise
        finally:
            self.note()

    async def serve(self, context: ssl.SSLContext | None, stream: trio.SocketStream) -> None:
        if context is None:
            connection = ServerConnection(self, stream)
        else:
            tls = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
            connection = ServerConnection(self, tls)
        self.connections.append(connection)
        self.note()
        await connection.serve()


@asynccontextmanager
async def open_server(
    script: Script = answer,
    manners: Manners | None = None,
    *,
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncIterator[ScriptedServer]:
    """Serve on a port of the loopback device until the block is left."""
    server = ScriptedServer(script, manners or Manners())
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, partial(server.serve, ssl_context), 0, host="127.0.0.1")
        (listener,) = await nursery.start(serve)
        port = listener.socket.getsockname()[1]
        scheme = "http" if ssl_context is None else "https"
        server.endpoint = Endpoint.parse(f"{scheme}://127.0.0.1:{port}")
        try:
            yield server
        finally:
            nursery.cancel_scope.cancel()
