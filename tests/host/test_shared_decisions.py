"""One lease for all that a host decides on its paths: what is left, carried on, and taken away."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from tests.helpers import until
from tests.host.test_patience import in_no_time
from tests.host.test_slots import Work
from trio_sched import Client, LocalHost, Result, open_client, open_host, schedule
from trio_sched.etcd_shim.errors import ClientClosed
from trio_sched.etcd_shim.lease import new_lease_id
from trio_sched.etcd_shim.watch import EventType
from trio_sched.host.decision_leases import is_shared, shared_lease_id
from trio_sched.host.joining import clear_if_last
from trio_sched.model.keys import PathKeys
from trio_sched.simulation import MemoryEtcd

TTL = 10
LONG = 600.0  # seconds; longer than anything else lasts
ONE, OTHER = PathKeys("/one"), PathKeys("/other")


@asynccontextmanager
async def leading(client: Client, *paths: str) -> AsyncIterator[tuple[LocalHost, list[Result]]]:
    """A host that leads some paths, each in a block of its own."""
    async with open_host(client, "m", session_ttl=TTL) as host, trio.open_nursery() as nursery:

        async def live(path: str, task_status: trio.TaskStatus[Result]) -> None:
            async with host.schedule(path, max_count=2, takeover_pause=LONG) as result:
                await until(result, "m")
                task_status.started(result)
                await trio.sleep_forever()

        yield host, [await nursery.start(live, path) for path in paths]
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def alone(
    etcd: MemoryEtcd, path: str, name: str, pause: float = LONG
) -> AsyncIterator[Result]:
    """A host of one path, on a client and a way to etcd of its own, named as it is."""
    async with (
        etcd.open_client(host=name) as client,
        schedule(client, path, name, max_count=2, session_ttl=TTL, takeover_pause=pause) as result,
    ):
        yield result


def cut_off(etcd: MemoryEtcd, name: str) -> None:
    for way in etcd.network.paths(name).values():
        way.hold()


def heal(etcd: MemoryEtcd, name: str) -> None:
    for way in etcd.network.paths(name).values():
        way.release()


async def lease_of(client: Client, key: bytes) -> int:
    kv = (await client.get(key)).kv
    return 0 if kv is None else kv.lease


async def there(client: Client, keys: PathKeys) -> list[bytes]:
    return [kv.key for kv in await client.get_prefix(f"{keys.path}/")]


def test_its_id_says_that_it_is_one() -> None:
    assert all(is_shared(shared_lease_id()) for _ in range(1000))
    assert not any(is_shared(new_lease_id()) for _ in range(1000))
    assert all(0 < shared_lease_id() < 1 << 63 for _ in range(1000))


@in_no_time
async def test_f65_a_hundred_paths_cost_one_renewal_of_decisions_in_a_ttl() -> None:
    etcd = MemoryEtcd()
    paths = [f"/p/{number}" for number in range(100)]
    async with etcd.open_client() as client, leading(client, *paths) as (_, results):
        assert len({await lease_of(client, PathKeys(path).record) for path in paths}) == 1
        before = etcd.cluster.refusals.counts["Lease/LeaseKeepAlive"]
        await trio.sleep(20 * TTL)
        renewals = etcd.cluster.refusals.counts["Lease/LeaseKeepAlive"] - before
        assert renewals <= 20 * (3 + 1) + 2
        assert all(result.scheduled for result in results)
        assert len(await client.lease_list()) == 2
    assert not [*etcd.cluster.store.leases]


@in_no_time
async def test_the_next_leader_puts_all_under_a_lease_of_its_own() -> None:
    """And neither goes on with ours, nor revokes it, when it leaves last."""
    etcd = MemoryEtcd()
    async with etcd.open_client() as client, leading(client, "/one", "/other") as (_, results):
        ours = await lease_of(client, OTHER.record)
        assert is_shared(ours)
        async with alone(etcd, "/one", "b") as b:
            await until(b, "b", "m")
            assert await lease_of(client, ONE.record) == ours
            await results[0].shutdown()
            await until(b, "b")
            assert await lease_of(client, ONE.record) not in {0, ours}
            assert await lease_of(client, ONE.scheduled) not in {0, ours}
        assert await there(client, ONE) == []
        assert ours in await client.lease_list()
        assert results[1].scheduled


@in_no_time
async def test_who_leaves_last_does_not_revoke_the_lease_of_another_host() -> None:
    etcd = MemoryEtcd()
    async with etcd.open_client() as client, leading(client, "/other") as (_, results):
        ours = await lease_of(client, OTHER.record)
        await client.put(ONE.record, "{}", lease=ours)
        await client.put(ONE.scheduled, "b", lease=ours)
        assert await clear_if_last(client, ONE, {ours})
        assert await there(client, ONE) == []
        assert await lease_of(client, OTHER.record) == ours
        await trio.sleep(TTL)
        assert results[0].statistics().sessions == 1


@in_no_time
async def test_a_decision_whose_next_leader_died_goes_though_its_lease_lives() -> None:
    """The host that made it has left the path, leads another one, and lives."""
    etcd = MemoryEtcd()
    async with etcd.open_client() as client, leading(client, "/one", "/other") as (_, results):
        async with alone(etcd, "/one", "b") as b:
            await until(b, "b", "m")
            cut_off(etcd, "b")
            await results[0].shutdown()
            assert len(await there(client, ONE)) == 4, "two of b's, and the decision"
            await trio.sleep(3 * TTL)
            assert await there(client, ONE) == []
            assert await lease_of(client, OTHER.record), "it is not touched"
            assert results[1].scheduled
            heal(etcd, "b")
            await until(b, "b")
            assert await lease_of(client, ONE.record) not in {
                0,
                await lease_of(client, OTHER.record),
            }
        assert await there(client, ONE) == []
        assert results[1].statistics().sessions == 1


@in_no_time
async def test_it_stays_while_others_are_there_who_have_not_taken_over_yet() -> None:
    etcd = MemoryEtcd()
    async with etcd.open_client() as client, leading(client, "/one") as (_, results):
        ours = await lease_of(client, ONE.record)
        live = (await client.lease_grant(1000)).id
        await client.put(ONE.exchange + b"x", "", lease=live)  # it never will
        await results[0].shutdown()
        await trio.sleep(10 * TTL)
        assert await lease_of(client, ONE.record) == ours
        await client.lease_revoke(live)
        await trio.sleep(2 * TTL)
        assert await there(client, ONE) == []


@in_no_time
async def test_f36_a_path_that_is_refused_keeps_no_other_from_being_cleaned_up() -> None:
    etcd = MemoryEtcd()
    async with etcd.open_client() as client:
        async with leading(client, "/one", "/other", "/third") as (_, results):
            live = (await client.lease_grant(1000)).id
            for keys in (ONE, OTHER):
                await client.put(keys.exchange + b"x", "", lease=live)
            for result in results[:2]:
                await result.shutdown()
            etcd.cluster.refusals.forbidden.add(b"/one/")
            await client.lease_revoke(live)
            await trio.sleep(3 * TTL)
            assert await there(client, OTHER) == []
            etcd.cluster.refusals.forbidden.clear()
            assert await there(client, ONE) == [ONE.scheduled, ONE.record]
            await trio.sleep(2 * TTL)
            assert await there(client, ONE) == []
            assert results[2].scheduled


@in_no_time
async def test_f45_marks_are_carried_on_and_last_as_long_as_the_pause() -> None:
    """Host x has gone with its lease, and so has the leader; the slot is not free for a pause."""
    etcd, work = MemoryEtcd(), Work()
    async with etcd.open_client() as client, trio.open_nursery() as dying:

        async def host_m(task_status: trio.TaskStatus[None]) -> None:
            async with etcd.open_client(host="m") as its, leading(its, "/one"):
                task_status.started()
                await trio.sleep_forever()

        async def host_x() -> None:
            async with alone(etcd, "/one", "x") as x:
                await x.run_while_scheduled(work)

        await dying.start(host_m)
        async with alone(etcd, "/one", "b") as b:
            await until(b, "b", "m")
            ours = await lease_of(client, ONE.record)
            cut_off(etcd, "b")  # it is not chosen
            await trio.sleep(2 * TTL)
            dying.start_soon(host_x)
            await work.wait_running(1)
            heal(etcd, "b")
            await trio.sleep(TTL)
            assert [kv.lease for kv in await client.get_prefix(ONE.marks)] == [ours]
            cut_off(etcd, "x")
            cut_off(etcd, "m")
            await trio.sleep(10 * TTL)
            assert ours not in await client.lease_list()
            theirs = await lease_of(client, ONE.record)
            assert [kv.lease for kv in await client.get_prefix(ONE.marks)] == [theirs]
        dying.cancel_scope.cancel()


@in_no_time
async def test_f37_a_leader_decides_though_marks_cannot_be_carried_on() -> None:
    etcd = MemoryEtcd()
    async with etcd.open_client() as client:
        theirs = (await client.lease_grant(1000)).id
        await client.put(ONE.record, "{}", lease=theirs)
        await client.put(ONE.scheduled, "x", lease=theirs)
        await client.put(ONE.mark(7), "1.1 x", lease=theirs)
        etcd.cluster.refusals.forbidden.add(ONE.marks)
        async with alone(etcd, "/one", "a", 0) as a, alone(etcd, "/one", "b", 0) as b:
            await until(a, "a", "b")
            await b.update(priority=1)
            await b.shutdown()
            await until(a, "a")
            etcd.cluster.refusals.forbidden.clear()
            await trio.sleep(TTL)
            ours = await lease_of(client, ONE.record)
            assert await lease_of(client, ONE.mark(7)) == ours != theirs


@in_no_time
async def test_a_mark_that_nobody_takes_goes_when_it_would_have_lapsed() -> None:
    etcd = MemoryEtcd()
    async with etcd.open_client() as client, leading(client, "/one", "/other") as (_, results):
        ours = await lease_of(client, ONE.record)
        await client.put(ONE.mark(0), "1.1 x", lease=ours)
        await results[0].shutdown()
        await trio.sleep(2 * TTL)
        assert await there(client, ONE) == [ONE.mark(0)], "its holder may be at work still"
        await trio.sleep(3 * TTL)
        assert await there(client, ONE) == []
        assert results[1].scheduled


@in_no_time
async def test_all_is_decided_anew_when_it_was_revoked() -> None:
    etcd = MemoryEtcd()
    async with etcd.open_client() as client, leading(client, "/one", "/other") as (_, results):
        ours = await lease_of(client, ONE.record)
        await client.lease_revoke(ours)
        await trio.sleep(1)
        assert await lease_of(client, ONE.record) not in {0, ours}
        assert await lease_of(client, ONE.record) == await lease_of(client, OTHER.record)
        await trio.sleep(10 * TTL)
        assert [result.statistics().sessions for result in results] == [1, 1]
        assert all(result.scheduled for result in results)


@in_no_time
async def test_f14_all_is_decided_anew_though_no_watch_said_that_it_was_revoked() -> None:
    etcd = MemoryEtcd()
    async with etcd.open_client() as client, leading(client, "/one", "/other") as (_, results):
        ours = await lease_of(client, ONE.record)
        for member in etcd.cluster.members:
            member.misses_next = True
        await client.lease_revoke(ours)
        await trio.sleep(3 * TTL)
        assert await lease_of(client, ONE.record) not in {0, ours}
        assert await lease_of(client, OTHER.record) not in {0, ours}
        assert all(result.scheduled for result in results)


@in_no_time
async def test_a_renewal_that_fails_is_made_again_soon() -> None:
    """By an error that is not waited out, or as it takes too long."""
    etcd = MemoryEtcd()
    async with etcd.open_client() as client, leading(client, "/one") as (_, results):
        ours = await lease_of(client, ONE.record)
        asked: list[float] = []
        renew = client.lease_renew

        async def renew_badly(lease: int) -> int:
            if lease == ours:
                asked.append(trio.current_time())
                if len(asked) == 1:
                    raise ClientClosed("not borne")
                if len(asked) == 2:
                    await trio.sleep_forever()
            return await renew(lease)

        client.lease_renew = renew_badly  # type: ignore[method-assign] # as a bad server does
        await trio.sleep(4 * TTL)
        assert asked[1] - asked[0] <= TTL / 10
        assert asked[2] - asked[1] <= TTL / 2 + TTL / 10
        assert asked[3] - asked[2] > TTL / 2
        assert await lease_of(client, ONE.record) == ours
        assert results[0].scheduled


@in_no_time
async def test_it_outlives_the_session() -> None:
    etcd = MemoryEtcd()
    async with etcd.open_client() as client, leading(client, "/one", "/other") as (host, results):
        ours, session = await lease_of(client, ONE.record), await lease_of(client, ONE.host("m"))
        await client.lease_revoke(session)
        await trio.sleep(TTL)
        assert host.statistics().sessions == 2
        assert all(result.scheduled for result in results)
        assert await lease_of(client, ONE.record) == await lease_of(client, OTHER.record) == ours
        await trio.sleep(5 * TTL)
        assert all(result.scheduled for result in results)


@pytest.mark.parametrize("dies", [False, True])
@in_no_time
async def test_others_see_no_gap_when_the_host_leaves_or_dies(*, dies: bool) -> None:
    """Its decision stays until the next leader has made one."""
    etcd = MemoryEtcd()
    async with trio.open_nursery() as nursery:

        async def host_m(task_status: trio.TaskStatus[trio.CancelScope]) -> None:
            async with etcd.open_client(host="m") as its, leading(its, "/one"):
                with trio.CancelScope() as scope:
                    task_status.started(scope)
                    await trio.sleep_forever()

        life = await nursery.start(host_m)
        async with alone(etcd, "/one", "b") as b:
            await until(b, "b", "m")
            if dies:
                cut_off(etcd, "m")
            else:
                life.cancel()
            with trio.move_on_after(5 * TTL):
                async for hosts in b:
                    assert hosts, "the decision was not there for a while"
            assert b.scheduled
        nursery.cancel_scope.cancel()


async def test_what_was_left_is_looked_at_on_a_real_etcd(endpoint: str, path: str) -> None:
    """Whose compares of leases over empty ranges, and of keys that are not there, must hold."""
    left, kept = PathKeys(f"{path}/left"), f"{path}/kept"
    async with (
        open_client(endpoint) as client,
        open_host(client, "m", session_ttl=2) as host,
        host.schedule(kept) as stays,
    ):
        await until(stays, "m")
        live = (await client.lease_grant(600)).id
        async with host.schedule(left.path) as result:
            await until(result, "m")
            await client.put(left.exchange + b"x", "", lease=live)
        assert await there(client, left) == [left.host("x"), left.scheduled, left.record]
        decisions = host._shared.decisions
        async with client.watch(left.record) as watcher:
            await client.lease_revoke(live)
            with trio.fail_after(30):
                (deletion,) = (await watcher.receive()).events
        assert deletion.type is EventType.DELETE
        assert await there(client, left) == []
        await decisions._look_back(decisions.id)  # as the next time, in a TTL
        assert decisions._uses.keys() == {kept}
        assert stays.scheduled
