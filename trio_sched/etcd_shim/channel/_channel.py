"""A channel: what grpclib's generated stubs take, and connects when it must.

The channel has at most one connection that takes new calls. It is made when the
first call needs it, by a service task, so a caller that is cancelled meanwhile
takes nothing from the others who wait for it. When a connection ends, the next
call makes a new one, with the next endpoint if there are several.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import trio
from grpclib.const import Cardinality

from trio_sched._tasks import ServiceNursery, open_service_nursery
from trio_sched.etcd_shim.channel._call import Call, ProtoMessage
from trio_sched.etcd_shim.channel._connection import Connection, ConnectionStatistics
from trio_sched.etcd_shim.channel._endpoint import Endpoint, open_byte_stream
from trio_sched.etcd_shim.channel._protocol import Protocol
from trio_sched.etcd_shim.errors import ClientClosed, ConnectionFailed

__all__ = ["Channel", "ChannelStatistics", "open_channel"]

Req = TypeVar("Req", bound=ProtoMessage)
Rep = TypeVar("Rep", bound=ProtoMessage)
HeaderList = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class ChannelStatistics:
    """A snapshot of a channel.

    Attributes:
        connections: those that are open; more than one while calls on an older
            one are finished.
        connects: how many were made in all.
    """

    connections: tuple[ConnectionStatistics, ...]
    connects: int


class _Attempt:
    """An attempt to connect, which several callers may wait for."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.reasons: dict[str, BaseException] = {}


class Channel:
    """Made by `open_channel`."""

    def __init__(
        self,
        services: ServiceNursery,
        endpoints: Sequence[Endpoint],
        ssl_context: ssl.SSLContext | None,
        connect_timeout: float,
        max_message_size: int,
    ) -> None:
        self._services = services
        self._endpoints = tuple(endpoints)
        self._ssl_context = ssl_context
        self._connect_timeout = connect_timeout
        self._max_message_size = max_message_size
        self._next = 0
        self._current: Connection | None = None
        self._attempt: _Attempt | None = None
        self._open: set[Connection] = set()
        self._connects = 0
        self._header_cache: dict[tuple[bytes, str], HeaderList] = {}
        self.token: str | None = None

    def request(
        self,
        name: str,
        cardinality: Cardinality,
        request_type: type[Req],
        reply_type: type[Rep],
        *,
        timeout: float | None = None,
        deadline: object = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Call[Req, Rep]:
        """Return a call that is not sent yet. The stubs call this.

        Args:
            name: the method's path, such as ``/etcdserverpb.KV/Range``.
            cardinality: who streams.
            request_type: protobuf class of requests.
            reply_type: protobuf class of replies.
            timeout: seconds until the call fails with `DeadlineExceeded`.
            deadline: not supported; give a timeout, or use a cancel scope.
            metadata: further headers.
        """
        del request_type  # the message knows how to encode itself
        if deadline is not None:
            raise TypeError("a deadline is not supported: give a timeout, or use a cancel scope")
        return Call(self, name, cardinality, reply_type, timeout, metadata)

    # ---- what calls need ------------------------------------------------------------

    def headers(
        self,
        connection: Connection,
        path: str,
        metadata: Mapping[str, str] | None,
        timeout: float | None,
    ) -> HeaderList:
        """Return the headers of a request."""
        cached = self._header_cache.get((connection.endpoint.authority, path))
        if cached is None:
            cached = _request_headers(connection.endpoint, path)
            self._header_cache[connection.endpoint.authority, path] = cached
        extra: HeaderList = []
        if timeout is not None:
            extra.append((b"grpc-timeout", b"%dm" % max(1, min(timeout * 1000, 99_999_999))))
        if self.token is not None:
            extra.append((b"token", self.token.encode()))
        if metadata:
            extra += [(key.encode(), value.encode()) for key, value in metadata.items()]
        return cached + extra if extra else cached

    async def connection(self) -> Connection:
        """Return a connection that takes calls; make it if there is none.

        Not a checkpoint if there is one.

        Raises:
            ConnectionFailed: no endpoint let us in.
            ClientClosed: the channel's block was left.
        """
        while True:
            if self._current is not None and self._current.accepting:
                return self._current
            if self._services.closing:
                raise ClientClosed("the client's block was left")
            if self._attempt is None:
                self._attempt = _Attempt()
                self._services.start_soon(self._serve, self._attempt)
            attempt = self._attempt
            await attempt.done.wait()
            if attempt.reasons:
                raise ConnectionFailed(attempt.reasons)

    def statistics(self) -> ChannelStatistics:
        """Return how the channel does."""
        return ChannelStatistics(tuple(c.statistics() for c in self._open), self._connects)

    # ---- the service task --------------------------------------------------------------

    async def _serve(self, attempt: _Attempt) -> None:
        """Connect, tell those who wait, and serve the connection to its end."""
        try:
            connection, reasons = await self._connect()
            self._current = connection
            attempt.reasons = reasons if connection is None else {}
        except trio.Cancelled:
            attempt.reasons = {"": ClientClosed("the client's block was left")}
            raise
        finally:
            self._attempt = None
            attempt.done.set()
        if connection is None:
            return
        self._connects += 1
        self._open.add(connection)
        try:
            await connection.run()
        finally:
            self._open.discard(connection)
            if self._current is connection:
                self._current = None

    async def _connect(self) -> tuple[Connection | None, dict[str, BaseException]]:
        """Try each endpoint once, the one after the last used first."""
        reasons: dict[str, BaseException] = {}
        for _ in self._endpoints:
            endpoint = self._endpoints[self._next]
            self._next = (self._next + 1) % len(self._endpoints)
            try:
                with trio.fail_after(self._connect_timeout):
                    stream = await open_byte_stream(endpoint, self._ssl_context)
            except trio.TooSlowError:
                reasons[endpoint.url] = TimeoutError(f"no answer in {self._connect_timeout} s")
            except (OSError, trio.BrokenResourceError) as exc:
                reasons[endpoint.url] = _root(exc)
            else:
                protocol = Protocol(max_message_size=self._max_message_size)
                return Connection(endpoint, stream, protocol), {}
        return None, reasons


def _root(exc: BaseException) -> BaseException:
    """Return what is behind trio's "all attempts failed" and "broken resource"."""
    inner = exc.__cause__
    if inner is None:
        return exc
    while isinstance(inner, BaseExceptionGroup):
        inner = inner.exceptions[0]
    return inner


def _request_headers(endpoint: Endpoint, path: str) -> HeaderList:
    return [
        (b":method", b"POST"),
        (b":scheme", b"https" if endpoint.scheme == "https" else b"http"),
        (b":path", path.encode()),
        (b":authority", endpoint.authority),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        (b"user-agent", b"trio-sched"),
    ]


@asynccontextmanager
async def open_channel(
    endpoints: Sequence[Endpoint],
    *,
    ssl_context: ssl.SSLContext | None = None,
    connect_timeout: float = 5.0,
    max_message_size: int = 64 * 2**20,
) -> AsyncIterator[Channel]:
    """Open a channel; nothing is sent before the first call.

    Its tasks outlive the body and whatever cancels it; when the block is left,
    the connection is closed.

    Args:
        endpoints: where to connect to; one or more.
        ssl_context: for ``https`` endpoints.
        connect_timeout: bound for connecting to one endpoint, in seconds.
        max_message_size: the largest message accepted, in bytes.
    """
    async with open_service_nursery() as services:
        yield Channel(services, endpoints, ssl_context, connect_timeout, max_message_size)
