"""Barriers, on a real etcd and on the one in memory."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.etcd_shim.concurrency.rows import WAIT, wait_row
from tests.simulation.servers import Server
from trio_sched.etcd_shim import Client
from trio_sched.etcd_shim.concurrency import (
    Barrier,
    BarrierFull,
    BarrierHeld,
    DoubleBarrier,
    KeyDeleted,
)
from trio_sched.etcd_shim.errors import LeaseLost, LeaseNotFound


async def test_all_wait_for_a_barrier_until_it_is_released(
    server: Server, client: Client, path: str
) -> None:
    passed: list[int] = []

    async def wait(own: Client, number: int) -> None:
        await Barrier(own, path).wait()
        passed.append(number)

    barrier = Barrier(client, path)
    with trio.fail_after(WAIT):
        async with server.open_client() as other:
            await barrier.wait()
            await barrier.hold()
            with pytest.raises(BarrierHeld) as caught:
                await Barrier(other, path).hold()
            assert caught.value.key == path.encode()
            async with trio.open_nursery() as nursery:
                for number in range(4):
                    nursery.start_soon(wait, (client, other)[number % 2], number)
                await trio.testing.wait_all_tasks_blocked()
                await client.put(path, "its value means nothing")
                assert not passed
                await Barrier(other, path).release()
            assert sorted(passed) == [0, 1, 2, 3]
            await barrier.release()
            await barrier.wait()


async def test_a_barrier_goes_with_its_lease(client: Client, path: str) -> None:
    barrier = Barrier(client, path)
    lease = await client.lease_grant(60)
    with pytest.raises(LeaseNotFound):
        await barrier.hold(lease=987_654_321)
    with trio.fail_after(WAIT):
        async with trio.open_nursery() as nursery:
            await barrier.hold(lease=lease.id)
            nursery.start_soon(barrier.wait)
            await trio.testing.wait_all_tasks_blocked()
            await client.lease_revoke(lease.id)


async def test_a_double_barrier_is_entered_together_and_left_together(
    server: Server, client: Client, path: str
) -> None:
    """Several rounds, one after the other, on the same name."""
    inside: list[int] = []
    left: list[int] = []

    async def take_part(own: Client, number: int) -> None:
        async with DoubleBarrier(own, path, 4).enter():
            inside.append(number)
            await gate.wait()
            assert sorted(inside) == [0, 1, 2, 3]
        assert all_done.is_set()
        left.append(number)

    with trio.fail_after(WAIT):
        async with server.open_client() as other:
            for _ in range(3):
                inside.clear()
                left.clear()
                gate, all_done = trio.Event(), trio.Event()
                async with trio.open_nursery() as nursery:
                    for number in range(3):
                        nursery.start_soon(take_part, (client, other)[number % 2], number)
                    await wait_row(client, f"{path}/waiters", 3)
                    await trio.testing.wait_all_tasks_blocked()
                    assert not inside
                    nursery.start_soon(take_part, client, 3)
                    while len(inside) < 4:
                        await trio.lowlevel.checkpoint()
                    assert not left
                    all_done.set()
                    gate.set()
                assert sorted(left) == [0, 1, 2, 3]
                assert not len(await client.get_prefix(path))


async def test_one_too_many_is_refused(client: Client, path: str) -> None:
    barrier = DoubleBarrier(client, path, 1)
    with trio.fail_after(WAIT):
        async with barrier.enter():
            with pytest.raises(BarrierFull) as caught:
                async with barrier.enter():
                    raise AssertionError("it is full")
            assert (caught.value.key, caught.value.count) == (path.encode(), 1)
        async with barrier.enter():
            pass


@pytest.mark.parametrize("number", [0, 1, 2])
async def test_one_that_fails_holds_up_no_other(client: Client, path: str, number: int) -> None:
    """Whether it is the oldest, the newest, or one between them."""
    error = ValueError("of the body")
    left: list[int] = []

    async def take_part(own: int) -> None:
        async with DoubleBarrier(client, path, 3).enter():
            if own == number:
                raise error
        left.append(own)

    async def fail() -> None:
        with pytest.raises(ValueError, match="of the body") as caught:
            await take_part(number)
        assert caught.value is error

    with trio.fail_after(WAIT):
        async with trio.open_nursery() as nursery:
            for each in range(3):
                if each == number:
                    nursery.start_soon(fail)
                else:
                    nursery.start_soon(take_part, each)
                await trio.testing.wait_all_tasks_blocked()
    assert sorted([*left, number]) == [0, 1, 2]
    assert not len(await client.get_prefix(f"{path}/waiters"))


async def test_what_a_round_has_left_behind_opens_no_other(client: Client, path: str) -> None:
    """All of a round may die, and leave the key that opened it."""
    await client.put(f"{path}/ready", "")
    entered: list[bool] = []

    async def enter() -> None:
        async with DoubleBarrier(client, path, 2).enter():
            entered.append(True)

    with trio.fail_after(WAIT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(enter)
            await wait_row(client, f"{path}/waiters", 1)
            for _ in range(3):
                await client.get(path)
                await trio.testing.wait_all_tasks_blocked()
            assert not entered
            nursery.start_soon(enter)
        assert len(entered) == 2
        assert not len(await client.get_prefix(path))


async def test_one_that_is_cancelled_while_it_enters_is_not_counted(
    client: Client, path: str
) -> None:
    barrier = DoubleBarrier(client, path, 2)
    with trio.fail_after(WAIT):
        async with trio.open_nursery() as nursery:

            async def enter() -> None:
                async with barrier.enter():
                    entered.append(True)

            entered: list[bool] = []
            nursery.start_soon(enter)
            await wait_row(client, f"{path}/waiters", 1)
            nursery.cancel_scope.cancel()
        assert not len(await client.get_prefix(path))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(enter)
            await wait_row(client, f"{path}/waiters", 1)
            assert not entered
            nursery.start_soon(enter)
    assert len(entered) == 2


@pytest.mark.parametrize("how", ["deleted", "revoked"])
async def test_one_whose_key_goes_is_cancelled(client: Client, path: str, how: str) -> None:
    kind = KeyDeleted if how == "deleted" else LeaseLost
    with pytest.raises(kind), trio.fail_after(WAIT):
        async with DoubleBarrier(client, path, 1).enter():
            (kv,) = await client.get_prefix(f"{path}/waiters/")
            if how == "deleted":
                await client.delete(kv.key)
            else:
                await client.lease_revoke(kv.lease)
            await trio.sleep_forever()
