"""Two clients that are asked the same: ours, and an oracle on h2.

A *tape* is a string of bytes that says, step by step, what the clients are asked for, what a server
answers, and how its bytes are cut. `play` plays it to both, and fails at the first difference: in
what they return, report, queue, or remember of windows and tables. Most steps are lawful, as
nothing is compared after the first that is not: that one must be found by both, but h2 ends the
connection by most faults of a single stream.

Longer than 500 lines, as the language of tapes, its player and the comparison are read together.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from typing import Any, TypeAlias

import hpack
from h2.settings import SettingCodes
from hpack import NeverIndexedHeaderTuple

from tests.etcd_shim.channel.http2.h2_client import Fault as OracleFault, H2Client, Seen
from trio_sched.etcd_shim.channel.http2 import Http2Connection
from trio_sched.etcd_shim.channel.http2.errors import Fault
from trio_sched.etcd_shim.channel.http2.events import (
    CallEnded,
    ConnectionBroken,
    Event,
    GoAway,
    Message,
    RequestSent,
    SettingsChanged,
)
from trio_sched.etcd_shim.channel.http2.messages import encode_message

__all__ = ["Twins", "play"]

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, END_HEADERS, PADDED, WITH_PRIORITY, ACK = 0x1, 0x4, 0x8, 0x20, 0x1

LIMIT = 3000  # of a message
ALL_WINDOW = 70_000

REQUEST = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/etcdserverpb.KV/Put"),
    (b":authority", b"127.0.0.1:2379"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
)
REQUESTS = (
    REQUEST,
    REQUEST,
    (*REQUEST, (b"token", b"a.1")),
    (*REQUEST, NeverIndexedHeaderTuple(b"grpc-timeout", b"10m")),
    (*REQUEST, (b"hasleader", b"true")),
    (*REQUEST, (b"long", b"x" * 17_000)),
)
GRPC = ((b":status", b"200"), (b"content-type", b"application/grpc"))
OK = ((b"grpc-status", b"0"),)
ODD_HEADS = (
    (*GRPC, (b"x", b"1")),
    ((b":status", b"200"),),
    ((b":status", b"503"), (b"content-type", b"text/html")),
    ((b":status", b"103"),),
    ((b":status", b"103"), (b":status", b"200"), (b"content-type", b"application/grpc")),
    (*GRPC, (b"grpc-status", b"0")),
    ((b"content-type", b"application/grpc"), (b":status", b"200")),
    OK,
)
ODD_TRAILERS = (
    ((b"grpc-message", b""), (b"grpc-status", b"0")),
    ((b"grpc-status", b"0"), (b"grpc-message", b"")),
    ((b"grpc-status", b"5"), (b"grpc-message", b"lost%20it")),
    ((b"grpc-status", b"14"),),
    ((b"grpc-status", b"5"), (b"grpc-status", b"0")),
    ((b"x", b"1"),),
    GRPC,
    (*GRPC, (b"grpc-status", b"0")),
    ((b":status", b"103"), (b"grpc-status", b"0")),
)


# ---- the clients ----------------------------------------------------------------------


def seen(events: list[Event]) -> list[Seen]:
    """Return events as the oracle reports them."""
    return [_seen(event) for event in events]


def _seen(event: Event) -> Seen:
    match event:
        case Message():
            return ("message", event.stream_id, event.payload)
        case CallEnded():
            kind = type(event.error).__name__ if event.error is not None else ""
            return ("ended", event.stream_id, kind)
        case RequestSent():
            return ("sent", event.stream_id)
        case SettingsChanged():
            return ("settings",)
        case GoAway():
            return ("goaway", event.last_stream_id, event.error_code, event.reason)
        case ConnectionBroken():
            return ("broken",)


def is_fault(event: Event) -> bool:
    """Whether a rule was found to be broken."""
    return isinstance(event, CallEnded | ConnectionBroken) and isinstance(
        getattr(event.error, "__cause__", None), Fault
    )


class Twins:
    """The two clients, and what both were asked."""

    def __init__(self, call_window: int) -> None:
        self.ours = Http2Connection(
            max_message_size=LIMIT, call_window=call_window, connection_window=ALL_WINDOW
        )
        self.oracle = H2Client(LIMIT, call_window, ALL_WINDOW)
        self.call_window = call_window
        self.calls: list[int] = []
        self.messages: list[Message] = []  # not consumed yet
        self.broken = False  # a rule was broken, and what comes after it need not be the same
        self.ours.start()

    def open(self, headers: tuple[tuple[bytes, bytes], ...]) -> None:
        if self.ours._saw_settings and len(self.ours._streams) >= self.ours.max_calls:
            return  # `Admission` holds it back
        call = self.ours.open(headers)
        assert call == self.oracle.open(headers)
        self.calls.append(call)

    def send(self, call: int, payload: bytes, *, end: bool) -> None:
        if call in self.ours._streams:
            sent = self.ours.send(call, payload, end=end)
            assert sent == self.oracle.send(call, payload, end=end)

    def end(self, call: int) -> None:
        if call in self.ours._streams:
            assert self.ours.end(call) == self.oracle.end(call)

    def reset(self, call: int) -> None:
        self.ours.reset(call)
        self.oracle.reset(call)

    def consumed(self, message: Message) -> None:
        """Say so; the oracle's windows follow what we send the server."""
        self.ours.consumed(message.stream_id, message.payload)
        self.follow_windows()

    def receive(self, data: bytes) -> None:
        if self.broken:
            return
        events, expected = self.ours.receive(data), list[Seen]()
        self.messages += [event for event in events if isinstance(event, Message)]
        faults = [place for place, event in enumerate(events) if is_fault(event)]
        try:
            self.oracle.receive(data, expected)
        except OracleFault as fault:
            self.broken = True
            gone = any(isinstance(event, GoAway) for event in events)
            assert faults or fault.late or gone, f"h2 finds {fault}, we find nothing"  # noqa: PT017 # the oracle faults, not the code under test
        common = min(len(expected), faults[0] if faults else len(events))
        assert seen(events)[:common] == expected[:common]
        if faults or self.broken or any(isinstance(event, GoAway) for event in events):
            self.broken = True  # h2 ends a connection by GOAWAY, and by most faults of a stream
            return
        assert seen(events) == expected
        self.follow_windows()
        self.compare()

    def follow_windows(self) -> None:
        """Have the oracle's receive windows be ours: when to say more is for each to choose."""
        for call, stream in self.ours._streams.items():
            manager = self.oracle.h2.streams[call]._inbound_window_manager
            manager.current_window_size = stream.receive_window
            manager.max_window_size = 2**31 - 1
        manager = self.oracle.h2._inbound_flow_control_window_manager
        manager.current_window_size = ALL_WINDOW - self.ours._unacknowledged

    def compare(self) -> None:
        ours, h2 = self.ours, self.oracle.h2
        assert ours._streams.keys() == self.oracle.calls.keys()
        assert list(ours._blocked) == list(self.oracle.blocked)
        assert ours._send_window == h2.outbound_flow_control_window
        assert ours._max_frame_size == h2.max_outbound_frame_size
        for call, stream in ours._streams.items():
            assert stream.send_window == h2.streams[call].outbound_flow_control_window
            assert bytes(stream.outgoing) == self.oracle.calls[call].outgoing
        assert table(ours._decoder._decoder) == table(h2.decoder)


