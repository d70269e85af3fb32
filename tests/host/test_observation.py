"""`observe`, `wait_scheduled`, `wait_unscheduled` and `statistics`, on a real etcd."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio

from tests.helpers import watch_leftovers
from trio_sched import EndOfResults, Observation, Result, observe, open_client, schedule
from trio_sched.testing import open_etcd, open_faulty_link


async def read_until(observation: Observation, *names: str) -> int:
    """Read decisions until one chooses exactly these; their revisions must grow."""
    revision = 0
    async for hosts in observation:
        assert hosts.revision >= revision
        revision = hosts.revision
        if hosts == names:
            return revision
    raise AssertionError("the results ended")


async def test_observing_works_before_any_host_and_after_the_last(endpoint: str, path: str) -> None:
    async with (
        watch_leftovers(endpoint, path) as left,
        open_client(endpoint) as client,
        observe(client, path) as observation,
    ):
        assert observation.newest is None
        async with schedule(client, path, "a", max_count=2) as result:
            await read_until(observation, "a")
            assert observation.newest is not None
            assert observation.newest.leader == "a"
            assert observation.newest.fence == (await result.next()).fence
            async with schedule(client, path, "b", max_count=2):
                await read_until(observation, "a", "b")
        await read_until(observation)
        assert (await client.get_prefix(f"{path}/")).count == 0
    assert left.nothing


async def test_observing_begins_with_what_is_decided(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client, schedule(client, path, "a") as result:
        decided = await result.next()
        async with observe(client, path) as observation:
            seen = await observation.next()
            assert seen == decided
            assert seen.revision == decided.revision
        with pytest.raises(EndOfResults):
            await observation.next()


async def test_observing_goes_on_over_a_lost_connection(endpoint: str, path: str) -> None:
    async with (
        open_faulty_link(endpoint) as link,
        open_client(link.endpoint) as observing,
        open_client(endpoint) as client,
        observe(observing, path) as observation,
    ):
        for name in ("a", "b", "c"):
            async with schedule(client, path, name):
                await read_until(observation, name)
                link.cut()


@pytest.mark.parametrize("reconcile", [0, -1])
async def test_observing_without_ever_reconciling_is_refused(reconcile: float) -> None:
    async with open_client("http://127.0.0.1:1") as client:
        with pytest.raises(ValueError, match="more than 0"):
            async with observe(client, "/p", reconcile=reconcile):
                raise AssertionError("entered")
        with pytest.raises(ValueError, match="start with"):
            async with observe(client, "p"):
                raise AssertionError("entered")


async def test_waiting_to_be_scheduled_and_not(endpoint: str, path: str) -> None:
    async with (
        open_client(endpoint) as client,
        schedule(client, path, "z", strategy="alpha") as result,
    ):
        hosts = await result.wait_scheduled()
        assert hosts == ("z",)
        assert result.scheduled
        async with schedule(client, path, "a", strategy="alpha"):
            await result.wait_unscheduled()
            assert not result.scheduled
        await result.wait_scheduled()
        await result.shutdown()
        await result.wait_unscheduled()
        with pytest.raises(EndOfResults):
            await result.wait_scheduled()


async def test_f1_without_etcd_the_wait_ends_by_the_deadline(endpoint: str, path: str) -> None:
    """No answer arrives any more: by the clock alone it is known, in time."""
    async with open_faulty_link(endpoint) as link, open_client(link.endpoint) as client:
        async with schedule(client, path, "a", session_ttl=3, shutdown_timeout=0.1) as result:
            await result.wait_scheduled()
            link.mute()
            deadline = result.deadline
            await result.wait_unscheduled()
            assert not result.scheduled
            # It may have been renewed by an answer that was under way, never later.
            assert trio.current_time() < deadline + 3
            assert await result.next() == ("a",)
            assert await result.next() == ()


async def test_f28_after_the_block_every_flag_is_false(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client:
        async with schedule(client, path, "a") as result:
            await result.wait_scheduled()
            assert result.statistics().leading
            assert result.deadline > trio.current_time()
        assert not result.scheduled
        assert result.deadline < trio.current_time()
        statistics = result.statistics()
        assert not statistics.leading
        assert (statistics.sessions, statistics.returned) == (1, 0)
        await result.wait_unscheduled()


async def test_many_tasks_may_wait(endpoint: str, path: str) -> None:
    done: list[int] = []

    async def wait(result: Result, number: int) -> None:
        await result.wait_scheduled()
        done.append(number)

    async with open_client(endpoint) as client, schedule(client, path, "a") as result:
        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(wait, result, number)
    assert sorted(done) == list(range(5))


@pytest.mark.parametrize("pool", [False, True])
async def test_f42_an_observer_goes_on_over_a_restart_of_etcd(*, pool: bool) -> None:
    """It is away for longer than a single request is tried for."""
    async with open_etcd() as server, open_client(server.endpoint) as client:
        await client.put("/p/scheduled", "before")
        (member,) = server.members
        async with AsyncExitStack() as stack:
            seen: Any = await stack.enter_async_context(
                observe(client, "/p", pool=True, reconcile=0.1)
                if pool
                else observe(client, "/p", reconcile=0.1)
            )
            await seen.next()
            await member.stop()
            await trio.sleep(4)
            await member.start()
            async with open_client(server.endpoint) as other:
                await other.put("/p/scheduled", "after")
            while True:
                newest = await seen.next()
                if (newest.hosts if pool else newest) == ("after",):
                    break
