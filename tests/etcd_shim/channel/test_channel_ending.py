"""How calls and channels end: by cancellation, by the server, by leaving."""

from __future__ import annotations

import pytest
import trio
from grpclib.const import Cardinality
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from trio.testing import wait_all_tasks_blocked

from tests.etcd_shim.channel.channel_tools import (
    GUARD,
    assert_idle,
    get,
    kv,
    open_pair,
    watch,
    watch_request,
)
from tests.etcd_shim.channel.h2_peer import GRPC
from tests.etcd_shim.channel.scripted_server import Manners, ServerCall, answer, open_server
from trio_sched.etcd_shim._pb import messages_pb2 as pb
from trio_sched.etcd_shim.channel import Channel, ChannelSettings, _connection, open_channel
from trio_sched.etcd_shim.errors import (
    ClientClosed,
    ConnectionLost,
    EtcdError,
    LeaseNotFound,
    MessageTooLarge,
    RemoteProtocolError,
    Unavailable,
    Unimplemented,
)


async def stall(call: ServerCall) -> None:
    """Take the request of a ``Put`` and say nothing; answer anything else."""
    if call.method == "Put":
        await call.request()
    elif call.method == "Watch":
        await call.accept()
    else:
        await answer(call)


async def put(channel: Channel) -> None:
    await kv(channel).Put(pb.PutRequest(key=b"key"))


# ---- calls that we end -----------------------------------------------------------------


async def test_cancelled_call_is_one_reset_and_harms_nobody() -> None:
    async with open_pair(stall) as (server, channel):
        async with watch(channel).Watch.open() as other:
            await other.send_message(watch_request())
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(put, channel)
                    await server.until(lambda: len(server.calls) == 2 and server.calls[1].ended)
                    scope.cancel()
            assert scope.cancelled_caught
            other_there, cancelled = server.calls
            await cancelled.cancelled.wait()
            await get(channel)
            await other_there.say(pb.WatchResponse(watch_id=7))
            assert await other.recv_message() == pb.WatchResponse(watch_id=7)
        (connection,) = server.connections
        assert connection.peer.reset_frames(cancelled.stream_id) == 1
        assert [call for call, _ in connection.peer.resets][:1] == [cancelled.stream_id]
        await assert_idle(channel)


@pytest.mark.parametrize("words", ["cancel()", "leave"])
async def test_leaving_a_call_that_goes_on_resets_it(words: str) -> None:
    async with open_pair(stall) as (server, channel):
        async with watch(channel).Watch.open() as call:
            await call.send_message(watch_request())
            if words == "cancel()":
                await call.cancel()
                assert await call.recv_message() is None
                assert [response async for response in call] == []
        await server.until(lambda: server.calls and server.calls[0].cancelled.is_set())
        assert server.connections[0].peer.resets == [(1, int(ErrorCodes.CANCEL))]
        await get(channel)
        assert len(server.connections) == 1
        await assert_idle(channel)


async def test_call_that_is_never_begun_is_never_sent() -> None:
    async with open_pair(stall) as (server, channel):
        async with watch(channel).Watch.open():
            pass
        await get(channel)
        assert [call.method for call in server.calls] == ["Range"]


async def test_cancelled_receiver_loses_no_message() -> None:
    async with open_pair(stall) as (server, channel):
        async with watch(channel).Watch.open() as call:
            await call.send_message(watch_request())
            await server.until(lambda: server.calls)
            for number in range(20):
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await call.recv_message()
                assert scope.cancelled_caught
                await server.calls[0].say(pb.WatchResponse(watch_id=number))
                if number % 2:
                    await wait_all_tasks_blocked()
            await server.calls[0].finish()
            assert [response.watch_id async for response in call] == list(range(20))
        await assert_idle(channel)


async def test_two_tasks_cannot_receive_from_one_call() -> None:
    async with open_pair(stall) as (_, channel):
        async with watch(channel).Watch.open() as call, trio.open_nursery() as nursery:
            await call.send_message(watch_request())
            nursery.start_soon(call.recv_message)
            await wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await call.recv_message()
            nursery.cancel_scope.cancel()
        await assert_idle(channel)


async def test_deadline_objects_are_refused() -> None:
    async with open_pair() as (_, channel):
        with pytest.raises(TypeError, match="timeout"):
            channel.request(
                "/etcdserverpb.KV/Range",
                Cardinality.UNARY_UNARY,
                pb.RangeRequest,
                pb.RangeResponse,
                deadline=object(),
            )


# ---- calls that the server ends ----------------------------------------------------------


