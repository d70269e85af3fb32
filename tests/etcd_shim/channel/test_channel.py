"""The channel against a scripted server: the ten breakages, on a socket and over TLS.

Some have their place elsewhere: 7 is in `test_channel_admission`, 8 in `test_protocol`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import trio
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from trio.testing import wait_all_tasks_blocked

from tests.etcd_shim.channel.channel_tools import (
    Certificates,
    assert_idle,
    get,
    kv,
    make_certificates,
    open_pair,
    watch,
    watch_request,
)
from tests.etcd_shim.channel.scripted_server import Manners, ServerCall, answer
from trio_sched.etcd_shim._pb import messages_pb2 as pb
from trio_sched.etcd_shim.channel import Channel
from trio_sched.etcd_shim.channel.http2 import Http2Connection
from trio_sched.etcd_shim.errors import ConnectionLost, DeadlineExceeded

CALL_WINDOW = 2**20  # what a channel lets a server send for a call before it is read
MEGABYTE = 10**6


@functools.cache
def certificates() -> Certificates:
    return make_certificates()


# Breakage 10: TLS takes another road than the raw socket, so what follows is shown for both.
both_roads = pytest.mark.parametrize(
    "road", [lambda: None, certificates], ids=["socket", "test_breakage_10_tls"]
)
Road = Callable[[], Certificates | None]


def roomy() -> Manners:
    """A server that takes megabytes before it has read any."""
    return Manners(
        settings={SettingCodes.INITIAL_WINDOW_SIZE: 2**30, SettingCodes.MAX_FRAME_SIZE: 2**20},
        connection_window=2**30,
    )


async def put(channel: Channel, size: int) -> None:
    await kv(channel).Put(pb.PutRequest(key=b"key", value=bytes(size)))


# ---- 1 ------------------------------------------------------------------------------


@both_roads
async def test_breakage_1_cancelled_sender_leaves_no_half_frame(road: Road) -> None:
    async def script(call: ServerCall) -> None:
        if call.method == "Range":
            await answer(call)

    async with open_pair(script, roomy(), certificates=road()) as (server, channel):
        await get(channel)
        (connection,) = server.connections
        connection.stop_reading()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(put, channel, 20 * MEGABYTE)  # more than any kernel takes
                await wait_all_tasks_blocked()
                (statistics,) = channel.statistics().connections
                assert statistics.open_calls == 1
                scope.cancel()
        assert scope.cancelled_caught
        connection.go_on_reading()
        await get(channel)
        assert len(server.connections) == 1
        cancelled = server.calls[1]
        assert connection.peer.resets == [(cancelled.stream_id, int(ErrorCodes.CANCEL))]
        await assert_idle(channel)


# ---- 2 ------------------------------------------------------------------------------


@both_roads
async def test_f16_breakage_2_goaway_lets_calls_under_way_finish(road: Road) -> None:
    sent_goaway, may_answer = trio.Event(), trio.Event()

    async def script(call: ServerCall) -> None:
        if call is not server.calls[0]:
            return await answer(call)
        await call.request()
        await call.connection.goaway(call.stream_id)
        sent_goaway.set()
        await may_answer.wait()
        return await call.answer(pb.RangeResponse(count=1))

    results: list[int] = []

    async def first() -> None:
        results.append((await get(channel)).count)

    async with open_pair(script, certificates=road()) as (server, channel):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first)
            await sent_goaway.wait()
            await wait_all_tasks_blocked()
            await get(channel)
            assert [len(c.calls) for c in server.connections] == [1, 1]
            assert len(channel.statistics().connections) == 2
            may_answer.set()
        assert results == [1]
        await server.until(lambda: server.connections[0].closed)
        await assert_idle(channel)
        assert not server.connections[1].closed
        assert channel.statistics().connects == 2
        assert len(channel.statistics().connections) == 1


async def test_goaway_ends_calls_that_were_not_looked_at() -> None:
    async def script(call: ServerCall) -> None:
        if len(server.connections) == 1:
            await call.request()
            await call.connection.goaway(0)
        else:
            await answer(call)

    async with open_pair(script) as (server, channel):
        with pytest.raises(ConnectionLost) as caught:
            await get(channel)
        assert not caught.value.processed
        await get(channel)
        assert channel.statistics().connects == 2
        await assert_idle(channel)


@pytest.mark.parametrize("then", ["reset", "window", "message", "close"])
async def test_goaway_and_more_about_the_calls_it_ends_in_one_piece(then: str) -> None:
    """What follows GOAWAY is about calls that are no more by the time it is looked at."""

    async def script(call: ServerCall) -> None:
        await server.until(lambda: len(call.connection.calls) == 2)
        peer = call.connection.peer
        if call is server.calls[0]:
            return
        peer.goaway(0)
        if then == "reset":
            peer.reset(call.stream_id, ErrorCodes.REFUSED_STREAM)
        elif then == "window":
            peer.give(call.stream_id, MEGABYTE)
        elif then == "message":
            peer.answer(call.stream_id)
        await call.connection.flush()
        if then == "close":
            await call.connection.hang_up()

    lost: list[ConnectionLost] = []

    async def put_and_fail() -> None:
        with pytest.raises(ConnectionLost) as caught:
            await put(channel, MEGABYTE)
        lost.append(caught.value)

    async with open_pair(script, Manners(gives_windows=False)) as (server, channel):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(put_and_fail)
            nursery.start_soon(put_and_fail)
        assert [error.processed for error in lost] == [False, False]
        assert lost[0] is not lost[1]  # each task has its own to raise
        server.script = answer
        await get(channel)
        await assert_idle(channel)


# ---- 3 ------------------------------------------------------------------------------


@both_roads
async def test_breakage_3_messages_larger_than_all_windows(road: Road) -> None:
    value = bytes(range(250)) * 20_000  # 5 MB, both ways

    async def script(call: ServerCall) -> None:
        request = pb.PutRequest.FromString(await call.request())
        await call.answer(pb.PutResponse(prev_kv=pb.KeyValue(value=request.value)))

    async with open_pair(script, certificates=road()) as (_, channel):
        response = await kv(channel).Put(pb.PutRequest(key=b"key", value=value))
        assert response.prev_kv.value == value
        await assert_idle(channel)


async def test_breakage_3_on_a_call_that_goes_on() -> None:
    sizes = [10, 3 * MEGABYTE, 100, 2 * MEGABYTE, 1]

    async def script(call: ServerCall) -> None:
        await call.accept()
        for size in sizes:
            await call.say(pb.WatchResponse(cancel_reason="x" * size))
        await call.finish()

    async with open_pair(script) as (_, channel):
        async with watch(channel).Watch.open() as call:
            await call.send_message(watch_request())
            assert [len(response.cancel_reason) async for response in call] == sizes
        await assert_idle(channel)


# ---- 4 ------------------------------------------------------------------------------


async def accept(call: ServerCall) -> None:
    await call.accept()


async def test_breakage_4_exception_of_the_body_leaves_as_it_is() -> None:
    error = ValueError("of the body")
    async with open_pair(accept) as (server, channel):
        with pytest.raises(ValueError) as caught:
            async with watch(channel).Watch.open() as call:
                await call.send_message(watch_request())
                raise error
        assert caught.value is error
        assert (error.__cause__, error.__context__) == (None, None)
        await server.until(lambda: server.calls and server.calls[0].cancelled.is_set())
        await assert_idle(channel)


@pytest.mark.parametrize("timeout", [None, 60.0])
async def test_breakage_4_also_if_cancelled_meanwhile(timeout: float | None) -> None:
    error = ValueError("of the body")
    async with open_pair(accept) as (server, channel):
        with trio.CancelScope() as scope, pytest.raises(ValueError) as caught:
            async with watch(channel).Watch.open(timeout=timeout) as call:
                await call.send_message(watch_request())
                scope.cancel()
                raise error
        assert caught.value is error
        await server.until(lambda: server.calls and server.calls[0].cancelled.is_set())
        await assert_idle(channel)


# ---- 5 ------------------------------------------------------------------------------


@both_roads
async def test_breakage_5_slow_reader_stops_nobody_else(road: Road) -> None:
    size, count = 100_000, 60
    said: list[int] = []

    async def script(call: ServerCall) -> None:
        if call.method != "Watch":
            return await answer(call)
        await call.accept()
        for number in range(count):
            said.append(number)
            await call.say(pb.WatchResponse(watch_id=number, cancel_reason="x" * size))
        return await call.finish()

    async with open_pair(script, certificates=road()) as (server, channel):
        async with watch(channel).Watch.open() as call:
            await call.send_message(watch_request())
            await server.until(lambda: len(said) == count)
            for _ in range(50):
                await get(channel)
            (statistics,) = channel.statistics().connections
            assert 0 < statistics.unread_bytes <= CALL_WINDOW + size + 100
            assert server.connections[0].peer.unsent(call_id := server.calls[0].stream_id) > 0
            assert [response.watch_id async for response in call] == list(range(count))
            assert server.connections[0].peer.unsent(call_id) == 0
        assert len(server.connections) == 1
        await assert_idle(channel)


# ---- 6 ------------------------------------------------------------------------------


async def test_breakage_6_stream_ids_used_up() -> None:
    async def script(call: ServerCall) -> None:
        if call.method != "Watch":
            return await answer(call)
        await call.accept()
        await call.connection.server.until(lambda: call.ended)
        return await call.finish()

    async with open_pair(script) as (server, channel):
        await get(channel)
        current = channel._current
        assert current is not None
        assert isinstance(current._protocol, Http2Connection)
        current._protocol._last_stream_id = 2**31 - 5
        async with watch(channel).Watch.open() as call:
            await call.send_message(watch_request())
            for _ in range(3):
                await get(channel)
            # The first of them took the last id. The watch stays where it is.
            assert [len(c.calls) for c in server.connections] == [3, 2]
            await call.end()
            assert [response async for response in call] == []
        await server.until(lambda: server.connections[0].closed)
        await assert_idle(channel)
        assert len(channel.statistics().connections) == 1


# ---- 9 ------------------------------------------------------------------------------


async def test_breakage_9_our_own_deadline() -> None:
    async with open_pair(accept) as (server, channel):
        with pytest.raises(DeadlineExceeded):
            await kv(channel).Range(pb.RangeRequest(), timeout=0.05)
        (call,) = server.calls
        await call.cancelled.wait()
        assert call.headers[b"grpc-timeout"] == b"50m"
        await assert_idle(channel)


@pytest.mark.parametrize(
    ("status", "words"), [(4, b"deadline exceeded"), (2, b"context deadline exceeded")]
)
async def test_breakage_9_deadline_of_the_server(status: int, words: bytes) -> None:
    async def script(call: ServerCall) -> None:
        await call.refuse(status, words)

    async with open_pair(script) as (_, channel):
        with pytest.raises(DeadlineExceeded):
            await get(channel)
        with pytest.raises(DeadlineExceeded):
            async with watch(channel).Watch.open(timeout=60) as call:
                await call.send_message(watch_request())
                await call.recv_message()
        await assert_idle(channel)


async def test_deadline_of_the_caller_is_not_ours() -> None:
    """A cancel scope around a call is the caller's, and says so in trio's words."""
    async with open_pair(accept) as (server, channel):
        with pytest.raises(trio.TooSlowError):
            with trio.fail_after(0.05):
                await kv(channel).Range(pb.RangeRequest(), timeout=60)
        await server.until(lambda: server.calls and server.calls[0].cancelled.is_set())
        await assert_idle(channel)
