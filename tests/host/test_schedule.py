"""Hosts on one path, in one process, on a real etcd."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio

from tests.helpers import until, watch_leftovers
from trio_sched import (
    Client,
    EndOfResults,
    open_client,
    schedule,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


# ---- the happy path --------------------------------------------------------------


async def test_one_host_schedules_itself(endpoint: str, path: str) -> None:
    async with watch_leftovers(endpoint, path) as left, open_client(endpoint) as client:
        async with schedule(client, path, "solo") as result:
            hosts = await result.next()
            assert hosts.leader == "solo"
            assert hosts.fence is not None
            assert hosts.revision > hosts.fence
            assert hosts == ("solo",)
            assert result.scheduled
            stored = await client.get(f"{path}/scheduled")
            assert stored.value == b"solo"
        assert not result.scheduled
    assert left.nothing


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
async def test_two_hosts_in_either_order_agree(
    endpoint: str, path: str, order: tuple[str, str]
) -> None:
    first, second = order
    async with (
        watch_leftovers(endpoint, path) as left,
        open_client(endpoint) as one,
        open_client(endpoint) as other,
        schedule(one, path, first, max_count=2) as result_one,
        schedule(other, path, second, max_count=2) as result_other,
    ):
        hosts_one = await until(result_one, "a", "b")
        hosts_other = await until(result_other, "a", "b")
        assert hosts_one.revision == hosts_other.revision
        assert hosts_one.leader == hosts_other.leader == first
        assert hosts_one.fence == hosts_other.fence
    assert left.nothing


async def test_f25_rr_keeps_its_choice_when_the_leader_leaves(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client:
        async with (
            schedule(client, path, "m", max_count=2) as stays,
            schedule(client, path, "z", max_count=2),
            schedule(client, path, "a", max_count=2),
        ):
            await until(stays, "m", "z")
            # The newcomer with the best name did not push any host out. Now the leader:
        async with (
            schedule(client, path, "y", max_count=2) as second,
            schedule(client, path, "b", max_count=2) as third,
        ):
            await until(third, "b", "y")
            async with schedule(client, path, "c", max_count=2):
                assert second.newest == ("b", "y")
            await second.shutdown()
            hosts = await until(third, "b")
            assert hosts.leader == "b"


async def test_alpha_prefers_names(endpoint: str, path: str) -> None:
    async with (
        open_client(endpoint) as client,
        schedule(client, path, "z", strategy="alpha") as result,
    ):
        await until(result, "z")
        async with schedule(client, path, "a", strategy="alpha"):
            await until(result, "a")
        await until(result, "z")


async def test_f29_neighbouring_paths_do_not_see_each_other(endpoint: str, path: str) -> None:
    async with (
        open_client(endpoint) as client,
        schedule(client, path, "one", max_count=9) as one,
        schedule(client, path + "b", "two", max_count=9) as two,
    ):
        assert await one.next() == ("one",)
        assert await two.next() == ("two",)


async def test_hosts_filter_limits_who_is_chosen(endpoint: str, path: str) -> None:
    async with (
        open_client(endpoint) as client,
        schedule(client, path, "a", max_count=5, hosts_filter=["b"]) as result,
    ):
        assert await result.next() == ()
        async with schedule(client, path, "b", max_count=5):
            await until(result, "b")
        assert await result.next() == ()


async def test_the_first_decision_takes_few_requests(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client:
        async with schedule(client, path, "a") as result:
            await result.next()
            (connection,) = client.statistics().connections
        # grant, join, grant, snapshot, write; and the streams of watches and renewals
        assert connection.started_calls <= 5 + 2


# ---- Result ------------------------------------------------------------------------


async def test_f22_a_slow_reader_gets_the_newest_only(endpoint: str, path: str) -> None:
    async with (
        open_client(endpoint) as client,
        schedule(client, path, "a", max_count=3) as slow,
    ):
        async with schedule(client, path, "b", max_count=3):
            async with schedule(client, path, "c", max_count=3) as third:
                await until(third, "a", "b", "c")
            while slow.newest != ("a", "b"):
                await trio.testing.wait_all_tasks_blocked(0.01)
            assert await slow.next() == ("a", "b")
            assert slow.statistics().returned == 1
            assert slow.statistics().decisions >= 3


async def test_results_end_with_the_block(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client:
        async with schedule(client, path, "a") as result:
            await result.next()
        with pytest.raises(EndOfResults):
            await result.next()
        assert [hosts async for hosts in result] == []
        assert not result.scheduled


async def test_shutdown_leaves_at_once_and_ends_the_loop(endpoint: str, path: str) -> None:
    async with (
        watch_leftovers(endpoint, path) as left,
        open_client(endpoint) as client,
        schedule(client, path, "a") as result,
    ):
        seen = []
        async for hosts in result:
            seen.append(hosts)
            await result.shutdown()
            assert not result.scheduled
            assert (await client.get_prefix(f"{path}/")).count == 0
        assert seen == [("a",)]
    assert left.nothing


async def test_a_cancelled_next_loses_no_decision(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client, schedule(client, path, "a") as result:
        with trio.CancelScope() as scope:
            scope.cancel()
            await result.next()
        assert scope.cancelled_caught
        assert await result.next() == ("a",)


async def test_two_tasks_in_next_are_one_too_many(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client, schedule(client, path, "a") as result:
        await result.next()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(result.next)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await result.next()
            nursery.cancel_scope.cancel()


# ---- leaving -------------------------------------------------------------------------


class Boom(Exception):
    pass


async def test_the_bodys_exception_leaves_as_it_was_raised(endpoint: str, path: str) -> None:
    boom = Boom()
    async with watch_leftovers(endpoint, path) as left, open_client(endpoint) as client:
        with pytest.raises(Boom) as caught:
            async with schedule(client, path, "a") as result:
                await result.next()
                raise boom
        assert caught.value is boom
        assert boom.__cause__ is None
    assert left.nothing


async def test_all_leave_at_once_and_nothing_is_left(endpoint: str, path: str) -> None:
    async def live(client: Client, name: str) -> None:
        async with schedule(client, path, name, max_count=3) as result:
            await result.next()
            await trio.sleep_forever()

    async with watch_leftovers(endpoint, path) as left, open_client(endpoint) as client:
        async with (
            trio.open_nursery() as nursery,
            schedule(client, path, "watcher", max_count=3) as result,
        ):
            for index in range(10):
                nursery.start_soon(live, client, f"host-{index}")
            async for hosts in result:
                if len(hosts) == 3:
                    break
            nursery.cancel_scope.cancel()
    assert left.nothing


class TrippingClient:
    """A client that cancels a scope when a certain request is sent, or answered."""

    def __init__(self, client: Client, scope: trio.CancelScope, place: str) -> None:
        self._client = client
        self._scope = scope
        self._name, self._when, number = place.split()
        self._left = int(number)
        self.tripped = False

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._client, name)
        if name != self._name:
            return real
        return self._trip_watch(real) if name == "watch" else self._trip_call(real)

    def _is_now(self, when: str) -> bool:
        if when != self._when:
            return False
        self._left -= 1
        return self._left == 0

    def _trip(self, when: str) -> None:
        if self._is_now(when):
            self.tripped = True
            self._scope.cancel()

    def _trip_call(self, real: Callable[..., Awaitable[object]]) -> Callable[..., object]:
        async def call(*args: object, **kwargs: object) -> object:
            self._trip("before")
            answer = await real(*args, **kwargs)
            self._trip("after")
            return answer

        return call

    def _trip_watch(self, real: Callable[..., Any]) -> Callable[..., object]:
        @asynccontextmanager
        async def watch(*args: object, **kwargs: object) -> AsyncIterator[object]:
            self._trip("before")
            async with real(*args, **kwargs) as watcher:
                self._trip("after")
                yield watcher

        return watch


PLACES = [
    "lease_grant before 1",  # the session's lease
    "lease_grant after 1",
    "txn before 1",  # joining
    "txn after 1",
    "watch before 1",  # all of the path
    "watch after 1",
    "lease_grant before 2",  # the decision's lease
    "lease_grant after 2",
    "txn before 2",  # the decision
    "txn after 2",
    "lease_revoke before 1",  # leaving; cancelled for the second time
    "lease_revoke after 1",
    "txn before 3",
    "txn after 3",
]
LEAVING = PLACES[-4:]
PLACES_OF_A_FOLLOWER = [
    "lease_grant after 1",
    "txn after 1",
    *(f"watch {when} {n}" for n in (1, 2, 3) for when in ("before", "after")),
    "txn before 2",  # all of the path, when the leader has gone
    "txn after 2",
    "watch before 4",  # the same
    "watch after 4",
    "lease_renew before 1",  # the decision lease, which it takes over
    "lease_renew after 1",
    "txn before 3",  # the decision
    "txn after 3",
]


@pytest.mark.parametrize("place", PLACES)
async def test_f10_cancelled_anywhere_nothing_is_left(endpoint: str, path: str, place: str) -> None:
    async with watch_leftovers(endpoint, path) as left, open_client(endpoint) as client:
        with trio.CancelScope() as scope:
            tripping = TrippingClient(client, scope, place)
            async with schedule(cast("Client", tripping), path, "a") as result:
                await result.next()
                if place not in LEAVING:
                    await trio.sleep_forever()
        assert tripping.tripped
    assert left.nothing


@pytest.mark.parametrize("place", PLACES_OF_A_FOLLOWER)
async def test_f10_a_follower_cancelled_anywhere_leaves_nothing(
    endpoint: str, path: str, place: str
) -> None:
    async with watch_leftovers(endpoint, path) as left, open_client(endpoint) as client:
        with trio.CancelScope() as scope:
            tripping = TrippingClient(client, scope, place)
            async with schedule(client, path, "leader") as leader:
                await leader.next()
                async with schedule(cast("Client", tripping), path, "a"):
                    await leader.shutdown()
                    await trio.sleep_forever()
        assert tripping.tripped
    assert left.nothing


@pytest.mark.parametrize("where", ["campaigning", "iterating", "leading", "sleeping"])
async def test_f9_cancelled_in_the_body_nothing_is_left(
    endpoint: str, path: str, where: str
) -> None:
    async with (
        watch_leftovers(endpoint, path) as left,
        open_client(endpoint) as client,
        schedule(client, path, "other", max_count=2) as other,
    ):
        await other.next()
        with trio.CancelScope() as scope:
            async with schedule(client, path, "a", max_count=2) as result:
                await until(other, "a", "other")
                if where == "leading":
                    await other.shutdown()
                    await until(result, "a")
                if where in ("campaigning", "leading"):
                    scope.cancel()
                    await trio.lowlevel.checkpoint()
                scope.deadline = trio.current_time() + 0.05
                if where == "iterating":
                    async for _hosts in result:
                        pass
                await trio.sleep_forever()
        assert scope.cancelled_caught
        if where != "leading":
            await until(other, "other")
    assert left.nothing


async def test_f9_leaving_is_bounded_when_etcd_is_gone(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    from trio_sched.testing import open_etcd  # noqa: PLC0415 # a server of its own

    async with open_etcd() as server, open_client(server.endpoint) as client:
        with trio.fail_after(20):
            async with schedule(client, path, "a", session_ttl=60, shutdown_timeout=0.2) as result:
                await result.next()
                server.members[0].pause()
        assert "did not confirm" in caplog.text
        server.members[0].resume()
