"""Barriers under faults. What they do is in ``simulation/contract``."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from tests.etcd_shim.concurrency.losing import lose_answer
from tests.etcd_shim.concurrency.rows import WAIT
from tests.etcd_shim.sweep import sweep
from trio_sched.etcd_shim import Put, open_client
from trio_sched.etcd_shim.concurrency import Barrier, BarrierHeld, DoubleBarrier
from trio_sched.etcd_shim.errors import ConnectionFailed, LeaseLost
from trio_sched.testing import open_etcd


@pytest.mark.parametrize("carried_out", [True, False])
async def test_f17_a_barrier_whose_answer_is_lost_is_held(
    endpoint: str, path: str, carried_out: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_client(endpoint) as client:
        lose_answer(monkeypatch, client, carried_out=carried_out)
        await Barrier(client, path).hold()
        with pytest.raises(BarrierHeld):
            await Barrier(client, path).hold()


async def test_f10_cancelled_at_each_checkpoint_no_waiter_is_left(path: str) -> None:
    async with open_etcd() as server:
        async with open_client(server.endpoint) as client, open_client(server.endpoint) as witness:

            async def take_part() -> None:
                async with DoubleBarrier(client, path, 1).enter():
                    await trio.lowlevel.checkpoint()

            async def nothing_left() -> None:
                assert not len(await witness.get_prefix(f"{path}/waiters"))
                assert not await witness.lease_list()

            assert await sweep(take_part, nothing_left) > 8


async def test_one_that_dies_holds_up_no_other(endpoint: str, path: str) -> None:
    """Its lease is revoked here, as if it had lapsed, while the others wait to leave."""
    left: list[int] = []

    with trio.fail_after(WAIT):
        async with open_client(endpoint) as client, trio.open_nursery() as nursery:

            async def take_part(number: int) -> None:
                async with DoubleBarrier(client, path, 3).enter():
                    pass
                left.append(number)

            dead = await client.lease_grant(60)
            await client.put(f"{path}/waiters/{dead.id:x}", "", lease=dead.id)
            for number in range(2):
                nursery.start_soon(take_part, number)
            async with client.follow(f"{path}/") as follower:
                while len(follower.state) != 2 or f"{path}/ready".encode() not in follower.state:
                    await follower.receive()
            assert not left
            await client.lease_revoke(dead.id)
    assert sorted(left) == [0, 1]


async def test_f2_one_that_is_late_lets_in_nobody_of_a_later_round(
    endpoint: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was stopped before it could put ``ready``, until its lease had lapsed."""
    ready = f"{path}/ready".encode()
    async with open_client(endpoint) as client, open_client(endpoint) as witness:
        await witness.put(f"{path}/waiters/other", "")
        put, txn = client.put, client.txn

        async def lapse() -> None:
            for kv in await witness.get_prefix(f"{path}/waiters/"):
                if kv.lease:
                    await witness.lease_revoke(kv.lease)

        async def late_put(key: Any, *rest: Any, **options: Any) -> Any:
            if key == ready:
                await lapse()
            return await put(key, *rest, **options)

        async def late_txn(compare: Any, success: Any, *rest: Any) -> Any:
            if Put(ready) in success:
                await lapse()
            return await txn(compare, success, *rest)

        monkeypatch.setattr(client, "put", late_put)
        monkeypatch.setattr(client, "txn", late_txn)
        with pytest.raises(LeaseLost):
            async with DoubleBarrier(client, path, 2).enter():
                pytest.fail("we are not in")
        assert (await witness.get(ready)).kv is None


async def test_where_there_is_no_etcd_a_barrier_says_so_at_once() -> None:
    async with open_client("http://127.0.0.1:1") as client:
        barrier = Barrier(client, "/a")
        for call in (barrier.hold, barrier.release, barrier.wait):
            with pytest.raises(ConnectionFailed):
                await call()
        with pytest.raises(ConnectionFailed):
            async with DoubleBarrier(client, "/a", 1).enter():
                raise AssertionError("there is no etcd")


async def test_a_restart_of_etcd_is_waited_out_at_a_barrier(path: str) -> None:
    with trio.fail_after(WAIT):
        async with open_etcd() as server, open_client(server.endpoint) as client:
            barrier = Barrier(client, path)
            await barrier.hold()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(barrier.wait)
                await trio.testing.wait_all_tasks_blocked()
                await server.members[0].restart()
                await barrier.release()
