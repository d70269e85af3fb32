"""Hosts for tests: they join, leave and die alone."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from trio_sched import Client, HostnameInUse, observe, schedule
from trio_sched.simulation import MemoryEtcd
from trio_sched.testing import open_scheduled_hosts


async def test_it_gives_the_result_of_a_host_that_is_scheduled(autojump_clock: MockClock) -> None:
    async with open_scheduled_hosts(MemoryEtcd()) as hosts:
        first = await hosts("/jobs", "a", max_count=2, weight=3)
        second = await hosts("/jobs", "b", max_count=2)
        assert first.scheduled
        assert second.scheduled
        assert await second.wait_scheduled() == ("a", "b")
    assert not first.scheduled
    assert autojump_clock.current_time() < 5


async def test_one_that_is_killed_is_missed_after_its_ttl(autojump_clock: MockClock) -> None:
    etcd = MemoryEtcd()
    async with open_scheduled_hosts(etcd) as hosts, etcd.open_client() as client:
        await hosts("/jobs", "a", session_ttl=10)
        other = await hosts.join("/jobs", "b")
        assert not other.scheduled
        killed = trio.current_time()
        await hosts.kill("a")
        assert trio.current_time() == killed
        assert len(await client.lease_list()) >= 2
        await other.wait_scheduled()
        assert 5 < trio.current_time() - killed < 20
        await hosts.join("/jobs", "a")  # it is started again
        await hosts.kill("b")
        await hosts.kill("a")
    assert autojump_clock.current_time() < 100


async def test_one_that_leaves_is_missed_at_once(autojump_clock: MockClock) -> None:
    async with open_scheduled_hosts(MemoryEtcd()) as hosts:
        await hosts("/jobs", "a")
        other = await hosts.join("/jobs", "b")
        await hosts.leave("a")
        with trio.fail_after(1):
            await other.wait_scheduled()
    assert autojump_clock.current_time() < 5


async def test_a_death_takes_no_time_by_a_clock_that_does_not_jump() -> None:
    with trio.fail_after(20):  # and not for the TTL
        async with open_scheduled_hosts(MemoryEtcd()) as hosts:
            await hosts("/jobs", "a", session_ttl=60)
            await hosts.kill("a")


async def test_on_a_real_etcd(endpoint: str, path: str) -> None:
    with trio.fail_after(40):
        async with open_scheduled_hosts(endpoint) as hosts:
            await hosts(path, "a", session_ttl=2)
            other = await hosts.join(path, "b", session_ttl=2)
            await hosts.kill("a")
            await other.wait_scheduled()
            await hosts.leave("b")


async def test_a_service_is_run_as_a_host(autojump_clock: MockClock) -> None:
    ran: list[str] = []

    async def service(client: Client, hostname: str, *, path: str) -> None:
        async with schedule(client, path, hostname) as result:
            await result.wait_scheduled()
            ran.append(hostname)
            await trio.sleep_forever()

    etcd = MemoryEtcd()
    async with open_scheduled_hosts(etcd) as hosts, etcd.open_client() as client:
        hosts.start_soon("a", service, "a", path="/jobs")
        async with observe(client, "/jobs") as decisions:
            assert await anext(decisions) == ("a",)
            hosts.start_soon("b", service, "b", path="/jobs")
            await trio.sleep(5)
            await hosts.kill("a")
            await trio.sleep(30)
    assert ran == ["a", "b"]
    assert autojump_clock.current_time() < 60


async def test_what_a_host_raises_leaves_the_block() -> None:
    async def service(_client: Client) -> None:
        await trio.lowlevel.checkpoint()
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        async with open_scheduled_hosts(MemoryEtcd()) as hosts:
            hosts.start_soon("a", service)
            await trio.sleep_forever()


async def test_mistakes(autojump_clock: MockClock) -> None:
    async with open_scheduled_hosts(MemoryEtcd()) as hosts:
        with pytest.raises(ValueError, match="no host 'a' runs here"):
            await hosts.kill("a")
        with pytest.raises(ValueError, match="max_count must be 1 or more"):
            await hosts("/jobs", "a", max_count=0)
        await hosts("/jobs", "a")
        with pytest.raises(HostnameInUse):
            await hosts("/jobs", "a")
        await hosts.leave("a")
        with pytest.raises(ValueError, match="no host 'a' runs here"):
            await hosts.leave("a")
    del autojump_clock
