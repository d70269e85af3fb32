"""Locks on a real etcd, beside etcdctl and etcd's own service, and under faults."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from tests.etcd_shim.concurrency.others import lock_by_service, start_etcdctl
from tests.etcd_shim.concurrency.rows import WAIT, row, wait_row
from tests.etcd_shim.sweep import AtStep, sweep
from trio_sched.etcd_shim import Client, Get, GetResult, Put, TxnResult, Watcher, open_client
from trio_sched.etcd_shim.concurrency import HeldLock, KeyDeleted, lock, try_lock
from trio_sched.etcd_shim.errors import ConnectionFailed, LeaseLost
from trio_sched.testing import find_etcdctl, open_etcd, open_faulty_link


async def test_etcdctl_takes_turns_with_us(endpoint: str, path: str) -> None:
    """It waits for us and then has the lock; and then we wait for it."""
    with trio.fail_after(WAIT):
        async with open_client(endpoint) as client, trio.open_nursery() as nursery:
            held_by_us = trio.Event()

            async def wait_for_it() -> None:
                async with lock(client, path):
                    held_by_us.set()

            async with lock(client, path) as held:
                process = await start_etcdctl(nursery, endpoint, "lock", path)
                assert (await wait_row(client, path, 2))[0] == held.key
            (theirs,) = await wait_row(client, path, 1)
            assert process.poll() is None
            nursery.start_soon(wait_for_it)
            assert (await wait_row(client, path, 2))[0] == theirs
            assert not held_by_us.is_set()
            process.send_signal(signal.SIGINT)
            await held_by_us.wait()
    async with open_client(endpoint) as client:
        assert not await row(client, path)


async def test_a_command_of_etcdctl_runs_while_it_has_the_lock(endpoint: str, path: str) -> None:
    """What it writes while it has the lock comes between two turns of ours."""
    with trio.fail_after(WAIT):
        async with open_client(endpoint) as client, trio.open_nursery() as nursery:
            async with lock(client, path) as before:
                put = (str(find_etcdctl()), f"--endpoints={endpoint}", "put", f"{path}-done", "x")
                process = await start_etcdctl(nursery, endpoint, "lock", path, "--", *put)
                await wait_row(client, path, 2)
                assert (await client.get(f"{path}-done")).kv is None
            await process.wait()
            assert process.returncode == 0
            async with lock(client, path) as after:
                (done,) = await client.get(f"{path}-done")
                assert before.token < done.create_revision < after.token


# ---- cancelled, cut, away ------------------------------------------------------------------


async def untouched(client: Client, path: str, leases: set[int]) -> None:
    """See that nothing of ours is left."""
    assert not await row(client, path)
    assert set(await client.lease_list()) == leases


@pytest.mark.parametrize("block", [lock, try_lock])
async def test_f10_cancelled_at_each_checkpoint_nothing_is_left(
    path: str, block: Callable[..., AbstractAsyncContextManager[HeldLock]]
) -> None:
    async with open_etcd() as server:
        async with open_client(server.endpoint) as client, open_client(server.endpoint) as witness:

            async def hold() -> None:
                async with block(client, path) as held:
                    assert held.alive
                    await trio.lowlevel.checkpoint()

            steps = await sweep(hold, partial(untouched, witness, path, set()))
            assert steps > 5


async def test_f10_a_waiter_cancelled_at_each_checkpoint_leaves_nothing(path: str) -> None:
    """And its turn goes to the next."""
    async with open_etcd() as server:
        async with open_client(server.endpoint) as client, open_client(server.endpoint) as witness:

            async def free_later(held: trio.Event) -> None:
                async with lock(witness, path):
                    held.set()
                    await wait_row(witness, path, 2)

            async def wait() -> None:
                async with trio.open_nursery() as nursery:
                    held = trio.Event()
                    nursery.start_soon(free_later, held)
                    await held.wait()
                    async with lock(client, path):
                        pass
                    nursery.cancel_scope.cancel()

            steps = await sweep(wait, partial(untouched, witness, path, set()))
            assert steps > 5


@pytest.mark.timeout(180)
async def test_f10_cancelled_at_any_step_of_any_task_nothing_is_left(path: str) -> None:
    """Also where a task behind the scenes has just done something. One holds, and one waits."""
    async with open_etcd() as server, open_client(server.endpoint) as witness:

        async def take_turn(client: Client) -> None:
            async with lock(client, path) as held:
                assert held.alive
                await trio.lowlevel.checkpoint()

        step, done = 1, False
        while not done:
            async with open_client(server.endpoint) as client:
                with trio.CancelScope() as scope:
                    instrument = AtStep(step, scope.cancel)
                    trio.lowlevel.add_instrument(instrument)
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(take_turn, client)
                        nursery.start_soon(take_turn, client)
                trio.lowlevel.remove_instrument(instrument)
            await untouched(witness, path, set())
            done = not instrument.done
            step += 2
        assert step > 20


@pytest.mark.timeout(180)
async def test_f17_a_connection_cut_at_any_step_frees_no_lock_and_leaves_none(
    endpoint: str, path: str
) -> None:
    """Two take turns on one client; whatever is cut, both get the lock, and one at a time."""
    inside = 0

    async def take_turn(client: Client) -> None:
        nonlocal inside
        async with lock(client, path):
            inside += 1
            assert inside == 1
            await trio.lowlevel.checkpoint()
            inside -= 1

    async with open_client(endpoint) as witness, open_faulty_link(endpoint) as link:
        step, done = 1, False
        while not done:
            with trio.fail_after(WAIT):
                async with open_client(link.endpoint) as client:
                    await client.get(path)  # there is an etcd, so what fails later is waited out
                    instrument = AtStep(step, link.cut)
                    trio.lowlevel.add_instrument(instrument)
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(take_turn, client)
                        nursery.start_soon(take_turn, client)
                    trio.lowlevel.remove_instrument(instrument)
            assert not await row(witness, path), f"at step {step}"
            done = not instrument.done
            step += 3
        assert step > 20


async def test_f17_a_key_whose_put_is_not_answered_is_found(
    endpoint: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The waiter keeps its place: it goes on with the key that it had put."""
    with trio.fail_after(WAIT):
        async with (
            open_client(endpoint) as witness,
            open_faulty_link(endpoint) as link,
            open_client(link.endpoint) as client,
        ):
            deeds = [link.mute]
            txn = client.txn

            async def txn_without_answer(*arguments: Any) -> TxnResult:
                if deeds:
                    deeds.pop()()
                return await txn(*arguments)

            monkeypatch.setattr(client, "txn", txn_without_answer)
            tokens: list[int] = []

            async def wait() -> None:
                async with lock(client, path) as held:
                    tokens.append(held.token)

            async with trio.open_nursery() as nursery:
                async with lock(witness, path):
                    nursery.start_soon(wait)
                    (_, theirs) = await wait_row(witness, path, 2)
                    (kv,) = await witness.get(theirs)
                    link.cut()
                    link.heal()
            assert tokens == [kv.create_revision]
            assert not await row(witness, path)


