"""Clients of Go take part: real ones, where Go and clientv3 are installed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import trio

from tests.etcd_shim.concurrency.go_client import BUILD_TIMEOUT, GoClient, build
from tests.etcd_shim.concurrency.rows import WAIT, row, wait_row
from trio_sched.etcd_shim import Client, open_client
from trio_sched.etcd_shim.concurrency import (
    STM,
    Barrier,
    BarrierHeld,
    DoubleBarrier,
    Election,
    PriorityQueue,
    Queue,
    lock,
    stm,
)

pytestmark = pytest.mark.timeout(BUILD_TIMEOUT + WAIT)

Start = Callable[..., Awaitable[GoClient]]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("go"))


@pytest.fixture
async def client(endpoint: str, program: Path) -> AsyncIterator[Client]:  # noqa: ARG001 # first
    async with open_client(endpoint) as client:
        yield client


@pytest.fixture
async def go(program: Path, endpoint: str, nursery: trio.Nursery) -> Start:
    """Start a client of Go: what it is to do, the name, and further arguments."""

    async def start(what: str, name: str, *arguments: str) -> GoClient:
        return await GoClient.start(nursery, program, what, endpoint, name, *arguments)

    return start


async def test_a_mutex_takes_turns_with_us(client: Client, go: Start, path: str) -> None:
    with trio.fail_after(WAIT):
        async with lock(client, path):
            theirs = await go("lock", path)
            await wait_row(client, path, 2)
        assert await theirs.line() == "locked"
        async with trio.open_nursery() as nursery:

            async def free_when_awaited() -> None:
                await wait_row(client, path, 2)
                await theirs.go_on()

            nursery.start_soon(free_when_awaited)
            async with lock(client, path) as held:
                assert await row(client, path) == [held.key]
        await theirs.process.wait()


async def test_an_election_takes_turns_with_us_and_each_observes_the_other(
    client: Client, go: Start, path: str
) -> None:
    election = Election(client, path)
    with trio.fail_after(WAIT):
        async with election.observe() as leaders:
            async with election.campaign("ours") as leadership:
                observer = await go("observe", path)
                assert await observer.line() == "ours"
                await leadership.proclaim("ours still")
                assert await observer.line() == "ours still"
                theirs = await go("elect", path, "theirs", "theirs still")
                await wait_row(client, path, 2)
            assert await theirs.line() == "leads"
            assert await observer.line() == "theirs"
            seen = [(await leaders.__anext__()).value]
            await theirs.go_on()
            while seen[-1] != b"theirs still":
                seen.append((await leaders.__anext__()).value)
            assert await observer.line() == "theirs still"
            async with trio.open_nursery() as nursery:

                async def resign_when_awaited() -> None:
                    await wait_row(client, path, 2)
                    await theirs.go_on()

                nursery.start_soon(resign_when_awaited)
                async with election.campaign("ours again"):
                    assert await observer.line() == "ours again"
            observer.process.kill()


async def test_no_change_of_either_is_lost(client: Client, go: Start, path: str) -> None:
    async def increment(stm: STM) -> None:
        stm.put(path, str(int(await stm.get(path) or 0) + 1))

    async def ours() -> None:
        for _ in range(50):
            await stm(client, increment)

    with trio.fail_after(WAIT):
        theirs = [await go("increment", path, "50") for _ in range(2)]
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(ours)
            for each in theirs:
                nursery.start_soon(each.process.wait)
    assert (await client.get(path)).value == b"200"


async def test_a_barrier_of_either_holds_up_the_other(client: Client, go: Start, path: str) -> None:
    barrier = Barrier(client, path)
    with trio.fail_after(WAIT):
        holder = await go("hold", path)
        assert await holder.line() == "held"
        with pytest.raises(BarrierHeld):
            await barrier.hold()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(barrier.wait)
            await holder.go_on()
        await holder.process.wait()
        await barrier.hold()
        waiter = await go("wait", path)
        assert await waiter.line() == "waits"
        await barrier.release()
        assert await waiter.line() == "passed"


@pytest.mark.parametrize("ours_is", [0, 1, 2])
async def test_a_double_barrier_is_entered_and_left_together(
    client: Client, go: Start, path: str, ours_is: int
) -> None:
    """Whether ours is the first, the second or the last to enter."""
    with trio.fail_after(WAIT):
        async with trio.open_nursery() as nursery:
            entered, go_on, left = trio.Event(), trio.Event(), trio.Event()

            async def take_part() -> None:
                async with DoubleBarrier(client, path, 3).enter():
                    entered.set()
                    await go_on.wait()
                left.set()

            theirs: list[GoClient] = []
            for number in range(3):
                if number == ours_is:
                    nursery.start_soon(take_part)
                else:
                    theirs.append(await go("double", path, "3"))
                if number < 2:
                    assert not entered.is_set()
                    await wait_row(client, f"{path}/waiters", number + 1)
            await entered.wait()
            for each in theirs:
                assert await each.line() == "entered"
            await theirs[0].go_on()
            go_on.set()
            assert not left.is_set()
            await theirs[1].go_on()
            for each in theirs:
                assert await each.line() == "left"
            await left.wait()
        assert not await row(client, path)


async def test_a_queue_is_filled_and_emptied_by_both(client: Client, go: Start, path: str) -> None:
    queue = Queue(client, path)
    with trio.fail_after(WAIT):
        await (await go("enqueue", path, "a", "b")).process.wait()
        await queue.enqueue("c")
        await (await go("enqueue", path, "d")).process.wait()
        assert await queue.dequeue() == b"a"
        theirs = await go("dequeue", path, "3")
        assert [await theirs.line(), await theirs.line()] == ["b", "c"]
        assert await theirs.line() == "d"
        waiting = await go("dequeue", path, "1")
        await queue.enqueue("waited for")
        assert await waiting.line() == "waited for"


async def test_no_item_of_a_priority_is_overwritten(client: Client, go: Start, path: str) -> None:
    """Both number the items of a priority; so each has to see what the other claims."""
    queue = PriorityQueue(client, path)

    async def ours() -> None:
        for number in range(100):
            await queue.enqueue(f"ours-{number}", 4)

    with trio.fail_after(WAIT):
        theirs = await go("enqueue-by-priority", path, "4", *(f"theirs-{n}" for n in range(100)))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours)
            nursery.start_soon(ours)
            nursery.start_soon(theirs.process.wait)
        assert len(await row(client, path)) == 300
        await (await go("enqueue-by-priority", path, "0", "urgent")).process.wait()
        await queue.enqueue("less urgent", 3)
        assert await queue.dequeue() == b"urgent"
        taker = await go("dequeue-by-priority", path, "1")
        assert await taker.line() == "less urgent"
