"""Proofs of many paths in one request: as few as can be, and none is late because of others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from grpclib.const import Status

from tests.host.test_patience import in_no_time
from trio_sched import Client, Result, schedule
from trio_sched.etcd_shim import Delete
from trio_sched.etcd_shim._pb import messages_pb2 as pb
from trio_sched.etcd_shim.errors import RpcError, rpc_error
from trio_sched.host.proofs import _MOST, proof_interval
from trio_sched.simulation import MemoryEtcd

TTL = 10
PATHS = 100
KEYS = 4  # of a host that has to be proven
TO_LEAD = 3  # conditions besides, every second time, of one that leads and is alone


@pytest.mark.parametrize(("ttl", "interval"), [(2, 2 / 3), (3, 1), (4, 2), (10, 5.2), (60, 31.2)])
def test_how_rare_they_are(ttl: float, interval: float) -> None:
    assert proof_interval(ttl) == pytest.approx(interval)


@asynccontextmanager
async def hosts(client: Client, count: int = PATHS) -> AsyncIterator[list[Result]]:
    """As many hosts of one client, each on a path of its own."""

    async def live(path: str, task_status: trio.TaskStatus[Result]) -> None:
        async with schedule(client, path, "a", session_ttl=TTL) as result:
            await result.next()
            task_status.started(result)
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        yield [await nursery.start(live, f"/p/{number}") for number in range(count)]
        nursery.cancel_scope.cancel()


def requests(etcd: MemoryEtcd) -> dict[str, int]:
    return dict(etcd.cluster.refusals.counts)


async def spent(etcd: MemoryEtcd, seconds: float) -> dict[str, int]:
    """Let time pass; return how many requests of each kind there were meanwhile."""
    before = requests(etcd)
    await trio.sleep(seconds)
    return {kind: number - before.get(kind, 0) for kind, number in requests(etcd).items()}


@in_no_time
async def test_f65_a_lone_path_costs_two_proofs_and_three_renewals_in_a_ttl() -> None:
    """And one renewal of the decision's lease, for who leads; one of the proofs is its read."""
    etcd = MemoryEtcd()
    async with etcd.open_client() as client, hosts(client, 1):
        cost = await spent(etcd, 20 * TTL)
    assert cost["KV/Txn"] <= 2 * 20
    assert cost["Lease/LeaseKeepAlive"] <= (3 + 1) * 20 + 2
    assert not any(cost.get(kind) for kind in ("KV/Range", "KV/Put", "Lease/LeaseGrant"))


@in_no_time
async def test_f65_proofs_of_many_paths_are_made_together() -> None:
    etcd = MemoryEtcd()
    async with etcd.open_client() as client, hosts(client) as results:
        proofs = 0

        def count(_method: str, request: object) -> None:
            nonlocal proofs
            proofs += isinstance(request, pb.TxnRequest) and bool(request.compare)

        etcd.cluster.refusals.refuse = count
        before = requests(etcd)
        await trio.sleep(20 * TTL)
        assert requests(etcd)["KV/Txn"] - before["KV/Txn"] == proofs, "nothing else is read"
        assert all(result.statistics().sessions == 1 for result in results)
        assert all(result.scheduled for result in results)
    in_a_batch = _MOST // (KEYS + TO_LEAD)
    assert 0 < proofs <= 20 * 2 * (PATHS / in_a_batch + 2)


@in_no_time
async def test_a_transaction_of_proofs_is_flat_reads_no_values_and_is_not_too_large() -> None:
    etcd, seen = MemoryEtcd(), list[pb.TxnRequest]()

    def look(_method: str, request: object) -> RpcError | None:
        if isinstance(request, pb.TxnRequest):
            seen.append(request)
        return None

    async with etcd.open_client() as client, hosts(client):
        etcd.cluster.refusals.refuse = look
        await trio.sleep(TTL)
        etcd.cluster.refusals.refuse = lambda _method, _request: None
    together = [each for each in seen if len(each.compare) > KEYS]
    assert together
    for each in together:
        assert not each.success
        assert len(each.failure) == len(each.compare) <= _MOST
        assert all(part.request_range.keys_only for part in each.failure)


@in_no_time
async def test_f14_what_a_watch_missed_is_found_though_others_are_asked_with_it() -> None:
    """Of ten paths one has a decision that it was not sent."""
    etcd = MemoryEtcd()
    async with etcd.open_client() as client, hosts(client, 10) as results:
        (member,) = etcd.cluster.members
        member.misses_next = True
        await client.txn([], [Delete("/p/7/scheduled"), Delete("/p/7/scheduled.record")])
        await trio.sleep(TTL)
        assert results[7].scheduled  # it leads, and has decided so again
        assert results[7].statistics().healed == 1
        assert [result.statistics().healed for result in results].count(0) == 9
        assert all(result.statistics().sessions == 1 for result in results)


@pytest.mark.parametrize("seconds", [5, 100])
@in_no_time
async def test_f36_a_path_that_is_refused_harms_no_other(seconds: float) -> None:
    """It is lost when there is no proof for a TTL; the others are proven by themselves."""
    etcd = MemoryEtcd()
    async with etcd.open_client() as client, hosts(client, 10) as results:
        etcd.cluster.refusals.forbidden.add(b"/p/7/")
        await trio.sleep(seconds)
        etcd.cluster.refusals.forbidden.clear()
        await trio.sleep(2 * TTL)
        sessions = [result.statistics().sessions for result in results]
        assert sessions[7] == 1 if seconds < TTL else sessions[7] > 1
        assert sessions.count(1) >= 9
        assert all(result.scheduled for result in results)


