"""Queues under faults. What they do is in ``simulation/contract``."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from grpclib.const import Status

from tests.etcd_shim.concurrency.losing import lose_answer
from tests.etcd_shim.concurrency.rows import WAIT, row
from tests.etcd_shim.sweep import AtStep, sweep
from trio_sched.etcd_shim import open_client
from trio_sched.etcd_shim.concurrency import DequeueUncertain, PriorityQueue, Queue, queues
from trio_sched.etcd_shim.errors import (
    ConnectionFailed,
    ConnectionLost,
    PermissionDenied,
    rpc_error,
)
from trio_sched.testing import open_etcd, open_faulty_link


async def test_f17_an_item_whose_answer_is_lost_is_taken_once(
    endpoint: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_client(endpoint) as client:
        queue = Queue(client, path)
        await queue.enqueue("x")
        lose_answer(monkeypatch, client, carried_out=False)
        assert await queue.dequeue() == b"x"
        assert not await row(client, path)


async def test_f17_an_item_that_may_be_ours_is_said_to_be_uncertain(
    endpoint: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_client(endpoint) as client:
        queue = Queue(client, path)
        await queue.enqueue("x")
        lose_answer(monkeypatch, client, carried_out=True)
        with pytest.raises(DequeueUncertain) as caught:
            await queue.dequeue()
        assert caught.value.kv.value == b"x"
        assert isinstance(caught.value.__cause__, ConnectionLost)
        assert not await row(client, path)


async def test_f17_an_item_that_may_be_ours_is_uncertain_whatever_comes_after_the_lost_answer(
    endpoint: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a role that was taken away meanwhile, so that it cannot be asked again."""
    async with open_client(endpoint) as client:
        queue = Queue(client, path)

        async def refuse(*_: object) -> object:
            await trio.lowlevel.checkpoint()
            raise rpc_error(Status.PERMISSION_DENIED, "etcdserver: permission denied")

        async def take_away() -> None:
            await trio.lowlevel.checkpoint()
            monkeypatch.setattr(client, "txn", refuse)

        for take in (queue.dequeue, queue.dequeue_nowait):
            await queue.enqueue("x")
            lose_answer(monkeypatch, client, carried_out=True, then=take_away)
            with pytest.raises(DequeueUncertain) as caught:
                await take()
            assert caught.value.kv.value == b"x"
            assert isinstance(caught.value.__cause__, ConnectionLost)
            assert isinstance(caught.value.__context__, PermissionDenied)
            await queue.enqueue("y")
            with pytest.raises(PermissionDenied):  # nothing was sent before, so nothing was taken
                await take()
            monkeypatch.undo()
            assert await queue.dequeue_nowait() == b"y"


async def test_an_item_that_etcd_does_not_answer_for_is_uncertain(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within bounds, though cancelled meanwhile and shielded."""
    monkeypatch.setattr(queues, "_CLEANUP_TIMEOUT", 0.1)
    async with open_etcd() as server, open_client(server.endpoint) as client:
        queue = Queue(client, path)
        await queue.enqueue("x")
        txn = client.txn

        async def without_answer(*arguments: object) -> object:
            scope.cancel()
            server.members[0].pause()
            return await txn(*arguments)  # type: ignore[arg-type] # passed on

        monkeypatch.setattr(client, "txn", without_answer)
        with trio.CancelScope() as scope, pytest.raises(DequeueUncertain):
            await queue.dequeue()
        server.members[0].resume()


async def test_f17_an_item_that_etcd_was_not_asked_for_is_uncertain_and_still_there(
    endpoint: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues, "_CLEANUP_TIMEOUT", 0.1)
    async with open_faulty_link(endpoint) as link, open_client(link.endpoint) as client:
        queue = Queue(client, path)
        await queue.enqueue("x")
        txn = client.txn

        async def never_sent(*arguments: object) -> object:
            link.stall()
            return await txn(*arguments)  # type: ignore[arg-type] # passed on

        with monkeypatch.context() as patch:
            patch.setattr(client, "txn", never_sent)
            with pytest.raises(DequeueUncertain, match="may have been taken by us"):
                await queue.dequeue()
        link.cut()
        link.heal()
        assert await queue.dequeue() == b"x"


async def test_f10_cancelled_at_each_checkpoint_no_item_is_lost(path: str) -> None:
    """What is not in the queue any more was returned."""
    async with open_etcd() as server:
        async with open_client(server.endpoint) as client, open_client(server.endpoint) as witness:
            put = 0
            taken: list[bytes] = []

            async def take() -> None:
                taken.append(await Queue(client, path).dequeue())

            async def check_and_put() -> None:
                nonlocal put
                left = await row(witness, path)
                assert len(left) + len(taken) == put
                await Queue(witness, path).enqueue("x")
                put += 1

            await check_and_put()
            assert await sweep(take, check_and_put) >= 2
            step, done = 1, False
            while not done:  # and just before each step of any task, such as that which reads
                with trio.CancelScope() as scope:
                    instrument = AtStep(step, scope.cancel)
                    trio.lowlevel.add_instrument(instrument)
                    await take()
                trio.lowlevel.remove_instrument(instrument)
                await check_and_put()
                step, done = step + 1, not instrument.done
            assert step > 5


@pytest.mark.parametrize("foreign", ["5", "5x", "0/0", "x", "00000000000000001", "9999/x", ""])
async def test_what_others_put_among_numbers_is_no_number(
    endpoint: str, path: str, foreign: str
) -> None:
    """It is an item all the same, in the order of its key."""
    async with open_client(endpoint) as client:
        queue = PriorityQueue(client, path)
        await client.put(f"{path}/00001/{foreign}", "foreign")
        with trio.fail_after(WAIT):
            for value in ("a", "b", "c"):
                await queue.enqueue(value, 1)
            numbers = [kv.key.rpartition(b"/")[2] for kv in await client.get_prefix(path)]
            taken = [await queue.dequeue() for _ in range(4)]
        assert {b"%016d" % number for number in range(3)} <= {*numbers}
        assert [value for value in taken if value != b"foreign"] == [b"a", b"b", b"c"]


async def test_where_there_is_no_etcd_a_queue_says_so_at_once() -> None:
    async with open_client("http://127.0.0.1:1") as client:
        for queue in (Queue(client, "/a"), PriorityQueue(client, "/b")):
            with pytest.raises(ConnectionFailed):
                await queue.dequeue()
            with pytest.raises(ConnectionFailed):
                await queue.dequeue_nowait()
        with pytest.raises(ConnectionFailed):
            await Queue(client, "/a").enqueue("x")
        with pytest.raises(ConnectionFailed):
            await PriorityQueue(client, "/a").enqueue("x", 1)


async def test_a_restart_of_etcd_is_waited_out(path: str) -> None:
    with trio.fail_after(WAIT):
        async with open_etcd() as server, open_client(server.endpoint) as client:
            queue = Queue(client, path)
            taken: list[bytes] = []
            with pytest.raises(trio.WouldBlock):
                await queue.dequeue_nowait()  # so there is an etcd, and a restart is waited out

            async def take() -> None:
                taken.append(await queue.dequeue())

            async with trio.open_nursery() as nursery:
                nursery.start_soon(take)
                await trio.testing.wait_all_tasks_blocked()
                await server.members[0].restart()
                await queue.enqueue("x")
            assert taken == [b"x"]