async def test_f1_a_holder_and_a_waiter_end_when_etcd_stops(path: str) -> None:
    """Both by their deadlines, though etcd says nothing."""
    async with open_etcd() as server:
        async with open_client(server.endpoint) as client, trio.open_nursery() as nursery:
            waited = trio.Event()

            async def wait() -> None:
                with pytest.raises(LeaseLost):
                    async with lock(client, path, ttl=2):
                        raise AssertionError("it is held")
                waited.set()

            with pytest.raises(LeaseLost), trio.fail_after(WAIT):
                async with lock(client, path, ttl=2) as held:
                    nursery.start_soon(wait)
                    await wait_row(client, path, 2)
                    server.members[0].pause()
                    try:
                        await trio.sleep_forever()
                    finally:
                        assert not held.alive
                        with trio.CancelScope(shield=True):
                            await waited.wait()
                        server.members[0].resume()
        async with open_client(server.endpoint) as client:
            await wait_row(client, path, 0)


async def test_f7_a_lease_that_lapses_while_waiting_ends_the_wait(path: str) -> None:
    """No other client has the lock by then; the waiter must not get it without a key of its own."""
    async with open_etcd() as server:
        async with (
            open_client(server.endpoint) as client,
            open_faulty_link(server.endpoint) as link,
            open_client(link.endpoint) as other,
            lock(client, path),
        ):

            async def wait() -> None:
                with pytest.raises(LeaseLost):
                    async with lock(other, path, ttl=2):
                        raise AssertionError("it is held")

            with trio.fail_after(WAIT):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(wait)
                    await wait_row(client, path, 2)
                    link.refuse()
            link.heal()


