"""`schedule`, `observe` and `Control`: a path with its hosts does the same on both."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio
import trio.testing

from tests.helpers import until
from tests.simulation.servers import Server
from trio_sched import Control, EndOfResults, Result, Slot, observe, schedule
from trio_sched.etcd_shim import Client
from trio_sched.exceptions import HostnameInUse

WAIT = 30  # seconds until a wait is given up


async def nothing_is_left(client: Client, path: str) -> bool:
    leases = await client.lease_list()
    return not leases and not (await client.get_prefix(f"{path}/")).count


async def test_one_host_joins_decides_and_leaves(client: Client, path: str) -> None:
    async with schedule(client, path, "solo") as result:
        hosts = await result.next()
        assert (hosts, hosts.leader) == (("solo",), "solo")
        assert hosts.fence is not None
        assert hosts.revision > hosts.fence
        assert result.scheduled
        assert (await client.get(f"{path}/scheduled")).value == b"solo"
    assert not result.scheduled
    assert await nothing_is_left(client, path)
    with pytest.raises(EndOfResults):
        await result.next()


async def test_two_hosts_agree(server: Server, client: Client, path: str) -> None:
    async with (
        server.open_client() as other_client,
        schedule(client, path, "b", max_count=2) as one,
        schedule(other_client, path, "a", max_count=2) as other,
    ):
        hosts, same = await until(one, "a", "b"), await until(other, "a", "b")
        assert (hosts.revision, hosts.fence) == (same.revision, same.fence)
        assert hosts.leader == same.leader == "b"
    assert await nothing_is_left(client, path)


async def test_the_leader_leaves_and_another_leads(
    server: Server, client: Client, path: str
) -> None:
    async with server.open_client() as other_client:
        async with schedule(other_client, path, "b", max_count=2) as stays:
            async with schedule(client, path, "c", max_count=2) as last:
                await until(last, "b", "c")
                await stays.shutdown()
                hosts = await until(last, "c")
                assert hosts.leader == "c"


async def test_no_more_than_max_count(client: Client, path: str) -> None:
    async with (
        schedule(client, path, "a", max_count=2) as first,
        schedule(client, path, "b", max_count=2) as second,
        schedule(client, path, "c", max_count=2) as third,
    ):
        await until(third, "a", "b")
        assert not third.scheduled
        await second.shutdown()
        await until(third, "a", "c")
        assert first.scheduled


async def test_strategies(client: Client, path: str) -> None:
    async with schedule(client, path, "z", strategy="alpha") as result:
        await until(result, "z")
        async with schedule(client, path, "a", strategy="alpha"):
            await until(result, "a")
        await until(result, "z")


async def test_one_name_is_one_host(server: Server, client: Client, path: str) -> None:
    async with server.open_client() as other_client, schedule(client, path, "a"):
        with pytest.raises(HostnameInUse):
            async with schedule(other_client, path, "a"):
                pytest.fail("it joined")


@asynccontextmanager
async def running(result: Result) -> AsyncIterator[list[int]]:
    """Run work on a host; what is given are the slots in which it runs just now."""
    slots: list[int] = []

    async def work(slot: Slot) -> None:
        slots.append(slot.index)
        try:
            await trio.sleep_forever()
        finally:
            slots.remove(slot.index)

    async def run() -> None:
        with suppress(EndOfResults):  # once it has left the path
            await result.run_while_scheduled(work)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        yield slots
        nursery.cancel_scope.cancel()


async def wait_until_running(slots: list[int], *expected: int) -> None:
    with trio.fail_after(WAIT):
        while slots != list(expected):  # the work has no event for its end  # noqa: ASYNC110
            await trio.sleep(0.01)


async def test_work_runs_where_it_is_scheduled(server: Server, client: Client, path: str) -> None:
    async with (
        server.open_client() as other_client,
        schedule(client, path, "a") as a,
        schedule(other_client, path, "b") as b,
        running(a) as on_a,
        running(b) as on_b,
    ):
        await wait_until_running(on_a, 0)
        assert on_b == []
        await Control(client, path).drain("a")
        await wait_until_running(on_b, 0)
        assert on_a == []
        await Control(client, path).undrain("a")
        await b.shutdown()
        await wait_until_running(on_a, 0)
        assert on_b == []


async def test_work_that_ends_frees_its_slot(client: Client, path: str) -> None:
    async def work(slot: Slot, word: str) -> str:
        assert (await client.get_prefix(f"{path}/slots/")).count == 1
        return f"{word} in {slot.index}"

    async with schedule(client, path, "a") as result:
        assert await result.run_while_scheduled(work, "done") == "done in 0"
        assert (await client.get_prefix(f"{path}/slots/")).count == 0


async def test_a_session_that_is_revoked_is_replaced(
    server: Server, client: Client, path: str
) -> None:
    async with (
        server.open_client() as other_client,
        observe(other_client, path) as seen,
        schedule(client, path, "a") as result,
    ):
        first = await until(seen, "a")
        for lease in await other_client.lease_list():
            await other_client.lease_revoke(lease)
        hosts = first
        while list(hosts) != ["a"] or hosts.fence == first.fence:
            hosts = await seen.next()
        await result.wait_scheduled()


async def test_observing_without_joining(server: Server, client: Client, path: str) -> None:
    async with server.open_client() as other_client, observe(other_client, path) as seen:
        async with schedule(client, path, "a", max_count=2):
            await until(seen, "a")
            async with schedule(client, path, "b", max_count=2):
                await until(seen, "a", "b")
            await until(seen, "a")
        await until(seen)


async def test_observing_the_pool(client: Client, path: str) -> None:
    async with observe(client, path, pool=True) as seen:
        state = await seen.next()
        assert (state.hosts, dict(state.pool), state.leader) == ((), {}, None)
        async with schedule(client, path, "a", weight=2, zone="north", data={"x": 1}) as a:
            while not state.hosts:
                state = await seen.next()
            assert list(state.pool) == ["a"]
            assert (state.pool["a"].weight, state.pool["a"].zone) == (2, "north")
            assert state.leader is not None
            await a.update(weight=3)
            while state.pool["a"].weight != 3:
                state = await seen.next()
        while state.pool or state.hosts:
            state = await seen.next()


async def test_control(client: Client, path: str) -> None:
    async with (
        schedule(client, path, "a") as a,
        schedule(client, path, "b"),
        schedule(client, path, "c"),
    ):
        control = Control(client, path, by="anna")
        await until(a, "a")
        await control.drain("a", "disk")
        await until(a, "b")
        await control.set_count(2)
        await until(a, "b", "c")
        await control.undrain("a")
        await control.set_count(None)
        await until(a, "b")
        await control.pause()
        assert (await control.read()).paused
        await control.resume()
        await control.evict("b")
        hosts = await a.next()
        assert len(hosts) == 1
        assert "b" not in hosts
    await client.delete(f"{path}/control")


async def test_operators_at_once(client: Client, path: str) -> None:
    control = Control(client, path)
    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(control.drain, f"host{number}")
    assert (await control.read()).drained == {f"host{number}" for number in range(10)}


async def test_many_hosts_come_and_go(client: Client, path: str) -> None:
    async def live(name: str) -> None:
        async with schedule(client, path, name, max_count=3) as result:
            await result.next()
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        async with schedule(client, path, "watcher", max_count=3) as result:
            for index in range(10):
                nursery.start_soon(live, f"host-{index}")
            while len(await result.next()) < 3:
                pass
            nursery.cancel_scope.cancel()
    assert await nothing_is_left(client, path)
