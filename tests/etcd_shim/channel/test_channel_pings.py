"""Pings: who is asked whether it is there, when, and what is made of silence.

On streams in memory and on a clock that jumps: the hours in here take no time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pytest
import trio
from h2.errors import ErrorCodes
from trio.testing import (
    MemoryReceiveStream,
    MemorySendStream,
    MockClock,
    memory_stream_pair,
    wait_all_tasks_blocked,
)

from tests.etcd_shim.channel.channel_tools import get, kv, open_pair, watch, watch_request
from tests.etcd_shim.channel.h2_peer import Peer
from tests.etcd_shim.channel.scripted_server import Manners, ServerCall, answer
from trio_sched._support.tasks import open_service_nursery
from trio_sched.etcd_shim._pb import messages_pb2 as pb
from trio_sched.etcd_shim.channel import Channel, ChannelSettings, Endpoint, PingPolicy
from trio_sched.etcd_shim.channel._caller import OneConnection
from trio_sched.etcd_shim.channel._connection import Connection
from trio_sched.etcd_shim.channel._endpoint import ByteStream
from trio_sched.etcd_shim.channel.http2 import Http2Connection
from trio_sched.etcd_shim.errors import ConnectionLost

MemoryStream = trio.StapledStream[MemorySendStream, MemoryReceiveStream]

HOUR = 3600.0
ENDPOINT = Endpoint.parse("http://member:2379")


class MemoryByteStream(ByteStream):
    """A byte stream that trio's memory streams carry."""

    def __init__(self, stream: MemoryStream) -> None:
        self._stream = stream

    async def send_all(self, data: bytes) -> None:
        await self._stream.send_all(data)

    async def receive_some(self) -> bytes:
        return bytes(await self._stream.receive_some(65536))

    def close(self) -> None:
        self._stream.send_stream.close()
        self._stream.receive_stream.close()


class Member:
    """A server in memory that may fall silent."""

    def __init__(self, stream: trio.abc.Stream, *, settings: bool) -> None:
        self.peer = Peer()
        self.silent = not settings
        self.pinged_at: list[float] = []
        self._pinged = trio.lowlevel.ParkingLot()
        self._stream = stream
        if settings:
            self.peer.start()

    async def run(self) -> None:
        await self.flush()
        while data := await self._stream.receive_some(65536):
            before = self.peer.pings
            self.peer.receive(bytes(data))
            if self.peer.pings > before:
                self.pinged_at += [trio.current_time()] * (self.peer.pings - before)
                self._pinged.unpark_all()
            await self.flush()

    async def wait_for_ping(self) -> None:
        await self._pinged.park()

    async def flush(self) -> None:
        data = self.peer.take_output()
        if data and not self.silent:
            await self._stream.send_all(data)

    async def say(self, call: int) -> None:
        """Send an event of a watch."""
        if call not in self.peer.accepted:
            self.peer.accept(call)
        self.peer.message(call, b"")
        await self.flush()

    @property
    def gaps(self) -> list[float]:
        """How long there was between one ping and the next."""
        return [b - a for a, b in zip(self.pinged_at, self.pinged_at[1:], strict=False)]


@asynccontextmanager
async def open_member(
    clock: MockClock, pings: PingPolicy | None = None, *, settings: bool = True
) -> AsyncIterator[tuple[Member, Connection, Channel]]:
    """Open a connection to a member in memory, and what the stubs take for a channel on it."""
    assert trio.lowlevel.current_clock() is clock
    ours, theirs = memory_stream_pair()
    member = Member(theirs, settings=settings)
    ready = trio.Event()
    async with open_service_nursery() as services:
        connection = Connection(
            ENDPOINT,
            MemoryByteStream(ours),
            Http2Connection(),
            ChannelSettings(),
            pings or PingPolicy(),
            services,
            lambda _: ready.set(),
        )
        services.start_soon(member.run)
        services.start_soon(connection.run)
        if settings:
            await ready.wait()
            await wait_all_tasks_blocked()
        yield member, connection, cast("Channel", OneConnection(connection))


