"""Following a path: what no watch brings is read, and a store that goes back is noticed."""

from __future__ import annotations

import shutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
from grpclib.const import Status

from tests.helpers import until
from trio_sched import Client, Hosts, Observation, Slot, observe, open_client, schedule
from trio_sched._support.suspension import lease_time
from trio_sched.etcd_shim import KeyValue, WatchBatch
from trio_sched.etcd_shim.errors import RevisionWentBack, rpc_error
from trio_sched.host.following import PathFollower
from trio_sched.host.reads import found_keys
from trio_sched.model.keys import KeyRange, PathKeys
from trio_sched.simulation import MemoryEtcd
from trio_sched.testing import Etcd, open_etcd

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio_sched.etcd_shim import Watcher


class Silent:
    """A watcher that brings nothing, and says when it was created."""

    def __init__(self, real: Watcher) -> None:
        self.created_revision = real.created_revision

    async def receive(self) -> WatchBatch:
        await trio.sleep_forever()
        raise AssertionError


def silence(client: Client, monkeypatch: pytest.MonkeyPatch, prefix: bytes) -> None:
    """Let watches bring nothing whose first key starts with `prefix`."""
    real = client.watch

    @asynccontextmanager
    async def watch(key: bytes, **options: Any) -> AsyncIterator[Watcher | Silent]:
        async with real(key, **options) as watcher:
            yield Silent(watcher) if key.startswith(prefix) else watcher

    monkeypatch.setattr(client, "watch", watch)


