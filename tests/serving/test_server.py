"""The server on real sockets, and its limits by a clock that jumps."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus

import pytest
import trio
import trio.testing

from tests.serving.http_tools import ask, exchange, read_answer
from trio_sched.serving.address import Address
from trio_sched.serving.messages import MAX_HEAD, BadRequest, EventStream, Request, Response, Send
from trio_sched.serving.server import HttpServer, Limits, open_server


async def hello(request: Request) -> Response:
    await trio.lowlevel.checkpoint()
    if request.path == "/raise":
        raise ZeroDivisionError
    if request.path == "/refuse":
        raise BadRequest(HTTPStatus.MISDIRECTED_REQUEST, "not here")
    if request.path == "/hang":
        await trio.sleep_forever()
    return Response.text(HTTPStatus.OK, f"hello {request.path}")


@asynccontextmanager
async def served(limits: Limits | None = None) -> AsyncIterator[str]:
    async with open_server(Address("127.0.0.1", 0), hello, limits) as found:
        yield str(found)


async def test_get_and_head() -> None:
    async with served() as address:
        answer = await ask(address, "/x")
        assert (answer.status, answer.text) == (200, "hello /x\n")
        assert int(answer.headers["content-length"]) == len(answer.body)
        answer = await ask(address, "/x", "HEAD")
        assert (answer.status, answer.body) == (200, b"")
        assert answer.headers["content-length"] == "9"


async def test_what_is_wrong_is_answered() -> None:
    async with served() as address:
        assert (await ask(address, "/", "POST")).headers["allow"] == "GET, HEAD"
        assert (await exchange(address, b"\x16\x03\x01\r\n\r\n")).status == 400
        assert (await ask(address, "/refuse")).status == 421
        many = b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * MAX_HEAD
        assert (await exchange(address, many)).status == 431
        assert (await ask(address, f"/{'x' * MAX_HEAD}")).status == 431


async def test_a_body_is_not_waited_for() -> None:
    async with served() as address:
        request = b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nab"
        assert (await exchange(address, request)).status == 200


async def test_a_handler_that_raises_is_logged_and_ends_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with served() as address:
        with caplog.at_level(logging.ERROR, "trio_sched.serving"):
            assert (await ask(address, "/raise")).status == 500
        assert "cannot answer /raise" in caplog.text
        assert (await ask(address, "/")).status == 200


async def test_idle_clients_keep_no_other_waiting() -> None:
    """More than there may be, which send nothing or half a request, and one that asks."""
    async with served(Limits(connections=4, request=1000)) as address:
        host, _, port = address.rpartition(":")
        idle = [await trio.open_tcp_stream(host, int(port)) for _ in range(20)]
        for stream in idle:
            await stream.send_all(b"GET / HT")
        assert (await ask(address, "/")).status == 200
        for stream in idle:
            await stream.aclose()


class Pair:
    """A server on streams in memory, and what it has open."""

    def __init__(self, nursery: trio.Nursery, limits: Limits) -> None:
        self.server = HttpServer(hello, limits)
        self._nursery = nursery

    def connect(self) -> trio.abc.HalfCloseableStream:
        ours, theirs = trio.testing.lockstep_stream_pair()
        self._nursery.start_soon(self.server.serve, theirs)
        return ours


async def test_deadlines(autojump_clock: object) -> None:
    del autojump_clock
    async with trio.open_nursery() as nursery:
        pair = Pair(nursery, Limits())
        began = trio.current_time()
        stream = pair.connect()
        await stream.send_all(b"GET / HT")
        assert (await read_answer(stream)).status == 408
        assert trio.current_time() - began < 7
        await stream.aclose()
        stream = pair.connect()
        await stream.send_all(b"GET /hang HTTP/1.0\r\n\r\n")
        assert (await read_answer(stream)).status == 503
        await stream.aclose()
        stream = pair.connect()  # which never reads: a lock-step stream buffers nothing
        await stream.send_all(b"GET / HTTP/1.0\r\n\r\n")
        await trio.sleep(20)
        assert pair.server.connections == 0
        await stream.aclose()


async def test_a_client_that_only_goes_leaves_nothing() -> None:
    async with trio.open_nursery() as nursery:
        pair = Pair(nursery, Limits())
        await pair.connect().aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert pair.server.connections == 0


async def test_a_stream_ends_with_its_client_and_with_its_source() -> None:
    seen: list[str] = []

    async def run(send: Send) -> None:
        try:
            await send(b"data: 1\n\n")
            await trio.sleep_forever()
        finally:
            seen.append("ended")

    async def handler(_request: Request) -> EventStream:
        await trio.lowlevel.checkpoint()
        return EventStream(run)

    async with open_server(Address("127.0.0.1", 0), handler) as found:
        stream = await trio.open_tcp_stream(found.host, found.port)
        await stream.send_all(b"GET / HTTP/1.0\r\n\r\n")
        received = b""
        while not received.endswith(b"data: 1\n\n"):
            received += await stream.receive_some()
        assert not seen
        await stream.aclose()
        while not seen:  # noqa: ASYNC110 # the server learns it by the kernel
            await trio.sleep(0.01)


async def test_a_stream_that_is_not_read_is_given_up(autojump_clock: object) -> None:
    del autojump_clock

    async def run(send: Send) -> None:
        while True:
            await send(b"x" * 100)

    async def handler(_request: Request) -> EventStream:
        await trio.lowlevel.checkpoint()
        return EventStream(run)

    server = HttpServer(handler)
    ours, theirs = trio.testing.lockstep_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve, theirs)
        await ours.send_all(b"GET / HTTP/1.0\r\n\r\n")
        await ours.receive_some(10)
    assert server.connections == 0
