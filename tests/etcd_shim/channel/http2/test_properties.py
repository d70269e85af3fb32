"""The pure half of a connection, whatever the server says and however it arrives.

A *speech* is the bytes of a server that Hypothesis made up. The same four calls get it: one whose
request is all sent, one that goes on sending, one that waits for a window, and one cancelled.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass

from h2.errors import ErrorCodes
from h2.exceptions import H2Error
from h2.settings import SettingCodes
from hypothesis import HealthCheck, given, settings, strategies as st

from tests.etcd_shim.channel.h2_peer import GRPC, REQUEST, Peer
from trio_sched.etcd_shim.channel.http2 import Http2Connection
from trio_sched.etcd_shim.channel.http2.events import CallEnded, ConnectionBroken, Event, Message
from trio_sched.etcd_shim.channel.http2.messages import PREFIX_SIZE, encode_message
from trio_sched.etcd_shim.errors import EtcdError

CALLS = (1, 3, 5, 7)
CANCELLED = 7
BIG = 100_000  # what waits for a window
LIMIT = 5000  # of a message
LARGEST_FRAME = 16384 + 9

Act = Callable[[Peer], None]
thorough = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))


# ---- what a server may say -----------------------------------------------------


def act(name: str, *args: object, **kwargs: object) -> Act:
    """Return a call of a method of the peer, or of its h2."""

    def run(peer: Peer) -> None:
        target = peer.h2 if name.startswith("h2.") else peer
        getattr(target, name.removeprefix("h2."))(*args, **kwargs)

    run.__qualname__ = f"{name}{args}{kwargs or ''}"  # for Hypothesis's reports
    return run


def speak(name: str, call: int, *args: object, **kwargs: object) -> Act:
    """Return an act about a call whose answer has a head: it gets one if need be."""

    def run(peer: Peer) -> None:
        if call not in peer.accepted:
            peer.accept(call)
        act(name, call, *args, **kwargs)(peer)

    run.__qualname__ = f"{name}{(call, *args)}{kwargs or ''}"
    return run


def frame(kind: int, flags: int, call: int, body: bytes) -> bytes:
    return len(body).to_bytes(3) + bytes([kind, flags]) + call.to_bytes(4) + body


call_ids = st.sampled_from(CALLS)
statuses = st.sampled_from([b"0", b"2", b"4", b"14", b"99", b"x"])
words = st.sampled_from([None, b"%C3%A4", b"etcdserver: no leader"])
codes = st.sampled_from([*map(int, ErrorCodes), 0xBEEF])
payloads = st.one_of(st.binary(max_size=20), st.integers(0, LIMIT + 1).map(bytes))
heads = st.sampled_from(
    [
        GRPC,
        GRPC,
        GRPC,
        [(b":status", b"503")],
        [(b":status", b"200")],
        [*GRPC, (b"grpc-status", b"5")],
    ]
)
new_settings = st.dictionaries(
    st.sampled_from(
        [
            SettingCodes.INITIAL_WINDOW_SIZE,
            SettingCodes.HEADER_TABLE_SIZE,
            SettingCodes.MAX_CONCURRENT_STREAMS,
        ]
    ),
    st.integers(0, 70_000),
)

lawful: st.SearchStrategy[Act] = st.one_of(
    st.builds(act, st.just("accept"), call_ids, heads),
    st.builds(speak, st.just("message"), call_ids, payloads),
    st.builds(speak, st.just("message"), call_ids, payloads),
    st.builds(speak, st.just("message"), call_ids, payloads),
    st.builds(speak, st.just("body"), call_ids, payloads.map(lambda p: encode_message(p)[:-1])),
    st.builds(act, st.just("body"), call_ids, payloads.map(encode_message)),
    st.builds(speak, st.just("finish"), call_ids, statuses, words),
    st.builds(act, st.just("refuse"), call_ids, statuses, words),
    st.builds(act, st.just("reset"), call_ids, codes),
    st.builds(act, st.just("goaway"), st.sampled_from([0, *CALLS]), codes, st.binary(max_size=9)),
    st.builds(speak, st.just("h2.end_stream"), call_ids),
    st.builds(act, st.just("h2.send_headers"), call_ids, st.just([(b":status", b"103")])),
    st.builds(act, st.just("h2.ping"), st.binary(min_size=8, max_size=8)),
    st.builds(act, st.just("h2.update_settings"), new_settings),
    st.builds(act, st.just("h2.increment_flow_control_window"), st.integers(1, BIG)),
    st.builds(act, st.just("h2.increment_flow_control_window"), st.integers(1, BIG), call_ids),
    st.builds(
        lambda call, data, padding: speak("h2.send_data", call, data, pad_length=padding),
        call_ids,
        st.binary(max_size=9),
        st.integers(0, 255),
    ),
)
frames = st.builds(
    frame,
    st.integers(0, 11),
    st.sampled_from([0, 1, 4, 5, 8, 0x20, 0x2D, 0xFF]),
    st.sampled_from([0, 2, 9, 2**31 - 1, *CALLS]),
    st.one_of(st.binary(max_size=30), st.sampled_from([b"\x88", bytes(8), b"\0\0\0\5"])),
)
unlawful = frames.map(lambda data: act("raw_bytes", data))


def opened() -> tuple[Http2Connection, bytes]:
    """Return a client with its calls, and what it has said."""
    client = Http2Connection(call_window=20_000, connection_window=65535, max_message_size=LIMIT)
    client.start()
    for call, size, end in ((1, 10, True), (3, 10, False), (5, BIG, True), (7, 10, True)):
        assert client.open(REQUEST) == call
        client.send(call, bytes(size), end=end)
    client.reset(CANCELLED)
    return client, client.take_output()


def speech(acts: Iterable[Act]) -> bytes:
    """Return what a server says that does all that, as far as h2 lets it."""
    peer = Peer(gives_windows=False)
    peer.start()
    peer.receive(opened()[1])
    for each in acts:
        with contextlib.suppress(H2Error):
            each(peer)
    return peer.take_output()


lawful_speeches = st.lists(lawful, min_size=10, max_size=40).map(speech)
# Illegal frames are rare enough for something to happen before the first.
speeches = st.builds(
    lambda before, broken, after: speech([*before, *broken, *after]),
    st.lists(lawful, min_size=8, max_size=25),
    st.lists(unlawful, max_size=2),
    st.lists(lawful, max_size=15),
)
places = st.lists(st.integers(0, 2**20), max_size=20)


def cut(data: bytes, where: Iterable[int]) -> list[bytes]:
    ends = sorted(place % (len(data) + 1) for place in where)
    return [data[a:b] for a, b in zip([0, *ends], [*ends, len(data)], strict=True)]


# ---- what the client makes of it -------------------------------------------------


def comparable(value: object) -> object:
    """Return an event, or a part of one, as something that can be compared."""
    if isinstance(value, ConnectionBroken):
        return ConnectionBroken, type(value.error)  # its words may quote what was there by then
    if isinstance(value, EtcdError):
        return type(value), str(value), getattr(value, "processed", None)
    if is_dataclass(value):
        return type(value), *(comparable(getattr(value, field.name)) for field in fields(value))
    if isinstance(value, list | tuple):
        return [comparable(item) for item in value]
    return value


def receive(
    pieces: Iterable[bytes], *, reads: bool = False
) -> tuple[Http2Connection, list[Event], bytes]:
    client = opened()[0]
    events: list[Event] = []
    output = b""
    for piece in pieces:
        received = client.receive(piece)
        events += received
        for event in received:
            if reads and isinstance(event, Message):
                client.consumed(event.stream_id, event.payload)
        output += client.take_output()
    return client, events, output


def windows(client: Http2Connection) -> dict[int, int]:
    """How much the server may still send for each call, once it knows."""
    return {
        call: stream.receive_window + stream.unacknowledged
        for call, stream in client._streams.items()
    }


def check_sanity(events: list[Event]) -> None:
    """Each call ends once, and nothing comes after its end; nor after the connection's."""
    over = {CANCELLED}
    for event in events:
        call = getattr(event, "stream_id", None)
        assert call is None or (call in CALLS and call not in over)
        if isinstance(event, CallEnded):
            over.add(event.stream_id)
    for event in events[:-1]:
        assert not isinstance(event, ConnectionBroken)
    for event in events:
        if isinstance(event, ConnectionBroken):
            assert isinstance(event.error, EtcdError)


