"""When calls are overdue, and what comes of it."""

from __future__ import annotations

from math import inf

import pytest
import trio

from tests.etcd_shim.channel.channel_tools import get, kv, open_pair, watch, watch_request
from tests.etcd_shim.channel.scripted_server import ServerCall, answer, open_server
from trio_sched.etcd_shim._pb import messages_pb2 as pb
from trio_sched.etcd_shim.channel._unanswered import LOOK_INTERVAL, Unanswered
from trio_sched.etcd_shim.errors import ConnectionLost, DeadlineExceeded

START = 100.3


def looks(calls: Unanswered, *views: tuple[int | None, int]) -> list[bool]:
    """Look, each time that it is time to; a view is the oldest call and the newest."""
    found = []
    for oldest, newest in views:
        assert calls.next_check < inf
        found.append(calls.check(calls.next_check, oldest, newest))
    return found


def test_one_that_is_there_at_two_looks_is_overdue() -> None:
    calls = Unanswered()
    assert calls.idle
    calls.begin(START)
    assert calls.next_check == START + LOOK_INTERVAL
    assert looks(calls, (1, 1), (1, 1), (1, 3)) == [False, True, True]


def test_each_answer_says_that_the_member_serves() -> None:
    calls = Unanswered()
    calls.begin(START)
    assert looks(calls, (1, 1)) == [False]
    calls.answered += 1
    assert looks(calls, (1, 9), (1, 9)) == [False, True]


def test_new_calls_are_given_time() -> None:
    calls = Unanswered()
    calls.begin(START)
    assert looks(calls, (1, 1), (3, 5), (7, 9), (9, 9)) == [False, False, False, True]


def test_one_that_was_given_up_counts() -> None:
    calls = Unanswered()
    calls.begin(START)
    calls.given_up = True
    assert looks(calls, (None, 0)) == [True]
    assert looks(calls, (None, 0)) == [False]
    assert calls.idle
    assert calls.next_check == inf


async def test_f48_a_call_that_takes_long_is_left_alone_if_the_member_answers() -> None:
    """It is asked again and again meanwhile, by a small read; the call goes on."""
    asked = 0

    async def slow(call: ServerCall) -> None:
        nonlocal asked
        request = pb.RangeRequest.FromString(await call.request())
        if request.key == b"long":
            await enough.wait()
        else:
            asked += 1
            if asked == 3:
                enough.set()
        await answer(call)

    enough = trio.Event()
    async with open_server() as other, open_pair(slow, more=[other]) as (server, channel):
        await get(channel, b"long")
        assert asked >= 3
        assert len(server.connections) == 1
        assert not other.connections


async def test_f48_one_that_answers_nothing_is_left_and_a_write_stays() -> None:
    async def silent(call: ServerCall) -> None:
        await call.cancelled.wait()

    async with open_server() as good, open_pair(silent, more=[good]) as (bad, channel):
        fate: list[str] = []

        async def put() -> None:
            try:
                await kv(channel).Put(pb.PutRequest(key=b"a"))
            except ConnectionLost as exc:
                fate.append(str(exc))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(put)
            with pytest.raises(ConnectionLost, match="was left"):
                await get(channel)
            await get(channel)
            assert len(good.calls) == 1
            assert not fate
            (call,) = [call for call in bad.calls if call.method == "Put"]
            assert not call.cancelled.is_set()
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("status", [2, 4])
async def test_f68_one_that_says_deadline_exceeded_is_left(status: int) -> None:
    """etcd says so as DEADLINE_EXCEEDED or UNKNOWN; reads and streams go to the next member."""

    async def unable(call: ServerCall) -> None:
        if call.method == "Watch":
            await call.accept()
            await call.cancelled.wait()
        else:
            await call.refuse(status, b"context deadline exceeded")

    async with open_server() as good, open_pair(unable, more=[good]) as (bad, channel):
        async with watch(channel).Watch.open() as call:
            await call.send_message(watch_request())
            with pytest.raises(DeadlineExceeded):
                await get(channel)
            with pytest.raises(ConnectionLost, match="was left"):
                await call.recv_message()
        await get(channel)
        assert len(good.calls) == 1
        await bad.until(lambda: bad.connections[0].closed)
