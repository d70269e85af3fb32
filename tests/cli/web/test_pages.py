"""The page and its stream of events."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from tests.cli.web.test_board import Store
from tests.serving.http_tools import ask
from trio_sched.cli.web.pages import BoardPages
from trio_sched.serving.address import Address
from trio_sched.serving.server import open_server


class Events:
    """Server-sent events, by WHATWG's rules as far as ours need them."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._received = b""

    async def next(self) -> tuple[str, Any]:
        while b"\n\n" not in self._received:
            chunk = await self._stream.receive_some()
            assert chunk, "it has ended"
            self._received += chunk
        block, _, self._received = self._received.partition(b"\n\n")
        fields = dict(line.split(": ", 1) for line in block.decode().splitlines())
        return fields["event"], json.loads(fields["data"])

    async def path(self) -> tuple[str, Any]:
        """The next one about a path."""
        while True:
            event, data = await self.next()
            if event == "path":
                return data[0], data[1]


@asynccontextmanager
async def open_events(address: str) -> AsyncIterator[Events]:
    host, _, port = address.rpartition(":")
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        await stream.send_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        received = b""
        while b"\r\n\r\n" not in received:
            received += await stream.receive_some(1)
        assert b"\r\nContent-Type: text/event-stream\r\n" in received
        yield Events(stream)


@asynccontextmanager
async def served(store: Store) -> AsyncIterator[tuple[BoardPages, str]]:
    pages = BoardPages(store.board, Address.parse("0"))
    async with open_server(Address("127.0.0.1", 0), pages) as found:
        yield pages, str(found)


async def test_what_is_there_comes_first_and_then_what_changes() -> None:
    store = Store()
    store.change({"/p/exchange/a": b"{}", "/q/exchange/a": b"{}"})
    async with served(store) as (pages, address), open_events(address) as events:
        assert [(await events.path())[0] for _ in range(2)] == ["/p", "/q"]
        assert (await events.next())[0] == "age"
        store.change({"/q/exchange/b": b"{}"})
        pages.notify()
        path, found = await events.path()
        assert path == "/q"
        assert [host["name"] for host in found["status"]["pool"]] == ["a", "b"]
        store.change({"/p/exchange/a": None})
        pages.notify()
        assert await events.path() == ("/p", None)


async def test_many_changes_are_one_event_for_a_slow_page() -> None:
    store = Store()
    store.change({"/p/exchange/a": b"{}"})
    async with served(store) as (pages, address), open_events(address) as events:
        await events.path()
        for number in range(100):
            store.change({f"/p/exchange/h{number}": b"{}"})
        pages.notify()
        _, found = await events.path()
        assert len(found["status"]["pool"]) == 101


async def test_the_page_may_run_its_own_script_and_nothing_else() -> None:
    async with served(Store()) as (_, address):
        answer = await ask(address, "/")
    rules = answer.headers["content-security-policy"]
    assert rules.startswith("default-src 'none'; ")
    assert "unsafe" not in rules
    for tag in ("script", "style"):
        (inline,) = re.findall(f"<{tag}>(.*?)</{tag}>", answer.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in rules
    assert not re.search(r"(src|href)=\"(?!data:,)|https?://|@import|url\(", answer.text)


async def test_what_comes_out_of_etcd_is_text_on_the_page() -> None:
    async with served(Store()) as (_, address):
        text = (await ask(address, "/")).text
    for way in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "style=",
    ):
        assert way not in text


@pytest.mark.parametrize("path", ["/", "/events", "/state.json"])
async def test_a_page_of_another_site_learns_nothing(path: str) -> None:
    async with served(Store()) as (_, address):
        assert (await ask(address, path, host="evil.example")).status == 421


async def test_nothing_else_is_there() -> None:
    async with served(Store()) as (_, address):
        assert (await ask(address, "/x")).status == 404
        assert (await ask(address, "/", "POST")).status == 405
        assert (await ask(address, "/events", "HEAD")).status == 200
