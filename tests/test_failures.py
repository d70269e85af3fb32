"""A failure leaves its block as itself, whatever the body was doing, and whatever block it was.

Run by `trio.run` itself: pytest-trio takes a group of `Cancelled` for its own, and passes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.host.test_policy import client_to_be_left
from trio_sched import Client, Observation, Slot, Strategy, StrategyOptions, observe, schedule
from trio_sched.etcd_shim._pb import messages_pb2 as pb
from trio_sched.etcd_shim.errors import ClientClosed, LeaseLost
from trio_sched.exceptions import StrategyError
from trio_sched.simulation import MemoryEtcd

PATH = "/jobs"

Block = Callable[["Scene"], AbstractAsyncContextManager[object]]


class Broken(Strategy):
    """Raises once it is to."""

    name = "broken"

    def __init__(self) -> None:
        self.broken = False

    def schedule(self, hosts: object, options: StrategyOptions) -> Sequence[str]:
        del hosts, options
        if self.broken:
            raise ZeroDivisionError
        return []


@dataclass
class Scene:
    """An etcd in memory, and what makes the block that is looked at fail."""

    etcd: MemoryEtcd
    client: Client
    leave_client: trio.Event
    fail: Callable[[], None] = lambda: None


# ---- blocks ----------------------------------------------------------------------------


@asynccontextmanager
async def failing_schedule(scene: Scene) -> AsyncIterator[None]:
    strategy = Broken()

    def fail() -> None:
        strategy.broken = True
        scene.etcd.cluster.store.put(pb.PutRequest(key=b"/jobs/exchange/b", value=b"TODO"))

    scene.fail = fail
    async with schedule(scene.client, PATH, "a", strategy=strategy, strict=True):
        yield


@asynccontextmanager
async def failing_lease(scene: Scene) -> AsyncIterator[None]:
    async with scene.client.open_lease(10) as lease:
        scene.fail = lambda: scene.etcd.cluster.expire(lease.id)
        yield


@asynccontextmanager
async def failing_observe(scene: Scene) -> AsyncIterator[None]:
    scene.fail = scene.leave_client.set
    async with observe(scene.client, PATH, pool=True):
        yield


@asynccontextmanager
async def failing_host_in_a_host(scene: Scene) -> AsyncIterator[None]:
    async with (
        failing_schedule(scene),
        schedule(scene.client, "/other", "a") as other,
        observe(scene.client, "/other"),
    ):
        assert await other.next() == ("a",)
        yield


@asynccontextmanager
async def failing_inner_host(scene: Scene) -> AsyncIterator[None]:
    async with schedule(scene.client, "/other", "a") as other, failing_schedule(scene):
        assert await other.next() == ("a",)
        yield


BLOCKS: dict[Block, type[Exception]] = {
    failing_schedule: StrategyError,
    failing_lease: LeaseLost,
    failing_observe: ClientClosed,
    failing_host_in_a_host: StrategyError,
    failing_inner_host: StrategyError,
}


# ---- bodies ----------------------------------------------------------------------------


async def sleeps(scene: Scene) -> None:
    scene.fail()
    await trio.sleep_forever()


async def has_a_nursery(scene: Scene) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(trio.sleep_forever)
        scene.fail()
        await trio.sleep_forever()


async def has_an_empty_nursery(scene: Scene) -> None:
    async with trio.open_nursery():
        scene.fail()
        await trio.sleep_forever()


async def has_nurseries_in_nurseries(scene: Scene) -> None:
    async with trio.open_nursery() as outer:
        outer.start_soon(has_a_nursery, scene)
        async with trio.open_nursery() as inner, trio.open_nursery() as innermost:
            inner.start_soon(trio.sleep_forever)
            innermost.start_soon(trio.sleep_forever)
            await trio.sleep_forever()


async def leaves_by_itself_as_it_is_cancelled(scene: Scene) -> None:
    scene.fail()
    with suppress(trio.Cancelled):  # which nobody should; the failure leaves all the same
        await trio.sleep_forever()


async def is_shielded_for_a_while(scene: Scene) -> None:
    scene.fail()
    with trio.CancelScope(shield=True):
        await trio.sleep(30)
    await trio.sleep_forever()


async def has_ended_before(scene: Scene) -> None:
    with trio.CancelScope(shield=True):
        scene.fail()
        await trio.sleep(20)


BODIES = [
    sleeps,
    has_a_nursery,
    has_an_empty_nursery,
    has_nurseries_in_nurseries,
    leaves_by_itself_as_it_is_cancelled,
    is_shielded_for_a_while,
    has_ended_before,
]


async def play(
    block: Block, body: Callable[[Scene], Awaitable[None]], expected: type[BaseException]
) -> None:
    etcd = MemoryEtcd()
    async with client_to_be_left(etcd) as (client, leave):
        scene = Scene(etcd, client, leave)
        with pytest.raises(expected):
            async with block(scene):
                await body(scene)
        leave.set()


def run(
    block: Block, body: Callable[[Scene], Awaitable[None]], expected: type[BaseException]
) -> None:
    trio.run(play, block, body, expected, clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.__name__)
def test_f35_a_failure_leaves_each_block_whatever_the_body_does(
    block: Block, body: Callable[[Scene], Awaitable[None]]
) -> None:
    run(block, body, BLOCKS[block])


# ---- two at once -----------------------------------------------------------------------


class Own(Exception):
    """Of the body."""


async def fails_as_it_is_cancelled(scene: Scene) -> None:
    scene.fail()
    try:
        await trio.sleep_forever()
    except trio.Cancelled:
        raise Own from None


async def is_interrupted_as_it_is_cancelled(scene: Scene) -> None:
    scene.fail()
    try:
        await trio.sleep_forever()
    except trio.Cancelled:
        raise KeyboardInterrupt from None


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.__name__)
def test_f35_what_the_body_raises_meanwhile_is_not_lost(block: Block) -> None:
    run(block, fails_as_it_is_cancelled, Own)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.__name__)
def test_f35_a_keyboard_interrupt_passes_through_a_failure(block: Block) -> None:
    run(block, is_interrupted_as_it_is_cancelled, KeyboardInterrupt)


# ---- waiting for what the block gives, in nurseries of the body -----------------------------


async def work(_slot: Slot) -> None:
    await trio.sleep_forever()


async def read(result: Observation) -> None:
    async for _ in result:
        pass


@pytest.mark.parametrize("beside", [0, 1, 2])
def test_f36_a_failure_leaves_the_block_once_though_tasks_of_a_nursery_wait_for_it(
    beside: int,
) -> None:
    """Each is given the failure, and beside them others are cancelled: it is one exception."""

    async def main() -> None:
        strategy = Broken()
        async with (
            MemoryEtcd().open_client() as client,
            schedule(client, PATH, "a", strategy=strategy, strict=True) as result,
            trio.open_nursery() as outer,
            trio.open_nursery() as nursery,
        ):
            for _ in range(beside):
                nursery.start_soon(trio.sleep_forever)
                outer.start_soon(trio.sleep_forever)
            nursery.start_soon(read, result)
            outer.start_soon(result.wait_scheduled)
            nursery.start_soon(result.run_while_scheduled, work)
            await trio.testing.wait_all_tasks_blocked()
            strategy.broken = True
            await client.put("/jobs/exchange/b", "TODO")
            await trio.sleep_forever()

    with pytest.raises(StrategyError) as caught:
        trio.run(main, clock=MockClock(autojump_threshold=0))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_f35_what_the_body_raises_in_a_group_leaves_it_without_what_was_cancelled() -> None:
    async def fail_as_it_is_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise KeyError("mine")

    async def main() -> None:
        strategy = Broken()
        async with (
            MemoryEtcd().open_client() as client,
            schedule(client, PATH, "a", strategy=strategy, strict=True) as result,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(fail_as_it_is_cancelled)
            nursery.start_soon(result.run_while_scheduled, work)
            await trio.testing.wait_all_tasks_blocked()
            strategy.broken = True
            await client.put("/jobs/exchange/b", "TODO")
            await trio.sleep_forever()

    with pytest.RaisesGroup(KeyError, StrategyError):  # nor anything that was cancelled
        trio.run(main, clock=MockClock(autojump_threshold=0))
