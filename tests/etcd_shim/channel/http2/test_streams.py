"""One stream: its states (RFC 9113, 5.1), and its windows (6.9)."""

from __future__ import annotations

import pytest

from tests.etcd_shim.channel.http2.talk import Talk
from trio_sched.etcd_shim.channel.http2 import frames as f
from trio_sched.etcd_shim.channel.http2.errors import ErrorCode
from trio_sched.etcd_shim.channel.http2.responses import Progress
from trio_sched.etcd_shim.channel.http2.streams import Stream

WINDOW = 10_000


def test_fresh_stream_is_open_with_both_windows() -> None:
    stream = Stream(5, 7)
    assert (stream.send_window, stream.receive_window) == (5, 7)
    assert not stream.half_closed
    assert stream.progress is Progress.NO_HEAD


def test_stream_is_open_half_closed_and_closed() -> None:
    talk = Talk()
    call = talk.call(end=False)
    stream = talk.client._streams[call]
    assert not stream.half_closed
    talk.client.end(call)
    assert stream.half_closed
    talk.client.receive(talk.head(call))
    assert stream.progress is Progress.BODY
    talk.client.receive(talk.trailers(call))
    assert not talk.client._streams
    assert talk.client.open_calls == 0


def test_answer_before_our_half_has_ended_is_reset() -> None:
    talk = Talk()
    call = talk.call(end=False)
    talk.sent()
    talk.expect_answer(talk.answer(call), call)
    assert talk.resets() == [(call, ErrorCode.CANCEL)]


def test_closed_streams_leave_nothing_behind() -> None:
    talk = Talk()
    for _ in range(300):
        for end in (talk.answer, lambda call: f.reset_frame(call, ErrorCode.CANCEL)):
            call = talk.call()
            talk.client.receive(end(call))
        talk.client.reset(talk.call())
    assert not talk.client._streams
    assert not talk.client._blocked


def test_update_of_a_streams_window_by_0() -> None:
    talk = Talk()
    call, other = talk.call(), talk.call()
    data = f.window_update_frame(call, 0)
    talk.expect_end(data, call, ErrorCode.PROTOCOL_ERROR, others=(other,))


def test_update_of_the_connections_window_by_0() -> None:
    Talk().expect_break(f.window_update_frame(0, 0), ErrorCode.PROTOCOL_ERROR)


def test_overflow_of_a_streams_window() -> None:
    talk = Talk()
    call, other = talk.call(), talk.call()
    sent = len(b"question") + 5
    talk.client.receive(f.window_update_frame(call, 2**31 - 1 - 65_535 + sent))  # the largest
    data = f.window_update_frame(call, 1)
    talk.expect_end(data, call, ErrorCode.FLOW_CONTROL_ERROR, others=(other,))


def test_overflow_of_the_connections_window() -> None:
    talk = Talk()
    assert talk.client.receive(f.window_update_frame(0, 2**31 - 1 - 65_535)) == []
    talk.expect_break(f.window_update_frame(0, 1), ErrorCode.FLOW_CONTROL_ERROR)


def test_more_than_the_streams_window() -> None:
    talk = Talk(call_window=WINDOW)
    call, other = talk.call(), talk.call()
    data = f.frame(f.DATA, 0, call, b"\0\0\0\xff\xff" + bytes(WINDOW - 5))
    talk.client.receive(talk.head(call) + data[:-1] + b"\0")
    waiting = talk.call()
    talk.client.receive(talk.head(waiting) + talk.message(waiting, bytes(WINDOW - 5)))
    more = f.frame(f.DATA, 0, waiting, b"x")
    talk.expect_end(more, waiting, ErrorCode.FLOW_CONTROL_ERROR, others=(other,))


def test_more_than_the_connections_window() -> None:
    talk = Talk(connection_window=2**31 - 1)
    call = talk.call()
    talk.client.reset(call)
    talk.client._connection_window = 20_000
    talk.client._unacknowledged = 9_000
    talk.expect_break(f.frame(f.DATA, 0, call, bytes(16_000)), ErrorCode.FLOW_CONTROL_ERROR)


@pytest.mark.parametrize("padded", [False, True])
def test_what_is_dropped_counts_and_is_acknowledged(padded: bool) -> None:
    """DATA of closed streams takes from the connection's window, padding and all."""
    talk = Talk(connection_window=65_535)
    call = talk.call()
    talk.client.reset(call)
    talk.sent()
    data = f.frame(f.DATA, f.PADDED, call, b"\xff" + bytes(9_999)) if padded else b""
    data = data or f.frame(f.DATA, 0, call, bytes(10_000))
    for _ in range(100):
        assert talk.client.receive(data) == []
    increments = [int.from_bytes(body) for *_, stream_id, body in talk.sent() if stream_id == 0]
    assert 1_000_000 - 65_535 / 2 <= sum(increments) <= 1_000_000
    assert len(increments) < 30  # said in large steps
