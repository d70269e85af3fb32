"""Each type of frame, as RFC 9113 wants it, and as it may not be."""

from __future__ import annotations

import pytest

from tests.etcd_shim.channel.http2.talk import GRPC, REQUEST, Talk, settings
from trio_sched.etcd_shim.channel.http2 import frames as f
from trio_sched.etcd_shim.channel.http2.errors import ConnectionFault, ErrorCode
from trio_sched.etcd_shim.channel.http2.events import CallEnded, GoAway, Message
from trio_sched.etcd_shim.channel.http2.messages import encode_message
from trio_sched.etcd_shim.errors import ConnectionLost

RESERVED = 2**31
IDLE = (99, 2)  # not opened yet, and never opened by a client

# The body that a frame of each type needs at least to be whole.
BODIES = {f.DATA: b"x", f.HEADERS: b"\x88", f.RST_STREAM: bytes(4), f.WINDOW_UPDATE: b"\0\0\0\1"}


@pytest.fixture
def talk() -> Talk:
    return Talk()


# ---- 3.4, 4.1, 4.2, 5.5 ---------------------------------------------------------


@pytest.mark.parametrize("kind", [f.DATA, f.HEADERS, f.PING, f.GOAWAY, f.WINDOW_UPDATE, 0xEE])
def test_first_frame_is_settings(kind: int) -> None:
    Talk(b"").expect_break(f.frame(kind, 0, 0, bytes(8)), ErrorCode.PROTOCOL_ERROR)


def test_acknowledgement_may_come_first_and_is_no_settings() -> None:
    talk = Talk(f.frame(f.SETTINGS, f.ACK, 0))
    assert talk.client.max_calls == 100
    talk.expect_break(f.frame(f.PING, 0, 0, bytes(8)), ErrorCode.PROTOCOL_ERROR)


def test_reserved_bit_is_ignored(talk: Talk) -> None:
    call = talk.call()
    window = f.frame(f.WINDOW_UPDATE, 0, call | RESERVED, b"\x80\0\0\1")
    answer = talk.head(call | RESERVED) + talk.message(call | RESERVED)
    assert talk.client.receive(window + answer) == [Message(call, b"answer")]
    assert talk.client.receive(talk.trailers(call | RESERVED)) == [CallEnded(call, None)]


def test_unknown_flags_are_ignored(talk: Talk) -> None:
    call = talk.call()
    answer = talk.head(call, flags=0xC6) + talk.message(call, flags=0xF6) + talk.trailers(call)
    talk.expect_answer(answer + f.frame(f.PING, 0xFE, 0, bytes(8)), call)


def test_unknown_frames_are_ignored(talk: Talk) -> None:
    call = talk.call()
    odd = b"".join(f.frame(kind, 0xFF, stream, b"?") for kind in (10, 255) for stream in (0, 1, 99))
    talk.expect_answer(odd + talk.answer(call), call)


@pytest.mark.parametrize("kind", range(11))
def test_frame_over_16_kib(talk: Talk, kind: int) -> None:
    head = f.frame(kind, 0, talk.call(), bytes(16_385))[:9]
    talk.expect_break(head, ErrorCode.FRAME_SIZE_ERROR)  # before the rest of it has come


def test_frame_of_16_kib(talk: Talk) -> None:
    call = talk.call()
    payload = bytes(16_384 - 5)
    talk.expect_answer(talk.answer(call, payload), call, payload)


# ---- 5.1: streams -----------------------------------------------------------------


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("stream_id", IDLE)
def test_frame_of_an_idle_stream(talk: Talk, kind: int, stream_id: int) -> None:
    talk.call()
    data = f.frame(kind, f.END_HEADERS if kind == f.HEADERS else 0, stream_id, BODIES[kind])
    talk.expect_break(data, ErrorCode.PROTOCOL_ERROR)


@pytest.mark.parametrize("kind", [f.DATA, f.HEADERS, f.PRIORITY, f.RST_STREAM, f.CONTINUATION])
def test_frame_of_stream_0_that_must_have_a_stream(talk: Talk, kind: int) -> None:
    data = f.frame(kind, 0, 0, BODIES.get(kind, bytes(5)))
    talk.expect_break(data, ErrorCode.PROTOCOL_ERROR)


