"""A small HTTP server: slow clients, however many, do no harm to others.

Theory of operation
-------------------
Each connection is one request and one answer, and then is closed. It has a deadline for the
request, for the handler and for each write; its request has a bound. There are at most
`Limits.connections`: one more ends the oldest that has not sent its request yet, or else the oldest
of all, so that clients that hold connections never keep a health check waiting. A handler that
raises is logged, and answered with 500.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Final, TypeAlias

import trio

from trio_sched._support.tasks import open_plain_nursery, open_service_nursery
from trio_sched.serving.address import Address
from trio_sched.serving.messages import (
    MAX_HEAD,
    BadRequest,
    EventStream,
    Request,
    Response,
    parse_head,
)

__all__ = ["Handler", "HttpServer", "Limits", "open_server"]

Handler: TypeAlias = Callable[[Request], Awaitable[Response | EventStream]]

_logger: Final = logging.getLogger("trio_sched.serving")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may take.

    Attributes:
        connections: at a time.
        request: seconds until the whole request has come.
        handler: seconds for making the answer.
        write: seconds for each piece of the answer to be taken.
        linger: seconds for the client to close, once it was answered.
    """

    connections: int = 64
    request: float = 5.0
    handler: float = 5.0
    write: float = 5.0
    linger: float = 1.0


class HttpServer:
    """Answers on streams by a handler. See the head of the module.

    Args:
        handler: makes the answers.
        limits: for clients.
    """

    def __init__(self, handler: Handler, limits: Limits | None = None) -> None:
        self._handler = handler
        self._limits = limits or Limits()
        self._waiting: dict[trio.CancelScope, None] = {}  # for a request; the oldest first
        self._answering: dict[trio.CancelScope, None] = {}

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._waiting) + len(self._answering)

    async def serve(self, stream: trio.abc.HalfCloseableStream) -> None:
        """Answer one connection, and close it. Raises nothing of its client's doing."""
        if self.connections >= self._limits.connections:
            oldest = next(iter(self._waiting or self._answering))
            oldest.cancel()
            self._waiting.pop(oldest, None)  # now, as several may come before it has ended
            self._answering.pop(oldest, None)
        with trio.CancelScope() as scope:
            self._waiting[scope] = None
            try:
                async with stream:
                    await self._answer(stream, scope)
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                return  # the client is gone
            except Exception:
                _logger.exception("an answer broke off")
            finally:
                self._waiting.pop(scope, None)
                self._answering.pop(scope, None)

    async def _answer(self, stream: trio.abc.HalfCloseableStream, scope: trio.CancelScope) -> None:
        method = ""
        try:
            request = await self._read(stream)
            if request is None:
                return
            method = request.method
            self._waiting.pop(scope, None)
            self._answering[scope] = None
            answer = await self._handle(request)
        except BadRequest as exc:
            allow = [("Allow", "GET, HEAD")] if exc.status == 405 else []
            answer = Response.text(exc.status, str(exc), *allow)
        if isinstance(answer, Response):
            await self._send(stream, answer.encode(with_body=method != "HEAD"))
        else:
            await self._send(stream, answer.encode())
            if method == "GET":
                await self._stream(stream, answer)
        # Else what the client has sent and we have not read would have the kernel reset the
        # connection, and the answer with it.
        with trio.move_on_after(self._limits.linger):
            await stream.send_eof()
            while await stream.receive_some(MAX_HEAD):
                pass

    async def _read(self, stream: trio.abc.ReceiveStream) -> Request | None:
        """Return the request; None if the client went without one."""
        received = bytearray()
        with trio.move_on_after(self._limits.request) as scope:
            while (end := received.find(b"\r\n\r\n")) < 0 and len(received) <= MAX_HEAD:
                chunk = await stream.receive_some(MAX_HEAD)
                if not chunk:
                    return None
                received += chunk
        if scope.cancelled_caught:
            raise BadRequest(HTTPStatus.REQUEST_TIMEOUT, "the request took too long")
        if not 0 <= end <= MAX_HEAD:
            words = f"the head of a request may have {MAX_HEAD} bytes"
            raise BadRequest(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, words)
        return parse_head(bytes(received[: end + 4]))

    async def _handle(self, request: Request) -> Response | EventStream:
        try:
            with trio.move_on_after(self._limits.handler):
                return await self._handler(request)
        except BadRequest:
            raise
        except Exception:
            _logger.exception("cannot answer %s", request.path)
            return Response.text(HTTPStatus.INTERNAL_SERVER_ERROR, "this is a bug of trio-sched")
        return Response.text(HTTPStatus.SERVICE_UNAVAILABLE, "the answer took too long")

    async def _stream(self, stream: trio.abc.HalfCloseableStream, answer: EventStream) -> None:
        async with open_plain_nursery() as nursery:

            async def watch_client() -> None:
                while await stream.receive_some(MAX_HEAD):
                    pass
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch_client)
            await answer.run(partial(self._send, stream))
            nursery.cancel_scope.cancel()

    async def _send(self, stream: trio.abc.SendStream, data: bytes) -> None:
        with trio.move_on_after(self._limits.write) as scope:
            await stream.send_all(data)
        if scope.cancelled_caught:
            raise trio.BrokenResourceError("the client does not read")


@asynccontextmanager
async def open_server(
    address: Address, handler: Handler, limits: Limits | None = None
) -> AsyncIterator[Address]:
    """Serve as long as the block lasts; give the address with the port that it is.

    Raises:
        CannotListen: the system does not let us.
    """
    server = HttpServer(handler, limits)
    found, listeners = await address.listen()
    async with open_service_nursery() as services:
        services.start_soon(partial(trio.serve_listeners, server.serve, listeners))
        yield found
