"""A slot that went with its lease, and was not released: who takes it pauses before (F45)."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from grpclib.const import Status

from tests.helpers import until
from tests.host.test_patience import KEYS, PATH, in_no_time, lease_of
from tests.host.test_slots import Work
from trio_sched import Client, Control, Result, open_client, schedule
from trio_sched.etcd_shim import Delete, Put
from trio_sched.etcd_shim.errors import rpc_error
from trio_sched.host.joining import clear_if_last
from trio_sched.host.marks import Marks, is_of_lease, new_mark
from trio_sched.model.keys import PathKeys
from trio_sched.model.records import encode_scheduled
from trio_sched.simulation import MemoryEtcd

PAUSE = 3.0
LONG = 3000.0  # seconds; what waits for that does not come in a test


@asynccontextmanager
async def working(client: Client, name: str, work: Work, **options: Any) -> AsyncIterator[Result]:
    """A host that runs `work` whenever it is scheduled."""
    async with schedule(client, PATH, name, **options) as result, trio.open_nursery() as nursery:
        nursery.start_soon(result.run_while_scheduled, work)
        yield result
        nursery.cancel_scope.cancel()


async def stored(client: Client, prefix: bytes) -> list[bytes]:
    return [kv.value for kv in await client.get_prefix(prefix)]


def vanish(etcd: MemoryEtcd, name: str) -> None:
    """Let a host's lease expire, however often it was renewed."""
    etcd.cluster.expire(etcd.cluster.store.leases.find(lease_of(etcd, name)).id)


# ---- marks -----------------------------------------------------------------------------


def test_a_mark_is_made_for_one_take() -> None:
    one, other = new_mark("a", 0x1F), new_mark("a", 0x1F)
    assert one != other
    assert is_of_lease(one, 0x1F)
    assert not is_of_lease(one, 0x1)
    assert not is_of_lease(one, 0xF)


def test_a_pause_begins_when_a_mark_is_seen_alone() -> None:
    class Stored:
        lease, create_revision, mod_revision = 0, 1, 1

        def __init__(self, key: bytes, value: bytes) -> None:
            self.key, self.value = key, value

    keys = PathKeys("/p")
    marks = Marks(keys, 0.5)
    found = [Stored(keys.mark(0), b"x"), Stored(keys.mark(12), b"y"), Stored(keys.slot(12), b"b")]
    assert {number: kv.value for number, kv in marks.by_number(found).items()} == {
        0: b"x",
        12: b"y",
    }
    marks.update(found, {12}, 100.0)
    marks.update(found, {12}, 100.2)
    assert marks.over_at(b"x") == 100.5
    assert marks.over_at(b"y") == float("-inf")
    marks.update(found, {0, 12}, 100.3)
    marks.update(found, {12}, 100.4)
    assert marks.over_at(b"x") == 100.9, "it was held in between"


# ---- taking ----------------------------------------------------------------------------


@in_no_time
async def test_f45_a_slot_that_went_with_its_lease_is_taken_after_the_pause() -> None:
    """The holder is cut off, and its lease is taken away early."""
    etcd, a_works, b_works = MemoryEtcd(), Work(), Work()
    async with (
        etcd.open_client(host="a") as cut_off,
        etcd.open_client(host="b") as client,
        working(cut_off, "a", a_works, session_ttl=30),
    ):
        await a_works.wait_running(1)
        async with working(client, "b", b_works, takeover_pause=PAUSE) as b:
            await until(b, "a")
            for way in etcd.network.paths("a").values():
                way.hold()
            vanish(etcd, "a")
            began = trio.current_time()
            await b_works.wait_running(1)
            assert trio.current_time() - began >= PAUSE
            assert b_works.slots[0].index == 0


@in_no_time
async def test_f45_a_holder_that_is_connected_ends_and_says_so() -> None:
    """Then nothing is waited for: the work has ended when the next begins."""
    etcd, a_works, b_works = MemoryEtcd(), Work(), Work()
    async with (
        etcd.open_client(host="a") as theirs,
        etcd.open_client(host="b") as client,
        working(theirs, "a", a_works, takeover_pause=LONG),
    ):
        await a_works.wait_running(1)
        async with working(client, "b", b_works, takeover_pause=LONG) as b:
            await until(b, "a")
            vanish(etcd, "a")
            with trio.fail_after(PAUSE):
                await b_works.wait_running(1)
            assert a_works.running == 0