@pytest.mark.parametrize("code", [ErrorCodes.REFUSED_STREAM, ErrorCodes.INTERNAL_ERROR])
async def test_f17_reset_by_the_server(code: ErrorCodes) -> None:
    """No code proves that nothing was done: see `Http2Connection`."""

    async def script(call: ServerCall) -> None:
        await (answer(call) if call.method == "Range" else call.reset(code))

    async with open_pair(script) as (server, channel):
        with pytest.raises(ConnectionLost) as caught:
            await put(channel)
        assert caught.value.processed
        await get(channel)
        assert len(server.connections) == 1
        await assert_idle(channel)


async def test_trailers_only() -> None:
    async def script(call: ServerCall) -> None:
        await call.refuse(5, b"etcdserver: requested lease not found")

    async with open_pair(script) as (_, channel):
        with pytest.raises(LeaseNotFound):
            await get(channel)
        await assert_idle(channel)


async def test_messages_before_an_error_are_all_read() -> None:
    async def script(call: ServerCall) -> None:
        await call.accept()
        for number in range(10):
            await call.say(pb.WatchResponse(watch_id=number))
        await call.finish(14, b"etcdserver: no leader")

    async with open_pair(script) as (_, channel):
        async with watch(channel).Watch.open() as call:
            await call.send_message(watch_request())
            await wait_all_tasks_blocked()
            seen = []
            with pytest.raises(Unavailable):
                async for response in call:
                    seen.append(response.watch_id)  # noqa: PERF401 # it ends by an error
            assert seen == list(range(10))
            with pytest.raises(Unavailable):
                await call.send_message(watch_request())
        await assert_idle(channel)


async def test_server_ends_a_call_that_we_are_still_sending() -> None:
    async def script(call: ServerCall) -> None:
        await call.accept()
        await call.finish()

    async with open_pair(script) as (server, channel):
        async with watch(channel).Watch.open() as call:
            await call.send_message(watch_request())
            assert await call.recv_message() is None
            with pytest.raises(ConnectionLost):
                await call.send_message(watch_request())
            await call.end()
        await assert_idle(channel)
        assert server.connections[0].peer.resets == [(1, int(ErrorCodes.CANCEL))]


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ([(b":status", b"503")], Unavailable),
        ([(b":status", b"404")], Unimplemented),
        ([(b":status", b"200"), (b"content-type", b"text/html")], RemoteProtocolError),
    ],
)
async def test_answers_that_are_not_grpc(
    head: list[tuple[bytes, bytes]], expected: type[EtcdError]
) -> None:
    async def script(call: ServerCall) -> None:
        await call.accept(head)

    async with open_pair(script) as (server, channel):
        with pytest.raises(expected):
            await get(channel)
        await server.calls[0].cancelled.wait()
        await assert_idle(channel)


@pytest.mark.parametrize("payload", [None, b"\xff\xff\xff"])
async def test_answers_without_sense(payload: bytes | None) -> None:
    async def script(call: ServerCall) -> None:
        await call.accept(GRPC)
        if payload is not None:
            await call.say(payload)
        await call.finish()

    async with open_pair(script) as (_, channel):
        with pytest.raises(RemoteProtocolError):
            await get(channel)
        await assert_idle(channel)


async def test_answer_over_the_limit() -> None:
    async def script(call: ServerCall) -> None:
        await call.answer(bytes(1001))

    settings = ChannelSettings(max_message_size=1000)
    async with open_pair(script, settings=settings) as (server, channel):
        with pytest.raises(MessageTooLarge) as caught:
            await get(channel)
        assert (caught.value.size, caught.value.limit) == (1001, 1000)
        assert len(channel.statistics().connections) == 1
        assert not server.connections[0].closed
        await assert_idle(channel)


# ---- connections that end ------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "garbage"])
async def test_all_calls_end_with_their_connection(how: str) -> None:
    errors: list[EtcdError] = []

    async def put_and_note() -> None:
        try:
            await put(channel)
        except EtcdError as exc:
            errors.append(exc)

    async with open_pair(stall) as (server, channel):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(put_and_note)
            await server.until(lambda: len(server.calls) == 3)
            (connection,) = server.connections
            if how == "close":
                await connection.hang_up()
            else:
                connection.peer.raw_bytes(b"this is not a frame")
                await connection.flush()
        expected = ConnectionLost if how == "close" else RemoteProtocolError
        assert [type(error) for error in errors] == [expected] * 3
        assert len({id(error) for error in errors}) == 3  # each task has its own to raise
        await server.until(lambda: connection.closed)
        await wait_all_tasks_blocked()
        assert channel.statistics().connections == ()
        await get(channel)
        assert channel.statistics().connects == 2
        await assert_idle(channel)


