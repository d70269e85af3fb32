"""The pure half of a connection: flow control, both ways."""

from __future__ import annotations

import pytest
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from hyperframe.frame import RstStreamFrame, WindowUpdateFrame

from tests.etcd_shim.channel.h2_peer import REQUEST, Peer, Wire
from trio_sched.etcd_shim.channel.http2 import Http2Connection
from trio_sched.etcd_shim.channel.http2.events import CallEnded, Event, Message, RequestSent
from trio_sched.etcd_shim.channel.http2.messages import PREFIX_SIZE

WINDOW = 10_000  # of a call, in most of these tests
BIG = bytes(range(256)) * 1000  # more than every window and frame here

DEFAULT_WINDOW = 65535


def messages(events: list[Event], call: int) -> list[bytes]:
    return [e.payload for e in events if isinstance(e, Message) and e.stream_id == call]


def partial(wire: Wire, call: int) -> int:
    """How many bytes of an incomplete message the client keeps."""
    decoder = wire.client._streams[call].decoder
    return decoder.partial if decoder is not None else 0


def unread(wire: Wire, call: int) -> int:
    """How many bytes of a call the client keeps, in messages not taken and in parts of one."""
    kept = sum(len(payload) + PREFIX_SIZE for payload in messages(wire.events, call))
    return kept + partial(wire, call)


@pytest.fixture
def wire() -> Wire:
    """A client with a small window for each call, and a peer that gives none back by itself."""
    wire = Wire(Http2Connection(call_window=WINDOW), Peer(gives_windows=False))
    wire.exchange()
    return wire


def begin(wire: Wire, payload: bytes) -> int:
    call = wire.client.open(REQUEST)
    assert call is not None
    wire.client.send(call, payload, end=True)
    return call


# ---- what we send ------------------------------------------------------------


def test_request_larger_than_frames_and_windows() -> None:
    wire = Wire()
    wire.exchange()
    call = wire.client.open(REQUEST)
    assert call is not None
    assert not wire.client.send(call, BIG, end=True)
    events = wire.exchange()
    assert events == [RequestSent(call)]
    assert wire.peer.requests[call].messages == [BIG]
    assert wire.peer.requests[call].ended


def test_small_request_is_sent_at_once(wire: Wire) -> None:
    call = wire.client.open(REQUEST)
    assert call is not None
    assert wire.client.send(call, b"small", end=True)
    assert wire.exchange() == []


def test_request_goes_as_far_as_the_window(wire: Wire) -> None:
    call = wire.call(BIG, end=False)
    request = wire.peer.requests[call]
    assert request.received == DEFAULT_WINDOW
    wire.peer.give(call, 1000)
    assert wire.exchange() == []
    assert request.received == DEFAULT_WINDOW + 1000
    wire.client.end(call)
    wire.peer.give(call, len(BIG))
    assert wire.exchange() == [RequestSent(call)]
    assert (request.messages, request.ended) == ([BIG], True)


def test_end_waits_behind_what_is_queued(wire: Wire) -> None:
    call = wire.call(BIG, end=False)
    assert not wire.client.end(call)
    wire.exchange()
    assert not wire.peer.requests[call].ended
    wire.peer.give(call, len(BIG))
    assert wire.exchange() == [RequestSent(call)]
    assert wire.peer.requests[call].ended


def test_both_windows_are_kept(wire: Wire) -> None:
    call = wire.call(BIG)
    wire.peer.h2.increment_flow_control_window(len(BIG), call)
    assert wire.exchange() == []
    assert wire.peer.requests[call].received == DEFAULT_WINDOW
    wire.peer.h2.increment_flow_control_window(len(BIG))
    assert wire.exchange() == [RequestSent(call)]
    assert wire.peer.requests[call].messages == [BIG]


def test_frames_are_no_larger_than_the_peer_wants(wire: Wire) -> None:
    wire.peer.h2.update_settings({SettingCodes.MAX_FRAME_SIZE: 20_000})
    wire.exchange()
    call = wire.call(bytes(40_000))
    assert wire.peer.order == [call] * 3  # h2's server would have refused a larger one


def test_blocked_senders_take_turns(wire: Wire) -> None:
    first = begin(wire, BIG)  # takes all of the connection's window
    others = [begin(wire, bytes(50_000)) for _ in range(3)]
    wire.exchange()
    for call in others:
        assert wire.peer.requests[call].received == 0
    del wire.peer.order[:]
    # The first has no window of its own now, so the others share what the connection gets.
    wire.peer.h2.increment_flow_control_window(16384 * 6)
    wire.exchange()
    assert wire.peer.order == others * 2
    wire.peer.h2.increment_flow_control_window(2**20)
    sent = wire.exchange()
    assert sent == [RequestSent(call) for call in others]
    assert wire.peer.requests[first].received == DEFAULT_WINDOW