@in_no_time
async def test_a_slot_that_was_released_is_taken_at_once() -> None:
    etcd, works = MemoryEtcd(), Work()
    async with etcd.open_client() as client:
        for name in "abc":
            with trio.fail_after(PAUSE):
                async with working(client, name, works, takeover_pause=LONG):
                    await works.wait_running(1)
            assert await stored(client, KEYS.marks) == []
        assert await stored(client, PATH.encode()) == []


@in_no_time
async def test_another_slot_is_taken_meanwhile() -> None:
    """One of two was not released, so one may be taken; what runs in the other counts."""
    etcd, works = MemoryEtcd(), [Work() for _ in range(3)]
    async with (
        etcd.open_client(host="a") as cut_off,
        etcd.open_client(host="b") as client,
        working(cut_off, "a", works[0], session_ttl=30, max_count=2),
    ):
        await works[0].wait_running(1)
        async with (
            working(client, "b", works[1], max_count=2, takeover_pause=PAUSE) as b,
            working(client, "c", works[2], max_count=2, takeover_pause=PAUSE) as c,
        ):
            await works[1].wait_running(1)
            await until(b, "a", "b")
            for way in etcd.network.paths("a").values():
                way.hold()
            vanish(etcd, "a")
            began = trio.current_time()
            await until(c, "b", "c")
            await works[2].wait_running(1)
            assert trio.current_time() - began >= PAUSE
            assert works[1].running == 1


@in_no_time
async def test_a_mark_goes_with_the_decision_and_not_with_the_session() -> None:
    """So it is there when the session is not, and does not outlive all hosts for long."""
    etcd, work = MemoryEtcd(), Work()
    async with etcd.open_client() as client, working(client, "a", work) as a:
        await work.wait_running(1)
        (slot,) = work.slots
        (mark,) = await client.get_prefix(KEYS.marks)
        record = (await client.get(KEYS.record)).kv
        assert record is not None
        assert mark.lease == record.lease != slot.lease
        assert is_of_lease(mark.value, slot.lease)
        assert a.scheduled


@in_no_time
async def test_a_mark_moves_to_the_lease_of_the_newest_decision() -> None:
    """The next leader has another TTL, and so another lease for what it decides."""
    etcd, work = MemoryEtcd(), Work()
    async with etcd.open_client() as client:
        async with schedule(client, PATH, "a", strategy="alpha", session_ttl=5) as a:
            async with working(client, "b", work, session_ttl=9):
                await until(a, "a")
                await Control(client, PATH).drain("a")
                await work.wait_running(1)
                before = (await client.get(KEYS.mark(0))).kv
                await a.shutdown()
                assert before is not None
                await trio.sleep(PAUSE)  # it takes what is there over, and writes
                mark, record = [(await client.get(key)).kv for key in (KEYS.mark(0), KEYS.record)]
                assert mark is not None
                assert record is not None
                assert mark.lease == record.lease != before.lease
                assert mark.value == before.value
                assert work.running == 1


@in_no_time
async def test_f45_who_leaves_last_leaves_the_marks_of_others() -> None:
    """All sessions have ended, and one of their works has not: found by worlds."""
    etcd, works = MemoryEtcd(), [Work(), Work()]
    async with (
        etcd.open_client(host="a") as cut_off,
        etcd.open_client(host="b") as client,
        working(cut_off, "a", works[0], session_ttl=30),
    ):
        await works[0].wait_running(1)
        for way in etcd.network.paths("a").values():
            way.hold()
        async with working(client, "b", works[1], session_ttl=30, takeover_pause=LONG) as b:
            await until(b, "a")
            vanish(etcd, "a")
        assert await stored(client, KEYS.exchange) == []
        assert len(await stored(client, KEYS.marks)) == 1
        async with working(client, "b", works[1], takeover_pause=PAUSE):
            began = trio.current_time()
            await works[1].wait_running(1)
            assert trio.current_time() - began >= PAUSE


