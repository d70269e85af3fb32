"""Slots that were released, in a store that is restored (F44)."""

from __future__ import annotations

import trio

from tests.host.test_patience import KEYS, PATH, in_no_time
from tests.host.test_slots import Work
from trio_sched import schedule
from trio_sched.simulation import MemoryEtcd


@in_no_time
async def test_f44_a_slot_that_a_restored_store_holds_again_is_released_again() -> None:
    """The work has ended, the session lives, and nothing else in the store is other than before."""
    etcd, work = MemoryEtcd(), Work()
    async with etcd.open_client() as client, schedule(client, PATH, "a", session_ttl=10) as result:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(result.run_while_scheduled, work)
            await work.wait_running(1)
            snapshot = etcd.cluster.store.snapshot()
            nursery.cancel_scope.cancel()
        assert not (await client.get_prefix(KEYS.slots)).count
        etcd.cluster.restore(snapshot)
        assert (await client.get_prefix(KEYS.slots)).count == 1
        await trio.sleep(10)
        assert not (await client.get_prefix(KEYS.slots)).count
        assert result.statistics().sessions == 1


@in_no_time
async def test_f44_a_slot_that_is_held_is_not_taken_for_one_that_came_back() -> None:
    """It has the same number as one that this session has released."""
    etcd, work = MemoryEtcd(), Work()
    async with etcd.open_client() as client:
        async with schedule(client, "/jobs", "a", session_ttl=10) as result:
            for _ in range(2):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(result.run_while_scheduled, work)
                    await work.wait_running(1)
                    await trio.sleep(30)
                    assert (await client.get_prefix("/jobs/slots/")).count == 1
                    assert work.running == 1
                    nursery.cancel_scope.cancel()
            assert result.statistics().sessions == 1


@in_no_time
async def test_f44_a_slot_of_ours_that_came_back_is_released_though_we_wait_for_one() -> None:
    """There is but one, and it is held by our own session, which does not know of it."""
    etcd, first, second = MemoryEtcd(), Work(), Work()
    async with etcd.open_client() as client, schedule(client, PATH, "a", session_ttl=10) as result:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(result.run_while_scheduled, first)
            await first.wait_running(1)
            snapshot = etcd.cluster.store.snapshot()
            nursery.cancel_scope.cancel()
        held = await client.lease_grant(1000)
        await client.put(KEYS.slot(0), "another", lease=held.id)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(result.run_while_scheduled, second)
            await trio.sleep(1)
            assert not second.running
            etcd.cluster.restore(snapshot)
            with trio.fail_after(25):
                await second.wait_running(1)
            nursery.cancel_scope.cancel()
