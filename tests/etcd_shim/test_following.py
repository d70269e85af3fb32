"""`Client.follow`: the state, then each change, whatever happens between."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from grpclib.const import Status

from tests.host.test_patience import in_no_time
from trio_sched.etcd_shim import (
    Client,
    EventType,
    Follower,
    Put,
    WatchBatch,
    Watcher,
    open_client,
)
from trio_sched.etcd_shim.errors import PermissionDenied, rpc_error
from trio_sched.simulation import MemoryEtcd
from trio_sched.testing import Etcd, open_etcd, open_faulty_link


async def stored(client: Client, path: str) -> dict[bytes, bytes]:
    return {kv.key: kv.value for kv in await client.get_prefix(f"{path}/")}


def delivered(follower: Follower) -> dict[bytes, bytes]:
    return {key: kv.value for key, kv in follower.state.items()}


async def test_first_the_state_then_each_change(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client:
        await client.put(f"{path}/a", "1")
        async with client.follow(f"{path}/") as follower:
            assert [kv.value for kv in follower.first] == [b"1"]
            await client.put(f"{path}/b", "2")
            await client.delete(f"{path}/a")
            seen = [await follower.__anext__() for _ in range(2)]
            assert [event.type for event in seen] == [EventType.PUT, EventType.DELETE]
            assert delivered(follower) == await stored(client, path)
            assert follower.healed == 0


async def test_what_is_left_of_an_iteration_is_received_first(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client, client.follow(f"{path}/") as follower:
        await client.txn((), [Put(f"{path}/{index}", str(index)) for index in range(3)])
        assert (await follower.__anext__()).kv.value == b"0"
        await client.put(f"{path}/9", "9")
        with trio.move_on_after(0):
            await follower.receive()
        seen = [[event.kv.value for event in (await follower.receive()).events] for _ in range(2)]
        assert seen == [[b"1", b"2"], [b"9"]]


async def test_f12_it_heals_over_a_compaction_and_notices_deletions(etcd: Etcd, path: str) -> None:
    async with (
        open_faulty_link(etcd.endpoint) as link,
        open_client(link.endpoint) as following,
        open_client(etcd.endpoint) as client,
    ):
        for key in ("stays", "changes", "goes"):
            await client.put(f"{path}/{key}", "1")
        async with following.follow(f"{path}/") as follower:
            link.stall()
            await client.put(f"{path}/changes", "2")
            await client.delete(f"{path}/goes")
            revision = (await client.put(f"{path}/comes", "1")).revision
            revision = (await client.put("/elsewhere", "x")).revision
            await etcd.etcdctl("compact", str(revision))
            link.cut()
            link.heal()
            changes: dict[bytes, EventType] = {}
            while len(changes) < 3:
                for event in (await follower.receive()).events:
                    changes[event.kv.key.rpartition(b"/")[2]] = event.type
            assert changes == {
                b"changes": EventType.PUT,
                b"goes": EventType.DELETE,
                b"comes": EventType.PUT,
            }
            assert follower.healed <= 1  # 0 if the last bytes got through before the cut
            assert delivered(follower) == await stored(client, path)
            await client.put(f"{path}/after", "1")
            assert (await follower.__anext__()).kv.key.endswith(b"after")


async def test_it_heals_over_an_overflow(endpoint: str, path: str) -> None:
    async with (
        open_client(endpoint) as client,
        client.follow(f"{path}/", buffer_size=5) as follower,
    ):
        for index in range(40):
            await client.put(f"{path}/{index % 7}", str(index))
        await client.delete(f"{path}/3")
        last = (await client.put(f"{path}/last", "x")).revision
        while follower.revision < last:
            await follower.receive()
        assert follower.healed >= 1
        assert delivered(follower) == await stored(client, path)


async def test_a_cancelled_receive_loses_nothing(endpoint: str, path: str) -> None:
    async with (
        open_client(endpoint) as client,
        client.follow(f"{path}/", buffer_size=3) as follower,
    ):
        for index in range(20):
            await client.put(f"{path}/{index}", "x")
        for delay in (0, 0, 0.0005, 0.001, 0.002):
            with trio.move_on_after(delay):
                await follower.receive()
        last = (await client.put(f"{path}/last", "x")).revision
        while follower.revision < last:
            await follower.receive()
        assert delivered(follower) == await stored(client, path)


# ---- a server that loses events: a real one cannot be made to ----------------------------


class Lossy:
    """A watcher that does not pass on the events of some keys, or of none at all."""

    def __init__(self, real: Watcher, lost: bytes) -> None:
        self._real = real
        self._lost = lost

    async def receive(self) -> WatchBatch:
        while True:
            batch = await self._real.receive()
            events = tuple(e for e in batch.events if not e.kv.key.endswith(self._lost))
            if events:
                return WatchBatch(events, batch.revision)


def lossy(client: Client, monkeypatch: pytest.MonkeyPatch, lost: bytes) -> None:
    """Lose the events of keys that end with `lost`."""
    real = client.watch

    @asynccontextmanager
    async def watch(*args: Any, **kwargs: Any) -> AsyncIterator[Lossy]:
        async with real(*args, **kwargs) as watcher:
            yield Lossy(watcher, lost)

    monkeypatch.setattr(client, "watch", watch)


@pytest.mark.parametrize("lost", [b"lost", b""], ids=["f14 an event", "f3 all of them"])
async def test_f3_f14_what_the_watch_does_not_tell_is_read(
    endpoint: str, path: str, monkeypatch: pytest.MonkeyPatch, lost: bytes
) -> None:
    async with open_client(endpoint) as client:
        lossy(client, monkeypatch, lost)
        await client.put(f"{path}/lost", "1")
        async with client.follow(f"{path}/", reconcile=0.05) as follower:
            for value in ("2", "3"):
                await client.put(f"{path}/lost", value)
                event = await follower.__anext__()
                assert event.kv.value == value.encode()
            await client.delete(f"{path}/lost")
            assert (await follower.__anext__()).type is EventType.DELETE
            assert follower.healed == 3
            assert delivered(follower) == await stored(client, path) == {}


async def test_f3_a_silent_watch_is_proven_fresh(endpoint: str, path: str) -> None:
    async with (
        open_client(endpoint) as client,
        client.follow(f"{path}/", reconcile=0.02) as follower,
    ):
        before = follower.fresh_at
        with trio.move_on_after(10) as patience:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(follower.receive)
                while follower.fresh_at == before:
                    await trio.testing.wait_all_tasks_blocked(0.01)
                nursery.cancel_scope.cancel()
        assert not patience.cancelled_caught
        assert follower.healed == 0


async def test_reconciling_never_or_at_once_is_nonsense() -> None:
    async with open_client("http://127.0.0.1:1") as client:
        with pytest.raises(ValueError, match="more than 0"):
            client.follow("/a", reconcile=0)


# ---- etcd restarts -----------------------------------------------------------------------


@pytest.mark.parametrize("reconcile", [None, 0.1])
async def test_f42_it_goes_on_over_a_restart_of_etcd(reconcile: float | None) -> None:
    """Of the only member, killed; it is away for longer than a single request is tried for."""
    async with open_etcd() as server, open_client(server.endpoint) as client:
        (member,) = server.members
        async with client.follow("/p/", reconcile=reconcile) as follower, trio.open_nursery() as n:
            received = trio.Event()

            async def receive() -> None:
                await follower.receive()
                received.set()

            n.start_soon(receive)
            member.kill()
            await member.wait_ended()
            killed = trio.current_time()
            await trio.sleep(5)
            assert follower.answered_at <= killed
            await member.start()
            async with open_client(server.endpoint) as other:
                await other.put("/p/a", "after")
                started = trio.current_time()
                await received.wait()
            assert delivered(follower) == {b"/p/a": b"after"}
            # A read that has waited for etcd counts from when it was asked for; the next is newer.
            while follower.answered_at < started - 1:
                with trio.move_on_after(0.1):
                    await follower.receive()
            n.cancel_scope.cancel()


@pytest.mark.parametrize("reconcile", [None, 2.0])
@in_no_time
async def test_f42_it_waits_for_as_long_as_etcd_is_away(reconcile: float | None) -> None:
    etcd = MemoryEtcd()
    (member,) = etcd.cluster.members
    async with etcd.open_client() as client, client.follow("/p/", reconcile=reconcile) as follower:
        for seconds in (1, 60, 3600):
            with trio.move_on_after(1):
                await follower.receive()
            etcd.cluster.stop(member)
            stopped = trio.current_time()
            with trio.move_on_after(seconds):
                await follower.receive()
            assert follower.answered_at <= stopped
            etcd.cluster.start(member)
            await client.put("/p/a", str(seconds))
            (event,) = (await follower.receive()).events
            assert event.kv.value == str(seconds).encode()
            assert follower.answered_at > stopped


@in_no_time
async def test_f42_what_was_compacted_meanwhile_is_read() -> None:
    etcd = MemoryEtcd(2)
    async with etcd.open_client() as client:
        await client.put("/p/gone", "x")
        async with client.follow("/p/") as follower:
            for member in etcd.cluster.members:
                etcd.cluster.stop(member)
            with trio.move_on_after(60):
                await follower.receive()
            for member in etcd.cluster.members:
                etcd.cluster.start(member)
            await client.delete("/p/gone")
            etcd.compact((await client.put("/p/new", "x")).revision)
            while delivered(follower) != {b"/p/new": b"x"}:
                await follower.receive()


@pytest.mark.parametrize("words", ["etcdserver: too many requests", "context deadline exceeded"])
@in_no_time
async def test_f42_a_watch_that_ends_by_a_fault_of_the_moment_begins_anew(
    monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    async with MemoryEtcd().open_client() as client:
        real = client.watch
        ends = iter([True, True, False])

        class Ending:
            def __init__(self, watcher: Watcher) -> None:
                self._watcher = watcher

            async def receive(self) -> WatchBatch:
                if next(ends):
                    await client.put("/p/between", "x")
                    raise rpc_error(Status.UNKNOWN, words)
                return await self._watcher.receive()

        @asynccontextmanager
        async def watch(*args: Any, **kwargs: Any) -> AsyncIterator[Ending]:
            async with real(*args, **kwargs) as watcher:
                yield Ending(watcher)

        monkeypatch.setattr(client, "watch", watch)
        async with client.follow("/p/") as follower:
            assert (await follower.receive()).events[-1].kv.version == 2


@in_no_time
async def test_f42_a_refusal_is_the_callers() -> None:
    etcd = MemoryEtcd()
    async with etcd.open_client() as client, client.follow("/p/", reconcile=1.0) as follower:
        etcd.cluster.refusals.forbidden.add(b"/p/")
        with pytest.raises(PermissionDenied):
            await follower.receive()
