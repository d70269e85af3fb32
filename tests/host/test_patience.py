"""What is not about a host is waited out once it has joined, and said once; a strategy may fail."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial, wraps
from typing import Any, ParamSpec

import pytest
import trio
from grpclib.const import Status
from trio.testing import MockClock

from tests.helpers import until
from trio_sched import (
    Client,
    Control,
    Host,
    Result,
    Strategy,
    StrategyOptions,
    observe,
    open_client,
    schedule,
)
from trio_sched.etcd_shim._pb import messages_pb2 as pb
from trio_sched.etcd_shim.errors import (
    ClientClosed,
    ConnectionLost,
    EtcdError,
    LeaseNotFound,
    NoSpace,
    PermissionDenied,
    RevisionWentBack,
    RpcError,
    TooManyRequests,
    rpc_error,
)
from trio_sched.etcd_shim.watch import EventType
from trio_sched.exceptions import HostnameInUse, StrategyError
from trio_sched.host.patience import Patience
from trio_sched.host.policy import Where
from trio_sched.model.keys import PathKeys
from trio_sched.simulation import MemoryEtcd
from trio_sched.testing import open_etcd

PATH = "/jobs"
KEYS = PathKeys(PATH)
FORBIDDEN = b"/jobs/"

P = ParamSpec("P")


def in_no_time(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """Run a test under a clock that jumps, as nothing in it is real but the code."""

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        trio.run(partial(test, *args, **kwargs), clock=MockClock(autojump_threshold=0))

    return run


Trouble = Callable[[MemoryEtcd], None]


def full(etcd: MemoryEtcd) -> None:
    etcd.cluster.refusals.no_space = True


def busy(etcd: MemoryEtcd) -> None:
    etcd.cluster.refusals.busy = True


def forbidden(etcd: MemoryEtcd) -> None:
    etcd.cluster.refusals.forbidden.add(FORBIDDEN)


def calm(etcd: MemoryEtcd) -> None:
    refusals = etcd.cluster.refusals
    refusals.no_space = refusals.busy = False
    refusals.forbidden.clear()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


@asynccontextmanager
async def fleet(etcd: MemoryEtcd, *names: str) -> AsyncIterator[tuple[Client, list[Result]]]:
    """Hosts that have joined in this order, on a client of their own; one may be chosen."""
    async with etcd.open_client() as client, trio.open_nursery() as nursery:

        async def live(name: str, task_status: trio.TaskStatus[Result]) -> None:
            async with schedule(client, PATH, name) as result:
                task_status.started(result)
                await trio.sleep_forever()

        results: list[Result] = [await nursery.start(live, name) for name in names]
        await until(results[-1], names[0])
        yield client, results
        nursery.cancel_scope.cancel()


# ---- etcd refuses ----------------------------------------------------------------------


@pytest.mark.parametrize("trouble", [full, busy, forbidden])
@in_no_time
async def test_f37_a_trouble_of_a_second_ends_no_block(trouble: Trouble) -> None:
    etcd = MemoryEtcd()
    async with fleet(etcd, "a", "b", "c") as (_, results):
        trouble(etcd)
        etcd.cluster.expire(etcd.cluster.store.leases.find(lease_of(etcd, "c")).id)
        await trio.sleep(1)
        calm(etcd)
        await trio.sleep(5)
        assert [result.statistics().sessions for result in results] == [1, 1, 2]
        assert all(result.newest == ("a",) for result in results)
        assert results[0].scheduled
        assert {result.statistics().trouble for result in results} == {None}


def lease_of(etcd: MemoryEtcd, name: str) -> int:
    (kv,) = [kv for kv in etcd.cluster.store.kvs() if kv.key == KEYS.host(name)]
    return kv.lease


@in_no_time
async def test_f37_a_full_disk_is_waited_out_by_who_leads_and_works(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A minute of it: nothing is lost, the next decision waits, and it is said twice."""
    etcd = MemoryEtcd()
    async with fleet(etcd, "a", "b") as (client, results):
        runs: list[str] = []

        async def work(_slot: object) -> None:
            runs.append("begun")
            await trio.sleep_forever()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(results[0].run_while_scheduled, work)
            await trio.sleep(1)
            await Control(client, PATH).set_count(2)
            await until(results[1], "a", "b")
            etcd.cluster.refusals.no_space = True
            await results[1].shutdown()
            await trio.sleep(60)
            assert "database space exceeded" in str(results[0].statistics().trouble)
            assert results[0].scheduled
            etcd.cluster.refusals.no_space = False
            await until(results[0], "a")
            assert runs == ["begun"]
            assert results[0].statistics().sessions == 1
            nursery.cancel_scope.cancel()
        begun, over = (line for line in warnings(caplog) if "refuses" in line)
        assert "database space exceeded" in begun
        assert "no more (NoSpace), after 6" in over