async def test_sender_that_waits_for_the_kernel_learns_of_the_end() -> None:
    roomy = Manners(
        settings={SettingCodes.INITIAL_WINDOW_SIZE: 2**30, SettingCodes.MAX_FRAME_SIZE: 2**20},
        connection_window=2**30,
    )
    async with open_pair(stall, roomy) as (server, channel):
        async with watch(channel).Watch.open() as call:
            await call.send_message(watch_request())
            await server.until(lambda: server.calls)
            (connection,) = server.connections
            connection.stop_reading()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(call.send_message, watch_request(bytes(20 * 10**6)))
                await wait_all_tasks_blocked()
                await connection.hang_up()
            with pytest.raises(ConnectionLost):
                await call.recv_message()
        await assert_idle(channel)


async def test_idle_connection_that_ends_is_replaced() -> None:
    async with open_pair() as (server, channel):
        for number in range(1, 4):
            await get(channel)
            assert len(server.connections) == number
            await server.connections[-1].hang_up()
            await wait_all_tasks_blocked()
            assert channel.statistics().connections == ()


async def test_peer_that_makes_us_talk_and_does_not_read_is_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_connection, "MAX_OUTPUT", 10_000)
    async with open_pair(stall, Manners()) as (server, channel):
        async with trio.open_nursery() as nursery:

            async def put_and_fail() -> None:
                with pytest.raises(ConnectionLost, match="does not read"):
                    await put(channel)
                nursery.cancel_scope.cancel()

            nursery.start_soon(put_and_fail)
            await server.until(lambda: server.calls)
            (connection,) = server.connections
            connection.stop_reading()
            while True:
                for _ in range(1000):
                    connection.peer.h2.ping(b"answer!!")
                await connection.flush()
                await trio.lowlevel.checkpoint()


# ---- leaving the channel ---------------------------------------------------------------------


async def test_leaving_sends_goaway() -> None:
    async with open_server() as server:
        async with open_channel([server.endpoint]) as channel:
            await get(channel)
        await server.until(lambda: server.connections[0].closed)
        assert server.connections[0].peer.goaways == 1
        assert channel.statistics().connections == ()


async def test_calls_after_the_block_was_left() -> None:
    with trio.fail_after(GUARD):
        async with open_server() as server:
            async with open_channel([server.endpoint]) as used:
                await get(used)
            async with open_channel([server.endpoint]) as unused:
                pass
            for channel in (used, unused):
                with pytest.raises(ClientClosed):
                    await get(channel)
                with pytest.raises(ClientClosed):
                    async with watch(channel).Watch.open() as call:
                        await call.send_message(watch_request())


@pytest.mark.parametrize("manners", [Manners(), Manners(settings=None)], ids=["open", "connecting"])
async def test_calls_under_way_when_the_block_is_left(manners: Manners) -> None:
    """By tasks that are not the block's own."""

    async def put_and_fail(channel: Channel) -> None:
        with pytest.raises((ConnectionLost, ClientClosed)):
            await put(channel)

    with trio.fail_after(GUARD):
        async with open_server(stall, manners) as server, trio.open_nursery() as nursery:
            async with open_channel([server.endpoint]) as channel:
                for _ in range(3):  # they outlive the channel on purpose
                    nursery.start_soon(put_and_fail, channel)  # noqa: ASYNC111
                await server.until(lambda: server.connections)
                await wait_all_tasks_blocked()
        assert channel.statistics().connections == ()


async def test_clean_up_under_a_shield_can_still_call() -> None:
    """The service tasks outlive the body, even if all of it is cancelled."""
    with trio.fail_after(GUARD):
        async with open_server() as server:
            with trio.CancelScope() as scope:
                async with open_channel([server.endpoint]) as channel:
                    await get(channel)
                    try:
                        scope.cancel()
                        await trio.sleep_forever()
                    finally:
                        with trio.CancelScope(shield=True):
                            await get(channel)  # on the connection that there is
                            await server.connections[0].hang_up()
                            await wait_all_tasks_blocked()
                            await get(channel)  # and on a new one
            assert scope.cancelled_caught
            assert len(server.connections) == 2
            await server.until(lambda: server.connections[1].closed)
            assert server.connections[1].peer.goaways == 1


async def test_exception_of_the_block_leaves_as_it_is() -> None:
    error = KeyError("of the body")
    async with open_server() as server:
        with pytest.raises(KeyError) as caught:
            async with open_channel([server.endpoint]) as channel:
                await get(channel)
                raise error
        assert caught.value is error
        assert (error.__cause__, error.__context__) == (None, None)
