"""Streams end for all kinds of reasons: watches resume at the next revision, renewals go on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio

from tests.etcd_shim.channel.channel_tools import GUARD
from tests.etcd_shim.channel.scripted_server import ServerCall, answer, open_server
from trio_sched.etcd_shim import open_client
from trio_sched.etcd_shim._pb import messages_pb2 as pb
from trio_sched.etcd_shim.errors import EtcdError, RemoteProtocolError, RpcError

Ending = Callable[[ServerCall], Awaitable[None]]


async def without_a_status(call: ServerCall) -> None:
    call.connection.peer.h2.end_stream(call.stream_id)
    await call.connection.flush()


async def internal(call: ServerCall) -> None:
    await call.finish(13, b"stream terminated by RST_STREAM")


async def unknown(call: ServerCall) -> None:
    await call.finish(2, b"something of a proxy")


async def cancelled(call: ServerCall) -> None:
    await call.finish(1, b"context canceled")


async def well(call: ServerCall) -> None:
    await call.finish(0)


async def compressed(call: ServerCall) -> None:
    call.connection.peer.h2.send_data(call.stream_id, b"\x01\x00\x00\x00\x02\x1f\x8b")
    await call.connection.flush()


async def reset(call: ServerCall) -> None:
    await call.reset(8)


async def hang_up(call: ServerCall) -> None:
    await call.connection.hang_up()


ENDINGS = [without_a_status, internal, unknown, cancelled, well, compressed, reset, hang_up]


def event(revision: int) -> pb.WatchResponse:
    kv = pb.KeyValue(key=b"a", value=b"%d" % revision, mod_revision=revision)
    return pb.WatchResponse(
        header=pb.ResponseHeader(revision=revision), watch_id=1, events=[pb.Event(kv=kv)]
    )


@pytest.mark.parametrize("end", ENDINGS)
async def test_f67_a_watch_resumes_at_the_next_revision(end: Ending) -> None:
    starts: list[int] = []

    async def serve(call: ServerCall) -> None:
        if call.method != "Watch":
            await answer(call)
            return
        await call.connection.server.until(lambda: call.messages)
        start = pb.WatchRequest.FromString(call.messages[0]).create_request.start_revision
        starts.append(start)
        await call.accept()
        header = pb.ResponseHeader(revision=4 + len(starts))
        await call.say(pb.WatchResponse(header=header, watch_id=1, created=True))
        if len(starts) < 4:
            await call.say(event(5 + len(starts)))
            await end(call)
        else:
            call.connection.server.note()
            await call.cancelled.wait()

    with trio.fail_after(GUARD):
        async with open_server(serve) as server, open_client(str(server.endpoint)) as client:
            async with client.watch("a") as watcher:
                seen = [(await watcher.__anext__()).kv.mod_revision for _ in range(3)]
                assert seen == [6, 7, 8]
                await server.until(lambda: len(starts) == 4)
    assert starts == [0, 7, 8, 9]


@pytest.mark.parametrize("end", ENDINGS)
async def test_f67_a_renewal_is_made_again(end: Ending) -> None:
    streams = 0

    async def serve(call: ServerCall) -> None:
        nonlocal streams
        if call.method != "LeaseKeepAlive":
            await answer(call)
            return
        await call.connection.server.until(lambda: call.messages)
        await call.accept()
        streams += 1
        if streams < 3:
            await end(call)
        else:
            await call.say(pb.LeaseKeepAliveResponse(id=5, ttl=7))
            await call.cancelled.wait()

    with trio.fail_after(GUARD):
        async with open_server(serve) as server, open_client(str(server.endpoint)) as client:
            assert await client.lease_renew(5) == 7
    assert streams == 3


@pytest.mark.parametrize("end", [without_a_status, compressed])
async def test_f67_a_read_that_ends_oddly_is_made_again(end: Ending) -> None:
    """A write is not, as it may have been carried out."""
    calls: list[str] = []

    async def serve(call: ServerCall) -> None:
        calls.append(call.method)
        await call.request()
        if len(calls) in {1, 3}:
            await call.accept()
            await end(call)
        else:
            await call.answer()

    with trio.fail_after(GUARD):
        async with open_server(serve) as server, open_client(str(server.endpoint)) as client:
            await client.get("a")
            with pytest.raises(RemoteProtocolError):
                await client.put("a", "1")
            assert calls == ["Range", "Range", "Put"]


@pytest.mark.parametrize(
    ("end", "error"), [(without_a_status, RemoteProtocolError), (internal, RpcError)]
)
async def test_f67_one_that_always_ends_so_is_an_error_after_some_attempts(
    end: Ending, error: type[EtcdError]
) -> None:
    async def serve(call: ServerCall) -> None:
        await call.accept()
        await end(call)

    with trio.fail_after(GUARD):
        async with open_server(serve) as server, open_client(str(server.endpoint)) as client:
            with pytest.raises(error):
                async with client.watch("a"):
                    raise AssertionError("entered")
            assert len([call for call in server.calls if call.method == "Watch"]) == 5