async def test_f43_a_leader_whose_departure_no_watch_brings_is_followed_within_a_ttl(
    endpoint: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_client(endpoint) as client, open_client(endpoint) as deaf:
        silence(deaf, monkeypatch, PathKeys(path).election)
        async with (
            schedule(client, path, "a", max_count=2) as leader,
            schedule(deaf, path, "b", max_count=2, session_ttl=1) as result,
        ):
            await until(result, "a", "b")
            await leader.shutdown()
            with trio.fail_after(result.statistics().deadline - trio.current_time() + 2):
                assert (await until(result, "b")).leader == "b"
            assert result.statistics().sessions == 1


async def test_f75_what_was_written_before_the_watch_was_there_is_read_at_once(
    endpoint: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = PathKeys(path)
    async with open_client(endpoint) as client:
        real = client.watch

        @asynccontextmanager
        async def watch(key: bytes, **options: Any) -> AsyncIterator[Silent]:
            await client.put(keys.scheduled, "late")  # after the read, before the watch
            async with real(key, **options) as watcher:
                yield Silent(watcher)

        monkeypatch.setattr(client, "watch", watch)
        follower = PathFollower(client, keys, 1000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follower.follow, keys.decision)
            await follower.wait(lambda view: view.hosts == ("late",))
            nursery.cancel_scope.cancel()


async def test_f75_a_watch_that_is_not_late_costs_no_read(path: str) -> None:
    keys = PathKeys(path)
    async with open_etcd() as server, open_client(server.endpoint) as client:
        before = (await client.put("/other", "")).revision
        follower = PathFollower(client, keys, 1000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follower.follow, keys.decision, found_keys(before))
            await trio.testing.wait_all_tasks_blocked(0.05)
            reads = (await server.members[0].metrics()).get(
                'grpc_server_started_total{grpc_method="Range",grpc_service="etcdserverpb.KV",'
                'grpc_type="unary"}',
                0,
            )
            await client.put(keys.scheduled, "a")
            await follower.wait(lambda view: view.hosts == ("a",))
            assert reads == 0
            nursery.cancel_scope.cancel()


# ---- proofs ------------------------------------------------------------------------------


async def test_a_proof_is_one_request_whatever_is_followed(endpoint: str, path: str) -> None:
    keys = PathKeys(path)
    async with open_client(endpoint) as client:
        await client.put(keys.scheduled, "a")
        own = (await client.put(keys.host("a"), "{}")).revision
        follower = PathFollower(client, keys, 1000, (keys.host("a"),))
        for covered in (keys.decision, KeyRange.of(keys.host("a"))):
            follower.cover(covered, await follower.read(covered))
        calls = client.statistics().connections[0].started_calls
        fresh_at = follower.fresh_at
        await follower.prove()
        assert client.statistics().connections[0].started_calls == calls + 1
        assert follower.fresh_at > fresh_at
        assert follower.healed == 0
        assert follower.view.revision == own


@pytest.mark.parametrize("change", ["put", "delete", "delete and put"])
async def test_a_proof_loads_what_differs(endpoint: str, path: str, change: str) -> None:
    keys = PathKeys(path)
    async with open_client(endpoint) as client:
        await client.put(keys.scheduled, "a")
        follower = PathFollower(client, keys, 1000)
        follower.cover(keys.decision, await follower.read(keys.decision))
        if "delete" in change:
            await client.delete(keys.scheduled)
        if "put" in change:
            await client.put(keys.scheduled, "b")
        await follower.prove()
        assert follower.view.hosts == (("b",) if "put" in change else ())
        assert follower.healed == 1
        await follower.prove()
        assert follower.healed == 1


async def test_a_proof_of_a_part_reads_the_range_anew(endpoint: str, path: str) -> None:
    keys = PathKeys(path)
    async with open_client(endpoint) as client:
        follower = PathFollower(client, keys, 1000)
        follower.cover(keys.leading, await follower.read(keys.leading))
        await client.put(keys.host("b"), "{}")
        await follower.prove()
        assert follower.view.get(keys.host("b")) is None, "a proof is not about the pool"
        await client.put(keys.scheduled, "b")
        await follower.prove()
        assert follower.view.get(keys.host("b")) is not None
        assert follower.view.hosts == ("b",)


async def test_f14_a_proof_finds_an_event_that_the_watch_missed_though_it_brought_a_later_one(
    path: str,
) -> None:
    """Then the watch is as far as the store, and the view is wrong all the same."""
    keys, etcd = PathKeys(path), MemoryEtcd()
    async with etcd.open_client() as client:
        await client.put(keys.scheduled, "a")
        follower = PathFollower(client, keys, 1000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follower.follow, keys.decision)
            await follower.wait(lambda view: view.hosts == ("a",))
            etcd.cluster.members[0].misses_next = True
            await client.put(keys.scheduled, "b")
            later = (await client.put(keys.record, "{}")).revision
            await follower.wait(lambda view: view.revision == later)
            assert follower.view.hosts == ("a",)
            fresh_at = follower.fresh_at
            await follower.prove()
            assert follower.view.hosts == ("b",)
            assert follower.healed == 1
            assert follower.fresh_at > fresh_at
            await client.put(keys.scheduled, "c")
            await follower.wait(lambda view: view.hosts == ("c",))
            nursery.cancel_scope.cancel()


async def test_f44_a_watch_that_is_resumed_on_a_restored_store_is_no_proof(path: str) -> None:
    """It goes on where the store has caught up, and what was there before has changed."""
    keys, etcd = PathKeys(path), MemoryEtcd()
    async with etcd.open_client() as client:
        await client.put(keys.scheduled, "a")
        snapshot = etcd.cluster.store.snapshot()
        follower = PathFollower(client, keys, 1000)
        async with trio.open_nursery() as nursery:
            known = (await client.put(keys.scheduled, "b")).revision
            nursery.start_soon(follower.follow, keys.decision)
            await follower.wait(lambda view: view.hosts == ("b",))
            etcd.cluster.restore(snapshot)
            while (await client.put("/other", "")).revision <= known:
                pass
            later = (await client.put(keys.record, "{}")).revision
            await follower.wait(lambda view: view.revision == later)
            with pytest.raises(RevisionWentBack):
                await follower.prove()
            nursery.cancel_scope.cancel()


async def test_a_range_is_replaced_without_a_gap(endpoint: str, path: str) -> None:
    """A host that is elected is scheduled all the while, and its keys are there."""
    async with open_client(endpoint) as client:
        async with (
            schedule(client, path, "a", max_count=2) as leader,
            schedule(client, path, "b", max_count=2) as result,
        ):
            await until(result, "a", "b")
            async with trio.open_nursery() as nursery:
                ended: list[bool] = []

                async def work(_slot: Slot) -> None:
                    try:
                        await trio.sleep_forever()
                    finally:
                        ended.append(True)

                nursery.start_soon(result.run_while_scheduled, work)
                await leader.shutdown()
                assert (await until(result, "b")).leader == "b"
                await trio.testing.wait_all_tasks_blocked(0.05)
                assert not ended
                assert result.scheduled
                nursery.cancel_scope.cancel()


async def test_events_that_are_known_already_do_not_take_the_view_back(
    endpoint: str, path: str
) -> None:
    """A watch that begins behind what a proof has loaded brings the time between once more."""
    keys = PathKeys(path)
    async with open_client(endpoint) as client:
        first = await client.put(keys.scheduled, "a")
        await client.put(keys.scheduled, "b")
        newest = await client.put(keys.scheduled, "c")
        follower = PathFollower(client, keys, 1000)
        follower.cover(keys.decision, await follower.read(keys.decision))
        behind = first.revision + 1
        async with client.watch(keys.scheduled, start_revision=behind) as events:
            between = await anext(events)
        assert between.kv.value == b"b"
        follower._take(keys.decision, WatchBatch((between,), between.kv.mod_revision))
        assert follower.view.hosts == ("c",)
        assert follower.view.decision.revision >= newest.revision


# ---- a store that goes back ----------------------------------------------------------------


async def until_named(result: Observation) -> Hosts:
    """Read decisions until one names host a, alone or not: the others join anew as well."""
    async for hosts in result:
        if "a" in hosts:
            return hosts
    raise AssertionError("the results ended")


class Copies:
    """Copies of a member's data, made and put back while it is stopped."""

    def __init__(self, server: Etcd) -> None:
        (self._member,) = server.members
        folder = self._member._settings.folder
        self._data = folder / f"{self._member.name}.data"
        self._copy = folder / "copy"

    async def make(self) -> None:
        await self._member.stop()
        shutil.copytree(self._data, self._copy)
        await self._member.start()

    async def put_back(self) -> None:
        await self._member.stop()
        shutil.rmtree(self._data)
        shutil.copytree(self._copy, self._data)
        await self._member.start()


async def test_f44_a_restored_store_is_noticed_by_hosts_and_observers() -> None:
    async with open_etcd() as server, open_client(server.endpoint) as client:
        copies = Copies(server)
        async with (
            schedule(client, "/p", "a", max_count=2, session_ttl=10) as result,
            observe(client, "/p", reconcile=0.2) as observation,
        ):
            first = await until(result, "a")
            await copies.make()
            async with schedule(client, "/p", "b", max_count=2) as other:
                await until(other, "a", "b")
                for number in range(20):  # more than is written after the restore
                    await client.put("/other", str(number))
                newest = await until(result, "a", "b")
                await until(observation, "a", "b")
                revision = (await client.get("/other")).revision
                await copies.put_back()  # our lease lives in it, and `scheduled` names us
                assert await until(result) == ()
                again = await until_named(result)
                assert again.revision < revision
                assert again.revision != newest.revision
                assert again.fence != first.fence
                assert result.statistics().sessions == 2
                assert (await until_named(observation)).revision < revision


async def test_f44_a_store_that_has_caught_up_is_noticed_by_its_keys(
    endpoint: str, path: str
) -> None:
    keys = PathKeys(path)
    async with open_client(endpoint) as client:
        stored = (await client.put(keys.scheduled, "a")).revision
        follower = PathFollower(client, keys, 1000)
        lost = KeyValue(keys.scheduled, b"b", stored, stored + 5, 2, 0)  # of a life before
        follower.view.load(keys.decision, [lost], stored + 5)
        for _ in range(9):
            await client.put("/other", "")
        with pytest.raises(RevisionWentBack):
            await follower.prove()


@pytest.mark.parametrize("name", ["read", "txn"])
async def test_f44_an_answer_that_an_event_overtakes_is_no_other_store(
    endpoint: str, path: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    keys = PathKeys(path)
    async with open_client(endpoint) as client:
        follower = PathFollower(client, keys, 1000)
        follower.cover(keys.decision, await follower.read(keys.decision))
        real = getattr(client, name)

        async def overtaken(*request: object) -> object:
            answer = await real(*request)
            follower.view.advance(keys.decision, answer.revision + 5)  # its watch was faster
            return answer

        monkeypatch.setattr(client, name, overtaken)
        await (follower.read(keys.decision) if name == "read" else follower.prove())


async def test_f44_an_answer_with_a_lower_revision_is_an_error_with_both(
    endpoint: str, path: str
) -> None:
    keys = PathKeys(path)
    async with open_client(endpoint) as client:
        follower = PathFollower(client, keys, 1000)
        follower.cover(keys.decision, found_keys(2**40))
        with pytest.raises(RevisionWentBack) as caught:
            await follower.prove()
        assert caught.value.known == 2**40
        assert 0 < caught.value.found < 2**40
        with pytest.raises(RevisionWentBack):
            await follower.read(keys.decision)


async def test_f3_a_read_of_another_range_does_not_prove_the_decision(path: str) -> None:
    """As when the watch of our own key begins anew, or slots are waited for."""
    keys = PathKeys(path)
    own, etcd = keys.host("a"), MemoryEtcd()
    async with etcd.open_client() as client, trio.open_nursery() as nursery:
        await client.put(keys.scheduled, "a")
        follower = PathFollower(client, keys, 1.0, (own,))
        asked_at = follower.fresh_at
        follower.cover(keys.decision, await client.get(keys.scheduled), asked_at)
        await client.put(keys.scheduled, "b")  # as no watch brings
        nursery.start_soon(follower.follow, KeyRange.of(own))
        await follower.wait(lambda view: view.covers(own))
        assert follower.fresh_at == asked_at
        assert await follower.reload(KeyRange.of(own))
        assert follower.fresh_at == asked_at
        await follower.prove()
        assert follower.fresh_at > asked_at
        assert follower.view.hosts == ("b",)
        assert await follower.reload(keys.decision)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("full", [False, True])
async def test_f37_while_nothing_is_covered_etcd_has_to_answer_all_the_same(full: bool) -> None:
    """Also one that is full, and refuses transactions that only read, as 3.5.1 does."""
    etcd = MemoryEtcd()
    async with etcd.open_client() as client:
        await client.put("/p/scheduled", "a")
        etcd.cluster.refusals.no_space_for_txns = etcd.cluster.refusals.no_space = full
        follower = PathFollower(client, PathKeys("/p"), 1)
        before = follower.fresh_at
        await follower.prove()
        assert follower.fresh_at > before
        etcd.cluster.refusals.refuse = lambda _method, _request: rpc_error(Status.UNAVAILABLE, "no")
        with trio.move_on_after(0.1) as scope:
            await follower.prove()
        assert scope.cancelled_caught


async def test_f3_what_proved_an_empty_view_does_not_prove_what_is_loaded_next() -> None:
    """The proof overtakes the read."""
    async with MemoryEtcd().open_client() as client:
        keys = PathKeys("/p")
        follower = PathFollower(client, keys, 1)
        asked_at = lease_time()
        found = await follower.read(keys.decision)
        await follower.prove()
        assert follower.fresh_at > asked_at
        follower.cover(keys.decision, found, asked_at)
        assert follower.fresh_at == asked_at
        await follower.prove()
        proven_at = follower.fresh_at
        assert proven_at > asked_at
        follower.cover(keys.decision, found, asked_at)
        assert follower.fresh_at == proven_at, "a proof of what is covered stays one"
