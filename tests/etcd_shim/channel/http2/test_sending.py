"""What we send: a long message costs its length, and what waits is bounded."""

from __future__ import annotations

import tracemalloc

import pytest

from tests.etcd_shim.channel.http2.talk import REQUEST, Talk, settings
from trio_sched.etcd_shim.channel.http2 import Http2Connection, connection_preface, frames as f
from trio_sched.etcd_shim.channel.http2.errors import ErrorCode
from trio_sched.etcd_shim.channel.http2.events import RequestSent
from trio_sched.etcd_shim.channel.http2.messages import encode_message
from trio_sched.etcd_shim.channel.http2.sending import MAX_AHEAD
from trio_sched.etcd_shim.channel.http2.settings import SettingCode

LARGE = 50_000_000
WIDE = settings((SettingCode.INITIAL_WINDOW_SIZE, 2**31 - 1)) + f.window_update_frame(
    0, 2**31 - 1 - 65_535
)


def data_of(talk: Talk) -> bytes:
    return b"".join(body for kind, _, _, body in talk.sent() if kind == f.DATA)


def test_preface_is_the_same_for_all_connections() -> None:
    connection = Http2Connection(max_message_size=1000)
    connection.start()
    assert connection.take_output() == connection_preface()
    assert connection_preface().startswith(f.PREFACE + b"\0\0\x12\4\0\0\0\0\0")


def test_long_message_is_never_copied_as_a_whole_again() -> None:
    """Each of the thousands of windows costs what is sent in it, not what is left."""
    talk = Talk()
    call = talk.call(bytes(LARGE))
    talk.sent()
    tracemalloc.start()
    try:
        for _ in range(200):
            update = f.window_update_frame(0, 1000) + f.window_update_frame(call, 1000)
            assert talk.client.receive(update) == []
            assert len(talk.client.take_output()) == 1009
        assert tracemalloc.get_traced_memory()[1] < LARGE / 10
    finally:
        tracemalloc.stop()


def test_long_message_arrives() -> None:
    talk = Talk()
    payload = bytes(range(256)) * 4000
    call = talk.call(payload)
    got = bytearray(data_of(talk))
    while len(got) < len(payload) + 5:
        update = f.window_update_frame(0, 30_000) + f.window_update_frame(call, 30_000)
        talk.client.receive(update)
        got += data_of(talk)
    assert bytes(got) == encode_message(payload)


def test_data_is_held_back_while_much_waits_to_be_taken() -> None:
    talk = Talk(WIDE)
    call, payload = talk.call(bytes(5 * MAX_AHEAD)), b"of another call"
    assert MAX_AHEAD <= talk.client.output_size <= MAX_AHEAD + 2**15
    assert talk.client.held_back
    other = talk.client.open(REQUEST)
    assert other is not None
    assert not talk.client.send(other, payload, end=True)
    events, got = [], {call: b"", other: b""}
    while talk.client.held_back:
        for kind, _, stream_id, body in talk.sent():
            got[stream_id] += body if kind == f.DATA else b""
        events += talk.client.resume()
        assert talk.client.output_size <= MAX_AHEAD + 2**15
    for kind, _, stream_id, body in talk.sent():
        got[stream_id] += body if kind == f.DATA else b""
    assert events == [RequestSent(other), RequestSent(call)]  # the short one did not wait for it
    assert got == {call: encode_message(bytes(5 * MAX_AHEAD)), other: encode_message(payload)}


def test_nothing_is_resumed_after_the_end() -> None:
    talk = Talk(WIDE)
    talk.call(bytes(5 * MAX_AHEAD))
    talk.client.take_output()
    talk.client.close()
    assert talk.client.resume() == []
    assert [kind for kind, *_ in talk.sent()] == [f.GOAWAY]


def test_request_that_has_ended_takes_no_more() -> None:
    for payload in (b"short", bytes(100_000)):
        talk = Talk()
        call = talk.call(payload)
        before = talk.client.take_output()
        with pytest.raises(RuntimeError, match="ended"):
            talk.client.send(call, b"more", end=False)
        assert talk.client.end(call) == (len(payload) < 1000)  # once more changes nothing
        assert before
        assert talk.client.take_output() == b""


def test_blocked_call_that_is_reset_is_forgotten() -> None:
    talk = Talk()
    call = talk.call(bytes(100_000))
    talk.sent()
    talk.client.reset(call)
    assert talk.resets() == [(call, ErrorCode.CANCEL)]
    talk.client.receive(f.window_update_frame(0, 100_000))
    assert talk.sent() == []
