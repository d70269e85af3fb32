"""Requests and responses of HTTP/1.1, as far as a small server needs them. Pure.

RFC 9112 for the syntax, RFC 9110 for meanings. One request for each connection, so where it ends
is never in doubt; and no request has a body that is read.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, TypeAlias
from urllib.parse import unquote

__all__ = ["MAX_HEAD", "BadRequest", "EventStream", "Request", "Response", "parse_head"]

MAX_HEAD: Final = 8 * 1024
"""The most bytes that a request's line and fields may take together."""

_LINE: Final = re.compile(r"([A-Z]{1,20}) (/[!-~]*|(?i:http)://[!-~]+) HTTP/1\.([01])")
_ABSOLUTE: Final = re.compile(r"[^:]+://([^/?#@]+)((?:[/?].*)?)")  # no user: RFC 9110, 4.2.4
_FIELD: Final = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t -~\x80-\xff]*)")
_TEXT: Final = "text/plain; charset=utf-8"


class BadRequest(Exception):
    """A request is not answered as it is; with the status that says so."""

    def __init__(self, status: HTTPStatus, words: str) -> None:
        super().__init__(words)
        self.status = status


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks for.

    Attributes:
        method: ``GET`` or ``HEAD``.
        path: decoded, without the query.
        query: what follows the question mark, as it came.
        headers: by names in lower case; ``host`` is that of an absolute-form target, if it has one.
    """

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    def names(self, listens: str) -> bool:
        """Whether it was addressed to a number, to ``localhost``, or to where we listen.

        A page of another site, whose name was made to stand for 127.0.0.1, has that site's name
        in ``Host`` (DNS rebinding).
        """
        host = self.headers.get("host")
        if host is None:  # HTTP/1.0; no browser sends that
            return True
        name = re.sub(r":\d*$", "", host).strip("[]")
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name.lower() in {"localhost", listens.lower()}
        return True


@dataclass(frozen=True, slots=True)
class Response:
    """An answer.

    Attributes:
        status: of HTTP.
        body: all of it.
        content_type: of the body.
        headers: further ones.
    """

    status: HTTPStatus
    body: bytes
    content_type: str = _TEXT
    headers: tuple[tuple[str, str], ...] = ()

    @classmethod
    def text(cls, status: HTTPStatus, words: str, *headers: tuple[str, str]) -> Response:
        """Return one of a line of text."""
        return cls(status, f"{words}\n".encode(errors="replace"), _TEXT, headers)

    def encode(self, *, with_body: bool = True) -> bytes:
        """Return what is sent."""
        extra = (("Content-Length", str(len(self.body))), *self.headers)
        head = _head(self.status, self.content_type, extra)
        return head + self.body if with_body else head


Send: TypeAlias = Callable[[bytes], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class EventStream:
    """An answer that goes on (server-sent events).

    Attributes:
        run: sends it piece by piece, until it is cancelled. Sending raises, or is cancelled,
            when the client is gone or does not read.
    """

    run: Callable[[Send], Awaitable[None]]

    def encode(self) -> bytes:
        """Return what is sent before the first piece."""
        return _head(HTTPStatus.OK, "text/event-stream", ())


def _head(status: HTTPStatus, content_type: str, extra: tuple[tuple[str, str], ...]) -> bytes:
    fields = (
        ("Content-Type", content_type),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
        ("Connection", "close"),
        *extra,
    )
    lines = [f"HTTP/1.1 {status.value} {status.phrase}", *(f"{k}: {v}" for k, v in fields)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def parse_head(head: bytes) -> Request:
    """Return the request of a head, which ends in an empty line.

    Raises:
        BadRequest: it is none that is answered.
    """
    line, *rest = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    found = _LINE.fullmatch(line)
    if found is None:
        raise BadRequest(HTTPStatus.BAD_REQUEST, "this is no request of HTTP/1.1")
    method, target, minor = found[1], found[2], found[3]
    headers: dict[str, str] = {}
    for each in rest:
        parts = _FIELD.fullmatch(each)
        if parts is None:
            raise BadRequest(HTTPStatus.BAD_REQUEST, "a header is not understood")
        name = parts[1].lower()
        if name == "host" and name in headers:
            raise BadRequest(HTTPStatus.BAD_REQUEST, "there is more than one Host")
        headers[name] = parts[2].strip()
    if minor == "1" and "host" not in headers:
        raise BadRequest(HTTPStatus.BAD_REQUEST, "there is no Host")
    if not target.startswith("/"):
        headers["host"], target = _split_absolute(target)
    if method not in ("GET", "HEAD"):
        raise BadRequest(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD are answered")
    path, _, query = target.partition("?")
    return Request(method, unquote(path, errors="replace"), query, headers)


def _split_absolute(target: str) -> tuple[str, str]:
    """Return the host and the rest of a target in absolute-form, as for a proxy.

    A server must take it, and that host instead of ``Host`` (RFC 9112, 3.2.2).

    Raises:
        BadRequest: it has no host, or a user.
    """
    found = _ABSOLUTE.fullmatch(target)
    if found is None:
        raise BadRequest(HTTPStatus.BAD_REQUEST, "the target is not understood")
    rest = found[2]
    return found[1], rest if rest.startswith("/") else f"/{rest}"
