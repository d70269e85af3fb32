"""A bad argument to a lock and the like is refused by the call, before anything is sent."""

from __future__ import annotations

from typing import Final

import pytest
import trio

from tests.bad_values import ASYNC, COUNT, INT64, KEY, OBJECT, POSITIVE, RANGE_END, Call
from trio_sched.etcd_shim import Client, concurrency, open_client
from trio_sched.etcd_shim.concurrency import (
    STM,
    Barrier,
    DoubleBarrier,
    Election,
    Isolation,
    PriorityQueue,
    Queue,
    lock,
    stm,
    try_lock,
)
from trio_sched.etcd_shim.errors import EtcdError
from trio_sched.etcd_shim.lease import MAX_TTL
from trio_sched.simulation import MemoryEtcd

CLIENT: Final = [*OBJECT, Client, open_client("http://127.0.0.1:1")]
TTL: Final = [*POSITIVE, MAX_TTL + 1]


async def apply(_stm: STM) -> None:
    await trio.lowlevel.checkpoint()
    raise AssertionError("called")


def calls(client: Client) -> dict[str, Call]:
    """Return a call for each public name; of a class, for each method that takes something."""
    good = {"client": client, "name": "/n"}
    named = {"client": CLIENT, "name": KEY}
    attempt = STM(client, Isolation.SERIALIZABLE, (), 0)
    election, queue = Election(client, "/n"), PriorityQueue(client, "/n")
    return {
        "lock": Call(lock, {**named, "ttl": TTL}, good),
        "try_lock": Call(try_lock, {**named, "ttl": TTL}, good),
        "Election": Call(Election, named, good),
        "Election.campaign": Call(
            election.campaign, {"value": RANGE_END, "ttl": TTL}, {"value": "v"}
        ),
        "Barrier": Call(Barrier, named, good),
        "Barrier.hold": Call(Barrier(client, "/n").hold, {"lease": INT64}),
        "DoubleBarrier": Call(DoubleBarrier, {**named, "count": POSITIVE}, {**good, "count": 1}),
        "DoubleBarrier.enter": Call(DoubleBarrier(client, "/n", 1).enter, {"ttl": TTL}),
        "Queue": Call(Queue, named, good),
        "Queue.enqueue": Call(Queue(client, "/n").enqueue, {"value": RANGE_END}),
        "PriorityQueue": Call(PriorityQueue, named, good),
        "PriorityQueue.enqueue": Call(
            queue.enqueue,
            {"value": RANGE_END, "priority": [*COUNT, 65_536]},
            {"value": "v", "priority": 0},
        ),
        "stm": Call(
            stm,
            {"client": CLIENT, "apply": [None, *ASYNC], "isolation": OBJECT},
            {"client": client, "apply": apply},
        ),
        "STM.get": Call(attempt.get, {"key": KEY}),
        "STM.rev": Call(attempt.rev, {"key": KEY}),
        "STM.put": Call(
            attempt.put,
            {"key": KEY, "value": RANGE_END, "lease": INT64},
            {"key": "k", "value": "v"},
        ),
        "STM.delete": Call(attempt.delete, {"key": KEY}),
    }


NAMES: Final = [*calls(Client.__new__(Client))]

# What the package gives.
GIVEN: Final = {"HeldLock", "Isolation", "LeaderObserver", "Leadership", "STMResult"}


def test_f72_the_table_has_all_that_is_public() -> None:
    public = {
        name
        for name in concurrency.__all__
        if not (
            isinstance(each := getattr(concurrency, name), type) and issubclass(each, EtcdError)
        )
    }
    assert {name.partition(".")[0] for name in NAMES} | GIVEN == public


@pytest.mark.parametrize("name", NAMES)
async def test_f72_each_call_tells_before_anything_is_sent(name: str) -> None:
    etcd = MemoryEtcd()
    async with etcd.open_client() as client:
        call = calls(client)[name]
        assert not call.missing()
        assert not await call.wrong()
        assert not etcd.cluster.refusals.counts


async def test_f72_a_bad_proclamation_harms_no_leader() -> None:
    async with MemoryEtcd().open_client() as client:
        async with Election(client, "/n").campaign("me") as leadership:
            call = Call(leadership.proclaim, {"value": RANGE_END})
            assert not call.missing()
            assert not await call.wrong()
            assert leadership.alive
