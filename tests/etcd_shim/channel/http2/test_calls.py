"""The pure half of a connection: calls, and all the ways in which they end."""

from __future__ import annotations

import pytest
from grpclib.const import Status
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from tests.etcd_shim.channel.h2_peer import GRPC, REQUEST, Peer, Wire
from trio_sched.etcd_shim.channel.http2 import Http2Connection
from trio_sched.etcd_shim.channel.http2.events import (
    CallEnded,
    Event,
    Message,
    SettingsChanged,
)
from trio_sched.etcd_shim.channel.http2.messages import encode_message
from trio_sched.etcd_shim.errors import (
    ConnectionLost,
    DeadlineExceeded,
    EtcdError,
    MessageTooLarge,
    NotFound,
    PermissionDenied,
    RemoteProtocolError,
    RpcError,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)

CANCEL = int(ErrorCodes.CANCEL)


def how_it_ended(events: list[Event], stream_id: int) -> CallEnded:
    """Return the one end of a call, which must be the last word about it."""
    about_it = [event for event in events if getattr(event, "stream_id", None) == stream_id]
    last = about_it[-1]
    assert isinstance(last, CallEnded)
    assert sum(isinstance(event, CallEnded) for event in about_it) == 1
    return last


def error_of(events: list[Event], stream_id: int) -> EtcdError:
    error = how_it_ended(events, stream_id).error
    assert error is not None
    return error


@pytest.fixture
def wire() -> Wire:
    wire = Wire()
    wire.exchange()
    return wire


# ---- calls that go well --------------------------------------------------------


def test_unary_call(wire: Wire) -> None:
    call = wire.call(b"question")
    request = wire.peer.requests[call]
    assert request.headers == dict(REQUEST)
    assert (request.messages, request.ended) == ([b"question"], True)

    wire.peer.answer(call, b"answer")
    message, end = wire.exchange()
    assert message == Message(call, b"answer")
    assert isinstance(end, CallEnded)
    assert end.error is None
    assert wire.client.open_calls == 0
    assert wire.peer.resets == []


def test_streaming_call(wire: Wire) -> None:
    call = wire.call(None)
    wire.peer.accept(call)
    for number in range(3):
        text = b"%d" % number
        assert wire.client.send(call, text, end=False)
        wire.exchange()
        wire.peer.message(call, text)
        assert Message(call, text) in wire.exchange()
        wire.client.consumed(call, text)
    assert not wire.peer.requests[call].ended
    assert wire.client.end(call)
    wire.exchange()
    assert wire.peer.requests[call].ended
    assert wire.peer.requests[call].messages == [b"0", b"1", b"2"]
    wire.peer.finish(call)
    assert how_it_ended(wire.exchange(), call).error is None
    assert wire.peer.resets == []


def test_headers_larger_than_a_frame(wire: Wire) -> None:
    token = bytes(range(33, 123)) * 400  # 36 kB, and nothing in it that repeats for HPACK
    for size in (len(token), 10, 16384):
        call = wire.client.open([*REQUEST, (b"token", token[:size])])
        assert call is not None
        wire.client.send(call, b"question", end=True)
        wire.exchange()
        request = wire.peer.requests[call]
        assert request.headers[b"token"] == token[:size]
        assert request.messages == [b"question"]
        wire.peer.answer(call)
        assert how_it_ended(wire.exchange(), call).error is None


def test_calls_do_not_mix(wire: Wire) -> None:
    calls = [wire.call(b"%d" % number) for number in range(5)]
    for call in reversed(calls):
        wire.peer.answer(call, b"to %d" % call)
    events = wire.exchange()
    for call in calls:
        assert Message(call, b"to %d" % call) in events
        assert how_it_ended(events, call).error is None


def test_server_is_answered_without_being_asked_to(wire: Wire) -> None:
    wire.peer.h2.ping(b"12345678")
    wire.peer.h2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: 7})
    assert wire.exchange() == [SettingsChanged()]
    assert wire.client.max_calls == 7


def test_ping(wire: Wire) -> None:
    wire.client.ping(b"are you?")
    assert wire.exchange() == []  # its answer is no event: all that the server sends is a sign
    assert wire.peer.pings == 1


def test_close_sends_goaway_once(wire: Wire) -> None:
    wire.client.close()
    wire.client.close()
    assert wire.client.output_size == len(wire.client.take_output()) == 9 + 8
    assert wire.client.receive(b"anything") == []
    assert wire.client.receive_eof() == []


def test_informational_answer_is_no_answer(wire: Wire) -> None:
    call = wire.call()
    wire.peer.h2.send_headers(call, [(b":status", b"103")])
    assert wire.exchange() == []
    wire.peer.answer(call)
    assert how_it_ended(wire.exchange(), call).error is None


