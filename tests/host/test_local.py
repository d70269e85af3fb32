"""A host on many paths under one session, on a real etcd."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio
import trio.testing

from tests.helpers import until, watch_leftovers
from trio_sched import (
    Client,
    Control,
    EndOfResults,
    EtcdError,
    HostnameInUse,
    LocalHost,
    Result,
    Slot,
    observe,
    open_client,
    open_host,
    schedule,
)
from trio_sched.etcd_shim.errors import LeaseNotFound
from trio_sched.model.keys import PathKeys
from trio_sched.testing import open_faulty_link
from trio_sched.testing._ports import free_ports

TTL = 5


async def lease_of(client: Client, path: str, name: str) -> int:
    kv = (await client.get(PathKeys(path).host(name))).kv
    assert kv is not None
    return kv.lease


async def keys_on(client: Client, lease: int) -> tuple[bytes, ...]:
    try:
        return (await client.lease_time_to_live(lease, keys=True)).keys
    except LeaseNotFound:
        return ()


async def test_paths_of_a_host_share_a_lease_and_go_one_by_one(endpoint: str, path: str) -> None:
    one, other = f"{path}/one", f"{path}/other"
    async with watch_leftovers(endpoint, path) as left, open_client(endpoint) as client:
        before = set(await client.lease_list())
        async with open_host(client, "a", session_ttl=TTL) as host:
            async with host.schedule(one) as first:
                async with host.schedule(other, max_count=3) as second:
                    await until(first, "a")
                    await until(second, "a")
                    assert first.scheduled
                    assert second.scheduled
                    lease = await lease_of(client, one, "a")
                    assert await lease_of(client, other, "a") == lease
                    # Besides it there is one for the decisions of all paths.
                    assert len(set(await client.lease_list()) - before) == 2
                assert not second.scheduled
                assert not (await client.get_prefix(f"{other}/")).count
                assert first.scheduled
                assert host.statistics().owed == 0
                with pytest.raises(EndOfResults):
                    await second.next()
            async with host.schedule(one) as again:
                await until(again, "a")
                assert await lease_of(client, one, "a") == lease
            assert host.statistics().sessions == 1
    assert left.nothing


async def test_it_is_a_host_as_any_other(endpoint: str, path: str) -> None:
    """It takes turns with hosts of one path, as a leader and as a follower."""
    async with (
        watch_leftovers(endpoint, path) as left,
        open_client(endpoint) as client,
        open_client(endpoint) as other_client,
        open_host(client, "m", session_ttl=TTL) as host,
        schedule(other_client, path, "a", max_count=2, session_ttl=TTL) as other,
    ):
        async with host.schedule(path, max_count=2) as result:
            await until(result, "a", "m")
            await other.shutdown()
            assert (await until(result, "m")).leader == "m"
            async with schedule(other_client, path, "b", max_count=2, session_ttl=TTL) as newcomer:
                assert (await until(newcomer, "b", "m")).leader == "m"
                await result.shutdown()
                assert (await until(newcomer, "b")).leader == "b"
    # The lease of the decision that "a" made lapses: "m" had put it under its own.
    assert not left.keys
    async with open_client(endpoint) as client:
        assert not any([await keys_on(client, lease) for lease in left.leases])


async def test_renewals_are_of_one_lease_whatever_the_number_of_paths(
    endpoint: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    renewed: list[int] = []
    renewal = trio.lowlevel.ParkingLot()
    async with open_client(endpoint) as client, AsyncExitStack() as stack:
        real = client.lease_renew

        async def lease_renew(lease: int) -> int:
            renewed.append(lease)
            renewal.unpark_all()
            return await real(lease)

        monkeypatch.setattr(client, "lease_renew", lease_renew)
        async with open_client(endpoint) as others:
            paths = [f"{path}/{number}" for number in range(10)]
            for each in paths:  # that lead, so that the decisions' leases are theirs
                await stack.enter_async_context(schedule(others, each, "first"))
            host = await stack.enter_async_context(open_host(client, "a", session_ttl=2))
            results = [await stack.enter_async_context(host.schedule(each)) for each in paths]
            for result in results:
                await until(result, "first")
            lease = await lease_of(client, paths[0], "a")
            while len(renewed) < 4:
                await renewal.park()
            assert set(renewed) == {lease}
            await stack.aclose()


async def test_what_ends_the_session_ends_it_on_all_paths(endpoint: str, path: str) -> None:
    one, other = f"{path}/one", f"{path}/other"
    async with (
        open_client(endpoint) as client,
        open_host(client, "a", session_ttl=TTL) as host,
        host.schedule(one) as first,
        host.schedule(other) as second,
    ):
        await until(first, "a")
        await until(second, "a")
        former = await lease_of(client, one, "a")

        async def lose_and_return(result: Result) -> None:
            await until(result)
            await until(result, "a")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(lose_and_return, first)
            nursery.start_soon(lose_and_return, second)
            await client.lease_revoke(former)
        assert host.statistics().sessions == 2
        assert await lease_of(client, one, "a") == await lease_of(client, other, "a") != former
        assert former not in await client.lease_list()


async def test_what_is_about_one_path_ends_it_there_alone(endpoint: str, path: str) -> None:
    """Its key is deleted by hand, and its candidate's key."""
    one, other = PathKeys(f"{path}/one"), PathKeys(f"{path}/other")
    async with (
        watch_leftovers(endpoint, path) as left,
        open_client(endpoint) as client,
        open_host(client, "a", session_ttl=TTL) as host,
        host.schedule(one.path) as first,
        host.schedule(other.path) as second,
    ):
        await until(first, "a")
        await until(second, "a")
        lease = await lease_of(client, one.path, "a")
        for key in (one.host("a"), one.candidate(lease)):
            await client.delete(key)
            await until(first)
            await until(first, "a")
            assert first.scheduled
        assert await lease_of(client, one.path, "a") == lease
        assert second.scheduled
        assert second.statistics().sessions == 1
        assert host.statistics().sessions == 1
    assert left.nothing