@in_no_time
async def test_an_etcd_that_takes_fewer_operations_is_asked_one_by_one() -> None:
    etcd = MemoryEtcd()

    def refuse(_method: str, request: object) -> RpcError | None:
        if isinstance(request, pb.TxnRequest) and len(request.compare) > KEYS:
            words = "etcdserver: too many operations in txn request"
            return rpc_error(Status.INVALID_ARGUMENT, words)
        return None

    async with etcd.open_client() as client, hosts(client, 10) as results:
        etcd.cluster.refusals.refuse = refuse
        await trio.sleep(10 * TTL)
        assert all(result.statistics().sessions == 1 for result in results)
        assert all(result.scheduled for result in results)


@in_no_time
async def test_f37_a_full_etcd_that_refuses_transactions_is_not_asked_for_them_each_time() -> None:
    """As 3.5.1 does. Each path reads what it has to prove, and nothing is asked in vain for it."""
    etcd = MemoryEtcd()
    refused = 0

    def count(_method: str, request: object) -> None:
        nonlocal refused
        refused += isinstance(request, pb.TxnRequest)

    async with etcd.open_client() as client, hosts(client, 10) as results:
        etcd.cluster.refusals.no_space_for_txns = etcd.cluster.refusals.no_space = True
        await trio.sleep(TTL)
        etcd.cluster.refusals.refuse = count
        cost = await spent(etcd, 20 * TTL)
        assert all(result.statistics().sessions == 1 for result in results)
        assert all(result.scheduled for result in results)
        proofs = 2 * 20 * 10
        assert refused <= 20 * TTL / 5 + 10, "now and then it is tried whether they are taken again"
        assert cost["KV/Range"] <= proofs * 3 + 20 * 10 * 6, "decision, own keys; leaders read all"
        etcd.cluster.refusals.no_space_for_txns = etcd.cluster.refusals.no_space = False
        await trio.sleep(2 * TTL)
        cost = await spent(etcd, 20 * TTL)
        assert "KV/Range" not in cost or not cost["KV/Range"], "proofs are made together again"
        assert cost["KV/Txn"] < proofs / 4


@in_no_time
async def test_f44_each_path_notices_a_store_that_went_back() -> None:
    etcd = MemoryEtcd()
    async with etcd.open_client() as client:
        snapshot = etcd.cluster.store.snapshot()
        async with hosts(client, 10) as results:
            etcd.cluster.restore(snapshot)
            await trio.sleep(3 * TTL)
            assert [result.statistics().sessions for result in results] == [2] * 10
            assert all(result.scheduled for result in results)


@in_no_time
async def test_one_that_ends_while_it_asks_for_others_leaves_none_behind() -> None:
    """Each of them leaves in turn, while requests are under way; the rest stays proven."""
    etcd = MemoryEtcd()
    asked = trio.Event()

    def note(method: str) -> None:
        if method == "KV/Txn":
            asked.set()

    async with etcd.open_client() as client, hosts(client, 10) as results:
        etcd.cluster.refusals.listeners.append(note)
        for number in range(5):
            asked = trio.Event()
            await asked.wait()
            await results[number].shutdown()
        await trio.sleep(3 * TTL)
        assert all(result.scheduled for result in results[5:])
        assert [result.statistics().sessions for result in results[5:]] == [1] * 5


@pytest.mark.parametrize("leaves", [False, True], ids=["joins", "leaves"])
@in_no_time
async def test_f14_a_leader_of_many_paths_learns_what_no_watch_brought_of_its_pool(
    leaves: bool,  # a parameter
) -> None:
    """It is shown by a condition about the range, and about each key: nothing is read till then."""
    etcd = MemoryEtcd()
    key = "/p/3/exchange/b"
    async with etcd.open_client() as client, hosts(client, 10) as results:
        lease = await client.lease_grant(1000)
        value = (await client.get("/p/3/exchange/a")).value or b""
        if leaves:
            await client.put(key, value, lease=lease.id)
            await trio.sleep(3 * TTL)
        etcd.cluster.members[0].misses_next = True
        if leaves:
            await client.delete(key)
        else:
            await client.put(key, value, lease=lease.id)
        reads = requests(etcd).get("KV/Range", 0)
        await trio.sleep(1.3 * TTL)
        assert results[3].statistics().healed >= 1
        assert all(result.statistics().healed == 0 for result in results[:3])
        assert requests(etcd).get("KV/Range", 0) - reads <= 3, "only that path is read"


@in_no_time
async def test_one_that_was_read_just_now_does_not_keep_others_from_being_proven_together() -> None:
    etcd = MemoryEtcd()
    async with etcd.open_client() as client, hosts(client, 60) as results:
        await trio.sleep(10 * TTL)
        for _ in range(10):
            for result in results[::3]:
                follower = result._state.follower
                assert follower is not None
                assert await follower.reload(follower.view.keys.leading)
            before = requests(etcd)["KV/Txn"]
            await trio.sleep(TTL)
            asked = requests(etcd)["KV/Txn"] - before
            assert asked <= 30, "sixty paths are four batches, and it is time for three at most"