@asynccontextmanager
async def watching(channel: Channel) -> AsyncIterator[None]:
    """Keep a call open that nothing is said on."""
    async with watch(channel).Watch.open() as call:
        await call.send_message(watch_request())
        yield


# ---- when there are pings ---------------------------------------------------------------


async def test_no_pings_without_open_calls(autojump_clock: MockClock) -> None:
    async with open_member(autojump_clock) as (member, _, channel):
        await trio.sleep(HOUR)
        async with watching(channel):
            await trio.sleep(1)
        await trio.sleep(HOUR)
        assert member.pinged_at == []


async def test_no_pings_between_calls_that_are_answered(autojump_clock: MockClock) -> None:
    async with open_member(autojump_clock) as (member, _, channel):
        for _ in range(100):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(get, channel)
                await wait_all_tasks_blocked()
                member.peer.answer(max(member.peer.requests))
                await member.flush()
            await trio.sleep(60)
        assert member.pinged_at == []


async def test_no_pings_while_the_peer_talks(autojump_clock: MockClock) -> None:
    async with open_member(autojump_clock) as (member, _, channel), watching(channel):
        await wait_all_tasks_blocked()
        for _ in range(100):
            await member.say(1)
            await trio.sleep(9)
        assert member.pinged_at == []


async def test_quiet_peer_is_asked_now_and_then(autojump_clock: MockClock) -> None:
    async with open_member(autojump_clock) as (member, connection, channel), watching(channel):
        await trio.sleep(HOUR)
        assert connection.error is None
        assert HOUR / 12 < len(member.pinged_at) < HOUR / 9
        assert min(member.gaps) >= 5


@pytest.mark.parametrize("gap", [5.0, 30.0])
async def test_pings_keep_their_distance(autojump_clock: MockClock, gap: float) -> None:
    """Even if each of many requests is a reason to ask."""
    pings = PingPolicy(gap=gap)
    async with open_member(autojump_clock, pings) as (member, _, channel):
        member.peer.gives_windows = False  # so that nothing acknowledges a request
        async with watch(channel).Watch.open() as call:
            for _ in range(1000):
                await call.send_message(watch_request())
                await trio.sleep(0.7)
        assert len(member.pinged_at) > 10
        assert min(member.gaps) >= gap


async def test_unanswered_request_is_a_reason_to_ask_soon(autojump_clock: MockClock) -> None:
    async with open_member(autojump_clock) as (member, _, channel):
        start = trio.current_time()
        member.peer.gives_windows = False  # so that a request is not acknowledged by one
        async with watching(channel):
            await trio.sleep(2)
        (asked_at,) = member.pinged_at
        assert 0.5 <= asked_at - start <= 1.1


# ---- what silence means -----------------------------------------------------------------


async def test_peer_that_stops_answering_is_found_out(autojump_clock: MockClock) -> None:
    async with open_member(autojump_clock) as (member, connection, channel):
        await trio.sleep(HOUR)
        member.silent = True
        asked_at = trio.current_time()
        with pytest.raises(ConnectionLost, match="ping"):
            await get(channel)
        assert trio.current_time() - asked_at <= 3
        assert len(member.pinged_at) == 1
        assert isinstance(connection.error, ConnectionLost)
        assert not connection.accepting


async def test_peer_that_stops_answering_a_long_call_is_found_out(
    autojump_clock: MockClock,
) -> None:
    async with open_member(autojump_clock) as (member, _, channel):
        with pytest.raises(ConnectionLost, match="ping"):
            async with watch(channel).Watch.open() as call:
                await call.send_message(watch_request())
                await trio.sleep(HOUR)
                member.silent = True
                silent_at = trio.current_time()
                await call.recv_message()
        assert trio.current_time() - silent_at <= 10 + 0.5 + 1.5


async def test_whatever_the_peer_says_is_a_sign_of_life(autojump_clock: MockClock) -> None:
    """It need not be the answer to the ping."""
    async with open_member(autojump_clock) as (member, connection, channel), watching(channel):
        await wait_all_tasks_blocked()
        for _ in range(20):
            member.silent = True
            await member.wait_for_ping()
            await trio.sleep(1)
            member.silent = False
            await member.say(1)
        assert connection.error is None


