"""A join costs etcd the same beside any number of candidates; who leads is never guessed (F75)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from contextvars import copy_context
from datetime import UTC, datetime
from random import Random

import pytest
import trio

from tests.helpers import until
from tests.host.test_patience import in_no_time
from trio_sched import Client, Result, observe, open_client, schedule
from trio_sched._support.wall_time import set_wall_clock
from trio_sched.etcd_shim import Delete, Put
from trio_sched.etcd_shim._pb import messages_pb2 as pb
from trio_sched.etcd_shim.errors import RpcError
from trio_sched.host import session as sessions
from trio_sched.host.session import falling_lease_id, grant_session
from trio_sched.model.keys import PathKeys
from trio_sched.simulation import MemoryEtcd
from trio_sched.testing import open_etcd

PATH = "/jobs"
KEYS = PathKeys(PATH)
YEAR = 365.25 * 86400


def at(seconds: float) -> Callable[[], datetime]:
    return lambda: datetime.fromtimestamp(seconds, UTC)


# ---- the ids of leases ------------------------------------------------------------------


def id_at(seconds: float) -> int:
    def ask() -> int:
        set_wall_clock(at(seconds))
        return falling_lease_id()

    return copy_context().run(ask)


def test_ids_fall_with_time_and_have_16_digits() -> None:
    ids = [id_at(year * YEAR) for year in range(56, 120)]
    assert ids == sorted(ids, reverse=True)
    assert all(len(f"{each:x}") == 16 and 0 < each < 2**63 for each in ids)


@pytest.mark.parametrize("seconds", [0, 1, 138 * YEAR, 140 * YEAR, 5000 * YEAR])
def test_an_id_is_one_whatever_the_clock_says(seconds: float) -> None:
    found = id_at(seconds)
    assert 0 < found < 2**63
    assert len(f"{found:x}") == 16


async def test_an_id_that_another_has_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = iter([7, 7, 8])
    monkeypatch.setattr(sessions, "falling_lease_id", lambda: next(ids))
    async with MemoryEtcd().open_client() as client:
        first = await grant_session(client, 10, 1)
        second = await grant_session(client, 10, 1)
        assert (first.lease, second.lease) == (7, 8)
        assert set(await client.lease_list()) == {7, 8}


# ---- the transaction ---------------------------------------------------------------------


async def fill(client: Client, count: int, chance: Random) -> None:
    """Put candidates, of which each is older than the next; and a decision of the first."""
    await client.put(KEYS.scheduled, "h0")
    for number in range(count):
        lease = chance.getrandbits(62) | 1 << 61
        await client.txn(
            [],
            [Put(KEYS.host(f"h{number}"), "{}"), Put(KEYS.candidate(lease), f"h{number}")],
        )


def operations(request: pb.TxnRequest) -> Iterator[pb.RequestOp]:
    for operation in (*request.success, *request.failure):
        yield operation
        if operation.HasField("request_txn"):
            yield from operations(operation.request_txn)


@pytest.mark.parametrize("count", [0, 1, 500])
@in_no_time
async def test_nothing_in_a_joining_transaction_is_about_a_whole_range(count: int) -> None:
    etcd, seen = MemoryEtcd(), list[pb.TxnRequest]()

    def look(_method: str, request: object) -> RpcError | None:
        if isinstance(request, pb.TxnRequest) and any(
            op.request_put.key == KEYS.host("new") for op in request.success
        ):
            seen.append(request)
        return None

    async with etcd.open_client() as client:
        await fill(client, count, Random(1))
        etcd.cluster.refusals.refuse = look
        async with schedule(client, PATH, "new"):
            (joining,) = seen
    reads = [op.request_range for op in operations(joining) if op.HasField("request_range")]
    assert all(0 < read.limit <= 100 for read in reads if read.range_end)
    assert not any(read.sort_order or read.min_mod_revision for read in reads)
    nested = [op.request_txn for op in operations(joining) if op.HasField("request_txn")]
    for request in (joining, *nested):
        assert not any(compare.range_end for compare in request.compare)


@asynccontextmanager
async def beside(client: Client, *clocks: float) -> AsyncIterator[list[Result]]:
    """Hosts that join one after the other, each by a clock of its own."""

    async def live(number: int, clock: float, task_status: trio.TaskStatus[Result]) -> None:
        set_wall_clock(at(clock))
        async with schedule(client, PATH, f"h{number}") as result:
            task_status.started(result)
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        yield [await nursery.start(live, *each) for each in enumerate(clocks)]
        nursery.cancel_scope.cancel()


NOW = 57 * YEAR


@pytest.mark.parametrize(
    "clocks",
    [
        [NOW, NOW + 1, NOW + 2, NOW + 3],
        [NOW + 3, NOW + 2, NOW + 1, NOW],  # each is slower than the one before
        [NOW, NOW, NOW, NOW],
        [NOW + 9, NOW, NOW + 5, NOW + 20],
    ],
)
@in_no_time
async def test_the_oldest_leads_whatever_their_clocks_say(clocks: list[float]) -> None:
    etcd = MemoryEtcd()
    async with etcd.open_client() as client, observe(client, PATH) as decisions:
        async with beside(client, *clocks) as results:
            for number, result in enumerate(results):
                hosts = await until(decisions, f"h{number}")
                assert hosts.leader == f"h{number}"
                assert [each.statistics().leading for each in results].count(True) == 1
                await result.shutdown()


@pytest.mark.parametrize("seed", range(10))
@in_no_time
async def test_one_that_is_older_is_found_among_random_ids(seed: int) -> None:
    """As those of Go's hosts are: of all that are there, one that is older is waited for."""
    etcd = MemoryEtcd()
    async with etcd.open_client() as client:
        await fill(client, 20, Random(seed))
        async with schedule(client, PATH, "new") as result:
            for number in range(19, -1, -1):
                assert not result.statistics().leading
                (candidate,) = [
                    kv.key
                    for kv in await client.get_prefix(KEYS.election)
                    if kv.value == f"h{number}".encode()
                ]
                await client.txn([], [Delete(KEYS.host(f"h{number}")), Delete(candidate)])
                await trio.sleep(1)
            assert result.statistics().leading


@in_no_time
async def test_where_the_ids_are_a_guide_nothing_is_searched_for() -> None:
    """One transaction, and no read: the candidate before ours is right behind it."""
    etcd, clock = MemoryEtcd(), NOW
    async with etcd.open_client() as client:
        async with beside(client, *(clock + number for number in range(20))):
            before = etcd.cluster.refusals.counts["KV/Range"]
            set_wall_clock(at(clock + 100))
            async with schedule(client, PATH, "new") as result:
                await result.next()
                assert etcd.cluster.refusals.counts["KV/Range"] == before


async def test_f64_an_etcd_that_takes_eight_operations_is_enough(path: str) -> None:
    """For a first host, for one that follows it, and for the proofs of both together."""
    async with (
        open_etcd(extra_args=["--max-txn-ops=8"]) as etcd,
        open_client(etcd.endpoint) as client,
        schedule(client, path, "a", session_ttl=2) as first,
        schedule(client, path, "b", session_ttl=2) as second,
    ):
        assert await until(second, "a")
        await trio.sleep(3)  # for proofs, of which there are some in that time
        for result in (first, second):
            assert result.statistics().sessions == 1