@pytest.mark.parametrize("kind", [f.SETTINGS, f.PING, f.GOAWAY])
def test_frame_of_a_stream_that_must_have_none(talk: Talk, kind: int) -> None:
    data = f.frame(kind, 0, talk.call(), bytes(0 if kind == f.SETTINGS else 8))
    talk.expect_break(data, ErrorCode.PROTOCOL_ERROR)


@pytest.mark.parametrize("how", ["it ended", "trailers only", "the server reset it", "we reset it"])
@pytest.mark.parametrize("kind", [*BODIES, f.PRIORITY])
def test_frame_of_a_closed_stream_is_ignored(talk: Talk, how: str, kind: int) -> None:
    call = talk.call()
    match how:
        case "it ended":
            talk.client.receive(talk.answer(call))
        case "trailers only":
            talk.client.receive(talk.trailers(call, (*GRPC, (b"grpc-status", b"5"))))
        case "the server reset it":
            talk.client.receive(f.reset_frame(call, ErrorCode.CANCEL))
        case _:
            talk.client.reset(call)
    talk.sent()
    flags = f.END_HEADERS if kind == f.HEADERS else 0
    late = f.frame(kind, flags, call, BODIES.get(kind, bytes(5)))
    assert talk.client.receive(late * 100) == []
    assert talk.sent() == []
    talk.expect_fine()


def test_header_block_of_a_closed_stream_is_decoded(talk: Talk) -> None:
    call = talk.call()
    talk.client.reset(call)
    new = (*GRPC, (b"x-new", b"in the table from now on"))
    assert talk.client.receive(talk.head(call, new)) == []
    call = talk.call()
    talk.expect_answer(talk.head(call, new) + talk.message(call) + talk.trailers(call), call)


def test_ids_are_used_up(talk: Talk) -> None:
    talk.client._last_stream_id = 2**31 - 3
    assert talk.call() == 2**31 - 1
    assert talk.client.open(REQUEST) is None
    talk.expect_answer(talk.answer(2**31 - 1), 2**31 - 1)


# ---- 6.1 to 6.4, 6.10: padding, PRIORITY, RST_STREAM, CONTINUATION --------------------


@pytest.mark.parametrize("padding", [0, 1, 255])
def test_padding(talk: Talk, padding: int) -> None:
    call = talk.call()

    def padded(kind: int, flags: int, body: bytes) -> bytes:
        return f.frame(kind, flags | f.PADDED, call, bytes([padding]) + body + bytes(padding))

    answer = (
        padded(f.HEADERS, f.END_HEADERS | f.WITH_PRIORITY, bytes(5) + talk.encoder.encode(GRPC))
        + padded(f.DATA, 0, encode_message(b"answer"))
        + padded(f.HEADERS, f.END_HEADERS | f.END_STREAM, b"\x00\x0bgrpc-status\x010")
    )
    talk.expect_answer(answer, call)


@pytest.mark.parametrize(
    ("kind", "flags", "body", "code"),
    [
        (f.DATA, f.PADDED, b"\x03abc"[:3], ErrorCode.PROTOCOL_ERROR),
        (f.DATA, f.PADDED, b"", ErrorCode.FRAME_SIZE_ERROR),
        (f.HEADERS, f.PADDED, b"\xff\x88", ErrorCode.PROTOCOL_ERROR),
        (f.HEADERS, f.PADDED, b"", ErrorCode.FRAME_SIZE_ERROR),
        (f.HEADERS, f.WITH_PRIORITY, bytes(4), ErrorCode.FRAME_SIZE_ERROR),
        (f.HEADERS, f.PADDED | f.WITH_PRIORITY, b"\x01" + bytes(5), ErrorCode.PROTOCOL_ERROR),
    ],
)
def test_more_padding_than_frame(
    talk: Talk, kind: int, flags: int, body: bytes, code: ErrorCode
) -> None:
    call = talk.call()
    talk.client.receive(talk.head(call) if kind == f.DATA else b"")
    talk.expect_break(f.frame(kind, flags | f.END_HEADERS * (kind != f.DATA), call, body), code)