@in_no_time
async def test_f37_the_lease_is_revoked_though_a_full_etcd_refuses_to_release_the_slot(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As 3.5.1 refuses each transaction then. So the next host need not wait for a TTL."""
    etcd, work = MemoryEtcd(), Work()
    etcd.cluster.refusals.no_space_for_txns = True
    async with etcd.open_client() as client:
        async with working(client, "a", work, session_ttl=30):
            await work.wait_running(1)
            etcd.cluster.refusals.no_space = True
        assert await stored(client, KEYS.exchange) == []
        assert await stored(client, KEYS.slots) == []
        assert len(await stored(client, KEYS.marks)) == 1
    assert "what=the decision" in caplog.text, "it was confirmed that the lease is gone"


@in_no_time
async def test_f45_a_leader_that_leaves_leaves_the_marks_that_hang_on_its_lease() -> None:
    """The next one, of another TTL, has put the decision under a lease of its own already."""
    etcd = MemoryEtcd()
    async with etcd.open_client() as client:
        ours, useless, next_one = [(await client.lease_grant(30)).id for _ in range(3)]
        await client.put(f"{PATH}/exchange/b", "", lease=next_one)
        await client.put(KEYS.record, "", lease=next_one)
        await client.put(KEYS.mark(0), "1.1 x", lease=ours)
        assert not await clear_if_last(client, KEYS, {ours, useless})
        assert await stored(client, KEYS.marks) == [b"1.1 x"]
        assert set(await client.lease_list()) == {ours, next_one}


@in_no_time
async def test_under_a_leader_of_another_kind_there_are_no_marks() -> None:
    etcd, work = MemoryEtcd(), Work()
    async with etcd.open_client() as client:
        lease = (await client.lease_grant(60)).id
        await client.put(KEYS.candidate(lease), "go", lease=lease)
        await client.put(KEYS.scheduled, encode_scheduled(["a"]))
        async with working(client, "a", work):
            await work.wait_running(1)
            assert await stored(client, KEYS.slots) == [b"a"]
            assert await stored(client, KEYS.marks) == []
        assert await stored(client, KEYS.slots) == []


@in_no_time
async def test_a_lease_of_the_mark_that_is_gone_is_no_loss_of_the_session() -> None:
    """A Go leader has taken over: its `scheduled` stands, the record is about to lapse."""
    etcd, work = MemoryEtcd(), Work()
    async with etcd.open_client() as client, working(client, "a", work) as result:
        await work.wait_running(1)
        worker = result._worker
        slots = worker._slots
        session = result._state.session
        assert session is not None
        stands = (await client.get(KEYS.scheduled)).kv
        assert stands is not None
        slot, still = await slots._create(session, 5, stands.mod_revision, None, 12345)
        assert still
        assert slot is not None
        assert await stored(client, KEYS.mark(5)) == []
        await client.txn([], [Delete(KEYS.slot(5))])


@in_no_time
async def test_a_mark_of_our_own_is_not_waited_for() -> None:
    """Its release was not answered in time: but we know that our work has ended."""
    etcd, work = MemoryEtcd(), Work()
    async with etcd.open_client() as client, working(client, "a", work, takeover_pause=LONG) as a:
        await work.wait_running(1)
        etcd.cluster.refusals.busy = True
        await trio.lowlevel.checkpoint()
        vanish(etcd, "a")
        await work.wait_running(0)
        await trio.sleep(PAUSE)
        etcd.cluster.refusals.busy = False
        with trio.fail_after(60):
            await work.wait_running(1)
        assert a.statistics().sessions == 2


@in_no_time
async def test_a_mark_of_a_slot_that_may_not_be_taken_counts_during_the_pause() -> None:
    """A slot beyond max_count that nobody released: its holder may run for a pause."""
    etcd, work = MemoryEtcd(), Work()
    async with etcd.open_client() as client:
        await client.put(KEYS.mark(7), "1.1 x")
        async with working(client, "a", work, takeover_pause=PAUSE):
            began = trio.current_time()
            await work.wait_running(1)
            assert trio.current_time() - began >= PAUSE


@in_no_time
@pytest.mark.parametrize("value", ["", "1.1 x"])
async def test_a_mark_that_was_put_by_hand_keeps_a_slot_for_a_pause_only(value: str) -> None:
    """An empty one, too: it was waited for without end, and etcd asked without a pause."""
    etcd, work = MemoryEtcd(), Work()
    async with etcd.open_client() as client:
        await client.put(KEYS.mark(0), value)
        async with working(client, "a", work, takeover_pause=PAUSE):
            with trio.fail_after(60):
                await work.wait_running(1)
            assert await stored(client, KEYS.marks) != [value.encode()]


# ---- knowing -----------------------------------------------------------------------------


async def test_f45_work_knows_that_its_slot_is_gone(endpoint: str, path: str) -> None:
    """Deleted by hand; then the lease. In between, and when it is to leave, it is not."""
    seen: list[bool] = []
    begun: list[trio.Event] = [trio.Event() for _ in range(3)]

    async def work(slot: object) -> None:
        assert not slot.lost  # type: ignore[attr-defined] # a Slot
        begun[len(seen)].set()
        try:
            await trio.sleep_forever()
        finally:
            seen.append(slot.lost)  # type: ignore[attr-defined] # as above

    async with (
        open_client(endpoint) as client,
        schedule(client, path, "a") as result,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(result.run_while_scheduled, work)
        keys = PathKeys(path)
        await begun[0].wait()
        await client.delete(keys.slot(0))
        await begun[1].wait()
        (kv,) = await client.get_prefix(keys.slots)
        await client.lease_revoke(kv.lease)
        await begun[2].wait()
        await Control(client, path).drain("a")
        await result.wait_unscheduled()
        while len(seen) < 3:  # noqa: ASYNC110 # its end follows at once
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert seen == [True, True, False]


async def test_f45_the_end_of_work_wakes_who_waits_for_a_loss(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client, schedule(client, path, "a") as result:
        async with trio.open_nursery() as nursery:

            async def work(slot: object) -> None:
                await trio.lowlevel.checkpoint()
                nursery.start_soon(slot.wait_lost)  # type: ignore[attr-defined] # a Slot

            await result.run_while_scheduled(work)


@pytest.mark.parametrize("pause", [-1, 3601, float("nan")])
async def test_a_pause_has_bounds(endpoint: str, path: str, pause: float) -> None:
    async with open_client(endpoint) as client:
        with pytest.raises(ValueError, match="takeover_pause"):
            async with schedule(client, path, "a", takeover_pause=pause):
                pass


async def test_a_mark_is_deleted_with_its_slot_only(endpoint: str, path: str) -> None:
    """What another host made of it meanwhile stays."""
    work = Work()
    async with (
        open_client(endpoint) as client,
        schedule(client, path, "a") as result,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(result.run_while_scheduled, work)
        await work.wait_running(1)
        keys = PathKeys(path)
        others = [Put(keys.mark(0), "another's")]
        await client.txn([], others)
        nursery.cancel_scope.cancel()
        await work.wait_running(0)
    async with open_client(endpoint) as client:
        assert [kv.value for kv in await client.get_prefix(keys.marks)] == [b"another's"]
        assert list(await client.get_prefix(keys.slots)) == []
        await client.delete(keys.mark(0))


@in_no_time
async def test_a_release_that_is_not_answered_is_no_work_that_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A host that is cut off ends its work in time, and cannot release its slot."""
    etcd, work = MemoryEtcd(), Work()
    async with etcd.open_client(host="a") as client, working(client, "a", work, session_ttl=5) as a:
        await work.wait_running(1)
        for way in etcd.network.paths("a").values():
            way.hold()
        await until(a)
        await trio.sleep(60)
        for way in etcd.network.paths("a").values():
            way.release()
        await a.wait_scheduled()
        await work.wait_running(1)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@in_no_time
async def test_a_slot_that_could_not_be_released_is_released_as_soon_as_etcd_allows_it() -> None:
    """The host stays in the pool, and is not chosen any more: nobody else would free it."""
    etcd, works = MemoryEtcd(), [Work(), Work()]
    async with (
        etcd.open_client() as client,
        working(client, "a", works[0], session_ttl=5, shutdown_timeout=2) as a,
        working(client, "b", works[1], session_ttl=5, takeover_pause=LONG) as b,
    ):
        await works[0].wait_running(1)
        await Control(client, PATH).drain("a")
        etcd.cluster.refusals.refuse = lambda method, request: (
            rpc_error(Status.RESOURCE_EXHAUSTED, "too many requests")
            if method.endswith("Txn")
            and trio.current_time() < 25
            and b"slots" in request.SerializeToString()
            else None
        )
        await until(b, "b")
        await works[0].wait_running(0)
        with trio.fail_after(40):
            await works[1].wait_running(1)
        assert a.statistics().sessions == 1
