"""The short way of the pure half: that it is taken, and what is only just not its business."""

from __future__ import annotations

import pytest
from h2.connection import H2Connection
from hpack import Encoder

from tests.etcd_shim.channel.fast_twins import (
    DATA,
    END_HEADERS,
    END_STREAM,
    GRPC,
    HEADERS,
    OK,
    PING,
    PRIORITY,
    REQUEST,
    RST_STREAM,
    SETTINGS,
    WINDOW,
    Twins,
    frame,
)
from tests.etcd_shim.channel.pure_half import PLAIN
from trio_sched.etcd_shim import open_client
from trio_sched.etcd_shim.channel._events import CallEnded, Headers, Message
from trio_sched.etcd_shim.channel._fast import FastProtocol
from trio_sched.etcd_shim.channel._framing import encode_message
from trio_sched.etcd_shim.channel._protocol import Protocol


class Conversation:
    """The twins, and a server that has answered before, so that all blocks are known."""

    def __init__(self) -> None:
        self.twins = Twins(call_window=40_000)
        self.encoder = Encoder()
        self.twins.receive(frame(SETTINGS, 0, 0))
        for _ in range(3):
            call = self.request()
            self.twins.receive(self.head(call) + self.trailers(call))

    def request(self) -> int:
        self.twins.open(REQUEST)
        call = self.twins.calls[-1]
        self.twins.do(lambda client: client.send(call, b"question", end=True))
        self.twins.do(lambda client: client.take_output())
        return call

    def head(self, call: int) -> bytes:
        return frame(HEADERS, END_HEADERS, call, self.encoder.encode(GRPC))

    def trailers(self, call: int) -> bytes:
        return frame(HEADERS, END_HEADERS | END_STREAM, call, self.encoder.encode(OK))

    def message(self, call: int, payload: bytes = b"answer") -> bytes:
        return frame(DATA, 0, call, encode_message(payload))


@pytest.fixture
def talk() -> Conversation:
    return Conversation()