def check_bounds(client: Http2Connection, received: int) -> None:
    assert len(client._input) <= LARGEST_FRAME
    assert client._open_block is None or len(client._open_block.data) <= 2**16
    assert client.open_calls <= len(CALLS)
    assert client.output_size <= 2 * received + BIG + 1000
    for stream in client._streams.values():
        if stream.decoder is not None:
            assert stream.decoder.partial <= LIMIT + PREFIX_SIZE + LARGEST_FRAME
        assert len(stream.outgoing) <= BIG + PREFIX_SIZE


# ---- the properties ----------------------------------------------------------------


@thorough
@given(speeches, places)
def test_any_split_gives_the_same(data: bytes, where: list[int]) -> None:
    _, expected, output = receive([data])
    for pieces in (cut(data, where), [data[i : i + 1] for i in range(len(data))]):
        _, events, said = receive(pieces)
        assert comparable(events) == comparable(expected)
        assert said == output


@thorough
@given(lawful_speeches, places)
def test_any_split_gives_the_same_to_one_who_reads(data: bytes, where: list[int]) -> None:
    whole, expected, _ = receive([data], reads=True)
    client, events, _ = receive(cut(data, where), reads=True)
    assert comparable(events) == comparable(expected)
    assert windows(client) == windows(whole)


@thorough
@given(speeches, places)
def test_whatever_a_server_says(data: bytes, where: list[int]) -> None:
    client = opened()[0]
    events: list[Event] = []
    received = 0
    for piece in cut(data, where):
        events += client.receive(piece)
        received += len(piece)
        check_bounds(client, received)
    check_sanity(events)
    if events and isinstance(events[-1], ConnectionBroken):
        assert client.receive(data) == client.receive_eof() == []
    else:
        check_sanity(events + client.receive_eof())


@thorough
@given(
    lawful_speeches,
    st.lists(
        st.tuples(st.integers(0, 2**20), st.binary(max_size=6), st.integers(0, 6)), max_size=4
    ),
    places,
)
def test_speech_with_noise_in_it(
    data: bytes, noise: list[tuple[int, bytes, int]], where: list[int]
) -> None:
    for place, instead, length in noise:
        at = place % (len(data) + 1)
        data = data[:at] + instead + data[at + length :]
    client, events, _ = receive(cut(data, where))
    check_sanity(events)
    check_bounds(client, len(data))


@thorough
@given(st.binary(max_size=400), st.booleans(), places)
def test_noise_only(data: bytes, polite: bool, where: list[int]) -> None:
    data = speech([]) + data if polite else data
    client, events, _ = receive(cut(data, where))
    check_sanity(events)
    check_bounds(client, len(data))
    assert len(events) <= len(data)