async def test_a_restart_of_etcd_is_waited_out_by_holder_and_waiter(path: str) -> None:
    with trio.fail_after(WAIT):
        async with open_etcd() as server, open_client(server.endpoint) as client:
            order: list[str] = []

            async def wait() -> None:
                async with lock(client, path, ttl=20):
                    order.append("waiter")

            async with trio.open_nursery() as nursery:
                async with lock(client, path, ttl=20) as held:
                    nursery.start_soon(wait)
                    await wait_row(client, path, 2)
                    await server.members[0].restart()
                    assert (await client.txn([held.guard], [Put(f"{path}-x", "y")])).succeeded
                    order.append("holder")
            assert order == ["holder", "waiter"]
            assert not await row(client, path)


@pytest.mark.timeout(120)
async def test_f11_turns_go_on_when_a_member_is_lost(path: str) -> None:
    """The raft leader, while one of its clients holds the lock and others wait."""
    with trio.fail_after(2 * WAIT):
        async with open_etcd(members=3) as server, open_client(*server.endpoints) as client:
            leader = await server.raft_leader()
            order: list[int] = []

            async def take_turn(number: int) -> None:
                async with lock(client, path, ttl=20):
                    order.append(number)

            async with trio.open_nursery() as nursery:
                async with lock(client, path, ttl=20) as held:
                    for number in range(3):
                        nursery.start_soon(take_turn, number)
                        await wait_row(client, path, number + 2)
                    leader.kill()
                    assert await row(client, path)
                    assert held.alive
                    assert not order
            assert order == [0, 1, 2]


async def test_where_there_is_no_etcd_entering_says_so_at_once() -> None:
    async with open_client("http://127.0.0.1:1") as client:
        for block in (lock, try_lock):
            with pytest.raises(ConnectionFailed):
                async with block(client, "/a"):
                    raise AssertionError("there is no etcd")


# ---- events that do not come, and many of them -----------------------------------------------


def lose_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no watch deliver anything from now on, as if etcd had lost the events."""
    monkeypatch.setattr(Watcher, "_deliver", lambda _watcher, _events: None)


async def test_f43_a_turn_comes_though_the_event_for_it_does_not(
    endpoint: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trio.fail_after(WAIT):
        async with open_client(endpoint) as client:
            turns: list[bool] = []

            async def wait() -> None:
                async with lock(client, path, ttl=1) as held:
                    turns.append(held.alive)

            async with trio.open_nursery() as nursery:
                async with lock(client, path):
                    nursery.start_soon(wait)
                    await wait_row(client, path, 2)
                    await trio.testing.wait_all_tasks_blocked()
                    lose_events(monkeypatch)
            assert turns == [True]


@pytest.mark.parametrize("put_again", [False, True])
async def test_f14_a_holder_learns_that_its_key_is_gone_though_no_event_says_so(
    endpoint: str, path: str, put_again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if another client has put one of the same name."""
    async with open_client(endpoint) as client:
        with pytest.raises(KeyDeleted), trio.fail_after(WAIT):
            async with lock(client, path, ttl=1) as held:
                lose_events(monkeypatch)
                await client.delete(held.key)
                if put_again:
                    await client.put(held.key, "", lease=held.lease)
                await trio.sleep_forever()