# ---- calls that the server ends with an error ------------------------------------


def test_trailers_only(wire: Wire) -> None:
    call = wire.call()
    wire.peer.refuse(call, b"5", b"etcdserver: no such thing")
    events = wire.exchange()
    assert len(events) == 1
    error = error_of(events, call)
    assert isinstance(error, NotFound)
    assert (error.status, error.message) == (Status.NOT_FOUND, "etcdserver: no such thing")
    assert wire.peer.resets == []


def test_trailers_only_before_we_ended_our_half(wire: Wire) -> None:
    call = wire.call(b"first", end=False)
    wire.peer.refuse(call, b"14")
    assert isinstance(error_of(wire.exchange(), call), Unavailable)
    assert wire.peer.resets == [(call, CANCEL)]


def test_status_in_the_head_of_an_answer_that_does_not_end(wire: Wire) -> None:
    call = wire.call()
    wire.peer.accept(call, [*GRPC, (b"grpc-status", b"5")])
    assert isinstance(error_of(wire.exchange(), call), NotFound)
    assert wire.peer.resets == [(call, CANCEL)]  # or it would stay open for ever


def test_error_after_messages(wire: Wire) -> None:
    call = wire.call()
    wire.peer.accept(call)
    wire.peer.message(call, b"a part")
    wire.peer.finish(call, b"2", b"and then it broke")
    events = wire.exchange()
    assert Message(call, b"a part") in events
    assert str(error_of(events, call)) == "UNKNOWN: and then it broke"


def test_breakage_9_deadline_of_the_server_is_the_same_error(wire: Wire) -> None:
    for status, words in ((b"4", b"too late"), (b"2", b"context deadline exceeded")):
        call = wire.call()
        wire.peer.refuse(call, status, words)
        assert isinstance(error_of(wire.exchange(), call), DeadlineExceeded)


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (b"plain", "plain"),
        (b"100%25 of %C3%A4 and%0Aa line", "100% of ä and\na line"),
        (b"broken %C3 %zz %", "broken � %zz %"),
        (b"raw \xc3\xa4", "raw ä"),
        (b"", ""),
    ],
)
def test_percent_encoded_words(wire: Wire, sent: bytes, words: str) -> None:
    call = wire.call()
    wire.peer.refuse(call, b"13", sent)
    error = error_of(wire.exchange(), call)
    assert isinstance(error, RpcError)
    assert (error.status, error.message) == (Status.INTERNAL, words)


@pytest.mark.parametrize("status", [b"17", b"-1", b"many", b"", b"9" * 5000])
def test_unknown_status(wire: Wire, status: bytes) -> None:
    call = wire.call()
    wire.peer.refuse(call, status)
    error = error_of(wire.exchange(), call)
    assert isinstance(error, RpcError)
    assert error.status is Status.UNKNOWN
    assert repr(status) in error.message


@pytest.mark.parametrize(
    "code",
    [
        ErrorCodes.REFUSED_STREAM,
        ErrorCodes.CANCEL,
        ErrorCodes.NO_ERROR,
        ErrorCodes.INTERNAL_ERROR,
        0xBEEF,
    ],
)
@pytest.mark.parametrize("end", [True, False])
def test_reset(wire: Wire, code: int, end: bool) -> None:
    call = wire.call(b"question", end=end)
    wire.peer.reset(call, code)
    error = error_of(wire.exchange(), call)
    assert isinstance(error, ConnectionLost)
    assert error.processed
    assert (code.name if isinstance(code, ErrorCodes) else "0xbeef") in str(error)
    assert wire.peer.resets == []  # a reset is not answered by one
    assert wire.client.open_calls == 0


def test_end_without_a_status(wire: Wire) -> None:
    call = wire.call()
    wire.peer.accept(call)
    wire.peer.message(call, b"all of it")
    wire.peer.h2.end_stream(call)
    events = wire.exchange()
    assert Message(call, b"all of it") in events
    assert isinstance(error_of(events, call), RemoteProtocolError)


def test_trailers_without_a_status(wire: Wire) -> None:
    call = wire.call()
    wire.peer.accept(call)
    wire.peer.h2.send_headers(call, [(b"something", b"else")], end_stream=True)
    assert isinstance(error_of(wire.exchange(), call), RemoteProtocolError)


def test_head_that_ends_without_a_status(wire: Wire) -> None:
    call = wire.call()
    wire.peer.h2.send_headers(call, GRPC, end_stream=True)
    assert isinstance(error_of(wire.exchange(), call), RemoteProtocolError)


def test_server_ends_before_we_do(wire: Wire) -> None:
    call = wire.call(b"first", end=False)
    wire.peer.answer(call, b"enough")
    assert how_it_ended(wire.exchange(), call).error is None
    assert wire.peer.resets == [(call, CANCEL)]
    assert wire.client.open_calls == 0


