"""The pure half of a connection meets something that is not HTTP/2, or breaks its rules."""

from __future__ import annotations

import random

import pytest
from hyperframe.frame import PushPromiseFrame

from tests.etcd_shim.channel.h2_peer import Wire
from trio_sched.etcd_shim.channel.http2 import Http2Connection
from trio_sched.etcd_shim.channel.http2.events import CallEnded, ConnectionBroken, Event, Message
from trio_sched.etcd_shim.errors import RemoteProtocolError

HTTP1 = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
TLS_ALERT = bytes.fromhex("15030300020246")
TLS_HELLO = bytes.fromhex("160303007a0200007603036b8c1d5a")

NOT_HTTP2 = {
    "HTTP/1.1": HTTP1,
    "TLS alert": TLS_ALERT,
    "TLS hello": TLS_HELLO,
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "SMTP": b"220 mail.example.org ESMTP ready\r\n",
    "zeros": bytes(32),
    "ones": b"\xff" * 32,
    "the client's own preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a frame, but no SETTINGS": b"\0\0\x08\6\0\0\0\0\x0012345678",
}


def started() -> Http2Connection:
    protocol = Http2Connection()
    protocol.start()
    protocol.take_output()
    return protocol


def the_break(events: list[Event]) -> RemoteProtocolError:
    """Return the error of the one event that must be there."""
    (event,) = events
    assert isinstance(event, ConnectionBroken)
    assert isinstance(event.error, RemoteProtocolError)
    return event.error


@pytest.mark.parametrize("data", NOT_HTTP2.values(), ids=NOT_HTTP2)
def test_what_is_not_http2_is_found_out_at_once(data: bytes) -> None:
    protocol = started()
    the_break(protocol.receive(data))
    assert protocol.receive(data) == []
    assert protocol.receive_eof() == []


@pytest.mark.parametrize("data", NOT_HTTP2.values(), ids=NOT_HTTP2)
def test_what_is_not_http2_is_found_out_byte_by_byte(data: bytes) -> None:
    protocol = started()
    events = [event for byte in data for event in protocol.receive(bytes([byte]))]
    the_break(events)


def test_random_bytes_are_found_out_early() -> None:
    chance = random.Random(3)
    for _ in range(300):
        protocol = started()
        received, events = 0, list[Event]()
        while not events:
            assert received <= 16384 + 9  # the first frame, should it read like SETTINGS
            events = protocol.receive(chance.randbytes(64))
            received += 64
        assert isinstance(events[-1], ConnectionBroken)
        assert isinstance(events[-1].error, RemoteProtocolError)


def test_the_error_shows_what_came_instead() -> None:
    assert "HTTP/1.1" in str(the_break(started().receive(HTTP1)))


DATA, HEAD, PRIORITY, RESET, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_HEADERS, PADDED = 0x4, 0x8


def frame(kind: int, flags: int, call: int, body: bytes = b"") -> bytes:
    """Return a frame as its parts say, however wrong."""
    return len(body).to_bytes(3) + bytes([kind, flags]) + call.to_bytes(4) + body


