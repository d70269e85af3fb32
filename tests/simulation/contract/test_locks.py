"""Locks, on a real etcd and on the one in memory."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.etcd_shim.concurrency.rows import WAIT, row, wait_row
from tests.simulation.servers import Server
from trio_sched.etcd_shim import Client, Put
from trio_sched.etcd_shim.concurrency import KeyDeleted, Locked, lock, try_lock
from trio_sched.etcd_shim.errors import LeaseLost


async def test_a_lock_is_a_key_on_a_lease_for_a_block(client: Client, path: str) -> None:
    async with lock(client, path, ttl=20) as held:
        (kv,) = await client.get_prefix(path)
        assert (kv.key, kv.value) == (f"{path}/{held.lease:x}".encode(), b"")
        assert (kv.key, kv.lease, kv.create_revision) == (held.key, held.lease, held.token)
        assert (await client.lease_time_to_live(held.lease)).granted_ttl == 20
        assert held.alive
        assert (await client.txn([held.guard], [Put(path, "by the holder")])).succeeded
    assert not held.alive
    assert not await row(client, path)
    assert held.lease not in await client.lease_list()
    assert not (await client.txn([held.guard], [Put(path, "too late")])).succeeded


async def test_holders_come_in_the_order_in_which_they_began_to_wait(
    server: Server, client: Client, path: str
) -> None:
    turns: list[int] = []
    tokens: list[int] = []
    inside = 0

    async def take_turn(number: int, own: Client) -> None:
        nonlocal inside
        async with lock(own, path) as held:
            inside += 1
            assert inside == 1
            turns.append(number)
            tokens.append(held.token)
            await trio.testing.wait_all_tasks_blocked()
            inside -= 1

    with trio.fail_after(WAIT):
        async with server.open_client() as other, trio.open_nursery() as nursery:
            async with lock(client, path):
                for number in range(6):
                    nursery.start_soon(take_turn, number, (client, other)[number % 2])
                    await wait_row(client, path, number + 2)
    assert turns == list(range(6))
    assert tokens == sorted(tokens)
    assert not await row(client, path)


async def test_a_cancelled_waiter_leaves_the_row(client: Client, path: str) -> None:
    """Also one in the middle: the one behind it waits for the one before it then."""
    with trio.fail_after(WAIT):
        async with trio.open_nursery() as nursery:
            async with lock(client, path):
                waiting = trio.CancelScope()

                async def wait_in_the_middle() -> None:
                    with waiting:
                        async with lock(client, path):
                            raise AssertionError("it is held")

                async def wait_behind() -> None:
                    async with lock(client, path):
                        order.append("last")

                order: list[str] = []
                nursery.start_soon(wait_in_the_middle)
                first, _ = await wait_row(client, path, 2)
                nursery.start_soon(wait_behind)
                await wait_row(client, path, 3)
                waiting.cancel()
                assert (await wait_row(client, path, 2))[0] == first
                await trio.testing.wait_all_tasks_blocked()
                order.append("first")
        assert order == ["first", "last"]
    assert not await row(client, path)


async def test_try_lock_does_not_wait(
    client: Client, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And grants no lease if the lock is held."""
    with trio.fail_after(WAIT):
        async with try_lock(client, path) as held:
            with monkeypatch.context() as patch, pytest.raises(Locked) as caught:
                patch.setattr(client, "open_lease", None)
                async with try_lock(client, path):
                    raise AssertionError("it is held")
            assert caught.value.owner.key == held.key
            assert await row(client, path) == [held.key]
        async with try_lock(client, path) as again:
            assert again.token > held.token
    assert not await row(client, path)


async def test_a_holder_whose_key_is_deleted_is_cancelled(client: Client, path: str) -> None:
    with pytest.raises(KeyDeleted) as caught, trio.fail_after(WAIT):
        async with lock(client, path) as held:
            await client.delete(held.key)
            await trio.sleep_forever()
    assert caught.value.key == held.key
    assert (caught.value.__cause__, held.alive) == (None, False)
    assert held.lease not in await client.lease_list()


async def test_a_holder_whose_lease_is_revoked_is_cancelled(client: Client, path: str) -> None:
    with pytest.raises(LeaseLost) as caught, trio.fail_after(WAIT):
        async with lock(client, path) as held:
            await client.lease_revoke(held.lease)
            await trio.sleep_forever()
    assert caught.value.lease == held.lease
    assert not held.alive


@pytest.mark.parametrize("how", ["deleted", "revoked"])
async def test_a_waiter_whose_key_goes_is_refused(client: Client, path: str, how: str) -> None:
    with trio.fail_after(WAIT):
        async with trio.open_nursery() as nursery, lock(client, path) as held:

            async def wait() -> None:
                kind = KeyDeleted if how == "deleted" else LeaseLost
                with pytest.raises(kind):
                    async with lock(client, path):
                        raise AssertionError("it is held")

            nursery.start_soon(wait)
            _, key = await wait_row(client, path, 2)
            if how == "deleted":
                await client.delete(key)
            else:
                await client.lease_revoke(int(key.rpartition(b"/")[2], 16))
            assert await wait_row(client, path, 1) == [held.key]
            assert held.alive


async def test_waiting_survives_compaction(client: Client, path: str) -> None:
    """History is forgotten after each change, so no watch can begin where it wants to."""
    done = trio.Event()
    turns = 0

    async def forget() -> None:
        while not done.is_set():
            revision = (await client.put(f"{path}-beside", "x")).revision
            await client.compact(revision)

    async def take_turn() -> None:
        nonlocal turns
        async with lock(client, path):
            turns += 1

    with trio.fail_after(WAIT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(forget)
            async with trio.open_nursery() as waiting, lock(client, path):
                for _ in range(5):
                    waiting.start_soon(take_turn)
                await wait_row(client, path, 6)
            done.set()
    assert turns == 5
    assert not await row(client, path)


async def test_a_body_that_fails_frees_the_lock(client: Client, path: str) -> None:
    error = ValueError("of the body")
    with pytest.raises(ValueError, match="of the body") as caught, trio.fail_after(WAIT):
        async with lock(client, path):
            raise error
    assert caught.value is error
    assert not await row(client, path)