async def test_f13_a_predecessor_that_goes_between_the_read_and_the_watch(
    endpoint: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trio.fail_after(WAIT):
        async with open_client(endpoint) as client, open_client(endpoint) as other:
            read = client.read
            freed = trio.Event()

            async def read_and_free(request: Get) -> GetResult:
                found = await read(request)
                if len(found) == 2:
                    leaving.set()
                    await freed.wait()
                return found

            monkeypatch.setattr(client, "read", read_and_free)
            leaving = trio.Event()

            async def hold() -> None:
                async with lock(other, path):
                    held.set()
                    await leaving.wait()
                freed.set()

            held = trio.Event()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(hold)
                await held.wait()
                async with lock(client, path) as ours:
                    assert await row(client, path) == [ours.key]
                assert freed.is_set()


async def test_f7_a_key_that_goes_just_before_its_turn_has_none(
    endpoint: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other holds the lock then; but without a key of our own, neither do we."""
    async with open_client(endpoint) as client, open_client(endpoint) as other:
        read = client.read

        async def delete_and_read(request: Get) -> GetResult:
            await other.delete_prefix(path)
            return await read(request)

        monkeypatch.setattr(client, "read", delete_and_read)
        with pytest.raises(KeyDeleted), trio.fail_after(WAIT):
            async with lock(client, path):
                raise AssertionError("it has no key")


async def test_many_waiters_cost_a_constant_number_of_requests_each(
    endpoint: str, path: str
) -> None:
    number = 100
    with trio.fail_after(WAIT * 2):
        async with open_client(endpoint) as client, open_client(endpoint) as witness:
            running = 0

            async def take_turn() -> None:
                nonlocal running
                async with lock(client, path):
                    running += 1
                    assert running == 1
                    await trio.lowlevel.checkpoint()
                    running -= 1

            async with trio.open_nursery() as nursery:
                async with lock(witness, path):
                    for _ in range(number):
                        nursery.start_soon(take_turn)
                    await wait_row(witness, path, number + 1)
            (connection,) = client.statistics().connections
            # Grant, put, two reads, a revoke; at most a read more for each watch that began late,
            # and for each predecessor that went before it was watched.
            assert connection.started_calls <= 9 * number
            assert not await row(witness, path)


async def test_the_end_of_a_turn_wakes_the_next_waiter_only(
    endpoint: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each key is watched by its owner and by the one behind it; each asks twice for its turn."""
    number = 10
    with trio.fail_after(WAIT):
        async with open_client(endpoint) as client, open_client(endpoint) as witness:
            asked: list[Get] = []
            watched: Counter[bytes] = Counter()
            read, watch = client.read, client.watch

            async def counted_read(request: Get) -> GetResult:
                asked.extend([request] if request.limit else [])
                return await read(request)

            def counted_watch(key: bytes, **options: Any) -> AbstractAsyncContextManager[Watcher]:
                watched[key] += 1
                return watch(key, **options)

            monkeypatch.setattr(client, "read", counted_read)
            monkeypatch.setattr(client, "watch", counted_watch)

            async def take_turn() -> None:
                async with lock(client, path):
                    await trio.lowlevel.checkpoint()

            async with trio.open_nursery() as nursery:
                async with lock(witness, path):
                    for _ in range(number):
                        nursery.start_soon(take_turn)
                    keys = await wait_row(witness, path, number + 1)
                    while watched.total() < 2 * number:
                        await trio.lowlevel.checkpoint()
            assert watched == dict.fromkeys(keys[1:-1], 2) | {keys[0]: 1, keys[-1]: 1}
            assert len(asked) == 2 * number


# ---- etcd's own service ----------------------------------------------------------------------


async def test_etcds_own_lock_service_takes_turns_with_us(endpoint: str, path: str) -> None:
    """v3lockpb.Lock: whose lease has the lock by its answer waits for ours, and we for it."""
    with trio.fail_after(WAIT):
        async with open_client(endpoint) as client, trio.open_nursery() as nursery:
            lease = (await client.lease_grant(60)).id
            granted = trio.Event()

            async def have_it_locked() -> None:
                await lock_by_service(client, path, lease)
                granted.set()

            async with lock(client, path) as held:
                nursery.start_soon(have_it_locked)
                keys = await wait_row(client, path, 2)
                assert keys == [held.key, f"{path}/{lease:x}".encode()]
                assert not granted.is_set()
            await granted.wait()
            async with trio.open_nursery() as freeing:
                freeing.start_soon(free_when_awaited, client, path, lease)
                async with lock(client, path) as again:
                    assert again.token > held.token


async def free_when_awaited(client: Client, name: str, lease: int) -> None:
    await wait_row(client, name, 2)
    await client.lease_revoke(lease)
