"""What is left of a path whose session lives on: nothing, whatever happens; in no real time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import trio

from tests.helpers import until
from tests.host.test_patience import in_no_time
from tests.host.test_slots import Work
from trio_sched import Client, LocalHost, Slot, open_host, schedule
from trio_sched.etcd_shim import Compare, Put, TxnResult
from trio_sched.etcd_shim.errors import ConnectionLost
from trio_sched.host import sharing
from trio_sched.model.keys import PathKeys
from trio_sched.simulation import MemoryEtcd

STAYS, LEFT = PathKeys("/stays"), PathKeys("/left")
TTL = 10


def keys_below(etcd: MemoryEtcd, keys: PathKeys) -> list[bytes]:
    below = f"{keys.path}/".encode()
    return [kv.key for kv in etcd.cluster.store.kvs() if kv.key.startswith(below)]


class LateJoins:
    """Holds back each join of a path, as a member does that stands still, and loses its answer."""

    def __init__(self, client: Client, keys: PathKeys, monkeypatch: pytest.MonkeyPatch) -> None:
        self._real = client.txn
        self._key = keys.host("a")
        self.held: list[tuple[Any, ...]] = []
        self.wanted = 1
        monkeypatch.setattr(client, "txn", self._txn)

    async def _txn(
        self, compare: Sequence[Compare] = (), success: Sequence[Any] = (), failure: Any = ()
    ) -> TxnResult:
        is_join = any(isinstance(each, Put) and each.key == self._key for each in success)
        if is_join and len(self.held) < self.wanted:
            self.held.append((compare, success, failure))
            await trio.lowlevel.checkpoint()
            raise ConnectionLost("it stands still")
        return await self._real(compare, success, failure)

    async def carry_out(self) -> list[bool]:
        return [(await self._real(*held)).succeeded for held in self.held]


@in_no_time
async def test_a_join_that_is_carried_out_when_the_path_was_left_is_undone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    etcd = MemoryEtcd()
    async with (
        etcd.open_client() as client,
        open_host(client, "a", session_ttl=TTL) as host,
        host.schedule(STAYS.path) as stays,
    ):
        late = LateJoins(client, LEFT, monkeypatch)
        async with host.schedule(LEFT.path) as result:  # by the second attempt
            await until(result, "a")
        assert not keys_below(etcd, LEFT)
        await trio.sleep(1)  # by now it was looked at once more
        assert await late.carry_out() == [True]
        assert keys_below(etcd, LEFT)
        await trio.sleep(TTL)
        assert not keys_below(etcd, LEFT)
        assert await late.carry_out() == [True]  # again, as long as the session lives
        await trio.sleep(TTL)
        assert not keys_below(etcd, LEFT)
        assert stays.scheduled
        assert host.statistics().sessions == 1
    assert not etcd.cluster.store.kvs()


@in_no_time
async def test_a_join_that_is_carried_out_late_does_nothing_to_who_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    etcd = MemoryEtcd()
    async with etcd.open_client() as client, open_host(client, "a", session_ttl=TTL) as host:
        late = LateJoins(client, LEFT, monkeypatch)
        async with host.schedule(LEFT.path) as result:
            await until(result, "a")
        async with host.schedule(LEFT.path) as again:
            await until(again, "a")
            assert await late.carry_out() == [False]
            await trio.sleep(3 * TTL)
            assert again.scheduled
            assert again.statistics().sessions == 1
            assert host.statistics().owed == 0


@in_no_time
async def test_the_keys_of_a_join_that_is_carried_out_between_two_lives_are_taken_for_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    etcd = MemoryEtcd()
    async with etcd.open_client() as client, open_host(client, "a", session_ttl=TTL) as host:
        late = LateJoins(client, LEFT, monkeypatch)
        async with host.schedule(LEFT.path) as result:
            await until(result, "a")
        await host.update(zone="new")
        late.wanted = 2  # the next attempt, too: when its answer is lost the keys are there
        async with trio.open_nursery() as nursery:

            async def carry_out() -> None:
                while len(late.held) < 2:
                    await trio.lowlevel.checkpoint()
                await late.carry_out()

            nursery.start_soon(carry_out)
            async with host.schedule(LEFT.path) as again:
                await until(again, "a")
                await trio.sleep(1)
                (host_key,) = [kv for kv in etcd.cluster.store.kvs() if kv.key == LEFT.host("a")]
                assert b'"new"' in host_key.value
                await trio.sleep(2 * TTL)
                assert again.scheduled
        await trio.sleep(TTL)
        assert not keys_below(etcd, LEFT)


@in_no_time
async def test_many_paths_of_which_it_is_not_certain_end_the_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sharing, "_MOST_UNSURE", 3)
    etcd = MemoryEtcd()
    async with etcd.open_client() as client, open_host(client, "a", session_ttl=TTL) as host:
        for number in range(4):
            keys = PathKeys(f"/left/{number}")
            with monkeypatch.context() as patch:
                LateJoins(client, keys, patch)
                async with host.schedule(keys.path) as result:
                    await until(result, "a")
        await trio.sleep(TTL)
        assert host.statistics().sessions == 2
        assert host.statistics().owed == 0


@in_no_time
async def test_f44_a_path_that_a_restored_store_holds_again_is_left_again() -> None:
    etcd = MemoryEtcd()
    async with (
        etcd.open_client() as client,
        open_host(client, "a", session_ttl=TTL) as host,
        host.schedule(STAYS.path) as stays,
    ):
        await until(stays, "a")
        async with host.schedule(LEFT.path) as result:
            await until(result, "a")
            snapshot = etcd.cluster.store.snapshot()
        assert not keys_below(etcd, LEFT)
        etcd.cluster.restore(snapshot)
        for _ in range(20):  # it catches up, so that nobody notices
            await client.put("/other", b"")
        assert keys_below(etcd, LEFT)
        await trio.sleep(2 * TTL)
        assert not [key for key in keys_below(etcd, LEFT) if b"/exchange/" in key]
        assert not [key for key in keys_below(etcd, LEFT) if b"/election/" in key]


@in_no_time
async def test_what_is_refused_for_one_path_holds_up_no_other() -> None:
    etcd = MemoryEtcd()
    other = PathKeys("/other")
    async with (
        etcd.open_client() as client,
        open_host(client, "a", session_ttl=TTL, shutdown_timeout=0.2) as host,
    ):
        async with host.schedule(LEFT.path) as first, host.schedule(other.path) as second:
            await until(first, "a")
            await until(second, "a")
            etcd.cluster.refusals.forbidden |= {LEFT.path.encode(), other.path.encode()}
        assert host.statistics().owed == 2
        etcd.cluster.refusals.forbidden.discard(other.path.encode())
        await trio.sleep(TTL / 2)
        assert host.statistics().owed == 1
        assert not keys_below(etcd, other)
        etcd.cluster.refusals.forbidden.clear()
        await trio.sleep(TTL / 2)
        assert host.statistics().owed == 0
        assert not keys_below(etcd, LEFT)
        assert host.statistics().sessions == 1


@in_no_time
async def test_f36_a_path_that_is_refused_for_long_ends_no_other() -> None:
    """For a TTL nothing proves its decision to be the newest: it is not scheduled there."""
    etcd, work = MemoryEtcd(), Work()
    async with (
        etcd.open_client() as client,
        open_host(client, "a", session_ttl=TTL) as host,
        host.schedule(LEFT.path) as refused,
        host.schedule(STAYS.path) as stays,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(stays.run_while_scheduled, work)
        await until(refused, "a")
        await work.wait_running(1)
        etcd.cluster.refusals.forbidden.add(f"{LEFT.path}/".encode())
        await trio.sleep(5 * TTL)
        assert not refused.scheduled
        assert stays.scheduled
        etcd.cluster.refusals.forbidden.clear()
        await trio.sleep(TTL)
        assert refused.scheduled
        assert len(work.slots) == 1, "it has run all the time"
        assert host.statistics().sessions == 1
        nursery.cancel_scope.cancel()


class Stubborn:
    """Work that does not end when it is cancelled."""

    def __init__(self) -> None:
        self.begun = trio.Event()
        self.may_end = trio.Event()

    async def __call__(self, _slot: Slot) -> None:
        self.begun.set()
        with trio.CancelScope(shield=True):
            await self.may_end.wait()


async def leave_with_work(
    host: LocalHost, nursery: trio.Nursery, work: Stubborn, keys: PathKeys
) -> None:
    async with host.schedule(keys.path) as result:

        async def run() -> None:
            with trio.CancelScope() as scope:
                work_scopes.append(scope)
                await result.run_while_scheduled(work)

        work_scopes: list[trio.CancelScope] = []
        nursery.start_soon(run)
        await work.begun.wait()
        work_scopes[0].cancel()


@in_no_time
async def test_f12_the_slot_of_work_that_overruns_stays_until_it_has_ended() -> None:
    """The session goes on, so nothing else would ever release it, and nothing may before."""
    etcd, work = MemoryEtcd(), Stubborn()
    async with (
        etcd.open_client() as client,
        etcd.open_client() as other_client,
        open_host(client, "a", session_ttl=TTL) as host,
        host.schedule(STAYS.path) as stays,
        trio.open_nursery() as nursery,
    ):
        await until(stays, "a")
        await leave_with_work(host, nursery, work, LEFT)
        assert (await client.get_prefix(LEFT.slots)).count == 1
        assert not (await client.get_prefix(LEFT.exchange)).count
        other = Work()
        async with schedule(other_client, LEFT.path, "b", session_ttl=TTL) as next_one:
            nursery.start_soon(next_one.run_while_scheduled, other)  # noqa: ASYNC111 # cancelled below
            await trio.sleep(5 * TTL)
            assert not other.running
            work.may_end.set()
            await trio.sleep(TTL)
            assert other.running
            nursery.cancel_scope.cancel()
        assert host.statistics().sessions == 1


@in_no_time
async def test_f12_a_path_is_joined_again_only_when_work_on_it_has_ended() -> None:
    etcd, work, again = MemoryEtcd(), Stubborn(), Work()
    async with (
        etcd.open_client() as client,
        open_host(client, "a", session_ttl=TTL) as host,
        trio.open_nursery() as nursery,
    ):
        await leave_with_work(host, nursery, work, LEFT)

        async def join_again() -> None:
            async with host.schedule(LEFT.path) as result:
                await result.run_while_scheduled(again)

        nursery.start_soon(join_again)
        await trio.sleep(5 * TTL)
        assert not again.running
        assert (await client.get_prefix(LEFT.slots)).count == 1
        work.may_end.set()
        await trio.sleep(1)
        assert again.running
        nursery.cancel_scope.cancel()


@in_no_time
async def test_f12_the_lease_is_not_revoked_while_work_overruns() -> None:
    """Neither when a session is lost, nor when the host is left."""
    etcd, work = MemoryEtcd(), Stubborn()
    async with etcd.open_client() as client, trio.open_nursery() as nursery:
        async with open_host(client, "a", session_ttl=TTL) as host:
            await leave_with_work(host, nursery, work, LEFT)
            left_at = trio.current_time()
            lease = (await client.get_prefix(LEFT.slots)).kvs[0].lease
        assert trio.current_time() - left_at <= TTL, "it is bounded all the same"
        assert lease in await client.lease_list()
        await trio.sleep(TTL)
        assert lease not in await client.lease_list()
        work.may_end.set()


@in_no_time
async def test_f10_leaving_a_path_is_bounded_though_etcd_is_silent() -> None:
    etcd = MemoryEtcd()
    async with (
        etcd.open_client() as client,
        open_host(client, "a", session_ttl=TTL, shutdown_timeout=1) as host,
        host.schedule(STAYS.path) as stays,
    ):
        await until(stays, "a")
        async with host.schedule(LEFT.path) as result:
            await until(result, "a")
            link = etcd.network.path("localhost", etcd.cluster.members[0])
            link.hold()
            began = trio.current_time()
        assert trio.current_time() - began <= 1.5
        link.release()
        await trio.sleep(TTL / 2)
        assert not keys_below(etcd, LEFT)


@in_no_time
async def test_a_session_that_is_lost_while_etcd_is_away_comes_back_on_all_paths() -> None:
    etcd = MemoryEtcd()
    paths = [f"/p/{number}" for number in range(50)]
    async with etcd.open_client() as client, trio.open_nursery() as nursery:
        async with open_host(client, "a", session_ttl=TTL) as host:

            async def live(path: str, task_status: trio.TaskStatus[Any]) -> None:
                async with host.schedule(path) as result:
                    await until(result, "a")
                    task_status.started(result)
                    await trio.sleep_forever()

            results = [await nursery.start(live, path) for path in paths]
            etcd.cluster.stop(etcd.cluster.members[0])
            await trio.sleep(2 * TTL)
            assert not any(result.scheduled for result in results)
            etcd.cluster.start(etcd.cluster.members[0])
            await trio.sleep(2 * TTL)
            assert all(result.scheduled for result in results)
            assert host.statistics().sessions == 2
            nursery.cancel_scope.cancel()
    assert not etcd.cluster.store.kvs()
