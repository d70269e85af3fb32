"""What goes wrong with `schedule`, and what each of its options does."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import MockClock

from tests.helpers import until, watch_leftovers
from trio_sched import (
    HostnameInUse,
    Slot,
    StrategyError,
    StrategyOptions,
    open_client,
    register,
    schedule,
)
from trio_sched.etcd_shim.errors import ConnectionFailed, PermissionDenied
from trio_sched.model.keys import PathKeys
from trio_sched.simulation import MemoryEtcd
from trio_sched.strategies import Strategy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trio_sched import Host


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


async def test_f34_a_follower_without_its_candidate_key_joins_anew(
    endpoint: str, path: str
) -> None:
    keys = PathKeys(path)
    async with (
        open_client(endpoint) as client,
        schedule(client, path, "a", max_count=2),
        schedule(client, path, "b", max_count=2, session_ttl=1) as result,
    ):
        await until(result, "a", "b")
        kv = (await client.get(keys.host("b"))).kv
        assert kv is not None
        await client.delete(keys.candidate(kv.lease))
        await until(result)
        await until(result, "a", "b")
        assert len((await client.get_prefix(keys.election)).kvs) == 2


class Broken(Strategy):
    name = "broken"

    def schedule(self, hosts: Mapping[str, Host], options: StrategyOptions) -> Sequence[str]:
        raise ZeroDivisionError(f"{len(hosts)} {options.max_count}")


async def test_f23_a_strategy_that_raises_leaves_the_block(endpoint: str, path: str) -> None:
    async with watch_leftovers(endpoint, path) as left, open_client(endpoint) as client:
        with pytest.raises(StrategyError) as caught:
            async with schedule(client, path, "a", strategy=Broken(), strict=True):
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


@pytest.mark.parametrize("children", [0, 1, 3])
def test_f35_a_failure_leaves_the_block_though_its_body_is_a_nursery(
    endpoint: str, path: str, children: int
) -> None:
    """Run by `trio.run` itself: pytest-trio takes a group of `Cancelled` for its own."""

    async def main() -> None:
        async with (
            open_client(endpoint) as client,
            schedule(client, path, "a", strategy=Broken(), strict=True),
            trio.open_nursery() as nursery,
        ):
            for _ in range(children):
                nursery.start_soon(trio.sleep_forever)
            await trio.sleep_forever()

    with pytest.raises(StrategyError):
        trio.run(main)


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
    logged = [record.ttl for record in caplog.records if hasattr(record, "ttl")]
    assert logged == [granted]


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


async def test_f58_only_one_block_goes_on_with_a_lease_that_was_kept(
    endpoint: str, path: str
) -> None:
    async with open_client(endpoint) as client:
        async with schedule(client, path, "a", reuse_lease=True, session_ttl=2) as result:
            await result.next()
        ended: list[str] = []

        async def live() -> None:
            try:
                async with schedule(client, path, "a", session_ttl=2) as result:
                    await until(result, "a")
                    ended.append("joined")
                    await trio.sleep_forever()
            except HostnameInUse:
                ended.append("in use")
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(live)
            nursery.start_soon(live)
        assert ended == ["joined", "in use"]


async def test_f58_a_lease_that_was_kept_is_kept_on_if_taking_it_over_fails(path: str) -> None:
    etcd = MemoryEtcd()
    async with etcd.open_client() as client:
        async with schedule(client, path, "a", reuse_lease=True) as result:
            first = await result.next()
        etcd.cluster.refusals.forbidden.add(f"{path}/".encode())
        with pytest.raises(PermissionDenied):
            async with schedule(client, path, "a"):
                raise AssertionError("entered")
        etcd.cluster.refusals.forbidden.clear()
        async with schedule(client, path, "a") as result:
            assert (await result.next()).fence == first.fence


async def test_f58_each_cluster_has_kept_leases_of_its_own(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client:
        async with schedule(client, path, "a", reuse_lease=True, session_ttl=2) as result:
            await until(result, "a")
        (kept,) = await client.get_prefix(f"{path}/exchange/")
        async with MemoryEtcd().open_client() as other, schedule(other, path, "a") as result:
            await until(result, "a")
        async with schedule(client, path, "a") as result:
            await until(result, "a")
            (taken,) = await client.get_prefix(f"{path}/exchange/")
        assert (taken.lease, taken.create_revision) == (kept.lease, kept.create_revision)


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


@pytest.mark.parametrize("cancelled", [False, True])
def test_without_time_to_leave_what_can_be_freed_is_freed(cancelled: bool) -> None:
    """The slot after the work, and all the rest at the exit; etcd answers at once."""

    async def leave() -> None:
        async with MemoryEtcd().open_client() as client:
            with trio.CancelScope() as scope:
                async with schedule(client, "/jobs", "a", shutdown_timeout=0) as result:
                    await result.run_while_scheduled(work)
                    assert not await client.get_prefix("/jobs/slots/")
                    if cancelled:
                        scope.cancel()
                        await trio.lowlevel.checkpoint()
            assert scope.cancelled_caught is cancelled
            assert not await client.get_prefix("/jobs/")
            assert not await client.lease_list()

    async def work(_slot: Slot) -> None:
        await trio.lowlevel.checkpoint()

    trio.run(leave, clock=MockClock(autojump_threshold=0))
