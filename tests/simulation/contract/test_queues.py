"""Queues, on a real etcd and on the one in memory."""

from __future__ import annotations

from collections import Counter

import pytest
import trio
import trio.testing

from tests.etcd_shim.concurrency.rows import WAIT, row
from tests.simulation.servers import Server
from trio_sched.etcd_shim import Client
from trio_sched.etcd_shim.concurrency import PriorityQueue, Queue


async def test_what_comes_first_is_served_first(client: Client, path: str) -> None:
    queue = Queue(client, path)
    for number in range(20):
        await queue.enqueue(str(number))
    assert [await queue.dequeue() for _ in range(20)] == [b"%d" % number for number in range(20)]
    assert not await row(client, path)


async def test_the_lowest_priority_is_served_first(client: Client, path: str) -> None:
    queue = PriorityQueue(client, path)
    for value, priority in (("c", 500), ("a", 0), ("d", 65_535), ("b", 9), ("c2", 500)):
        await queue.enqueue(value, priority)
    assert [kv.key.removeprefix(path.encode()) for kv in await client.get_prefix(path)] == [
        b"/00000/0000000000000000",
        b"/00009/0000000000000000",
        b"/00500/0000000000000000",
        b"/00500/0000000000000001",
        b"/65535/0000000000000000",
    ]
    taken = [await queue.dequeue() for _ in range(5)]
    assert taken == [b"a", b"b", b"c", b"c2", b"d"]


async def test_many_append_to_one_priority(server: Server, client: Client, path: str) -> None:
    """Each gets a number of its own, and nothing is overwritten."""
    with trio.fail_after(WAIT):
        async with server.open_client() as other, trio.open_nursery() as nursery:
            for number in range(20):
                queue = PriorityQueue((client, other)[number % 2], path)
                nursery.start_soon(queue.enqueue, str(number), 7)
    assert len(await row(client, path)) == 20


async def test_an_empty_queue_is_waited_for(client: Client, path: str) -> None:
    queue = Queue(client, path)
    with pytest.raises(trio.WouldBlock):
        await queue.dequeue_nowait()
    with trio.fail_after(WAIT):
        async with trio.open_nursery() as nursery:
            taken: list[bytes] = []

            async def take() -> None:
                taken.append(await queue.dequeue())

            nursery.start_soon(take)
            await trio.testing.wait_all_tasks_blocked()
            await queue.enqueue("x")
    assert taken == [b"x"]
    await queue.enqueue("y")
    assert await queue.dequeue_nowait() == b"y"


async def test_each_item_is_taken_once(server: Server, client: Client, path: str) -> None:
    taken: Counter[bytes] = Counter()

    async def take(own: Client) -> None:
        while True:
            taken[await Queue(own, path).dequeue()] += 1
            if taken.total() == 50:
                nursery.cancel_scope.cancel()

    with trio.fail_after(WAIT):
        async with server.open_client() as other, trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(take, (client, other)[number % 2])
            for number in range(50):
                await Queue(client, path).enqueue(str(number))
    assert taken == {b"%d" % number: 1 for number in range(50)}
    assert not await row(client, path)


async def test_waiting_for_an_item_survives_compaction(client: Client, path: str) -> None:
    queue = Queue(client, path)
    with trio.fail_after(WAIT):
        async with trio.open_nursery() as nursery:
            taken: list[bytes] = []

            async def take() -> None:
                while len(taken) < 5:
                    taken.append(await queue.dequeue())

            nursery.start_soon(take)
            for number in range(5):
                await queue.enqueue(str(number))
                revision = (await client.put(f"{path}-beside", "x")).revision
                await client.compact(revision)
    assert taken == [b"0", b"1", b"2", b"3", b"4"]