def test_frame_that_is_all_padding(talk: Talk) -> None:
    call = talk.call()
    padding = f.frame(f.DATA, f.PADDED, call, b"\x03abc")
    talk.expect_answer(talk.head(call) + padding + talk.message(call) + talk.trailers(call), call)


def test_priority_means_nothing(talk: Talk) -> None:
    call = talk.call()
    itself = f.frame(f.PRIORITY, 0, call, call.to_bytes(4) + b"\0")
    talk.expect_answer(itself + f.frame(f.PRIORITY, 0, 99, bytes(5)) + talk.answer(call), call)


@pytest.mark.parametrize("size", [0, 4, 6])
def test_priority_of_another_length(talk: Talk, size: int) -> None:
    call, other = talk.call(), talk.call()
    data = f.frame(f.PRIORITY, 0, call, bytes(size))
    talk.expect_end(data, call, ErrorCode.FRAME_SIZE_ERROR, others=(other,))


@pytest.mark.parametrize("code", [*ErrorCode, 0xE, 2**32 - 1])
def test_reset_of_each_code(talk: Talk, code: int) -> None:
    call, other = talk.call(), talk.call()
    data = f.frame(f.RST_STREAM, 0, call, code.to_bytes(4))
    error = talk.expect_end(data + data, call, None, others=(other,))
    assert isinstance(error, ConnectionLost)
    assert error.processed  # whatever the code


def test_reset_after_the_trailers_changes_nothing(talk: Talk) -> None:
    call = talk.call()
    talk.expect_answer(talk.answer(call) + f.reset_frame(call, ErrorCode.NO_ERROR), call)


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        *[(f.RST_STREAM, size) for size in (0, 3, 5)],
        *[(f.PING, size) for size in (0, 7, 9)],
        *[(f.WINDOW_UPDATE, size) for size in (0, 3, 5)],
        *[(f.GOAWAY, size) for size in (0, 7)],
        *[(f.SETTINGS, size) for size in (1, 5, 7)],
    ],
)
def test_frame_of_another_length(talk: Talk, kind: int, size: int) -> None:
    stream_id = talk.call() if kind == f.RST_STREAM else 0
    talk.expect_break(f.frame(kind, 0, stream_id, bytes(size)), ErrorCode.FRAME_SIZE_ERROR)


def test_header_block_split_anywhere() -> None:
    size = len(Talk().head(1)) - 9
    for first in range(size + 1):
        talk = Talk()
        call = talk.call()
        block = talk.encoder.encode(GRPC)
        parts = [block[:first], *(block[i : i + 1] for i in range(first, size)), b""]
        head = f.frame(f.HEADERS, 0, call, parts[0])
        head += b"".join(f.frame(f.CONTINUATION, 0, call, part) for part in parts[1:-1])
        head += f.frame(f.CONTINUATION, f.END_HEADERS, call, parts[-1])
        talk.expect_answer(head + talk.message(call) + talk.trailers(call), call)


def test_trailers_split(talk: Talk) -> None:
    call = talk.call()
    answer = talk.head(call) + talk.message(call)
    block = talk.encoder.encode(((b"grpc-status", b"0"),))
    parts = f.frame(f.HEADERS, f.END_STREAM, call, block[:1])
    parts += f.frame(f.CONTINUATION, f.END_HEADERS, call, block[1:])
    talk.expect_answer(answer + parts, call)


@pytest.mark.parametrize("kind", [f.DATA, f.HEADERS, f.PING, f.SETTINGS, f.WINDOW_UPDATE, 0xEE])
def test_header_block_that_is_broken_off(talk: Talk, kind: int) -> None:
    call = talk.call()
    data = f.frame(f.HEADERS, 0, call, b"\x88") + f.frame(kind, 0, call, bytes(8))
    talk.expect_break(data, ErrorCode.PROTOCOL_ERROR)


def test_continuation_of_another_stream(talk: Talk) -> None:
    call, other = talk.call(), talk.call()
    data = f.frame(f.HEADERS, 0, call, b"\x88") + f.frame(f.CONTINUATION, f.END_HEADERS, other)
    talk.expect_break(data, ErrorCode.PROTOCOL_ERROR)


