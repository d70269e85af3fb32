"""Which task gets a turn: none that is busy keeps it, and what waits for its end is sent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from tests.etcd_shim.channel.channel_tools import GUARD, get, kv, open_pair, watch, watch_request
from tests.etcd_shim.channel.scripted_server import ServerCall, answer
from trio_sched.etcd_shim import open_client
from trio_sched.etcd_shim._pb import messages_pb2 as pb
from trio_sched.etcd_shim.channel import PingPolicy, _endpoint, deliver
from trio_sched.etcd_shim.channel._before_wait import BeforeWaitHook
from trio_sched.etcd_shim.errors import ConnectionLost
from trio_sched.etcd_shim.kv import KeyValue
from trio_sched.etcd_shim.watch import Event, EventType, Watcher

NEVER = PingPolicy(gap=1000, interval=1000, patience=1000)  # nothing else sets it going
EVENT = Event(EventType.PUT, KeyValue(b"key", b"", 1, 1, 1, 0), None)


def watcher_with(events: int) -> Watcher:
    watcher = Watcher(1, pb.WatchCreateRequest(), 10_000)
    watcher._deliver([EVENT] * events)
    return watcher


async def longest_run(step: Callable[[], Awaitable[object]], times: int) -> int:
    """Return how often a task took a step, at most, while another waited for its turn."""
    longest = run = 0
    done = False

    async def others() -> None:
        nonlocal run
        while not done:
            run = 0
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(others)
        await trio.lowlevel.checkpoint()
        for _ in range(times):
            await step()
            run += 1
            longest = max(longest, run)
        done = True
    return longest


async def test_whoever_reads_events_lets_others_run() -> None:
    watcher = watcher_with(1000)
    # Trio runs the two in any order: what was read before a turn and after the next can add up.
    assert await longest_run(lambda: anext(watcher), 1000) <= 2 * 64


async def test_whoever_reads_events_can_be_cancelled_at_each() -> None:
    watcher = watcher_with(1000)
    seen = 0
    with trio.CancelScope() as scope:
        async for _ in watcher:
            seen += 1
            if seen == 10:
                scope.cancel()
    assert seen == 10
    assert scope.cancelled_caught
    async for _ in watcher:  # and none is lost by it
        seen += 1
        if seen == 1000:
            break


async def test_reader_lets_others_run_between_many_messages() -> None:
    taken = longest = run = 0

    async def script(call: ServerCall) -> None:
        await call.accept()
        for _ in range(2000):  # in one piece, and all of it fits into what is read at once
            call.connection.peer.message(call.stream_id, b"")
        await call.connection.flush()
        await call.finish()

    def take(_: pb.WatchResponse) -> None:
        nonlocal taken, longest, run
        taken += 1
        run += 1
        longest = max(longest, run)

    async def others() -> None:
        nonlocal run
        while True:
            run = 0
            await trio.lowlevel.checkpoint()

    async with open_pair(script) as (_, channel), trio.open_nursery() as nursery:
        async with watch(channel).Watch.open() as call:
            await call.send_message(watch_request())
            nursery.start_soon(others)
            await deliver(call, take)
        nursery.cancel_scope.cancel()
    assert taken == 2000
    assert 1 < longest <= 2 * 256  # before a turn and after the next, as trio takes any order


async def test_busy_watch_does_not_starve_a_renewal() -> None:
    """The server talks of events until ten renewals have been answered."""
    renewed = trio.Event()

    async def script(call: ServerCall) -> None:
        await call.accept()
        if call.method == "Watch":
            await call.say(pb.WatchResponse(watch_id=1, created=True))
            response = pb.WatchResponse(watch_id=1)
            response.events.add().kv.key = b"key"
            while not renewed.is_set() and not call.cancelled.is_set():
                await call.say(response)
        else:
            for number in range(1, 11):
                await call.connection.server.until(lambda n=number: len(call.messages) >= n)  # type: ignore[misc]
                await call.say(pb.LeaseKeepAliveResponse(id=7, ttl=10))

    async def read(client: Any) -> None:
        async with client.watch("key") as events:
            async for _ in events:
                pass  # as fast as they come

    async with open_pair(script) as (server, _), open_client(server.endpoint.url) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, client)
            await server.until(lambda: len(server.calls) == 1)
            for _ in range(10):
                assert await client.lease_renew(7) == 10
            renewed.set()
            nursery.cancel_scope.cancel()


# ---- what is sent at the end of a turn -----------------------------------------------------


async def test_it_is_called_when_nobody_has_anything_to_do() -> None:
    called: list[int] = []
    BeforeWaitHook.current().call(lambda: called.append(1))
    await trio.lowlevel.checkpoint()  # this task had something to do
    assert not called
    await trio.sleep(0.001)
    assert called == [1]


async def test_it_is_called_even_if_there_is_always_something_to_do() -> None:
    called: list[int] = []
    BeforeWaitHook.current().call(lambda: called.append(1))
    for _ in range(3):
        BeforeWaitHook.current().call(lambda: None)  # no task can put it off
        await trio.lowlevel.checkpoint()
    assert called == [1]


async def test_each_run_of_trio_has_its_own() -> None:
    first = BeforeWaitHook.current()
    assert BeforeWaitHook.current() is first

    async def other() -> BeforeWaitHook:
        await trio.lowlevel.checkpoint()
        return BeforeWaitHook.current()

    assert await trio.to_thread.run_sync(trio.run, other) is not first


async def test_it_can_wake_a_task_in_another_turn() -> None:
    ends, event = BeforeWaitHook.current(), trio.Event()
    ends.call(lambda: ends.run_soon(event.set))
    with trio.fail_after(GUARD):
        await event.wait()


async def test_what_the_kernel_does_not_take_at_the_end_of_a_turn_follows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = _endpoint.SocketByteStream.send_nowait
    monkeypatch.setattr(
        _endpoint.SocketByteStream, "send_nowait", lambda self, data: plain(self, data[:100])
    )
    async with open_pair(answer, pings=NEVER) as (_, channel):
        await get(channel)  # whose answer wakes us, so what we send now waits for the end
        await kv(channel).Put(pb.PutRequest(key=b"key", value=bytes(50_000)))


async def test_error_at_the_end_of_a_turn_ends_the_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise BrokenPipeError("no more")

    async with open_pair(answer, pings=NEVER) as (_, channel):
        await get(channel)
        monkeypatch.setattr(_endpoint.SocketByteStream, "send_nowait", fail)
        with pytest.raises(ConnectionLost, match="no more"):
            await get(channel)


async def test_acknowledgement_goes_with_the_next_renewal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that renews is woken by the reader itself, though a task owns the stream."""
    sent: list[bytes] = []
    plain = _endpoint.SocketByteStream.send_nowait

    def send(self: _endpoint.SocketByteStream, data: bytes) -> int:
        sent.append(data)
        return plain(self, data)

    async def script(call: ServerCall) -> None:
        await call.accept()
        number = 0
        while not call.cancelled.is_set():
            number += 1
            await call.connection.server.until(lambda n=number: len(call.messages) >= n)  # type: ignore[misc]
            call.connection.peer.h2.ping(b"how far?")  # goes together with the answer
            await call.say(pb.LeaseKeepAliveResponse(id=7, ttl=10))

    async with open_pair(script) as (server, _), open_client(server.endpoint.url) as client:
        await client.lease_renew(7)
        monkeypatch.setattr(_endpoint.SocketByteStream, "send_nowait", send)
        for _ in range(10):
            await client.lease_renew(7)
        renewals = [data for data in sent if b"\x08\x07" in data]
        assert len(renewals) == 10
        assert all(b"how far?" in data for data in renewals)
    (farewell,) = sent[10:]  # the last acknowledgement goes with it
    assert b"how far?" in farewell


async def test_many_who_are_woken_together_send_together(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    answered: list[ServerCall] = []
    plain = _endpoint.SocketByteStream.send_nowait

    def send(self: _endpoint.SocketByteStream, data: bytes) -> int:
        sizes.append(len(data))
        return plain(self, data)

    async def script(call: ServerCall) -> None:
        await call.request()
        answered.append(call)
        if len(answered) % 8 == 0:  # all answers go in one piece
            for each in answered[-8:]:
                call.connection.peer.answer(each.stream_id, b"")
            await call.connection.flush()

    async def twice() -> None:
        await get(channel)
        await get(channel)

    monkeypatch.setattr(_endpoint.SocketByteStream, "send_nowait", send)
    async with open_pair(script) as (_, channel), trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(twice)
    assert max(sizes) > 8 * 30  # the second requests of all