def test_server_ends_while_our_message_waits_for_a_window() -> None:
    wire = Wire(peer=Peer(gives_windows=False))
    wire.exchange()
    call = wire.client.open(REQUEST)
    assert call is not None
    assert not wire.client.send(call, bytes(100_000), end=True)
    wire.exchange()
    wire.peer.refuse(call, b"8")
    error_of(wire.exchange(), call)
    assert wire.peer.resets == [(call, CANCEL)]
    wire.peer.h2.increment_flow_control_window(100_000)
    assert wire.exchange() == []
    assert wire.peer.requests[call].received == 65535


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (b"503", Unavailable),
        (b"502", Unavailable),
        (b"504", Unavailable),
        (b"429", Unavailable),
        (b"400", RpcError),
        (b"401", Unauthenticated),
        (b"403", PermissionDenied),
        (b"404", Unimplemented),
        (b"500", RpcError),
        (b"302", RpcError),
        (b"strange", RemoteProtocolError),
    ],
)
def test_http_status_instead_of_an_answer(
    wire: Wire, status: bytes, expected: type[EtcdError]
) -> None:
    call = wire.call()
    wire.peer.accept(call, [(b":status", status), (b"content-type", b"text/html")])
    wire.peer.body(call, b"<html>")
    events = wire.exchange()
    error = error_of(events, call)
    assert type(error) is expected
    assert status.decode() in str(error)
    assert len(events) == 1  # its text is no message
    assert wire.peer.resets == [(call, 1 if status == b"strange" else CANCEL)]


@pytest.mark.parametrize("fields", [[(b"content-type", b"text/html")], []])
def test_content_type_is_not_ours(wire: Wire, fields: list[tuple[bytes, bytes]]) -> None:
    call = wire.call()
    wire.peer.accept(call, [(b":status", b"200"), *fields])
    assert isinstance(error_of(wire.exchange(), call), RemoteProtocolError)
    assert wire.peer.resets == [(call, CANCEL)]


def test_content_type_with_a_suffix(wire: Wire) -> None:
    call = wire.call()
    wire.peer.accept(call, [(b":status", b"200"), (b"content-type", b"application/grpc+proto")])
    assert wire.exchange() == []
    wire.peer.finish(call)
    assert how_it_ended(wire.exchange(), call).error is None


def test_compressed_message(wire: Wire) -> None:
    call = wire.call()
    wire.peer.accept(call)
    wire.peer.body(call, encode_message(b"good") + b"\1" + encode_message(b"packed")[1:])
    events = wire.exchange()
    assert Message(call, b"good") in events
    assert isinstance(error_of(events, call), RemoteProtocolError)
    assert wire.peer.resets == [(call, CANCEL)]


def test_message_over_the_limit_is_refused_by_its_announcement() -> None:
    wire = Wire(Http2Connection(max_message_size=1000))
    wire.exchange()
    call = wire.call()
    wire.peer.accept(call)
    wire.peer.message(call, bytes(1000))
    wire.peer.body(call, encode_message(bytes(1001))[:5])
    events = wire.exchange()
    assert Message(call, bytes(1000)) in events
    error = error_of(events, call)
    assert isinstance(error, MessageTooLarge)
    assert (error.size, error.limit) == (1001, 1000)
    assert wire.peer.resets == [(call, CANCEL)]


# ---- calls that we end -----------------------------------------------------------


@pytest.mark.parametrize("end", [True, False])
def test_cancelled_call_is_one_reset(wire: Wire, end: bool) -> None:
    call, other = wire.call(b"", end=end), wire.call()
    wire.client.reset(call)
    wire.client.reset(call)
    assert wire.exchange() == []
    assert wire.peer.resets == [(call, CANCEL)]
    assert wire.peer.reset_frames(call) == 1
    wire.peer.answer(other, b"unharmed")
    assert Message(other, b"unharmed") in wire.exchange()


def test_answer_that_crosses_a_reset_is_ignored(wire: Wire) -> None:
    call, other = wire.call(), wire.call()
    wire.client.reset(call)
    wire.peer.accept(call)
    for _ in range(3):
        wire.peer.message(call, b"too late")
    wire.peer.finish(call)
    assert wire.exchange() == []
    assert wire.peer.reset_frames(call) == 1  # not one for each frame that was under way
    wire.peer.answer(other, b"unharmed")
    assert Message(other, b"unharmed") in wire.exchange()


def test_words_about_a_call_that_is_over_are_ignored(wire: Wire) -> None:
    call = wire.call()
    wire.peer.answer(call)
    wire.exchange()
    wire.client.reset(call)
    wire.client.consumed(call, b"")
    wire.exchange()
    assert wire.peer.resets == []
