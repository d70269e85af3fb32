"""A client of HTTP for tests, which says exactly what it is given."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import trio

__all__ = ["Answer", "ask", "exchange", "read_answer"]


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def document(self) -> Any:
        return json.loads(self.body)


async def read_answer(stream: trio.abc.ReceiveStream) -> Answer:
    """Read to the end of the connection."""
    received = b""
    while chunk := await stream.receive_some():
        received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    line, *fields = head.decode("latin-1").split("\r\n")
    pairs = (field.split(": ", 1) for field in fields)
    return Answer(int(line.split(" ")[1]), {name.lower(): value for name, value in pairs}, body)


async def exchange(address: str, request: bytes) -> Answer:
    """Send these bytes, and read the answer."""
    host, _, port = address.rpartition(":")
    async with await trio.open_tcp_stream(host.strip("[]"), int(port)) as stream:
        await stream.send_all(request)
        return await read_answer(stream)


async def ask(address: str, path: str, method: str = "GET", host: str | None = None) -> Answer:
    """Send a request, and read the answer."""
    host = address if host is None else host
    return await exchange(address, f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