def test_cancelled_sender_leaves_its_room_to_the_others(wire: Wire) -> None:
    first, second = begin(wire, BIG), begin(wire, b"small")
    wire.exchange()
    wire.client.reset(first)
    wire.peer.h2.increment_flow_control_window(1000)
    assert wire.exchange() == [RequestSent(second)]
    assert wire.peer.requests[second].ended


def test_initial_window_grows_under_way(wire: Wire) -> None:
    call = wire.call(bytes(DEFAULT_WINDOW))  # and the five bytes of the prefix wait
    wire.peer.h2.increment_flow_control_window(1000)
    wire.exchange()
    assert wire.peer.requests[call].received == DEFAULT_WINDOW
    wire.peer.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: DEFAULT_WINDOW + 5})
    assert RequestSent(call) in wire.exchange()
    assert wire.peer.requests[call].ended


def test_initial_window_shrinks_under_way(wire: Wire) -> None:
    call = wire.call(BIG)
    # The call has used more than the new window allows: it owes the difference (RFC 9113, 6.9.2).
    wire.peer.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: DEFAULT_WINDOW - 600})
    wire.peer.h2.increment_flow_control_window(2**20)
    wire.exchange()
    wire.peer.h2.increment_flow_control_window(600, call)
    wire.exchange()
    assert wire.peer.requests[call].received == DEFAULT_WINDOW
    wire.peer.h2.increment_flow_control_window(7, call)
    wire.exchange()
    assert wire.peer.requests[call].received == DEFAULT_WINDOW + 7
    wire.peer.h2.increment_flow_control_window(len(BIG), call)
    assert wire.exchange() == [RequestSent(call)]
    assert wire.peer.requests[call].messages == [BIG]


def test_initial_window_of_nothing(wire: Wire) -> None:
    wire.peer.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 0})
    wire.exchange()
    call = wire.call(b"patience")
    assert wire.peer.requests[call].received == 0
    wire.peer.h2.increment_flow_control_window(100, call)
    assert wire.exchange() == [RequestSent(call)]
    assert wire.peer.requests[call].messages == [b"patience"]


def test_window_that_overflows_ends_its_call_only(wire: Wire) -> None:
    call, other = wire.call(), wire.call()
    for _ in range(2):
        wire.peer.raw(WindowUpdateFrame(call, 2**31 - 1))
    (ended,) = wire.exchange()
    assert isinstance(ended, CallEnded)
    assert ended.stream_id == call
    assert ended.error is not None
    wire.peer.answer(other, b"unharmed")
    assert messages(wire.exchange(), other) == [b"unharmed"]
    assert wire.peer.resets == [(call, int(ErrorCodes.FLOW_CONTROL_ERROR))]


# ---- what we receive ---------------------------------------------------------


def test_breakage_3_answer_larger_than_the_windows() -> None:
    wire = Wire(Http2Connection(call_window=WINDOW, connection_window=DEFAULT_WINDOW))
    wire.exchange()
    call = wire.call()
    wire.peer.answer(call, BIG)
    assert messages(wire.exchange(), call) == [BIG]
    assert wire.client.open_calls == 0


def test_breakage_3_many_answers_larger_than_the_window(wire: Wire) -> None:
    call = wire.call()
    wire.peer.accept(call)
    for number in range(5):
        payload = bytes([number]) * (3 * WINDOW + number)
        wire.peer.message(call, payload)
        assert messages(wire.exchange(), call) == [payload]
        wire.client.consumed(call, payload)
    wire.peer.finish(call)
    assert any(isinstance(event, CallEnded) for event in wire.exchange())


def test_breakage_5_slow_reader_stops_nobody_else(wire: Wire) -> None:
    slow, quick = wire.call(), wire.call()
    wire.peer.accept(slow)
    wire.peer.accept(quick)
    for _ in range(200):
        wire.peer.message(slow, bytes(995))
    wire.exchange()
    assert wire.peer.unsent(slow) == 200_000 - WINDOW
    for number in range(300):
        payload = bytes([number % 256]) * 9000
        wire.peer.message(quick, payload)
        assert messages(wire.exchange(), quick) == [payload]
        wire.client.consumed(quick, payload)
    assert unread(wire, slow) <= WINDOW


def test_breakage_5_reader_that_catches_up_gets_it_all(wire: Wire) -> None:
    call = wire.call()
    wire.peer.accept(call)
    sent = [b"%d" % number * 300 for number in range(100)]
    for payload in sent:
        wire.peer.message(call, payload)
    wire.peer.finish(call)
    news, taken = wire.exchange(), list[bytes]()
    while arrived := messages(news, call):
        for payload in arrived:
            wire.client.consumed(call, payload)
        taken += arrived
        news = wire.exchange()
    assert taken == sent
    assert any(isinstance(event, CallEnded) for event in wire.events)


