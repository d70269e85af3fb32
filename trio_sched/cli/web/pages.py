"""The page, and the stream of events that keeps it live."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from functools import cache
from http import HTTPStatus
from importlib.resources import files
from typing import Final

import trio

from trio_sched.cli.web.board import Board
from trio_sched.serving.address import Address
from trio_sched.serving.messages import EventStream, Request, Response, Send
from trio_sched.serving.status import require_this_machine

__all__ = ["BoardPages"]

_PAUSE: Final = 0.2  # seconds for which changes are gathered
_SIGN_OF_LIFE: Final = 5.0  # seconds without a change after which a page is sent the age


class BoardPages:
    """Answers for a board.

    Args:
        board: that is shown.
        where: it is served.

    Attributes:
        where: as given; to be set anew when it listens.
        answered_at: by trio's clock, when etcd sent a change, or answered, last.
    """

    def __init__(self, board: Board, where: Address) -> None:
        self._board = board
        self.where: Address = where
        self._changed = trio.lowlevel.ParkingLot()
        self.answered_at: float = trio.current_time()

    @property
    def age(self) -> float:
        """Seconds since etcd sent a change, or answered."""
        return round(max(0.0, trio.current_time() - self.answered_at), 1)

    def notify(self) -> None:
        """The board has changed."""
        self._changed.unpark_all()

    async def __call__(self, request: Request) -> Response | EventStream:
        """Answer a request."""
        await trio.lowlevel.checkpoint()
        require_this_machine(request, self.where)
        match request.path:
            case "/":
                return _page()
            case "/events":
                return EventStream(self._stream)
            case "/state.json":
                return Response(HTTPStatus.OK, self._state(), "application/json")
        return Response.text(HTTPStatus.NOT_FOUND, "there are /, /events and /state.json")

    def _state(self) -> bytes:
        paths = [self._board.document(path) for path in self._board]
        return json.dumps({"format": 1, "age": self.age, "paths": paths}).encode()

    async def _stream(self, send: Send) -> None:
        """Send what has changed, and what is, first; a slow client gets the newest only."""
        version = -1
        while True:
            events = [
                f"event: path\ndata: [{json.dumps(path)}, {text}]\n\n"
                for path, text in self._board.since(version)
                if version >= 0 or text != "null"
            ]
            version = self._board.version
            await send("".join([*events, f"event: age\ndata: {self.age}\n\n"]).encode())
            await trio.sleep(_PAUSE)
            with trio.move_on_after(_SIGN_OF_LIFE):
                while self._board.version == version:
                    await self._changed.park()


@cache
def _page() -> Response:
    """Return the page, with what it may do: nothing but its own script, and asking us."""
    text = files("trio_sched.cli.web").joinpath("page.html").read_text()
    hashes = {tag: _hash(text, tag) for tag in ("script", "style")}
    rules = (
        "default-src 'none'",
        f"script-src '{hashes['script']}'",
        f"style-src '{hashes['style']}'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
    headers = (("Content-Security-Policy", "; ".join(rules)), ("Referrer-Policy", "no-referrer"))
    return Response(HTTPStatus.OK, text.encode(), "text/html; charset=utf-8", headers)


def _hash(text: str, tag: str) -> str:
    (inline,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    return f"sha256-{base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()}"
