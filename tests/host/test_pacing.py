"""Hosts of one client take turns to join (F65)."""

from __future__ import annotations

from functools import partial

import pytest
import trio
import trio.testing
from grpclib.const import Status

from tests.host.test_patience import in_no_time
from trio_sched import Client, schedule
from trio_sched.etcd_shim.errors import RpcError, rpc_error
from trio_sched.host.pacing import _AT_ONCE, _LONGEST, Turns, turns_of
from trio_sched.simulation import MemoryEtcd

HOSTS = 300


async def join(client: Client, path: str, joined: trio.Event | None = None) -> None:
    async with schedule(client, path, "a", session_ttl=2):
        if joined is not None:
            joined.set()
        await trio.sleep_forever()


@in_no_time
async def test_f65_what_is_begun_is_finished() -> None:
    """No more than some are ever between their lease and their keys; all come in, and stay."""
    etcd = MemoryEtcd()
    store, most = etcd.cluster.store, 0

    def look(_method: str) -> None:
        nonlocal most
        most = max(most, sum(not lease.keys for lease in store.leases if lease.ttl == 2))

    etcd.cluster.refusals.listeners.append(look)
    async with etcd.open_client() as client, trio.open_nursery() as nursery:
        entered = [trio.Event() for _ in range(HOSTS)]
        for number, joined in enumerate(entered):
            nursery.start_soon(join, client, f"/p/{number}", joined)
        for joined in entered:
            await joined.wait()
        assert 1 < most <= _AT_ONCE
        assert etcd.cluster.refusals.counts["Lease/LeaseGrant"] == 2 * HOSTS  # and each leads
        nursery.cancel_scope.cancel()
    assert not [*store.leases]


@in_no_time
async def test_f65_who_waits_for_a_name_holds_up_no_other() -> None:
    etcd = MemoryEtcd()
    async with etcd.open_client() as client, trio.open_nursery() as nursery:
        lease = await client.lease_grant(1000)
        for number in range(_AT_ONCE):
            await client.put(f"/p/{number}/exchange/a", "{}", lease=lease.id)
            nursery.start_soon(join, client, f"/p/{number}")
        joined = trio.Event()
        began = trio.current_time()
        nursery.start_soon(join, client, "/p/free", joined)
        await joined.wait()
        assert trio.current_time() - began < _LONGEST
        nursery.cancel_scope.cancel()


@in_no_time
async def test_f65_who_is_refused_for_long_holds_up_no_other() -> None:
    """They are waited out where they are, and another begins after a second."""
    etcd = MemoryEtcd()

    def refuse(method: str, _request: object) -> RpcError | None:
        words = "etcdserver: too many requests"
        return rpc_error(Status.RESOURCE_EXHAUSTED, words) if method == "KV/Txn" else None

    async with etcd.open_client() as client, trio.open_nursery() as nursery:
        etcd.cluster.refusals.refuse = refuse
        for number in range(_AT_ONCE):
            nursery.start_soon(join, client, f"/p/{number}")
        await trio.sleep(0.1)
        turns = turns_of(client)
        with trio.fail_after(1.5 * _LONGEST):
            turn = await turns.take()
        turn.end()
        etcd.cluster.refusals.refuse = lambda _method, _request: None
        nursery.cancel_scope.cancel()


@in_no_time
async def test_f65_turns_come_in_the_order_in_which_they_were_asked_for() -> None:
    turns, order = Turns(), list[int]()
    taken = [await turns.take() for _ in range(_AT_ONCE)]

    async def take(number: int) -> None:
        await turns.take()
        order.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(take, number)
            await trio.testing.wait_all_tasks_blocked()
        assert not order
        for turn in taken[:5]:
            turn.end()
            turn.end()  # once is enough
            await trio.testing.wait_all_tasks_blocked()
    assert order == [0, 1, 2, 3, 4]


@in_no_time
async def test_f65_one_that_is_cancelled_in_line_has_no_turn() -> None:
    turns = Turns()
    taken = [await turns.take() for _ in range(_AT_ONCE)]
    with trio.move_on_after(_LONGEST / 2) as waiting:
        await turns.take()
    assert waiting.cancelled_caught
    taken[0].end()
    with trio.fail_after(_LONGEST / 3):
        await turns.take()


@in_no_time
async def test_f65_one_that_never_ends_holds_up_no_other_for_long() -> None:
    turns, began = Turns(), trio.current_time()
    for _ in range(_AT_ONCE + 3):
        await turns.take()
    assert trio.current_time() - began == pytest.approx(_LONGEST)


@pytest.mark.parametrize("steps", range(0, 40, 3))
async def test_f65_cancelled_in_line_nothing_is_left(steps: int) -> None:
    etcd = MemoryEtcd()
    async with etcd.open_client() as client:
        async with trio.open_nursery() as nursery:
            for number in range(2 * _AT_ONCE):
                nursery.start_soon(partial(join, client, f"/p/{number}"))
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert not (await client.get_prefix("/p/")).count
        assert not await client.lease_list()
        for _ in range(_AT_ONCE):  # all turns have been given back
            with trio.fail_after(_LONGEST / 3):
                await turns_of(client).take()


def test_each_client_has_turns_of_its_own() -> None:
    async def look() -> None:
        etcd = MemoryEtcd()
        async with etcd.open_client() as one, etcd.open_client() as other:
            assert turns_of(one) is turns_of(one) is not turns_of(other)

    trio.run(look)
