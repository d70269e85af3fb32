"""Calls beyond what the server takes at once: they wait in order, and not without bound."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import pytest
import trio
from h2.settings import SettingCodes
from trio.testing import wait_all_tasks_blocked

from tests.etcd_shim.channel.channel_tools import (
    assert_idle,
    get,
    kv,
    open_pair,
    watch,
    watch_request,
)
from tests.etcd_shim.channel.scripted_server import Manners, ServerCall, answer
from trio_sched.etcd_shim._pb import messages_pb2 as pb
from trio_sched.etcd_shim.channel import Channel, ChannelSettings
from trio_sched.etcd_shim.channel._admission import Admission
from trio_sched.etcd_shim.errors import ConnectionLost, DeadlineExceeded, ResourceExhausted

CONCURRENCY = SettingCodes.MAX_CONCURRENT_STREAMS


def at_once(limit: int) -> Manners:
    return Manners(settings={CONCURRENCY: limit})


# ---- the queue by itself ------------------------------------------------------------


class Guests:
    """Tasks that enter, and what became of them, in order."""

    def __init__(self, admission: Admission, nursery: trio.Nursery) -> None:
        self.admission = admission
        self.nursery = nursery
        self.entered: list[str] = []
        self.turned_away: list[str] = []

    async def come(self, *names: str) -> None:
        for name in names:
            self.nursery.start_soon(self._enter, name)
            await wait_all_tasks_blocked()

    async def _enter(self, name: str) -> None:
        if await self.admission.enter():
            self.entered.append(name)
        else:
            self.turned_away.append(name)


async def test_breakage_7_first_come_first_served() -> None:
    async with trio.open_nursery() as nursery:
        guests = Guests(Admission(2), nursery)
        await guests.come("a", "b", "c", "d", "e")
        assert guests.entered == ["a", "b"]
        assert (guests.admission._inside, guests.admission.waiting) == (2, 3)
        for expected in ("c", "d", "e"):
            guests.admission.leave()
            await wait_all_tasks_blocked()
            assert guests.entered[-1] == expected
        for _ in range(2):
            guests.admission.leave()
        assert (guests.admission._inside, guests.admission.waiting) == (0, 0)


async def test_breakage_7_nobody_overtakes_one_who_was_woken() -> None:
    async with trio.open_nursery() as nursery:
        guests = Guests(Admission(1), nursery)
        await guests.come("a", "b")
        guests.admission.leave()  # b is woken, and has not run yet
        nursery.start_soon(guests._enter, "c")
        await wait_all_tasks_blocked()
        assert guests.entered == ["a", "b"]
        guests.admission.leave()
        await wait_all_tasks_blocked()
        assert guests.entered == ["a", "b", "c"]


async def test_waiter_that_is_cancelled_is_forgotten() -> None:
    async with trio.open_nursery() as nursery:
        guests = Guests(Admission(1), nursery)
        await guests.come("a")
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as inner:
                guests.nursery = inner
                await guests.come("b")
                assert guests.admission.waiting == 1
                scope.cancel()
        guests.nursery = nursery
        assert guests.admission.waiting == 0
        await guests.come("c")
        guests.admission.leave()
        await wait_all_tasks_blocked()
        assert guests.entered == ["a", "c"]


async def test_more_may_enter_when_the_limit_grows() -> None:
    async with trio.open_nursery() as nursery:
        guests = Guests(Admission(0), nursery)
        await guests.come("a", "b", "c")
        assert guests.entered == []
        guests.admission.set_limit(2)
        await wait_all_tasks_blocked()
        assert sorted(guests.entered) == ["a", "b"]
        guests.admission.set_limit(1)
        guests.admission.leave()
        await wait_all_tasks_blocked()
        assert sorted(guests.entered) == ["a", "b"]
        guests.admission.leave()


@pytest.mark.parametrize("limit", [0, 1, 2])
async def test_limit_shrinks_under_those_who_were_woken(limit: int) -> None:
    """A place is only good if there is one at the moment at which it is taken."""
    async with trio.open_nursery() as nursery:
        guests = Guests(Admission(2), nursery)
        await guests.come("a", "b", "c", "d", "e")
        guests.admission.leave()
        guests.admission.leave()  # c and d are woken, and have not run yet
        guests.admission.set_limit(limit)
        await wait_all_tasks_blocked()
        assert guests.admission._inside == len(guests.entered) - 2 == limit
        assert guests.admission.waiting == 3 - limit
        # Who had to give its place back is still before the one who came later.
        guests.admission.set_limit(2)
        await wait_all_tasks_blocked()
        assert sorted(guests.entered) == ["a", "b", "c", "d"]
        guests.admission.leave()
        await wait_all_tasks_blocked()
        assert guests.entered[-1] == "e"
        assert guests.admission.waiting == 0


async def test_queue_is_bounded() -> None:
    async with trio.open_nursery() as nursery:
        guests = Guests(Admission(1, max_waiting=2), nursery)
        await guests.come("a", "b", "c")
        with pytest.raises(ResourceExhausted):
            await guests.admission.enter()
        guests.admission.close()
        await wait_all_tasks_blocked()
        assert sorted(guests.turned_away) == ["b", "c"]
        assert not await guests.admission.enter()


# ---- in a channel ----------------------------------------------------------------------


class Crowd:
    """Calls that are begun one after the other, each in a scope of its own."""

    def __init__(self, channel: Channel, nursery: trio.Nursery) -> None:
        self.channel = channel
        self.nursery = nursery
        self.done: list[bytes] = []
        self.lost: list[bytes] = []
        self.cancelled: list[bytes] = []
        self.scopes: dict[bytes, trio.CancelScope] = {}

    async def come(self, *keys: bytes) -> None:
        for key in keys:
            self.scopes[key] = trio.CancelScope()
            self.nursery.start_soon(self._get, key)
            await wait_all_tasks_blocked()

    async def _get(self, key: bytes) -> None:
        with self.scopes[key] as scope:
            try:
                await get(self.channel, key)
            except ConnectionLost:
                self.lost.append(key)
            else:
                self.done.append(key)
        if scope.cancelled_caught:
            self.cancelled.append(key)


class Waiter:
    """A script that answers calls when it is asked to."""

    def __init__(self) -> None:
        self.come: list[bytes] = []
        self.most = 0
        self.calls: dict[bytes, ServerCall] = {}
        self.go_on: dict[bytes, trio.Event] = {}

    async def __call__(self, call: ServerCall) -> None:
        key = pb.RangeRequest.FromString(await call.request()).key
        self.come.append(key)
        self.most = max(self.most, call.connection.open_calls)
        self.calls[key] = call
        self.go_on[key] = trio.Event()
        call.connection.server.note()
        await self.go_on[key].wait()
        await call.answer()

    async def answer(self, key: bytes) -> None:
        self.go_on[key].set()
        await wait_all_tasks_blocked()


def keys(count: int) -> Iterator[bytes]:
    return (b"%02d" % number for number in range(count))


async def test_breakage_7_calls_beyond_the_limit_wait_in_order() -> None:
    waiter = Waiter()
    async with open_pair(waiter, at_once(2)) as (server, channel):
        async with trio.open_nursery() as nursery:
            crowd = Crowd(channel, nursery)
            await crowd.come(*keys(8))
            (statistics,) = channel.statistics().connections
            assert (statistics.open_calls, statistics.waiting_calls) == (2, 6)
            for number, key in enumerate(keys(8)):
                assert waiter.come == list(keys(min(8, number + 2)))
                await waiter.answer(key)
        assert crowd.done == list(keys(8))
        assert waiter.most == 2
        assert len(server.connections) == 1
        await assert_idle(channel)


async def test_breakage_7_more_than_a_hundred_before_settings_arrive() -> None:
    """All are asked for while there is no connection yet."""
    waiter = Waiter()
    async with open_pair(waiter, at_once(3)) as (_, channel), trio.open_nursery() as nursery:
        for key in keys(150):
            nursery.start_soon(get, channel, key)
        await wait_all_tasks_blocked()
        assert len(waiter.come) == 3
        while len(waiter.come) < 150:
            await waiter.answer(waiter.come[-1])
        for key in waiter.come:
            waiter.go_on[key].set()
    assert waiter.most == 3


async def test_breakage_7_cancelled_waiter_is_skipped() -> None:
    waiter = Waiter()
    async with open_pair(waiter, at_once(1)) as (server, channel):
        async with trio.open_nursery() as nursery:
            crowd = Crowd(channel, nursery)
            await crowd.come(b"a", b"b", b"c")
            crowd.scopes[b"b"].cancel()
            await wait_all_tasks_blocked()
            assert crowd.cancelled == [b"b"]
            await waiter.answer(b"a")
            await waiter.answer(b"c")
        assert waiter.come == [b"a", b"c"]
        assert server.connections[0].peer.resets == []
        await assert_idle(channel)


async def test_breakage_7_woken_waiter_that_is_cancelled_passes_its_turn_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waiter = Waiter()
    async with open_pair(waiter, at_once(1)) as (_, channel):
        async with trio.open_nursery() as nursery:
            crowd = Crowd(channel, nursery)
            await crowd.come(b"a", b"b", b"c")
            assert channel._current is not None
            admission = channel._current.admission
            leave = admission.leave

            def leave_and_cancel() -> None:
                leave()
                crowd.scopes[b"b"].cancel()  # it has been woken, and has not run yet

            monkeypatch.setattr(admission, "leave", leave_and_cancel)
            await waiter.answer(b"a")
            await waiter.answer(b"c")
        assert crowd.cancelled == [b"b"]
        assert crowd.done == [b"a", b"c"]
        await assert_idle(channel)


async def test_breakage_7_limit_shrinks_in_the_moment_in_which_calls_end() -> None:
    waiter = Waiter()
    async with open_pair(waiter, at_once(2)) as (server, channel):
        async with trio.open_nursery() as nursery:
            crowd = Crowd(channel, nursery)
            await crowd.come(b"a", b"b", b"c", b"d")
            (connection,) = server.connections
            for key in (b"a", b"b"):
                connection.peer.answer(waiter.calls[key].stream_id)
            connection.peer.h2.update_settings({CONCURRENCY: 1})
            await connection.flush()
            await wait_all_tasks_blocked()
            assert len(waiter.come) == 3
            await waiter.answer(waiter.come[-1])
            assert len(waiter.come) == 4
            await waiter.answer(waiter.come[-1])
        assert sorted(crowd.done) == [b"a", b"b", b"c", b"d"]
        await assert_idle(channel)


async def test_limit_of_nothing_is_waited_for() -> None:
    async with open_pair(answer, at_once(0)) as (server, channel):
        async with trio.open_nursery() as nursery:
            crowd = Crowd(channel, nursery)
            await crowd.come(b"a")
            assert server.calls == []
            (connection,) = server.connections
            connection.peer.h2.update_settings({CONCURRENCY: 10})
            await connection.flush()
        assert crowd.done == [b"a"]


async def test_too_many_who_wait() -> None:
    waiter = Waiter()
    settings = ChannelSettings(max_waiting_calls=2)
    async with open_pair(waiter, at_once(1), settings=settings) as (_, channel):
        async with trio.open_nursery() as nursery:
            crowd = Crowd(channel, nursery)
            await crowd.come(b"a", b"b", b"c")
            with pytest.raises(ResourceExhausted):
                await get(channel)
            for key in (b"a", b"b", b"c"):
                await waiter.answer(key)
        assert crowd.done == [b"a", b"b", b"c"]
        await assert_idle(channel)


@pytest.mark.parametrize("graceful", [True, False])
async def test_those_who_wait_move_to_the_next_connection(graceful: bool) -> None:
    waiter = Waiter()
    async with open_pair(waiter, at_once(1)) as (server, channel):
        async with trio.open_nursery() as nursery:
            crowd = Crowd(channel, nursery)
            await crowd.come(b"a", b"b", b"c")
            (first,) = server.connections
            if graceful:
                await first.goaway(waiter.calls[b"a"].stream_id)
            else:
                await first.hang_up()
            await waiter.answer(b"a")
            await server.until(lambda: len(waiter.come) == 2)
            await waiter.answer(waiter.come[1])  # either: both came anew to the second connection
            await server.until(lambda: len(waiter.come) == 3)
            await waiter.answer(waiter.come[2])
        assert len(server.connections) == 2
        assert (crowd.lost, sorted(crowd.done)) == (
            ([], [b"a", b"b", b"c"]) if graceful else ([b"a"], [b"b", b"c"])
        )
        await assert_idle(channel)


async def test_deadline_counts_while_a_call_waits() -> None:
    waiter = Waiter()
    async with open_pair(waiter, at_once(1)) as (_, channel):
        async with trio.open_nursery() as nursery:
            crowd = Crowd(channel, nursery)
            await crowd.come(b"a")
            with pytest.raises(DeadlineExceeded):
                await kv(channel).Range(pb.RangeRequest(key=b"b"), timeout=0.05)
            await waiter.answer(b"a")
        assert waiter.come == [b"a"]
        await assert_idle(channel)


async def test_call_that_cannot_be_sent_takes_no_place() -> None:
    async with open_pair(answer, at_once(1)) as (server, channel):
        for _ in range(3):
            with pytest.raises((TypeError, AttributeError)):
                await kv(channel).Range(
                    pb.RangeRequest(), metadata=cast("dict[str, str]", {"a": 5})
                )
        await get(channel)
        assert len(server.calls) == 1
        await assert_idle(channel)


async def test_long_calls_count_as_well() -> None:
    async def script(call: ServerCall) -> None:
        if call.method == "Watch":
            await call.accept()
        else:
            await answer(call)

    async with open_pair(script, at_once(1)) as (server, channel):
        async with trio.open_nursery() as nursery:
            async with watch(channel).Watch.open() as call:
                await call.send_message(watch_request())
                crowd = Crowd(channel, nursery)
                await crowd.come(b"a")
                assert len(server.calls) == 1
        assert crowd.done == [b"a"]
        assert [each.method for each in server.calls] == ["Watch", "Range"]