def table(coder: Any) -> tuple[object, ...]:
    entries = coder.header_table
    return list(entries.dynamic_entries), entries.maxsize


# ---- the server -------------------------------------------------------------------------


def frame(kind: int, flags: int, call: int, body: bytes = b"") -> bytes:
    return len(body).to_bytes(3) + bytes([kind, flags]) + call.to_bytes(4) + body


class Server:
    """Makes up frames, most of them lawful. What it has said waits in `said`.

    It has one odd head and one odd end for its answers, so that they come again.
    """

    def __init__(self, odd: int) -> None:
        self.heads = (GRPC, GRPC, GRPC, GRPC, GRPC, GRPC, ODD_HEADS[odd % len(ODD_HEADS)])
        self.ends = (OK, OK, OK, OK, OK, OK, ODD_TRAILERS[odd // 8 % len(ODD_TRAILERS)])
        self.said = bytearray()
        self.encoder = hpack.Encoder()
        self.stage: dict[int, int] = {}  # 1 after the head of an answer, 2 after its end

    def say(self, kind: int, flags: int, call: int, body: bytes = b"") -> None:
        self.said += frame(kind, flags, call, body)

    def head(self, call: int, which: int) -> None:
        self.stage.setdefault(call, 1)
        self.say(
            HEADERS, END_HEADERS, call, self.encoder.encode(self.heads[which % len(self.heads)])
        )

    def trailers(self, call: int, which: int, flags: int = END_STREAM) -> None:
        self.stage[call] = 2
        block = self.encoder.encode(self.ends[which % len(self.ends)])
        self.say(HEADERS, END_HEADERS | flags, call, block)

    def message(self, call: int, size: int) -> None:
        self.say(DATA, 0, call, encode_message(bytes(size)))

    # ---- what a server may say; `begun` sees to it that there is a head, and no end yet

    def begun(self, call: int) -> bool:
        if not self.stage.get(call):
            self.head(call, 0)
        return self.stage[call] == 1

    def step(self, call: int, which: int) -> None:
        """Say what comes next of an answer, perhaps of an odd one."""
        stage = self.stage.get(call, 0)
        if stage == 0:
            self.head(call, which)
        elif stage == 1 and which % 3:
            self.message(call, which)
        elif stage == 1:
            self.trailers(call, which)

    def answer(self, call: int, which: int) -> None:
        """Say a whole answer, or the rest of it."""
        if self.begun(call):
            self.message(call, which)
            self.trailers(call, which)

    def split_message(self, call: int, which: int) -> None:
        body = encode_message(bytes(which * 5))
        cut = which % len(body)
        if self.begun(call):
            for part in (body[:cut], body[cut:]):
                self.say(DATA, 0, call, part)

    def two_messages(self, call: int, which: int) -> None:
        if self.begun(call):
            self.say(DATA, 0, call, encode_message(bytes(which)) + encode_message(b"2"))

    def padded(self, call: int, which: int) -> None:
        padding = which % 50
        body = bytes([padding]) + encode_message(b"padded") + bytes(padding)
        if self.begun(call):
            self.say(DATA, PADDED, call, body)

    def padded_head(self, call: int, which: int) -> None:
        if self.stage.get(call):
            return
        self.stage[call] = 1
        block = self.encoder.encode(GRPC)
        priority = bytes(4) + b"\x10" if which & 1 else b""
        flags = PADDED | END_HEADERS | (WITH_PRIORITY if which & 1 else 0)
        self.say(HEADERS, flags, call, bytes([which]) + priority + block + bytes(which))

    def continued(self, call: int, which: int) -> None:
        """Say a head in parts, perhaps with another frame where none may be."""
        if self.stage.get(call):
            return
        self.stage[call] = 1
        block = self.encoder.encode((*GRPC, (b"y", b"%d" % which)))
        cut = which % len(block)
        self.say(HEADERS, 0, call, block[:cut])
        if which > 180:
            self.say(PING, 0, 0, bytes(8))
        self.say(CONTINUATION, END_HEADERS, call, block[cut:])

    def settings(self, _call: int, which: int) -> None:
        code, sizes = (
            (SettingCodes.INITIAL_WINDOW_SIZE, (0, 100, 20_000, 70_000, 2**24)),
            (SettingCodes.HEADER_TABLE_SIZE, (0, 64, 200, 4096, 70_000)),
            (SettingCodes.MAX_CONCURRENT_STREAMS, (0, 1, 100, 1000, 2**31)),
            (SettingCodes.MAX_FRAME_SIZE, (16_384, 16_385, 20_000, 70_000, 2**24 - 1)),
            (0xABCD, (0, 1, 2, 3, 4)),
        )[which % 5]
        others = [sizes[which // 50 % 5]] if which // 25 % 2 else []  # the last one counts
        self.setting(code, *others, sizes[which // 5 % 5])

    def setting(self, code: int, *values: int) -> None:
        name = int(code).to_bytes(2)
        self.say(SETTINGS, 0, 0, b"".join(name + value.to_bytes(4) for value in values))

    def resize(self, _call: int, which: int) -> None:
        """Have the next block begin with a new size of the table."""
        self.encoder.header_table_size = which * 16

    def window(self, call: int, which: int) -> None:
        self.say(WINDOW, 0, call, (which * 97 + 1).to_bytes(4))

    def window_for_all(self, _call: int, which: int) -> None:
        self.say(WINDOW, 0, 0, (which * 97 + 1).to_bytes(4))

    def ping(self, _call: int, which: int) -> None:
        self.say(PING, 0, 0, bytes([which]) * 8)

    def pong(self, _call: int, which: int) -> None:
        self.say(PING, ACK, 0, bytes([which]) * 8)

    def reset(self, call: int, which: int) -> None:
        if self.stage.get(call) != 2:
            self.stage[call] = 2
            self.say(RST_STREAM, 0, call, which.to_bytes(4))

    def goaway(self, call: int, which: int) -> None:
        self.say(GOAWAY, 0, 0, call.to_bytes(4) + which.to_bytes(4) + b"bye")

    def harmless(self, call: int, which: int) -> None:
        kind, body = [(0x0B, b"?"), (0xFA, bytes(30)), (PRIORITY, bytes(4) + b"\1")][which % 3]
        self.say(kind, which if kind != PRIORITY else 0, call, body)

    def acknowledge(self, _call: int, _which: int) -> None:
        self.say(SETTINGS, ACK, 0)

    def end_with_data(self, call: int, which: int) -> None:
        if self.begun(call):
            self.stage[call] = 2
            self.say(DATA, END_STREAM, call, encode_message(bytes(which)) if which & 1 else b"")

    def empty_data(self, call: int, _which: int) -> None:
        if self.begun(call):
            self.say(DATA, 0, call)

    # ---- what a server may not say, or seldom

    def too_early(self, call: int, which: int) -> None:
        self.message(call, which)

    def trailers_anyhow(self, call: int, which: int) -> None:
        self.trailers(call, which, END_STREAM if which & 1 else 0)

    def head_anyhow(self, call: int, which: int) -> None:
        self.head(call, which)

    def head_that_ends(self, call: int, which: int) -> None:
        self.stage[call] = 2
        block = self.encoder.encode(self.heads[which % len(self.heads)])
        self.say(HEADERS, END_HEADERS | END_STREAM, call, block)

    def flood(self, call: int, which: int) -> None:
        """Use up windows, with messages that are not consumed at once."""
        if self.begun(call):
            for _ in range(which % 40):
                self.message(call, 2000)

    def large(self, call: int, which: int) -> None:
        if self.begun(call):
            self.say(DATA, 0, call, bytes(16_384 + which % 2))

    def odd_setting(self, _call: int, which: int) -> None:
        self.setting(which % 7, (0, 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1)[which // 7 % 6])

    def odd_window(self, call: int, which: int) -> None:
        increment = (0, 2**31 - 1, 2**31, 2**31 + 5, 2**31 - 60_000)[which // 2 % 5]
        self.say(WINDOW, 0, call if which & 1 else 0, increment.to_bytes(4))

    def odd_size(self, call: int, which: int) -> None:
        """Say a frame of a kind whose size or stream is fixed, with another."""
        kind = (PING, WINDOW)[which & 1]
        self.say(kind, 0, (0, call)[which // 2 % 2], bytes(which // 4 % 9) + b"\1")

    def any_frame(self, call: int, which: int) -> None:
        """Say one that hardly ever is lawful."""
        stream_id = (call, 0, call + 1, 2**31 + call, 999, 2**31)[which % 6]
        body = (b"", bytes(8), b"\x88", b"\0\0\0\5", b"\xff\xff")[which // 6 % 5]
        self.say(which // 30 % 11, (0, 1, 4, 5, 0x2D)[which % 5], stream_id, body)


Act: TypeAlias = Callable[[Server, int, int], None]

LAWFUL: tuple[Act, ...] = (
    *[Server.step] * 10,
    *[Server.answer] * 12,
    *[Server.ping, Server.window_for_all] * 3,
    *[Server.padded, Server.padded_head, Server.continued, Server.split_message],
    *[Server.settings, Server.resize, Server.acknowledge],
    *[Server.reset, Server.harmless, Server.pong, Server.window],
    *[Server.two_messages, Server.empty_data],
)
UNLAWFUL: tuple[Act, ...] = (
    Server.goaway,
    Server.end_with_data,
    Server.too_early,
    Server.trailers_anyhow,
    Server.head_anyhow,
    Server.head_that_ends,
    Server.large,
    Server.flood,
    Server.odd_setting,
    Server.odd_window,
    Server.odd_size,
    Server.any_frame,
)


# ---- the tape -----------------------------------------------------------------------------


class _Over(Exception):
    """The tape has come to its end."""


class Player:
    """Does what a tape says."""

    def __init__(self, tape: bytes) -> None:
        self._bytes = iter(tape)
        self.twins = Twins((9000, 40_000)[self.next() & 1])
        self.server = Server(self.next())
        self.sending: list[int] = []  # calls whose request has not ended

    def next(self) -> int:
        for byte in self._bytes:
            return byte
        raise _Over

    def call(self) -> int:
        """Choose one of the newest calls; there must be one."""
        calls = self.twins.calls[-6:]
        return calls[self.next() % len(calls)]

    def play(self) -> None:
        self.warm_up(self.next())
        with contextlib.suppress(_Over):
            while not self.twins.broken:
                self.step(self.next())
        self.deliver(len(self.server.said))
        self.farewell()

    def warm_up(self, what: int) -> None:
        """Have all blocks of headers known, mostly."""
        if what > 2:
            self.server.say(SETTINGS, 0, 0)
        if what < 30:
            return
        for head, end in ((0, 0), (0, 0), (6, 0), (6, 0), (0, 6), (0, 6)):
            self.twins.open(REQUEST)
            call = self.twins.calls[-1]
            self.twins.send(call, b"warm", end=True)
            self.server.head(call, head)
            if head == 0:
                self.server.trailers(call, end)
        self.deliver(len(self.server.said))

    def step(self, what: int) -> None:
        if what < 90 or not self.twins.calls:
            self.ask(what % 90)
        elif what < 205:
            LAWFUL[what % len(LAWFUL)](self.server, self.call(), self.next())
        elif what < 208:
            UNLAWFUL[self.next() % len(UNLAWFUL)](self.server, self.call(), self.next())
        elif what < 235:
            self.deliver(len(self.server.said))
        else:
            self.deliver(self.next() * (1 if what & 1 else 8))

    def deliver(self, size: int) -> None:
        data = bytes(self.server.said[:size])
        del self.server.said[:size]
        self.twins.receive(data)

    def ask(self, what: int) -> None:
        twins = self.twins
        if what < 32 or not twins.calls:  # a unary call
            self.begin()
            self.send(end=True, size=self.next())
        elif what < 36:
            self.begin()
        elif what < 48 and self.sending:
            self.send(end=bool(what & 1), size=self.next() * (1 if what < 45 else 500))
        elif what < 74 and twins.messages:
            message = twins.messages.pop(0)
            twins.consumed(message)
        elif what < 78:
            call = self.call()
            twins.reset(call)
        elif what < 80 and self.sending:
            call = self.sending.pop()
            twins.end(call)
        else:
            twins.ours.take_output()

    def begin(self) -> None:
        which, before = self.next(), len(self.twins.calls)
        self.twins.open(REQUESTS[which % len(REQUESTS) if which > 200 else 0])
        if len(self.twins.calls) > before:
            self.sending.append(self.twins.calls[-1])

    def send(self, *, end: bool, size: int) -> None:
        if not self.sending:
            return
        call = self.sending.pop() if end else self.sending[-1]
        self.twins.send(call, bytes(size), end=end)

    def farewell(self) -> None:
        for message in itertools.islice(self.twins.messages, 5):
            self.twins.ours.consumed(message.stream_id, message.payload)
        self.twins.ours.receive_eof()
        assert self.twins.ours.receive(b"more") == []


def play(tape: bytes) -> Twins:
    """Play a tape to the end, or to the first thing that makes a difference."""
    player = Player(tape)
    player.play()
    return player.twins