@in_no_time
async def test_f37_an_etcd_that_refuses_all_transactions_for_want_of_room_ends_no_work() -> None:
    """As 3.5.1 does, those that only read too (etcd issue 13429): proofs go another way."""
    etcd = MemoryEtcd()
    async with fleet(etcd, "a", "b") as (_, results), trio.open_nursery() as nursery:
        begun: list[float] = []

        async def work(_slot: object) -> None:
            begun.append(trio.current_time())
            await trio.sleep_forever()

        nursery.start_soon(results[0].run_while_scheduled, work)
        await trio.sleep(1)
        etcd.cluster.refusals.no_space_for_txns = True
        full(etcd)
        await trio.sleep(60)
        assert results[0].scheduled
        assert len(begun) == 1
        etcd.cluster.store.put(pb.PutRequest(key=KEYS.scheduled, value=b"z"))  # it is seen, too
        for path in etcd.network.paths("localhost").values():
            path.hold(up=False)
        await trio.sleep(1)
        for path in etcd.network.paths("localhost").values():
            path.release()
        await trio.sleep(1)
        assert not results[0].scheduled
        calm(etcd)
        await until(results[0], "a")
        assert [result.statistics().sessions for result in results] == [1, 1]
        nursery.cancel_scope.cancel()


async def test_f37_a_real_etcd_without_room_for_longer_than_a_ttl_ends_no_work() -> None:
    begun: list[float] = []

    async def work(_slot: object) -> None:
        begun.append(trio.current_time())
        await trio.sleep_forever()

    async with (
        open_etcd(extra_args=("--quota-backend-bytes=4000000",)) as server,
        open_client(server.endpoint) as client,
        schedule(client, PATH, "a", session_ttl=2) as result,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(result.run_while_scheduled, work)
        with pytest.raises(NoSpace):
            while True:
                await client.put("heap", b"x" * 500_000)
        deadline = trio.current_time() + 5
        while trio.current_time() < deadline:
            with trio.move_on_at(deadline):
                await result.wait_unscheduled()
                raise AssertionError("it was not scheduled for a moment")
        assert (len(begun), result.statistics().sessions) == (1, 1)
        nursery.cancel_scope.cancel()


@in_no_time
async def test_f37_without_permission_for_longer_than_a_ttl_no_host_believes_it_is_chosen() -> None:
    etcd = MemoryEtcd()
    async with fleet(etcd, "a", "b") as (_, results):
        etcd.cluster.refusals.forbidden.add(FORBIDDEN)
        await trio.sleep(30)
        assert not any(result.scheduled for result in results)
        etcd.cluster.refusals.forbidden.clear()
        await until(results[0], "b") if results[0].newest == ("b",) else await trio.sleep(12)
        assert sum(result.scheduled for result in results) == 1


@pytest.mark.parametrize(("trouble", "error"), [(full, NoSpace), (forbidden, PermissionDenied)])
@in_no_time
async def test_at_the_entry_etcds_refusal_is_the_callers(
    trouble: Trouble, error: type[EtcdError]
) -> None:
    etcd = MemoryEtcd()
    trouble(etcd)
    async with etcd.open_client() as client:
        with pytest.raises(error):
            async with schedule(client, PATH, "a"):
                raise AssertionError("not reached")


@in_no_time
async def test_observers_wait_it_out() -> None:
    etcd = MemoryEtcd()
    async with (
        fleet(etcd, "a", "b") as (client, results),
        observe(client, PATH, pool=True, reconcile=1.0) as states,
        observe(client, PATH, reconcile=1.0) as decisions,
    ):
        etcd.cluster.refusals.forbidden.add(FORBIDDEN)
        await trio.sleep(5)
        etcd.cluster.refusals.forbidden.clear()
        await results[0].shutdown()
        await until(decisions, "b")
        async for state in states:
            if [*state.hosts] == ["b"]:
                break


@in_no_time
async def test_f40_a_refusal_of_each_write_costs_a_few_attempts_a_second() -> None:
    """By the leader, by who takes a slot, and by who joins again; for half a minute."""
    etcd = MemoryEtcd()
    async with fleet(etcd, "a", "b", "c") as (client, results):
        await Control(client, PATH).set_count(3)
        await until(results[0], "a", "b", "c")
        busy(etcd)
        etcd.cluster.expire(lease_of(etcd, "c"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(results[0].run_while_scheduled, _sleep)
            etcd.cluster.refusals.counts.clear()
            await trio.sleep(30)
            counts = etcd.cluster.refusals.counts
            asked = counts["KV/Txn"] + counts["KV/Range"]
            assert (
                30 < asked < 240
            )  # three hosts' proofs, a decision and a slot; 8 a second at most
            assert 0 < counts["Lease/LeaseGrant"] < 60  # once the old lease was given up
            nursery.cancel_scope.cancel()
        calm(etcd)
        await trio.sleep(20)
        assert [result.newest for result in results] == [("a", "b", "c")] * 3


async def _sleep(_slot: object) -> None:
    await trio.sleep_forever()


@in_no_time
async def test_f37_a_leader_whose_writes_are_forbidden_lets_another_lead(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is another user to etcd than the next in line, perhaps; and its work goes on."""
    etcd, begun = MemoryEtcd(), list[float]()

    async def work(_slot: object) -> None:
        begun.append(trio.current_time())
        await trio.sleep_forever()

    async with fleet(etcd, "a", "b") as (client, (leader, other)), trio.open_nursery() as nursery:
        nursery.start_soon(leader.run_while_scheduled, work)
        await trio.sleep(1)
        candidates = (await client.get_prefix(KEYS.election)).kvs
        (ours,) = [kv.key for kv in candidates if kv.value == b"a"]

        def forbid(method: str, request: Any) -> RpcError | None:
            fenced = method == "KV/Txn" and ours in [each.key for each in request.compare]
            writes = fenced and any(op.request_put.key == KEYS.scheduled for op in request.success)
            return rpc_error(Status.PERMISSION_DENIED, "no") if writes else None

        etcd.cluster.refusals.refuse = forbid
        await Control(client, PATH).set_count(2)
        await trio.sleep(5)
        assert leader.statistics().leading
        await until(other, "a", "b")
        assert other.statistics().leading
        assert leader.scheduled
        assert (len(begun), leader.statistics().sessions) == (1, 1)
        assert leader.statistics().trouble is None
        nursery.cancel_scope.cancel()
    assert any("leads no more" in line for line in warnings(caplog))


# ---- losses, and names -----------------------------------------------------------------


@in_no_time
async def test_f39_a_session_that_is_lost_before_the_first_join_is_begun_anew() -> None:
    etcd = MemoryEtcd()
    async with etcd.open_client() as client:
        real, lost = client.txn, list[int]()

        async def txn(*args: Any) -> Any:
            if not lost:
                (lease,) = await client.lease_list()
                etcd.cluster.expire(lease)
                lost.append(lease)
            return await real(*args)

        client.txn = txn  # type: ignore[assignment,method-assign] # lost in just that moment
        async with schedule(client, PATH, "a") as result:
            await until(result, "a")
            assert result.statistics().sessions == 2
            assert lease_of(etcd, "a") not in lost


@in_no_time
async def test_f39_a_session_that_is_lost_while_a_slot_is_taken_is_no_error_of_the_work() -> None:
    etcd = MemoryEtcd()
    async with fleet(etcd, "a") as (_, (result,)):
        (path,) = etcd.network.paths("localhost").values()
        path.hold(down=False)
        begun = trio.Event()

        async def work(_slot: object) -> None:
            await trio.lowlevel.checkpoint()
            begun.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(result.run_while_scheduled, work)
            await trio.testing.wait_all_tasks_blocked()
            etcd.cluster.expire(lease_of(etcd, "a"))
            path.release()
            await begun.wait()
        assert result.statistics().sessions == 2


@in_no_time
async def test_f41_a_key_that_is_deleted_at_each_join_is_put_ever_more_slowly(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    etcd = MemoryEtcd()
    async with etcd.open_client() as client, trio.open_nursery() as nursery:

        async def delete() -> None:
            async with client.watch(KEYS.host("a")) as watcher:
                async for event in watcher:
                    if event.type is EventType.PUT:
                        await client.delete(KEYS.host("a"))

        async with schedule(client, PATH, "a") as result:
            await until(result, "a")
            nursery.start_soon(delete)
            await trio.lowlevel.checkpoint()
            await client.delete(KEYS.host("a"))
            await trio.sleep(60)
            sessions = result.statistics().sessions
            assert 10 < sessions < 30  # each after 2.5 to 5 s, once the delay has grown
            assert len(caplog.records) < 5 * sessions
            nursery.cancel_scope.cancel()
            await trio.sleep(20)
            assert result.scheduled
            lost_at = trio.current_time()
            await client.delete(KEYS.host("a"))
            await until(result)
            await until(result, "a")
            assert trio.current_time() - lost_at < 1  # as the session had lasted


@in_no_time
async def test_f44_a_slot_of_ours_that_comes_back_while_one_is_taken_is_given_back() -> None:
    """With a store that is restored, which may not have gone back as far as we can see."""
    etcd = MemoryEtcd()
    async with fleet(etcd, "a") as (client, (result,)), trio.open_nursery() as nursery:
        full(etcd)
        nursery.start_soon(result.run_while_scheduled, _sleep)
        await trio.sleep(3)
        back = pb.PutRequest(key=KEYS.slot(1), value=b"a", lease=lease_of(etcd, "a"))
        etcd.cluster.store.put(back)
        calm(etcd)
        await trio.sleep(3)
        assert [kv.key for kv in await client.get_prefix(KEYS.slots)] == [KEYS.slot(0)]
        nursery.cancel_scope.cancel()


@in_no_time
async def test_f47_an_old_lease_of_ours_does_not_keep_us_out_of_our_name() -> None:
    """A store that is restored holds it again, though it was revoked."""
    etcd = MemoryEtcd()
    async with fleet(etcd, "a") as (_, (result,)):
        snapshot = etcd.cluster.store.snapshot()
        etcd.cluster.expire(lease_of(etcd, "a"))
        await until(result)
        await until(result, "a")
        etcd.cluster.restore(snapshot)
        began = trio.current_time()
        await until(result)
        await until(result, "a")
        assert trio.current_time() - began < 8  # and not a TTL of 10, after it was noticed
        assert result.statistics().sessions == 3


@in_no_time
async def test_f47_an_old_lease_is_revoked_again_and_again_while_its_successor_waits() -> None:
    """Of a candidate that is dead: nobody leads until it is gone, and its TTL is long."""
    etcd, refusal = MemoryEtcd(), rpc_error(Status.RESOURCE_EXHAUSTED, "too many requests")
    async with etcd.open_client() as client, schedule(client, PATH, "a", session_ttl=600) as a:
        await until(a, "a")
        etcd.cluster.refusals.refuse = lambda method, _: (
            refusal if trio.current_time() < 20 and method.endswith("LeaseRevoke") else None
        )
        await client.delete(KEYS.host("a"))
        await until(a)
        with trio.fail_after(30):
            await a.wait_scheduled()  # that is, under its new session
        assert len(await client.get_prefix(KEYS.election)) == 1
        assert a.statistics().sessions == 2


@in_no_time
async def test_f60_another_raft_leader_is_no_sign_of_another_process() -> None:
    """It lets the lease of a host that was killed begin its TTL anew, as a renewal does."""
    etcd = MemoryEtcd(members=3)
    async with fleet(etcd, "a"), trio.open_nursery() as nursery:

        async def live(name: str, host: str) -> None:
            async with etcd.open_client(host=host) as client, schedule(client, PATH, name) as each:
                await until(each, "a")
                await trio.sleep_forever()

        nursery.start_soon(live, "b", "first")
        await trio.sleep(5)
        for path in etcd.network.paths("first").values():
            path.kill()
        dead = lease_of(etcd, "b")
        nursery.start_soon(live, "b", "second")
        for member in etcd.cluster.members:
            await trio.sleep(4)
            etcd.cluster.move_leader(member)
        assert lease_of(etcd, "b") == dead
        await trio.sleep(15)
        assert lease_of(etcd, "b") != dead
        nursery.cancel_scope.cancel()


@in_no_time
async def test_f60_a_renewal_that_a_killed_process_had_sent_is_no_sign_of_life() -> None:
    """It waited at a member that stood still, and was carried out when the next life waited."""
    etcd = MemoryEtcd()
    async with etcd.open_client() as client:
        lease = await client.lease_grant(10)
        await client.put(KEYS.host("a"), "TODO", lease=lease.id)
        await trio.sleep(5)
        async with trio.open_nursery() as nursery:

            async def renew_late() -> None:
                await trio.sleep(2.5)
                await client.lease_renew(lease.id)

            nursery.start_soon(renew_late)
            async with schedule(client, PATH, "a") as result:
                await until(result, "a")


@in_no_time
async def test_f18_a_renewal_after_another_is_a_sign_of_life() -> None:
    etcd = MemoryEtcd()
    async with etcd.open_client() as client:
        async with client.open_lease(10) as lease:
            await client.put(KEYS.host("a"), "TODO", lease=lease.id)
            began = trio.current_time()
            with pytest.raises(HostnameInUse):
                async with schedule(client, PATH, "a"):
                    raise AssertionError("entered")
            assert trio.current_time() - began < 10


# ---- the judgement ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "before", "after"),
    [
        (ConnectionLost("gone"), True, True),
        (TooManyRequests(Status.RESOURCE_EXHAUSTED, "etcdserver: too many requests"), True, True),
        (NoSpace(Status.RESOURCE_EXHAUSTED, "full"), False, True),
        (PermissionDenied(Status.PERMISSION_DENIED, "no"), False, True),
        (rpc_error(Status.UNKNOWN, "raft proposal dropped"), False, True),
        (rpc_error(Status.UNIMPLEMENTED, "a proxy"), False, True),
        (LeaseNotFound(Status.NOT_FOUND, "gone"), False, False),
        (RevisionWentBack(7, 5), False, False),
        (ClientClosed("left"), False, False),
        (ValueError("a bug"), False, False),
        (StrategyError("mine", "it raised"), False, False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_waited_out(error: Exception, before: bool, after: bool) -> None:
    patience = Patience()
    assert patience.bears(error) is before
    patience.where = Where.JOINED
    assert patience.bears(error) is after


@in_no_time
async def test_each_kind_of_trouble_is_said_once() -> None:
    said: list[str] = []
    patience = Patience(said.append, Where.JOINED)
    until_then = trio.current_time() + 10

    async def refused(error: EtcdError) -> str:
        await trio.lowlevel.checkpoint()
        if trio.current_time() < until_then:
            raise error
        return "done"

    async def insist(error: EtcdError) -> None:
        assert await patience.insist(refused, error) == "done"

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(insist, NoSpace(Status.RESOURCE_EXHAUSTED, "full"))
        nursery.start_soon(insist, PermissionDenied(Status.PERMISSION_DENIED, "no"))
        nursery.start_soon(insist, ConnectionLost("gone"))
        await trio.sleep(5)
        assert patience.trouble is not None
    assert patience.trouble is None
    assert sorted(line.split(":")[0].split(",")[0] for line in said) == [
        "etcd refuses",
        "etcd refuses",
        "etcd refuses no more (NoSpace)",
        "etcd refuses no more (PermissionDenied)",
    ]


# ---- a strategy that fails -------------------------------------------------------------


class Poisoned(Strategy):
    """Cannot bear a host called x."""

    name = "rr"

    def __init__(self) -> None:
        self.asked = 0

    def schedule(self, hosts: Mapping[str, Host], options: StrategyOptions) -> Sequence[str]:
        self.asked += 1
        if "x" in hosts:
            raise ZeroDivisionError("x")
        return sorted(hosts)[: options.max_count]


@in_no_time
async def test_f38_a_strategy_that_fails_keeps_the_decision_and_is_asked_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    strategy = Poisoned()
    async with MemoryEtcd().open_client() as client:
        async with (
            schedule(client, PATH, "a", strategy=strategy) as result,
            observe(client, PATH, pool=True) as states,
        ):
            await until(result, "a")
            async with schedule(client, PATH, "x") as poison:
                await trio.sleep(2)
                assert "raised ZeroDivisionError" in states.newest.pool["a"].trouble
                assert result.newest == poison.newest == ("a",)
                assert result.scheduled
                assert 1 < strategy.asked < 6
            await trio.sleep(10)
            assert states.newest.pool["a"].trouble == ""
            assert result.newest == ("a",)
            assert result.statistics().sessions == 1
    assert any("ZeroDivisionError" in line or "it raised" in line for line in warnings(caplog))
    assert warnings(caplog)[-1].endswith("fails no more")


@in_no_time
async def test_f38_a_host_whose_strategy_fails_again_and_again_lets_another_lead() -> None:
    strategy = Poisoned()
    async with MemoryEtcd().open_client() as client:
        async with (
            schedule(client, PATH, "a", strategy=strategy, max_count=3) as result,
            schedule(client, PATH, "b", max_count=3) as other,
        ):
            await until(result, "a", "b")
            async with schedule(client, PATH, "x", max_count=3):
                hosts = await until(other, "a", "b", "x")
                assert hosts.leader == "b"
                assert not result.statistics().leading
                assert result.statistics().sessions == 1
                await trio.sleep(1)
                assert result.scheduled
                candidates = (await client.get_prefix(KEYS.election)).kvs
                oldest_first = sorted(candidates, key=lambda kv: kv.create_revision)
                assert [kv.value for kv in oldest_first] == [b"b", b"x", b"a"]


@in_no_time
async def test_f38_the_work_of_a_host_that_resigns_goes_on() -> None:
    etcd, begun = MemoryEtcd(), list[float]()

    async def work(_slot: object) -> None:
        begun.append(trio.current_time())
        await trio.sleep_forever()

    async with etcd.open_client() as client:
        async with (
            schedule(client, PATH, "a", strategy=Poisoned(), max_count=3) as result,
            trio.open_nursery() as nursery,
        ):
            await until(result, "a")
            nursery.start_soon(result.run_while_scheduled, work)
            async with schedule(client, PATH, "x", max_count=3):
                await trio.sleep(2)
                full(etcd)  # it cannot stand again for a while
                await trio.sleep(20)
                assert (await client.get_prefix(KEYS.election)).count == 1
                assert result.scheduled
                calm(etcd)
                await trio.sleep(3)
                assert (await client.get_prefix(KEYS.election)).count == 2
                assert (len(begun), result.statistics().sessions) == (1, 1)
            nursery.cancel_scope.cancel()


@in_no_time
async def test_f36_waiting_calls_raise_what_ended_the_block() -> None:
    async with MemoryEtcd().open_client() as client:
        await client.put(KEYS.host("x"), "TODO")
        with pytest.raises(StrategyError) as caught:
            async with schedule(client, PATH, "a", strategy=Poisoned(), strict=True) as result:
                with trio.CancelScope(shield=True):  # so it is not cancelled before
                    await result.wait_scheduled()
        assert isinstance(caught.value.__cause__, ZeroDivisionError)


@in_no_time
async def test_f36_the_end_of_a_block_that_failed_is_no_end_of_results() -> None:
    async with MemoryEtcd().open_client() as client:
        await client.put(KEYS.host("x"), "TODO")
        with pytest.raises(StrategyError):
            async with schedule(client, PATH, "a", strategy=Poisoned(), strict=True) as result:
                with trio.CancelScope(shield=True):
                    async for _ in result:
                        pass
                raise AssertionError("the loop has ended as if the block was left")


@in_no_time
async def test_f37_a_decision_lease_that_is_refused_for_long_is_granted_under_its_own_id() -> None:
    """It is due to be renewed before it has been granted; then etcd knows nothing of it."""
    etcd, refusal = MemoryEtcd(), rpc_error(Status.RESOURCE_EXHAUSTED, "too many requests")
    etcd.cluster.refusals.refuse = lambda method, request: (
        refusal
        if trio.current_time() < 25 and method.endswith("LeaseGrant") and request.ttl == 30
        else None
    )
    async with etcd.open_client() as client, schedule(client, PATH, "a", session_ttl=10) as a:
        await until(a, "a")
        record = (await client.get(KEYS.record)).kv
        assert record is not None
        assert (await client.lease_time_to_live(record.lease)).granted_ttl == 30


@in_no_time
async def test_f44_another_cluster_is_another_store_though_its_revision_is_no_lower() -> None:
    etcd = MemoryEtcd()
    async with fleet(etcd, "a") as (_, (result,)):
        (member,) = etcd.cluster.members
        real = member.header

        def header(revision: int) -> pb.ResponseHeader:
            answer = real(revision)
            answer.cluster_id += 1
            return answer

        member.header = header  # type: ignore[method-assign] # as after a new cluster was made
        await until(result)
        await until(result, "a")
        await trio.sleep(60)
        assert result.statistics().sessions == 2
        assert result.scheduled