@pytest.mark.parametrize("size", [1, 700, WINDOW - PREFIX_SIZE, WINDOW, 3 * WINDOW])
@pytest.mark.parametrize("piece", [1, 13, 16384])
def test_unread_bytes_are_bounded(size: int, piece: int) -> None:
    """A caller that reads nothing: one window and one message at most, however it is cut."""
    wire = Wire(Http2Connection(call_window=WINDOW), Peer(gives_windows=False))
    wire.exchange()
    call = wire.call()
    wire.peer.accept(call)
    wire.peer.h2.max_outbound_frame_size = piece
    for _ in range(4 * WINDOW // (size + PREFIX_SIZE) + 4):
        wire.peer.message(call, bytes(size))
        wire.exchange()
    assert wire.peer.unsent(call) > 0
    assert unread(wire, call) <= WINDOW + size + PREFIX_SIZE


def test_unread_bytes_stay_bounded_for_a_reader_that_is_always_behind(wire: Wire) -> None:
    call = wire.call()
    wire.peer.accept(call)
    for size in (10, 3 * WINDOW, 100, WINDOW // 2, 2 * WINDOW) * 20:
        wire.peer.message(call, bytes(size))
    waiting: list[bytes] = messages(wire.exchange(), call)
    while waiting:
        wire.client.consumed(call, waiting.pop(0))
        waiting += messages(wire.exchange(), call)
        kept = sum(map(len, waiting)) + partial(wire, call)
        assert kept <= WINDOW + 3 * WINDOW + PREFIX_SIZE
    assert wire.peer.unsent(call) == 0
    # All windows are back: not less, and not a byte more than there was to begin with.
    peers_view = wire.peer.h2.local_flow_control_window(call)
    state = wire.client._streams[call]
    assert peers_view + state.unacknowledged == WINDOW


def test_message_behind_one_that_waits_gets_no_window(wire: Wire) -> None:
    call = wire.call()
    wire.peer.accept(call)
    wire.peer.message(call, b"first")
    wire.peer.message(call, bytes(3 * WINDOW))
    assert messages(wire.exchange(), call) == [b"first"]
    assert unread(wire, call) == WINDOW
    wire.client.consumed(call, b"first")
    assert messages(wire.exchange(), call) == [bytes(3 * WINDOW)]


def test_message_that_never_ends_is_kept_up_to_the_limit_only() -> None:
    wire = Wire(Http2Connection(call_window=WINDOW, max_message_size=10 * WINDOW))
    wire.exchange()
    call = wire.call()
    wire.peer.accept(call)
    wire.peer.body(call, (0).to_bytes() + (10 * WINDOW).to_bytes(4))
    for _ in range(100):
        wire.peer.body(call, bytes(WINDOW))
        wire.exchange()
    assert unread(wire, call) <= 11 * WINDOW + PREFIX_SIZE


def test_padding_is_given_back(wire: Wire) -> None:
    call = wire.call()
    wire.peer.accept(call)
    for _ in range(200):  # of one byte each, and 256 of padding: more than all windows
        wire.peer.h2.send_data(call, b"", pad_length=255)
        wire.exchange()
    wire.peer.message(call, b"after all that")
    assert messages(wire.exchange(), call) == [b"after all that"]


def test_connection_window_is_given_back_on_receipt() -> None:
    wire = Wire(Http2Connection(call_window=WINDOW, connection_window=DEFAULT_WINDOW))
    wire.exchange()
    for _ in range(20):  # together, they leave unread three times the connection's window
        call = wire.call()
        wire.peer.accept(call)
        wire.peer.message(call, bytes(WINDOW - PREFIX_SIZE))
        assert messages(wire.exchange(), call)
    assert wire.client.open_calls == 20


def test_data_of_cancelled_calls_does_not_use_up_the_connection() -> None:
    wire = Wire(Http2Connection(call_window=WINDOW, connection_window=DEFAULT_WINDOW))
    wire.exchange()
    other = wire.call()
    wire.peer.accept(other)
    for _ in range(30):
        call = wire.call()
        wire.peer.accept(call)
        wire.peer.body(call, bytes(WINDOW))  # is under way when we cancel
        wire.client.reset(call)
        wire.exchange()
    wire.peer.message(other, BIG)
    assert messages(wire.exchange(), other) == [BIG]


def test_reset_that_crosses_ours(wire: Wire) -> None:
    call = wire.call()
    wire.client.reset(call)
    wire.peer.raw(RstStreamFrame(call, int(ErrorCodes.CANCEL)))
    assert wire.exchange() == []
    assert wire.peer.reset_frames(call) == 1