def test_h2_has_nothing_to_do_with_what_came_before(
    talk: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        pytest.fail(f"this went the long way: {args}")

    client = talk.twins.fast
    client.take_output()
    monkeypatch.setattr(Protocol, "open", refuse)
    monkeypatch.setattr(Protocol, "send", refuse)
    monkeypatch.setattr(type(client._h2), "receive", refuse)
    call = client.open(REQUEST)
    assert call is not None
    assert client.send(call, b"question", end=True)
    events = client.receive(
        frame(8, 0, 0, b"\0\0\0\5")
        + frame(PING, 0, 0, b"bandwith")
        + talk.head(call)
        + talk.message(call)
        + talk.trailers(call)
    )
    assert [type(event) for event in events] == [Headers, Message, CallEnded]
    assert client.take_output().endswith(b"bandwith")


def test_any_cut_of_bytes_that_look_like_frames() -> None:
    inside = frame(PING, 0, 0, b"not mine") * 3  # a message may hold what looks like a frame
    for place in range(len(inside) + 80):
        talk = Conversation()
        call = talk.request()
        data = talk.head(call) + talk.message(call, inside) + talk.trailers(call)
        talk.twins.receive(data[:place])
        talk.twins.receive(data[place:])
        assert talk.twins.fast.open_calls == 0


def test_three_cuts_that_leave_a_frame_header_alone(talk: Conversation) -> None:
    call = talk.request()
    data = talk.head(call) + talk.message(call) + talk.trailers(call)
    for start in range(len(data)):
        talk.twins.receive(data[start : start + 1])
    assert [message.payload for message in talk.twins.messages] == [b"answer"]


@pytest.mark.parametrize(
    "fields",
    [
        ((b":status", b"103"), (b"grpc-status", b"0")),
        ((b":status", b"200"), (b"grpc-status", b"0")),
        ((b"grpc-status", b"0"), (b":status", b"103")),
        ((b":status", b"103"), *GRPC),
        ((b"grpc-status", b"0"), *GRPC),
    ],
)
@pytest.mark.parametrize("flags", [END_HEADERS, END_HEADERS | END_STREAM])
@pytest.mark.parametrize("after_head", [False, True])
def test_odd_blocks_that_are_known(
    fields: tuple[tuple[bytes, bytes], ...], flags: int, after_head: bool
) -> None:
    talk = Conversation()
    block = talk.encoder.encode(fields)
    call = talk.request()
    talk.twins.receive(talk.head(call) if after_head else b"")
    talk.twins.receive(frame(HEADERS, END_HEADERS, call, block))  # now it is in the tables
    if talk.twins.broken:
        return
    block = talk.encoder.encode(fields)
    for _ in range(2):
        call = talk.request()
        talk.twins.receive(talk.head(call) if after_head else b"")
        talk.twins.receive(frame(HEADERS, flags, call, block))


def test_no_ids_are_left(talk: Conversation) -> None:
    for client in (talk.twins.fast, talk.twins.plain):
        client._h2.highest_outbound_stream_id = H2Connection.HIGHEST_ALLOWED_STREAM_ID - 2
    talk.twins.open(REQUEST)
    assert talk.twins.do(lambda client: client.open(REQUEST)) is None
    talk.twins.compare()


def test_only_calls_that_were_reset_are_remembered(
    talk: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    for client in (talk.twins.fast, talk.twins.plain):
        monkeypatch.setattr(client._h2, "MAX_CLOSED_STREAMS", 4)
        monkeypatch.setattr(client._h2._closed_streams, "_size_limit", 4)
    reset: list[int] = []
    for _ in range(6):
        call = talk.request()
        talk.twins.receive(talk.head(call) + talk.message(call) + talk.trailers(call))
        reset.append(talk.request())
        talk.twins.do(lambda client: client.reset(reset[-1]))
    assert list(talk.twins.fast._h2._closed_streams) == reset[-4:]


@pytest.mark.parametrize("how", ["it ended", "its trailers ended it", "the server reset it"])
@pytest.mark.parametrize("kind", [DATA, HEADERS, RST_STREAM, WINDOW, PRIORITY])
def test_what_comes_for_a_call_that_is_over(talk: Conversation, how: str, kind: int) -> None:
    call = talk.request()
    if how == "it ended":
        talk.twins.receive(talk.head(call) + talk.message(call) + talk.trailers(call))
    elif how == "its trailers ended it":
        talk.twins.receive(talk.head(call) + talk.trailers(call))
    else:
        talk.twins.receive(talk.head(call) + frame(RST_STREAM, 0, call, bytes(4)))
    body = {DATA: b"late", HEADERS: b"\x88", PRIORITY: bytes(4) + b"\1"}.get(kind, b"\0\0\0\1")
    talk.twins.receive(frame(kind, END_HEADERS if kind == HEADERS else 0, call, body))
    assert talk.twins.broken == (kind == HEADERS)  # it would begin a call anew
    if not talk.twins.broken:
        other = talk.request()
        talk.twins.receive(talk.head(other) + talk.message(other) + talk.trailers(other))


def test_settings_of_the_server_hold_for_the_next_call(talk: Conversation) -> None:
    talk.twins.receive(frame(SETTINGS, 0, 0, b"\0\4\0\0\0\3"))  # a window of three bytes
    call = talk.request()
    assert talk.twins.fast._calls[call].outgoing
    talk.twins.compare()


@pytest.mark.skipif(PLAIN, reason="no channel takes the short way in this run")
@pytest.mark.parametrize(("fast", "expected"), [(True, FastProtocol), (False, Protocol)])
async def test_one_argument_turns_it_off(
    endpoint: str, fast: bool, expected: type[Protocol]
) -> None:
    async with open_client(endpoint, fast=fast) as client:
        await client.put("fast", "")
        (connection,) = client._channel._open
        assert type(connection._protocol) is expected


@pytest.mark.skipif(PLAIN, reason="no channel takes the short way in this run")
async def test_it_is_on_by_default(endpoint: str) -> None:
    async with open_client(endpoint) as client:
        await client.put("fast", "")
        (connection,) = client._channel._open
        assert type(connection._protocol) is FastProtocol
