"""Slots and `Result.run_while_scheduled`, on a real etcd."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from hypothesis import given, strategies as st

from tests.helpers import until, watch_leftovers
from trio_sched import Client, Control, EndOfResults, Result, Slot, open_client, schedule
from trio_sched.etcd_shim import KeyValue, Put
from trio_sched.etcd_shim.errors import RevisionWentBack
from trio_sched.host.following import PathFollower
from trio_sched.host.slots import SlotKeys, Taken, usable
from trio_sched.host.state import HostState
from trio_sched.model.keys import PathKeys
from trio_sched.simulation import MemoryEtcd

# ---- which slots may be taken ------------------------------------------------------


@pytest.mark.parametrize(
    ("held", "max_count", "expected"),
    [
        ([], 1, 1),
        ([], 3, 3),
        ([0, 1], 3, 3),
        ([2], 2, 1),  # lowered from 3: slots 0 and 2 are two
        ([1, 2], 2, 0),
        ([2], 1, 0),
        ([0, 2], 2, 1),
        ([3, 4], 4, 2),
    ],
)
def test_usable(held: list[int], max_count: int, expected: int) -> None:
    assert usable(held, max_count) == expected


@given(st.lists(st.tuples(st.integers(1, 6), st.lists(st.integers(0, 9), max_size=12)), min_size=1))
def test_never_more_than_max_count_are_held_once_the_rest_has_gone(
    plan: list[tuple[int, list[int]]],
) -> None:
    """Each phase has a max_count, then takes (even) and leaves (odd numbers), in any order."""
    held: set[int] = set()
    for max_count, steps in plan:
        before = len(held)
        for step in steps:
            if step % 2 and held:
                held.discard(sorted(held)[step % len(held)])
                before = min(before, max(len(held), max_count))
            free = [n for n in range(usable(held, max_count)) if n not in held]
            if not step % 2 and free:
                held.add(free[step % len(free)])
                assert len(held) <= max_count
        assert len(held) <= max(before, max_count)


# ---- running -----------------------------------------------------------------------


class Work:
    """Work that notes its beginnings and ends, and goes on until asked to end."""

    def __init__(self) -> None:
        self.slots: list[Slot] = []
        self.running = 0
        self.changed = trio.lowlevel.ParkingLot()
        self.finish = trio.Event()
        self.slow_end: trio.Event | None = None

    async def __call__(self, slot: Slot, *args: str) -> tuple[str, ...]:
        self.slots.append(slot)
        self.running += 1
        self.changed.unpark_all()
        try:
            await self.finish.wait()
        finally:
            if self.slow_end is not None:
                with trio.move_on_after(5, shield=True):
                    await self.slow_end.wait()
            self.running -= 1
            self.changed.unpark_all()
        return args

    async def wait_running(self, count: int) -> None:
        while self.running != count:
            await self.changed.park()


@pytest.fixture
def work() -> Work:
    return Work()


async def slot_keys(client: Client, path: str) -> list[bytes]:
    return [kv.key for kv in await client.get_prefix(PathKeys(path).slots)]


async def test_it_runs_with_arguments_and_frees_its_slot(
    endpoint: str, path: str, work: Work
) -> None:
    async with (
        watch_leftovers(endpoint, path) as left,
        open_client(endpoint) as client,
        schedule(client, path, "a") as result,
    ):
        work.finish.set()
        assert await result.run_while_scheduled(work, "x", "y") == ("x", "y")
        assert await slot_keys(client, path) == []
        assert await result.run_while_scheduled(work) == ()
        first, second = work.slots
        assert (first.index, second.index) == (0, 0)
        assert first.token < second.token
    assert left.nothing


async def test_the_slot_while_the_work_goes_on(endpoint: str, path: str, work: Work) -> None:
    async with (
        open_client(endpoint) as client,
        schedule(client, path, "a") as result,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(result.run_while_scheduled, work)
        await work.wait_running(1)
        (slot,) = work.slots
        kv = (await client.get(slot.key)).kv
        assert kv is not None
        assert kv.key == f"{path}/slots/0".encode()
        assert (kv.value, kv.create_revision, kv.lease) == (b"a", slot.token, slot.lease)
        assert trio.current_time() < slot.deadline
        assert slot.session_alive
        assert (await client.txn(slot.guard(), [Put(path + "/mine", "x")])).succeeded
        work.finish.set()
    async with open_client(endpoint) as client:
        assert not (await client.txn(slot.guard(), [Put(path + "/mine", "y")])).succeeded
        await client.delete(path + "/mine")


async def test_f4_work_begins_only_after_the_other_has_ended(endpoint: str, path: str) -> None:
    """The decision moves from c to b, and c takes its time to end."""
    ends, begins = Work(), Work()
    ends.slow_end = trio.Event()
    async with (
        open_client(endpoint) as client,
        schedule(client, path, "leader", hosts_filter=["b", "c"], strategy="alpha"),
        schedule(client, path, "c") as c,
        trio.open_nursery() as c_works,
    ):
        c_works.start_soon(c.run_while_scheduled, ends)
        await ends.wait_running(1)
        async with (
            schedule(client, path, "b") as b,  # alpha takes it instead of c
            trio.open_nursery() as b_works,
        ):
            b_works.start_soon(b.run_while_scheduled, begins)
            await until(b, "b")
            await until(c, "b")
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert (ends.running, begins.running) == (1, 0), (
                "c was asked to end, and has not ended yet"
            )
            ends.slow_end.set()
            await begins.wait_running(1)
            assert ends.running == 0
            assert begins.slots[0].token > ends.slots[0].token
            b_works.cancel_scope.cancel()
        c_works.cancel_scope.cancel()


async def test_it_runs_again_after_a_loss(endpoint: str, path: str, work: Work) -> None:
    async with (
        open_client(endpoint) as client,
        schedule(client, path, "a") as result,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(result.run_while_scheduled, work)
        await work.wait_running(1)
        await client.delete(work.slots[0].key)
        await work.wait_running(0)
        await work.wait_running(1)
        assert work.slots[1].lease == work.slots[0].lease, "only the slot was lost"
        await client.lease_revoke(work.slots[1].lease)
        await work.wait_running(0)
        await work.wait_running(1)
        assert work.slots[2].lease != work.slots[1].lease
        assert not work.slots[1].session_alive
        tokens = [slot.token for slot in work.slots]
        assert tokens == sorted(set(tokens))
        work.finish.set()


async def test_f44_work_whose_watch_finds_another_store_is_lost_and_runs_again(
    endpoint: str, path: str, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the session's loss, and not an error of the work."""
    real, found = PathFollower.wait_changed_key, trio.Event()

    async def wait(follower: PathFollower, kv: KeyValue, revision: int) -> None:
        if kv.key == PathKeys(path).slot(0) and not found.is_set():
            found.set()
            raise RevisionWentBack(9, 5)
        await real(follower, kv, revision)

    monkeypatch.setattr(PathFollower, "wait_changed_key", wait)
    async with (
        open_client(endpoint) as client,
        schedule(client, path, "a") as result,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(result.run_while_scheduled, work)
        await found.wait()
        while len(work.slots) < 2:
            await work.changed.park()
        nursery.cancel_scope.cancel()


async def test_f44_a_wait_for_a_slot_that_finds_another_store_waits_for_the_loss(
    endpoint: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_client(endpoint) as client:

        async def wait(*_: object, **__: object) -> None:
            await trio.lowlevel.checkpoint()
            raise RevisionWentBack(9, 5)

        keys, state = PathKeys(path), HostState(path, "a", 1)
        state.follower = PathFollower(client, keys, 1000)
        monkeypatch.setattr(state.follower, "wait_for", wait)
        slots = SlotKeys(client, keys, "a", state)
        taken = Taken(None, stands=True, found=await client.get_prefix(keys.slots))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(slots.wait_freed, taken)
            await trio.testing.wait_all_tasks_blocked()
            assert nursery.child_tasks, "neither an error nor another attempt at once"
            nursery.cancel_scope.cancel()


async def test_f57_what_a_slot_costs_does_not_depend_on_how_many_may_run() -> None:
    async with MemoryEtcd().open_client() as client:
        async with schedule(client, "/jobs", "a", max_count=1_000_000) as result:
            assert usable(range(5, 10), 1_000_000) == 1_000_000
            assert await result.run_while_scheduled(index_of) == 0
            for number in (1_000_001, 10_000_000, 2**31):
                with pytest.raises(ValueError, match="at most 1000000"):
                    await Control(client, "/jobs").set_count(number)


async def test_f57_those_that_are_chosen_look_for_a_slot_at_their_rank() -> None:
    """So what K of them ask for does not grow with K squared."""
    etcd, count = MemoryEtcd(), 40
    works = [Work() for _ in range(count)]
    async with etcd.open_client() as client, trio.open_nursery() as nursery:

        async def live(number: int) -> None:
            name = f"h{number:02}"
            async with schedule(client, "/p", name, max_count=count, session_ttl=60) as result:
                while result.newest is None or len(result.newest) < count:
                    await result.next()
                counts = etcd.cluster.refusals.counts
                before.append(counts["KV/Range"] + counts["KV/Txn"])
                await result.run_while_scheduled(works[number])

        before: list[int] = []
        for number in range(count):
            nursery.start_soon(live, number)
        for work in works:
            await work.wait_running(1)
        counts = etcd.cluster.refusals.counts
        asked = counts["KV/Range"] + counts["KV/Txn"] - min(before)
        assert 2 * count <= asked <= 3 * count, asked
        assert {work.slots[0].index for work in works} == set(range(count))
        nursery.cancel_scope.cancel()


async def index_of(slot: Slot) -> int:
    await trio.lowlevel.checkpoint()
    return slot.index


async def test_restart_runs_it_again_and_again(endpoint: str, path: str) -> None:
    runs: list[int] = []

    async def count(slot: Slot, until: int, scope: trio.CancelScope) -> None:
        await trio.lowlevel.checkpoint()
        runs.append(slot.token)
        if len(runs) == until:
            scope.cancel()

    async with open_client(endpoint) as client, schedule(client, path, "a") as result:
        with trio.CancelScope() as scope:
            await result.run_while_scheduled(count, 3, scope, restart=True)
        assert scope.cancelled_caught
        assert len(set(runs)) == 3
        assert await slot_keys(client, path) == []


class Boom(Exception):
    pass


async def test_an_exception_frees_the_slot_and_comes_out_as_it_is(endpoint: str, path: str) -> None:
    group = ExceptionGroup("of mine", [Boom(), Boom()])

    async def fail(_slot: Slot) -> None:
        await trio.lowlevel.checkpoint()
        raise group

    async with open_client(endpoint) as client, schedule(client, path, "a") as result:
        with pytest.RaisesGroup(Boom, Boom) as caught:
            await result.run_while_scheduled(fail)
        assert caught.value is group
        assert await slot_keys(client, path) == []


async def test_cancelled_it_ends_the_work_before_it_frees_the_slot(
    endpoint: str, path: str, work: Work
) -> None:
    work.slow_end = trio.Event()
    async with (
        open_client(endpoint) as client,
        schedule(client, path, "a") as result,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(result.run_while_scheduled, work)
        await work.wait_running(1)
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert len(await slot_keys(client, path)) == 1
            work.slow_end.set()
            await work.wait_running(0)
    async with open_client(endpoint) as client:
        assert await slot_keys(client, path) == []


async def test_shutdown_ends_the_work_before_it_revokes(
    endpoint: str, path: str, work: Work
) -> None:
    work.slow_end = trio.Event()
    outcome: list[BaseException] = []

    async def run(result: Result) -> None:
        try:
            await result.run_while_scheduled(work)
        except EndOfResults as exc:
            outcome.append(exc)

    async with (
        open_client(endpoint) as client,
        schedule(client, path, "a") as result,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(run, result)
        await work.wait_running(1)
        nursery.start_soon(result.shutdown)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert work.slots[0].lease in await client.lease_list()
        assert len(await slot_keys(client, path)) == 1
        work.slow_end.set()
        await work.wait_running(0)
        await result.shutdown()
        assert work.slots[0].lease not in await client.lease_list()
    assert len(outcome) == 1


async def test_never_more_than_max_count_though_it_is_lowered(endpoint: str, path: str) -> None:
    """Three run; the next leader allows one. It keeps c in slot 2, and then chooses d."""
    works = {name: Work() for name in "abcd"}
    leave = {name: trio.Event() for name in "abcd"}

    async def live(name: str, task_status: trio.TaskStatus[None]) -> None:
        async with schedule(client, path, name) as result, trio.open_nursery() as inside:
            inside.start_soon(result.run_while_scheduled, works[name])
            task_status.started()
            await leave[name].wait()
            inside.cancel_scope.cancel()

    async with (
        open_client(endpoint) as client,
        schedule(client, path, "one", max_count=3, hosts_filter=["a", "b", "c"]) as first,
        schedule(client, path, "two", max_count=1, hosts_filter=["c", "d"]) as second,
        trio.open_nursery() as nursery,
    ):
        for name in "abc":
            await nursery.start(live, name)
            await works[name].wait_running(1)
        await nursery.start(live, "d")
        assert [works[name].slots[0].index for name in "abc"] == [0, 1, 2]
        works["a"].slow_end, works["b"].slow_end = trio.Event(), trio.Event()
        await first.shutdown()
        await until(second, "c")
        assert works["c"].running == 1, "it stays chosen, and goes on"
        leave["c"].set()
        await until(second, "d")
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert (works["a"].running, works["b"].running, works["d"].running) == (1, 1, 0)
        works["a"].slow_end.set()
        await works["a"].wait_running(0)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert works["d"].running == 0
        works["b"].slow_end.set()
        await works["d"].wait_running(1)
        assert works["d"].slots[0].index == 0
        nursery.cancel_scope.cancel()


async def test_two_runs_at_once_are_refused(endpoint: str, path: str, work: Work) -> None:
    async with (
        open_client(endpoint) as client,
        schedule(client, path, "a") as result,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(result.run_while_scheduled, work)
        await work.wait_running(1)
        with pytest.raises(trio.BusyResourceError):
            await result.run_while_scheduled(work)
        work.finish.set()


@pytest.mark.parametrize("grace", [-0.1, 5.1, float("nan")])
async def test_a_grace_that_makes_no_sense(
    endpoint: str, path: str, work: Work, grace: float
) -> None:
    async with open_client(endpoint) as client, schedule(client, path, "a") as result:
        with pytest.raises(ValueError, match="half the TTL"):
            await result.run_while_scheduled(work, grace=grace)
        with pytest.raises(TypeError, match="async function"):
            await result.run_while_scheduled(None)  # type: ignore[arg-type]
        assert not work.slots
