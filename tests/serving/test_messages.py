from __future__ import annotations

from http import HTTPStatus

import pytest

from trio_sched.serving.messages import BadRequest, EventStream, Request, Response, parse_head

HOST = "Host: localhost\r\n"


def head(line: str, fields: str = HOST) -> bytes:
    return f"{line}\r\n{fields}\r\n".encode("latin-1")


def test_a_request() -> None:
    request = parse_head(head("GET /a%20b/%C3%A4?x=1?2 HTTP/1.1", f"{HOST}X-Y:  z \r\n"))
    assert (request.method, request.path, request.query) == ("GET", "/a b/ä", "x=1?2")
    assert request.headers == {"host": "localhost", "x-y": "z"}


def test_http_1_0_needs_no_host() -> None:
    assert parse_head(head("HEAD / HTTP/1.0", "")).method == "HEAD"


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("http://a.example:80/b/c?x=1?2", "/b/c", "x=1?2"),
        ("HTTP://a.example:80", "/", ""),
        ("http://a.example:80?x://y", "/", "x://y"),
        ("http://a.example:80//b", "//b", ""),
        ("http://a.example:80/@b", "/@b", ""),
    ],
)
def test_the_host_of_an_absolute_target_replaces_the_header(
    target: str, path: str, query: str
) -> None:
    """RFC 9112, 3.2.2."""
    for line, fields in ((f"GET {target} HTTP/1.1", HOST), (f"HEAD {target} HTTP/1.0", "")):
        request = parse_head(head(line, fields))
        assert (request.path, request.query) == (path, query)
        assert request.headers == {"host": "a.example:80"}
        assert request.names("a.example")
        assert not request.names("b.example")


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        ("", HOST),
        ("GET /", HOST),
        ("GET  / HTTP/1.1", HOST),
        ("get / HTTP/1.1", HOST),
        ("GET x HTTP/1.1", HOST),
        ("GET * HTTP/1.1", HOST),
        ("GET https://localhost/ HTTP/1.1", HOST),
        ("GET http:///healthz HTTP/1.1", HOST),
        ("GET http://a@localhost/ HTTP/1.1", HOST),
        ("GET http:/// HTTP/1.1", HOST),
        ("GET http://?x HTTP/1.1", HOST),
        ("GET http://localhost#x HTTP/1.1", HOST),
        ("GET http://localhost/ HTTP/1.1", ""),
        ("GET /\x00 HTTP/1.1", HOST),
        ("GET /\n HTTP/1.1", HOST),
        ("GET / HTTP/2.0", HOST),
        ("PRI * HTTP/2.0", ""),
        ("\x16\x03\x01", HOST),
        ("GET / HTTP/1.1", ""),
        ("GET / HTTP/1.1", HOST + HOST),
        ("GET / HTTP/1.1", f"{HOST}X Y: z\r\n"),
        ("GET / HTTP/1.1", f"{HOST} folded\r\n"),
        ("GET / HTTP/1.1", f"{HOST}X: a\nb\r\n"),
        ("GET / HTTP/1.1", f"{HOST}: a\r\n"),
    ],
)
def test_what_is_no_request(line: str, fields: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_head(head(line, fields))
    assert caught.value.status is HTTPStatus.BAD_REQUEST


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT"])
def test_nothing_is_changed_by_a_request(method: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_head(head(f"{method} / HTTP/1.1"))
    assert caught.value.status is HTTPStatus.METHOD_NOT_ALLOWED


@pytest.mark.parametrize(
    ("host", "ours"),
    [
        ("127.0.0.1", True),
        ("127.0.0.1:80", True),
        ("[::1]:80", True),
        ("[::1]", True),
        ("LOCALHOST:1", True),
        ("Host-A.example:80", True),  # where we listen
        ("evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example:80", False),
        ("", False),
    ],
)
def test_whether_this_machine_is_meant(host: str, *, ours: bool) -> None:
    assert Request("GET", "/", "", {"host": host}).names("host-a.example") is ours


def test_without_a_host_no_browser_asks() -> None:
    assert Request("GET", "/").names("host-a.example")


def test_an_answer_to_head_has_the_length_and_no_body() -> None:
    answer = Response.text(HTTPStatus.OK, "yes")
    assert b"Content-Length: 4\r\n" in answer.encode(with_body=False)
    assert answer.encode() == answer.encode(with_body=False) + b"yes\n"


def test_answers_are_never_kept_nor_guessed_at() -> None:
    async def never(_send: object) -> None:  # noqa: ASYNC124 # it is not run
        raise AssertionError

    for sent in (Response.text(HTTPStatus.OK, "x").encode(), EventStream(never).encode()):
        assert b"\r\nCache-Control: no-store\r\n" in sent
        assert b"\r\nX-Content-Type-Options: nosniff\r\n" in sent
        assert b"\r\nConnection: close\r\n" in sent