async def test_work_of_all_paths_ends_before_the_next_session(endpoint: str, path: str) -> None:
    running: set[str] = set()
    changed = trio.lowlevel.ParkingLot()
    sessions: list[tuple[str, int]] = []

    async def work(slot: Slot, name: str) -> None:
        sessions.append((name, slot.lease))
        running.add(name)
        changed.unpark_all()
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
            running.discard(name)

    async with (
        open_client(endpoint) as client,
        open_host(client, "a", session_ttl=TTL) as host,
        host.schedule(f"{path}/one") as first,
        host.schedule(f"{path}/other") as second,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(first.run_while_scheduled, work, "one")
        nursery.start_soon(second.run_while_scheduled, work, "other")
        while running != {"one", "other"}:
            await changed.park()
        lease = await lease_of(client, f"{path}/one", "a")
        await client.lease_revoke(lease)
        while len(sessions) < 4:
            await changed.park()
        assert sorted(name for name, of in sessions if of == lease) == ["one", "other"]
        assert host.statistics().sessions == 2
        nursery.cancel_scope.cancel()


async def test_a_path_can_be_left_while_etcd_is_away_and_is_owed(endpoint: str, path: str) -> None:
    async with (
        watch_leftovers(endpoint, path) as left,
        open_client(endpoint) as witness,
        open_faulty_link(endpoint) as link,
        open_client(link.endpoint) as client,
        open_host(client, "a", session_ttl=10, shutdown_timeout=0.2) as host,
    ):
        async with host.schedule(f"{path}/stays") as stays:
            await until(stays, "a")
            async with host.schedule(f"{path}/left") as result:
                await until(result, "a")
                link.stall()
            assert host.statistics().owed == 1
            assert (await witness.get_prefix(f"{path}/left/exchange/")).count == 1
            link.heal()
            async with host.schedule(f"{path}/left") as again:  # after what is owed
                await until(again, "a")
                assert host.statistics().owed == 0
            assert not (await witness.get_prefix(f"{path}/left/")).count
            assert stays.scheduled
            assert host.statistics().sessions == 1
    assert left.nothing


async def test_what_is_owed_is_done_by_itself(endpoint: str, path: str) -> None:
    async with (
        open_client(endpoint) as witness,
        open_faulty_link(endpoint) as link,
        open_client(link.endpoint) as client,
        open_host(client, "a", session_ttl=10, shutdown_timeout=0.2) as host,
    ):
        async with host.schedule(path) as result:
            await until(result, "a")
            link.stall()
        link.heal()
        async with observe(witness, path, pool=True) as seen:
            async for state in seen:
                if not state.pool and not state.candidates:
                    break
        await trio.testing.wait_all_tasks_blocked(0.5)
        assert host.statistics().owed == 0
        assert not (await witness.get_prefix(f"{path}/")).count


async def test_update_drain_and_health_are_for_all_paths_and_those_to_come(
    endpoint: str, path: str
) -> None:
    healthy = False
    paths = [f"{path}/{number}" for number in range(3)]

    async def check() -> bool:
        await trio.lowlevel.checkpoint()
        return healthy

    async with (
        open_client(endpoint) as client,
        open_host(
            client, "a", zone="here", data={"n": 1}, health_check=check, health_interval=0.05
        ) as host,
        host.schedule(paths[0]) as first,
        host.schedule(paths[1]) as second,
        observe(client, paths[0], pool=True) as seen_first,
        observe(client, paths[1], pool=True) as seen_second,
    ):

        async def wait_seen(seen: Any, **wanted: object) -> None:
            async for state in seen:
                (a,) = state.pool.values()
                if all(getattr(a, name) == value for name, value in wanted.items()):
                    return

        await wait_seen(seen_first, zone="here", available=False, data={"n": 1})
        healthy = True
        await until(first, "a")
        await until(second, "a")
        await host.update(zone="there", weight=3)
        await wait_seen(seen_first, zone="there", weight=3, available=True)
        await wait_seen(seen_second, zone="there", weight=3)
        await host.drain("moves")
        await until(first)
        await until(second)
        await wait_seen(seen_second, available=False, reason="moves")
        async with (
            host.schedule(paths[2]) as third,
            observe(client, paths[2], pool=True) as seen_third,
        ):
            await wait_seen(seen_third, zone="there", weight=3, available=False, reason="moves")
            await first.drain("by itself")
            await host.undrain()
            await until(second, "a")
            await until(third, "a")
            await wait_seen(seen_first, available=False, reason="by itself")
            await first.undrain()
            await until(first, "a")
            with pytest.raises(ValueError, match="weight"):
                await host.update(weight=-1)
            with pytest.raises(TypeError, match="no wait"):
                await host.update(wait=1)  # type: ignore[call-arg] # bad on purpose


async def test_operators_drain_one_path_of_it(endpoint: str, path: str) -> None:
    async with (
        open_client(endpoint) as client,
        open_host(client, "a") as host,
        host.schedule(f"{path}/one") as first,
        host.schedule(f"{path}/other") as second,
    ):
        await until(first, "a")
        await until(second, "a")
        await Control(client, f"{path}/one").drain("a")
        await until(first)
        assert second.scheduled


async def test_a_path_is_joined_once_and_names_are_as_ever(endpoint: str, path: str) -> None:
    async with (
        open_client(endpoint) as client,
        open_client(endpoint) as other_client,
        open_host(client, "a", session_ttl=2) as host,
        host.schedule(path) as result,
    ):
        await until(result, "a")
        with pytest.raises(HostnameInUse):
            async with host.schedule(path):
                pass
        with pytest.raises(HostnameInUse):
            async with schedule(other_client, path, "a", session_ttl=2):
                pass
        async with schedule(other_client, f"{path}/taken", "a", session_ttl=2) as taken:
            await until(taken, "a")
            with pytest.raises(HostnameInUse):
                async with host.schedule(f"{path}/taken"):
                    pass
            assert taken.scheduled
            assert taken.statistics().sessions == 1
        assert result.scheduled
        assert host.statistics().sessions == 1
        async with host.schedule(f"{path}/taken") as again:
            await until(again, "a")


async def test_leaving_the_host_leaves_paths_that_other_tasks_have_open(
    endpoint: str, path: str
) -> None:
    async with open_client(endpoint) as client:
        before = set(await client.lease_list())
        async with trio.open_nursery() as nursery:

            async def live(
                host: LocalHost, number: int, task_status: trio.TaskStatus[Result]
            ) -> None:
                async with host.schedule(f"{path}/{number}") as result:
                    await until(result, "a")
                    task_status.started(result)
                    with pytest.raises(EndOfResults):
                        await result.next()

            async with open_host(client, "a") as host:
                results = [
                    await nursery.start(live, host, number)  # noqa: ASYNC111 # that is the point
                    for number in range(3)
                ]
            assert not any(result.scheduled for result in results)
            assert not (await client.get_prefix(f"{path}/")).count
            assert set(await client.lease_list()) == before
            for closed in (host.update(weight=2), host.drain(), host.undrain()):
                with pytest.raises(EndOfResults):
                    await closed
            with pytest.raises(EndOfResults):
                async with host.schedule(path):
                    pass


async def test_an_etcd_that_is_away_is_an_error_at_the_entry() -> None:
    (port,) = free_ports(1)
    async with open_client(f"http://127.0.0.1:{port}", connect_timeout=0.5) as client:
        with pytest.raises(EtcdError):
            async with open_host(client, "a"):
                pass


async def test_the_reaper_revokes_the_shared_lease(endpoint: str, path: str) -> None:
    async with (
        watch_leftovers(endpoint, path) as left,
        open_client(endpoint) as client,
        open_host(client, "a", reaper=True) as host,
        host.schedule(f"{path}/one") as first,
        host.schedule(f"{path}/other") as second,
    ):
        for result in (first, second):
            await until(result, "a")

            async def work(slot: Slot) -> None:
                await trio.lowlevel.checkpoint()
                assert slot.reaper is not None

            await result.run_while_scheduled(work)
    assert left.nothing


@pytest.mark.parametrize(
    "bad",
    [
        {"session_ttl": 0},
        {"session_ttl": 1.5},
        {"weight": 0},
        {"zone": ""},
        {"priority": "high"},
        {"data": {"a": b"bytes"}},
        {"health_check": len},
        {"health_interval": 0},
        {"shutdown_timeout": -1},
        {"logger": "log"},
        {"debug": 1},
        {"reaper": "yes"},
    ],
    ids=str,
)
async def test_bad_arguments_are_errors_at_the_call(endpoint: str, bad: dict[str, Any]) -> None:
    async with open_client(endpoint) as client:
        before = await client.lease_list()
        with pytest.raises((TypeError, ValueError)):
            async with open_host(client, "a", **bad):
                pass
        assert await client.lease_list() == before


@pytest.mark.parametrize("name", ["", "a/b", "a,b", None, 5])
async def test_bad_names_are_errors_at_the_call(endpoint: str, name: Any) -> None:
    async with open_client(endpoint) as client:
        with pytest.raises((TypeError, ValueError)):
            async with open_host(client, name):
                pass


@pytest.mark.parametrize(
    "bad",
    [
        {"path": "x"},
        {"path": "/x/"},
        {"strategy": "none"},
        {"max_count": 0},
        {"hosts_filter": "a"},
        {"strict": 1},
        {"takeover_pause": -1},
    ],
    ids=str,
)
async def test_bad_arguments_of_a_path_harm_no_other(
    endpoint: str, path: str, bad: dict[str, Any]
) -> None:
    async with (
        open_client(endpoint) as client,
        open_host(client, "a") as host,
        host.schedule(path) as result,
    ):
        await until(result, "a")
        with pytest.raises((TypeError, ValueError)):
            async with host.schedule(**{"path": f"{path}/x", **bad}):
                pass
        assert result.scheduled
        assert host.statistics().paths == 1
