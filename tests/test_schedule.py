"""Hosts on one path, in one process, on a real etcd."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio
from helpers import watch_leftovers

from trio_sched import (
    Client,
    EndOfResults,
    HostnameInUse,
    Hosts,
    Result,
    StrategyError,
    StrategyOptions,
    open_client,
    register,
    schedule,
)
from trio_sched.etcd_shim.errors import ConnectionFailed
from trio_sched.keys import PathKeys
from trio_sched.strategies import Strategy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from trio_sched import Host


async def until(result: Result, *names: str) -> Hosts:
    """Read decisions until one chooses exactly these hosts."""
    async for hosts in result:
        if hosts == names:
            return hosts
    raise AssertionError("the results ended")


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
            # The newcomer with the best name did not push anybody out. Now the leader:
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
    "watch before 1",  # our own key
    "watch after 1",
    "watch after 3",
    "txn before 2",  # the pool
    "txn after 2",
    "lease_grant before 2",  # the decision's lease
    "lease_grant after 2",
    "txn before 3",  # the decision
    "txn after 3",
    "lease_revoke before 1",  # leaving; cancelled for the second time
    "lease_revoke after 1",
    "txn before 4",
    "txn after 4",
]


@pytest.mark.parametrize("place", PLACES)
async def test_f10_cancelled_anywhere_nothing_is_left(endpoint: str, path: str, place: str) -> None:
    async with watch_leftovers(endpoint, path) as left, open_client(endpoint) as client:
        with trio.CancelScope() as scope:
            tripping = TrippingClient(client, scope, place)
            async with schedule(cast("Client", tripping), path, "a") as result:
                await result.next()
                if "revoke" not in place and not place.endswith("4"):
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
                answered = True
                while answered:  # a process takes a moment to stop
                    with trio.move_on_after(0.2) as silence:
                        await client.get("a")
                    answered = not silence.cancelled_caught
        assert "did not confirm" in caplog.text
        server.members[0].resume()


# ---- what goes wrong -------------------------------------------------------------------


async def test_unreachable_etcd_is_told_when_the_block_is_entered(path: str) -> None:
    async with open_client("http://127.0.0.1:1") as client:
        with pytest.raises(ConnectionFailed, match=r"127\.0\.0\.1:1"):
            async with schedule(client, path, "a"):
                raise AssertionError("entered")


async def test_f18_a_host_name_in_use_is_told(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client, schedule(client, path, "a", session_ttl=2):
        with pytest.raises(HostnameInUse) as caught:
            async with schedule(client, path, "a", session_ttl=2):
                raise AssertionError("entered")
        assert caught.value.hostname == "a"
        assert caught.value.path == path
        (kv,) = await client.get_prefix(f"{path}/exchange/")
        assert caught.value.lease == kv.lease


async def test_f19_a_key_of_a_life_before_is_waited_for(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client:
        lease = await client.lease_grant(2)
        await client.put(f"{path}/exchange/a", "TODO", lease=lease.id)
        async with schedule(client, path, "a", session_ttl=2) as result:
            assert await result.next() == ("a",)


@pytest.mark.parametrize("key", ["host", "candidate", "lease"])
async def test_f34_f8_a_session_lost_is_joined_anew(endpoint: str, path: str, key: str) -> None:
    keys = PathKeys(path)
    async with (
        watch_leftovers(endpoint, path) as left,
        open_client(endpoint) as client,
        schedule(client, path, "a") as result,
    ):
        await result.next()
        (kv,) = await client.get_prefix(keys.exchange)
        if key == "host":
            await client.delete(keys.host("a"))
        elif key == "candidate":
            await client.delete(keys.candidate(kv.lease))
        else:
            await client.lease_revoke(kv.lease)
        assert await result.next() == ()
        assert await result.next() == ("a",)
        (again,) = await client.get_prefix(keys.exchange)
        assert again.lease != kv.lease
        assert result.scheduled
    assert left.nothing


class Broken(Strategy):
    name = "broken"

    def schedule(self, hosts: Mapping[str, Host], options: StrategyOptions) -> Sequence[str]:
        raise ZeroDivisionError(f"{len(hosts)} {options.max_count}")


async def test_f23_a_strategy_that_raises_leaves_the_block(endpoint: str, path: str) -> None:
    async with watch_leftovers(endpoint, path) as left, open_client(endpoint) as client:
        with pytest.raises(StrategyError) as caught:
            async with schedule(client, path, "a", strategy=Broken()):
                await trio.sleep_forever()
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        assert caught.value.strategy == "broken"
    assert left.nothing


async def test_f33_a_foreign_write_is_taken_back(
    endpoint: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_client(endpoint) as client, schedule(client, path, "a") as result:
        await result.next()
        await client.put(f"{path}/scheduled", "b,c")
        assert await result.next() == ("b", "c")
        assert await result.next() == ("a",)
    assert "foreign" in {getattr(record, "kind", "").partition("-")[0] for record in caplog.records}


# ---- options ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"path": "jobs"}, ValueError, "start with '/'"),
        ({"path": "/jobs/"}, ValueError, "not end with"),
        ({"path": b"/jobs"}, TypeError, "str"),
        ({"hostname": ""}, ValueError, "empty"),
        ({"hostname": "a,b"}, ValueError, "','"),
        ({"hostname": "a/b"}, ValueError, "'/'"),
        ({"hostname": "\ud800"}, ValueError, "UTF-8"),
        ({"hostname": 5}, TypeError, "str"),
        ({"max_count": 0}, ValueError, "1 or more"),
        ({"max_count": True}, TypeError, "int"),
        ({"max_count": 1.5}, TypeError, "int"),
        ({"session_ttl": 0}, ValueError, "between 1 and"),
        ({"session_ttl": -1}, ValueError, "between 1 and"),
        ({"session_ttl": 10**12}, ValueError, "between 1 and"),
        ({"session_ttl": 1.5}, TypeError, "whole number"),
        ({"strategy": "nonesuch"}, ValueError, "alpha"),
        ({"strategy": 5}, TypeError, "trategy"),
        ({"hosts_filter": "host"}, TypeError, "collection"),
        ({"hosts_filter": ["a,b"]}, ValueError, "','"),
        ({"hosts_filter": 5}, TypeError, "iterable"),
        ({"shutdown_timeout": -1}, ValueError, "0 or more"),
    ],
)
async def test_f29_f30_bad_arguments_are_told_before_anything_is_sent(
    options: dict[str, Any], error: type[Exception], words: str
) -> None:
    arguments = {"path": "/p", "hostname": "h", **options}
    async with open_client("http://127.0.0.1:1") as client:
        with pytest.raises(error, match=words):
            async with schedule(client, **arguments):
                raise AssertionError("entered")
        assert client.statistics().connects == 0


async def test_f30_the_servers_ttl_counts(
    endpoint: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_sched")
    async with (
        open_client(endpoint) as client,
        schedule(client, path, "a", session_ttl=1) as result,
    ):
        await result.next()
        (kv,) = await client.get_prefix(f"{path}/exchange/")
        granted = (await client.lease_time_to_live(kv.lease)).granted_ttl
    told = [record.ttl for record in caplog.records if hasattr(record, "ttl")]
    assert told == [granted]


async def test_reuse_lease_keeps_the_keys_and_takes_them_over(endpoint: str, path: str) -> None:
    keys = PathKeys(path)
    async with watch_leftovers(endpoint, path) as left, open_client(endpoint) as client:
        async with schedule(client, path, "a", reuse_lease=True) as result:
            first = await result.next()
        (kept,) = await client.get_prefix(keys.exchange)
        assert (await client.get(keys.scheduled)).value == b"a"
        async with schedule(client, path, "a") as result:
            second = await result.next()
            assert second.fence == first.fence
            (taken,) = await client.get_prefix(keys.exchange)
            assert (taken.lease, taken.create_revision) == (kept.lease, kept.create_revision)
    assert left.nothing


async def test_reuse_lease_does_without_a_lease_that_is_gone(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client:
        async with schedule(client, path, "a", reuse_lease=True) as result:
            first = await result.next()
        (kept,) = await client.get_prefix(f"{path}/exchange/")
        await client.lease_revoke(kept.lease)
        async with schedule(client, path, "a") as result:
            # What is stored names the host, but means its life before.
            assert await result.next() == ("a",)
            assert not result.scheduled
            second = await result.next()
            assert result.scheduled
            assert second.fence != first.fence


async def test_debug_logs_each_event(
    endpoint: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("test_debug")
    caplog.set_level(logging.DEBUG, "test_debug")
    async with (
        open_client(endpoint) as client,
        schedule(client, path, "a", logger=logger, debug=True) as result,
    ):
        await result.next()
    mine = [record for record in caplog.records if record.name == "test_debug"]
    assert {record.levelname for record in mine} == {"INFO", "DEBUG"}
    assert any(getattr(record, "path", None) == path for record in mine)


class Last(Strategy):
    name = "last-joined"

    def schedule(self, hosts: Mapping[str, Host], options: StrategyOptions) -> Sequence[str]:
        newest_first = sorted(hosts.values(), key=lambda host: -host.joined_revision)
        return [host.name for host in newest_first[: options.max_count]]


async def test_a_registered_strategy_is_known_by_its_name(endpoint: str, path: str) -> None:
    register("last-joined", Last)
    async with (
        open_client(endpoint) as client,
        schedule(client, path, "a", strategy="last-joined") as result,
    ):
        await until(result, "a")
        async with schedule(client, path, "b", strategy="last-joined"):
            await until(result, "b")
