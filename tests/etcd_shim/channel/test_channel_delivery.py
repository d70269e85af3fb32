"""A stream whose messages are given to someone as they arrive, instead of being asked for."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.etcd_shim.channel.channel_tools import assert_idle, get, open_pair, watch, watch_request
from tests.etcd_shim.channel.scripted_server import ServerCall, answer
from trio_sched.etcd_shim._pb import messages_pb2 as pb
from trio_sched.etcd_shim.channel import deliver, send_message_nowait
from trio_sched.etcd_shim.errors import ConnectionLost, RemoteProtocolError, Unavailable

MEGABYTE = 2**20


def numbered(number: int) -> pb.WatchResponse:
    return pb.WatchResponse(watch_id=number)


async def say_ten(call: ServerCall) -> None:
    await call.accept()
    for number in range(10):  # in one piece
        call.connection.peer.message(call.stream_id, numbered(number).SerializeToString())
    await call.connection.flush()


async def say_ten_and_finish(call: ServerCall) -> None:
    await say_ten(call)
    await call.finish()


async def test_messages_are_delivered_in_order_until_the_end() -> None:
    taken: list[int] = []
    async with open_pair(say_ten_and_finish) as (_, channel):
        async with watch(channel).Watch.open() as call:
            await call.send_message(watch_request())
            for _ in range(2):  # the second time there is nothing more
                await deliver(call, lambda message: taken.append(message.watch_id))
        assert taken == list(range(10))
        await assert_idle(channel)


async def test_messages_that_have_arrived_already_come_first() -> None:
    taken: list[int] = []
    async with open_pair(say_ten) as (server, channel):
        async with watch(channel).Watch.open() as call, trio.open_nursery() as nursery:
            await call.send_message(watch_request())
            first = await call.recv_message()
            assert first == numbered(0)
            await wait_all_tasks_blocked()  # by now the others have arrived

            async def end_it() -> None:
                await server.calls[0].say(numbered(10))
                await server.calls[0].finish()

            nursery.start_soon(end_it)
            await deliver(call, lambda message: taken.append(message.watch_id))
        assert taken == list(range(1, 11))


@pytest.mark.parametrize("refused", [False, True])
async def test_f67_a_message_after_an_end_that_is_not_taken_yet(refused: bool) -> None:
    """What is sent while events are taken goes nowhere if the end of its call is among them."""
    whole = 300  # more than are taken in a tick, so that other tasks run before the end is taken

    async def script(call: ServerCall) -> None:
        await call.accept()
        peer = call.connection.peer
        for number in range(whole):
            peer.message(call.stream_id, numbered(number).SerializeToString())
        if refused:
            peer.reset(call.stream_id, 2)
        else:
            peer.finish(call.stream_id, b"0")
        await call.connection.flush()  # in one piece

    taken: list[bool] = []
    async with open_pair(script) as (_, channel), watch(channel).Watch.open() as call:
        await call.send_message(watch_request())

        def answer_back(_message: pb.WatchResponse) -> None:
            taken.append(send_message_nowait(call, watch_request()))

        with pytest.raises(ConnectionLost) if refused else nullcontext():
            await deliver(call, answer_back)
        await call.end()
        assert taken == [True] * whole


async def test_windows_are_given_back() -> None:
    size, count = MEGABYTE // 2, 12  # several windows of the call, and of the connection

    async def script(call: ServerCall) -> None:
        await call.accept()
        for _ in range(count):
            await call.say(pb.WatchResponse(cancel_reason="x" * size))
        await call.finish()

    taken: list[int] = []
    async with open_pair(script) as (_, channel):
        async with watch(channel).Watch.open() as call:
            await call.send_message(watch_request())
            await deliver(call, lambda message: taken.append(len(message.cancel_reason)))
        assert taken == [size] * count
        await assert_idle(channel)


@pytest.mark.parametrize("arrived", [False, True])
async def test_what_is_raised_ends_the_delivery_and_nothing_else(arrived: bool) -> None:
    async def script(call: ServerCall) -> None:
        await (say_ten if call.method == "Watch" else answer)(call)

    taken: list[int] = []

    def take(message: pb.WatchResponse) -> None:
        if message.watch_id >= 5:
            raise LookupError(f"no watch {message.watch_id}")
        taken.append(message.watch_id)

    async with open_pair(script) as (server, channel):
        with pytest.raises(LookupError, match="no watch 5"):
            async with watch(channel).Watch.open() as call:
                await call.send_message(watch_request())
                if arrived:
                    await call.recv_message()
                await deliver(call, take)
        assert taken == list(range(int(arrived), 5))
        await get(channel)  # on the same connection
        assert len(server.connections) == 1
        await server.calls[0].cancelled.wait()
        await assert_idle(channel)


async def test_two_cannot_take_the_messages_of_one_call() -> None:
    taken: list[int] = []
    ten = trio.Event()

    def take(message: pb.WatchResponse) -> None:
        taken.append(message.watch_id)
        if len(taken) == 10:
            ten.set()

    async with open_pair(say_ten) as (server, channel):
        async with watch(channel).Watch.open() as call, trio.open_nursery() as nursery:
            await call.send_message(watch_request())
            nursery.start_soon(deliver, call, take)
            await ten.wait()
            with pytest.raises(trio.BusyResourceError):
                await deliver(call, lambda _: None)
            await server.calls[0].say(numbered(10))
            await server.calls[0].finish()
        assert taken == list(range(11))


async def test_message_that_cannot_be_decoded_ends_the_delivery() -> None:
    async def script(call: ServerCall) -> None:
        await call.accept()
        await call.say(b"\xff\xff")

    async with open_pair(script) as (_, channel):
        with pytest.raises(RemoteProtocolError, match="cannot be decoded"):
            async with watch(channel).Watch.open() as call:
                await call.send_message(watch_request())
                await deliver(call, lambda _: None)
        await assert_idle(channel)


async def test_error_of_the_server_comes_after_the_messages() -> None:
    async def script(call: ServerCall) -> None:
        await say_ten(call)
        await call.finish(14, b"no leader")

    taken: list[pb.WatchResponse] = []
    async with open_pair(script) as (_, channel):
        async with watch(channel).Watch.open() as call:
            await call.send_message(watch_request())
            with pytest.raises(Unavailable, match="no leader"):
                await deliver(call, taken.append)
        assert len(taken) == 10


async def test_lost_connection_ends_the_delivery() -> None:
    async with open_pair(say_ten) as (server, channel):
        taken: list[int] = []

        def take(message: pb.WatchResponse) -> None:
            taken.append(message.watch_id)
            if message.watch_id == 9:
                nursery.start_soon(server.connections[0]._stream.aclose)

        async with trio.open_nursery() as nursery, watch(channel).Watch.open() as call:
            await call.send_message(watch_request())
            with pytest.raises(ConnectionLost):
                await deliver(call, take)
        assert taken == list(range(10))


async def test_cancelled_delivery_leaves_the_rest_to_be_received() -> None:
    async def script(call: ServerCall) -> None:
        await say_ten(call)
        await go_on.wait()
        await call.say(numbered(10))
        await call.finish()

    go_on = trio.Event()
    async with open_pair(script) as (_, channel):
        async with watch(channel).Watch.open() as call:
            await call.send_message(watch_request())
            taken: list[int] = []
            with trio.CancelScope() as scope:

                def take(message: pb.WatchResponse) -> None:
                    taken.append(message.watch_id)
                    if len(taken) == 3:
                        scope.cancel()

                await deliver(call, take)
            assert scope.cancelled_caught
            go_on.set()
            asked = [message.watch_id async for message in call]
            assert asked
            assert taken + asked == list(range(11))
        await assert_idle(channel)