AGAINST_THE_RULES = {
    "DATA of no call": frame(DATA, 0, 0),
    "DATA of a call to come": frame(DATA, 0, 99, b"x"),
    "more padding than frame": frame(DATA, PADDED, 1, b"\xff"),
    "padding without its length": frame(DATA, PADDED, 1),
    "more padding than head": frame(HEAD, PADDED | END_HEADERS, 1, b"\xff"),
    "head that is not HPACK": frame(HEAD, END_HEADERS, 1, b"\xff" * 20),
    "head with an index of nothing": frame(HEAD, END_HEADERS, 1, b"\xfe"),
    "head of a call to come": frame(HEAD, END_HEADERS, 9, b"\x88"),
    "head of the server's own": frame(HEAD, END_HEADERS, 2, b"\x88"),
    "head cut short": frame(HEAD, 0, 1, b"\x88") + frame(PING, 0, 0, bytes(8)),
    "endless head": frame(HEAD, 0, 1, b"\x88") + frame(CONTINUATION, 0, 1) * 70,
    "too long a head": frame(HEAD, 0, 1) + b"\x40\0\1" + frame(CONTINUATION, 0, 1)[3:],
    "CONTINUATION of nothing": frame(CONTINUATION, 0, 1),
    "CONTINUATION of no call": frame(CONTINUATION, 0, 77),
    "RST_STREAM of no call": frame(RESET, 0, 0, bytes(4)),
    "short RST_STREAM": frame(RESET, 0, 1, bytes(3)),
    "short PING": frame(PING, 0, 0, bytes(7)),
    "PING of a call": frame(PING, 0, 1, bytes(8)),
    "window of nothing": frame(WINDOW, 0, 0, bytes(4)),
    "window that overflows": frame(WINDOW, 0, 0, b"\x7f\xff\xff\xff"),
    "window of a call to come": frame(WINDOW, 0, 99, b"\0\0\0\5"),
    "short SETTINGS": frame(SETTINGS, 0, 0, bytes(5)),
    "SETTINGS of a call": frame(SETTINGS, 0, 1),
    "SETTINGS that acknowledge and say more": frame(SETTINGS, 1, 0, bytes(6)),
    "impossible SETTINGS": frame(SETTINGS, 0, 0, b"\0\4" + b"\xff" * 4),
    "short GOAWAY": frame(GOAWAY, 0, 0, bytes(4)),
    "frame that is too long": b"\0\x40\1" + frame(DATA, 0, 1)[3:],
    "PRIORITY of no call": frame(PRIORITY, 0, 0, b"\0\0\0\1\0"),
    "reset of a call to come": frame(RESET, 0, 3, bytes(4)),
    "push": frame(PUSH, END_HEADERS, 1, b"\0\0\0\2"),
}


@pytest.mark.parametrize("data", AGAINST_THE_RULES.values(), ids=AGAINST_THE_RULES)
@pytest.mark.parametrize("size", [1, 2**20])
def test_broken_rules_are_a_typed_error(data: bytes, size: int) -> None:
    wire = Wire()
    wire.exchange()
    wire.call(b"", end=False)
    pieces = [data[i : i + size] for i in range(0, len(data), size)]
    error = the_break([event for piece in pieces for event in wire.client.receive(piece)])
    assert error.__cause__ is not None
    assert repr(error.__cause__) in str(error)


def test_empty_head_ends_the_call_at_least() -> None:
    wire = Wire()
    wire.exchange()
    (event,) = wire.client.receive(frame(HEAD, END_HEADERS, wire.call()))
    assert isinstance(event, CallEnded | ConnectionBroken)
    assert isinstance(event.error, RemoteProtocolError)


@pytest.mark.parametrize("end", ["trailers that do not end", "informational answer that ends"])
def test_headers_that_end_the_call_when_they_must_not_or_do_not_when_they_must(end: str) -> None:
    wire = Wire()
    wire.exchange()
    call = wire.call()
    if end == "trailers that do not end":
        wire.peer.accept(call)
        wire.exchange()
        block, flags = [(b"grpc-status", b"0")], END_HEADERS
    else:
        block, flags = [(b":status", b"103")], END_HEADERS | 0x1
    wire.peer.raw_bytes(frame(HEAD, flags, call, wire.peer.h2.encoder.encode(block)))
    (event,) = wire.exchange()  # 8.1.1: of this call only
    assert isinstance(event, CallEnded)
    assert isinstance(event.error, RemoteProtocolError)
    assert wire.peer.resets == [(call, 1)]


def test_priority_in_a_head_is_ignored() -> None:
    wire = Wire()
    wire.exchange()
    call = wire.call()
    block = wire.peer.h2.encoder.encode(
        [(b":status", b"200"), (b"content-type", b"application/grpc")]
    )
    head = frame(HEAD, END_HEADERS | 0x20, call, bytes(5) + block)
    events = wire.client.receive(head + frame(DATA, 0, call, bytes(5)))
    assert Message(call, b"") in events


def test_unknown_frames_are_ignored() -> None:
    wire = Wire()
    wire.exchange()
    wire.peer.raw_bytes(frame(0xEE, 0xFF, 1, b"???"))
    assert wire.exchange() == []
    call = wire.call()
    wire.peer.answer(call, b"as if nothing had been")
    assert Message(call, b"as if nothing had been") in wire.exchange()


def test_pushing_is_against_the_rules() -> None:
    wire = Wire()
    call = wire.call()
    frame = PushPromiseFrame(call, 2, data=b"")
    frame.flags.add("END_HEADERS")
    wire.peer.raw(frame)
    (event,) = wire.exchange()
    assert isinstance(event, ConnectionBroken)
    assert isinstance(event.error, RemoteProtocolError)
    assert event.error.__cause__ is not None