def test_continuation_of_nothing(talk: Talk) -> None:
    data = f.frame(f.CONTINUATION, f.END_HEADERS, talk.call())
    talk.expect_break(data, ErrorCode.PROTOCOL_ERROR)


# ---- 6.5 to 6.8, 8.4: SETTINGS, PING, GOAWAY, PUSH_PROMISE -----------------------------


def test_settings_and_pings_are_answered_in_order(talk: Talk) -> None:
    ping = f.frame(f.PING, 0, 0, b"12345678")
    talk.client.receive(settings((3, 7)) + ping + f.frame(f.PING, f.ACK, 0, bytes(8)))
    assert talk.sent() == [(f.SETTINGS, f.ACK, 0, b""), (f.PING, f.ACK, 0, b"12345678")]
    assert talk.client.max_calls == 7


def test_acknowledgement_with_a_payload(talk: Talk) -> None:
    data = f.frame(f.SETTINGS, f.ACK, 0, bytes(6))
    talk.expect_break(data, ErrorCode.FRAME_SIZE_ERROR)


def test_goaway_twice_and_its_last_stream_never_rises(talk: Talk) -> None:
    said = [2**31 - 1, 3, 5, 1, 2**31 - 1]
    data = b"".join(f.frame(f.GOAWAY, 0, 0, last.to_bytes(4) + b"\0\0\0\2why") for last in said)
    expected = [2**31 - 1, 3, 3, 1, 1]
    assert talk.client.receive(data) == [GoAway(last, 2, b"why") for last in expected]


def test_push_is_refused(talk: Talk) -> None:
    data = f.frame(f.PUSH_PROMISE, f.END_HEADERS, talk.call(), b"\0\0\0\2\x82")
    talk.expect_break(data, ErrorCode.PROTOCOL_ERROR)


# ---- the bytes of ours ------------------------------------------------------------------


def test_header_frames_are_no_larger_than_the_limit() -> None:
    frames = f.header_frames(5, bytes(range(100)), 40)
    assert frames == (
        f.frame(f.HEADERS, 0, 5, bytes(range(40)))
        + f.frame(f.CONTINUATION, 0, 5, bytes(range(40, 80)))
        + f.frame(f.CONTINUATION, f.END_HEADERS, 5, bytes(range(80, 100)))
    )
    assert f.header_frames(5, b"short", 40) == f.frame(f.HEADERS, f.END_HEADERS, 5, b"short")


def test_frame_whose_length_takes_three_bytes() -> None:
    assert f.frame(f.DATA, 1, 7, bytes(70_000))[:9] == b"\1\x11\x70\0\1\0\0\0\7"


def test_goaway_and_reset() -> None:
    assert f.goaway_frame(ErrorCode.FRAME_SIZE_ERROR) == b"\0\0\x08\7\0\0\0\0\0" + bytes(7) + b"\6"
    assert f.reset_frame(3, ErrorCode.CANCEL) == b"\0\0\4\3\0\0\0\0\3\0\0\0\x08"


def test_strip_padding() -> None:
    assert f.strip_padding(0, b"all") == b"all"
    assert f.strip_padding(f.PADDED, b"\2body\0\0") == b"body"
    assert f.strip_padding(f.WITH_PRIORITY, bytes(5) + b"body") == b"body"
    with pytest.raises(ConnectionFault):
        f.strip_padding(f.PADDED, b"\3ab")


# ---- bytes that are cut anywhere ---------------------------------------------------------


def test_any_cut_of_bytes_that_look_like_frames() -> None:
    inside = f.frame(f.PING, 0, 0, b"not mine") * 3  # a message may hold what reads like a frame
    size = len(Talk().answer(1, inside))
    for place in range(size + 1):
        talk = Talk()
        call = talk.call()
        data = talk.answer(call, inside)
        events = talk.client.receive(data[:place]) + talk.client.receive(data[place:])
        assert events == [Message(call, inside), CallEnded(call, None)]


def test_cuts_that_leave_a_frame_header_alone(talk: Talk) -> None:
    call = talk.call()
    events = [event for byte in talk.answer(call) for event in talk.client.receive(bytes([byte]))]
    assert events == [Message(call, b"answer"), CallEnded(call, None)]