async def test_call_that_ends_meanwhile_does_not_save_a_dead_peer(
    autojump_clock: MockClock,
) -> None:
    async with open_member(autojump_clock) as (member, connection, channel):
        member.silent = True
        with trio.move_on_after(1):
            await get(channel)
        await trio.sleep(60)
        assert len(member.pinged_at) == 1
        assert isinstance(connection.error, ConnectionLost)


async def test_peer_that_never_speaks(autojump_clock: MockClock) -> None:
    async with open_member(autojump_clock, settings=False) as (_, connection, _):
        start = trio.current_time()
        connection.admission.set_limit(0)
        assert not await connection.admission.enter()  # which shows when the connection is over
        assert trio.current_time() - start == ChannelSettings().connect_timeout
        assert isinstance(connection.error, ConnectionLost)
        assert "http://member:2379" in str(connection.error)


async def test_answer_that_was_there_before_we_looked_counts(autojump_clock: MockClock) -> None:
    """Our own process was stopped, and wakes up late with the answer in its hands."""
    async with open_member(autojump_clock) as (member, connection, channel), watching(channel):
        for _ in range(20):
            member.silent = True
            await member.wait_for_ping()
            member.silent = False
            await member.say(1)  # it is in the kernel, and we are stopped for a while
            autojump_clock.jump(100)
            await trio.sleep(1)
        assert connection.error is None


# ---- what the peer says about it ----------------------------------------------------------


async def test_f16_too_many_pings_doubles_the_gap(autojump_clock: MockClock) -> None:
    pings = PingPolicy()
    async with open_member(autojump_clock, pings) as (member, connection, channel):
        async with watching(channel):
            await wait_all_tasks_blocked()
            member.peer.goaway(1, ErrorCodes.ENHANCE_YOUR_CALM, b"too_many_pings")
            await member.flush()
            await trio.sleep(HOUR)
            assert min(member.gaps) >= 20
        assert connection.error is not None
    assert (pings.gap, pings.interval) == (10, 20)
    async with open_member(autojump_clock, pings) as (member, _, channel), watching(channel):
        await trio.sleep(HOUR)
        assert min(member.gaps) >= 20


@pytest.mark.parametrize(
    ("code", "reason"), [(ErrorCodes.NO_ERROR, b""), (ErrorCodes.ENHANCE_YOUR_CALM, b"calm down")]
)
async def test_other_goaways_change_nothing(
    autojump_clock: MockClock, code: ErrorCodes, reason: bytes
) -> None:
    pings = PingPolicy()
    async with open_member(autojump_clock, pings) as (member, _, channel), watching(channel):
        await wait_all_tasks_blocked()
        member.peer.goaway(1, code, reason)
        await member.flush()
        await wait_all_tasks_blocked()
    assert (pings.gap, pings.interval) == (5, 10)


# ---- with a socket, and a clock that does not jump -------------------------------------------

HASTY = {"gap": 0.02, "interval": 0.02, "patience": 0.01, "timeout": 0.5}


async def test_dead_server_is_left_for_a_new_connection() -> None:
    async def script(call: ServerCall) -> None:
        call.connection.silent = call is server.calls[0]
        await answer(call)

    async with open_pair(script, pings=PingPolicy(**HASTY)) as (server, channel):
        with pytest.raises(ConnectionLost, match="ping"):
            await get(channel)
        await get(channel)
        first, second = server.connections
        assert first.peer.pings == 1
        assert not second.closed


async def test_server_that_complains_of_pings_is_pinged_half_as_often() -> None:
    async def script(call: ServerCall) -> None:
        if len(server.connections) == 1:
            await call.connection.goaway(0, ErrorCodes.ENHANCE_YOUR_CALM, b"too_many_pings")
        else:
            await answer(call)

    pings = PingPolicy()
    async with open_pair(script, Manners(), pings=pings) as (server, channel):
        with pytest.raises(ConnectionLost):
            await kv(channel).Put(pb.PutRequest())
        await get(channel)
        assert (pings.gap, pings.interval) == (10, 20)
