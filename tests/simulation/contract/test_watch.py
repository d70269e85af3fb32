"""Watches: what each is given, from when on, and in which order.

The watch stream itself, as it goes over the wire, is in ``test_watch_stream.py``.
"""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.simulation.servers import Server, version
from trio_sched.etcd_shim import (
    ALL_KEYS,
    Client,
    Delete,
    Event,
    EventType,
    KeyValue,
    Put,
    Watcher,
)
from trio_sched.etcd_shim.errors import Compacted

PUT, DELETE = EventType.PUT, EventType.DELETE


async def take(watcher: Watcher, count: int) -> list[Event]:
    with trio.fail_after(20):
        return [await watcher.__anext__() for _ in range(count)]


async def values(watcher: Watcher, count: int) -> list[bytes]:
    return [event.kv.value for event in await take(watcher, count)]


# ---- what an event says ------------------------------------------------------------


async def test_events_of_one_key(client: Client, path: str) -> None:
    key = path.encode()
    async with client.watch(path) as watcher:
        first = (await client.put(path, "1")).revision
        second = (await client.put(path, "2")).revision
        third = (await client.delete(path)).revision
        assert await take(watcher, 3) == [
            Event(PUT, KeyValue(key, b"1", first, first, 1, 0), None),
            Event(PUT, KeyValue(key, b"2", first, second, 2, 0), None),
            Event(DELETE, KeyValue(key, b"", 0, third, 0, 0), None),
        ]
        assert watcher.next_revision == third + 1


async def test_the_key_before(client: Client, path: str) -> None:
    lease = await client.lease_grant(1000)
    async with client.watch(path, prev_kv=True) as watcher:
        found: list[KeyValue | None] = [None]
        for value in "12":
            await client.put(path, value, lease=lease.id)
            found.append((await client.get(path)).kv)
        await client.delete(path)
        await client.put(path, "3")
        events = await take(watcher, 4)
        assert [event.prev_kv for event in events] == [*found, None]
        assert [event.kv.lease for event in events] == [lease.id, lease.id, 0, 0]


async def test_a_delete_of_nothing_is_no_event(client: Client, path: str) -> None:
    async with client.watch(path) as watcher:
        await client.delete(path)
        await client.put(path, "1")
        assert await values(watcher, 1) == [b"1"]


# ---- which keys --------------------------------------------------------------------


async def test_a_key_a_prefix_a_range_and_everything_from_a_key_on(
    client: Client, path: str
) -> None:
    async with (
        client.watch(f"{path}/b") as key,
        client.watch(f"{path}/b", prefix=True) as prefix,
        client.watch(f"{path}/a", range_end=f"{path}/c") as range_,
        client.watch(f"{path}/b", range_end=ALL_KEYS) as onwards,
    ):
        for name in ("a", "b", "b\0", "bb", "c", "b"):
            await client.put(f"{path}/{name}", name)
        assert await values(key, 2) == [b"b", b"b"]
        assert await values(prefix, 4) == [b"b", b"b\0", b"bb", b"b"]
        assert await values(range_, 5) == [b"a", b"b", b"b\0", b"bb", b"b"]
        assert await values(onwards, 5) == [b"b", b"b\0", b"bb", b"c", b"b"]


async def test_only_puts_or_only_deletes(client: Client, path: str) -> None:
    async with (
        client.watch(path, deletes=False) as puts,
        client.watch(path, puts=False, prev_kv=True) as deletes,
    ):
        for value in "12":
            await client.put(path, value)
            await client.delete(path)
        await client.put(path, "3")
        await client.delete(path)
        assert await values(puts, 3) == [b"1", b"2", b"3"]
        events = await take(deletes, 3)
        assert [event.type for event in events] == [DELETE] * 3
        assert [event.prev_kv and event.prev_kv.value for event in events] == [b"1", b"2", b"3"]


# ---- order and batches -------------------------------------------------------------


async def test_the_events_of_a_transaction_come_together_in_its_order(
    client: Client, path: str
) -> None:
    await client.put(f"{path}/d", "0")
    async with client.watch(f"{path}/", prefix=True) as watcher:
        done = await client.txn(
            success=[Put(f"{path}/c", "1"), Delete(f"{path}/d"), Put(f"{path}/a", "2")]
        )
        batch = await watcher.receive()
        assert [(event.type, event.kv.key[-1:]) for event in batch.events] == [
            (PUT, b"c"),
            (DELETE, b"d"),
            (PUT, b"a"),
        ]
        assert {event.kv.mod_revision for event in batch.events} == {done.revision}
        assert batch.revision == done.revision


async def test_the_events_of_a_range_that_is_deleted_are_in_the_order_of_keys(
    client: Client, path: str
) -> None:
    for name in "cab":
        await client.put(f"{path}/{name}", "x")
    async with client.watch(f"{path}/", prefix=True) as watcher:
        await client.delete_prefix(f"{path}/")
        batch = await watcher.receive()
        assert [event.kv.key[-1:] for event in batch.events] == [b"a", b"b", b"c"]


async def test_no_batch_ends_within_a_revision(client: Client, path: str) -> None:
    async with client.watch(f"{path}/", prefix=True) as watcher:
        start = watcher.next_revision
        for number in range(10):
            await client.txn(success=[Put(f"{path}/{name}", str(number)) for name in "abc"])
        await check_batches(watcher)
        async with client.watch(f"{path}/", prefix=True, start_revision=start) as history:
            await check_batches(history)


async def check_batches(watcher: Watcher) -> None:
    seen: list[int] = []
    while len(seen) < 30:
        with trio.fail_after(20):
            batch = await watcher.receive()
        revisions = [event.kv.mod_revision for event in batch.events]
        assert not set(revisions) & set(seen)
        seen += revisions
    assert seen == sorted(seen)
    assert [seen.count(revision) for revision in sorted(set(seen))] == [3] * 10


async def test_writes_of_many_clients_come_to_all_in_one_order(
    server: Server, client: Client, path: str
) -> None:
    async def write(name: str) -> None:
        async with server.open_client() as writer:
            for index in range(10):
                await writer.put(f"{path}/{name}", str(index))

    async with (
        server.open_client() as other,
        client.watch(f"{path}/", prefix=True) as one_watcher,
        other.watch(f"{path}/", prefix=True) as other_watcher,
    ):
        async with trio.open_nursery() as nursery:
            for name in "abc":
                nursery.start_soon(write, name)
        one, another = await take(one_watcher, 30), await take(other_watcher, 30)
    assert one == another
    revisions = [event.kv.mod_revision for event in one]
    assert revisions == list(range(revisions[0], revisions[0] + 30))


# ---- from when on ------------------------------------------------------------------


async def test_nothing_older_than_the_watch(client: Client, path: str) -> None:
    before = (await client.put(path, "old")).revision
    async with client.watch(path) as watcher:
        assert watcher.created_revision == before
        assert watcher.next_revision == before + 1
        await client.put(path, "new")
        assert await values(watcher, 1) == [b"new"]


async def test_from_the_past_on(client: Client, path: str) -> None:
    revisions = [(await client.put(path, value)).revision for value in "123"]
    await client.delete(path)
    async with client.watch(path, start_revision=revisions[1], prev_kv=True) as watcher:
        events = await take(watcher, 3)
        assert [event.kv.value for event in events] == [b"2", b"3", b""]
        assert [event.prev_kv and event.prev_kv.value for event in events] == [b"1", b"2", b"3"]
        await client.put(path, "4")
        assert await values(watcher, 1) == [b"4"]


async def test_from_now_on(client: Client, path: str) -> None:
    await client.put(path, "1")
    now = (await client.put(path, "2")).revision
    async with client.watch(path, start_revision=now) as watcher:
        assert await values(watcher, 1) == [b"2"]
    async with client.watch(path, start_revision=now + 1) as watcher:
        await client.put(path, "3")
        assert await values(watcher, 1) == [b"3"]


async def test_from_the_future_on(client: Client, path: str) -> None:
    now = (await client.put(path, "0")).revision
    async with client.watch(path, start_revision=now + 3) as watcher:
        assert watcher.created_revision == now
        for value in "1234":
            await client.put(path, value)
        assert await values(watcher, 2) == [b"3", b"4"]


async def test_history_of_a_prefix_without_what_is_filtered(client: Client, path: str) -> None:
    start = (await client.put(f"{path}/a", "1")).revision
    await client.txn(success=[Put(f"{path}/b", "2"), Delete(f"{path}/a")])
    await client.put(f"{path}x", "outside")
    await client.delete(f"{path}/b")
    async with (
        client.watch(f"{path}/", prefix=True, start_revision=start) as both,
        client.watch(f"{path}/", prefix=True, start_revision=start, deletes=False) as puts,
        client.watch(f"{path}/", prefix=True, start_revision=start, puts=False) as deletes,
    ):
        for watcher, expected in ((both, "abab"), (puts, "ab"), (deletes, "ab")):
            events = await take(watcher, len(expected))
            assert [event.kv.key.decode()[-1] for event in events] == list(expected)


async def test_history_that_is_compacted(client: Client, path: str) -> None:
    revisions = [(await client.put(path, value)).revision for value in "123"]
    await client.compact(revisions[1], physical=True)
    async with client.watch(path, start_revision=revisions[0]) as watcher:
        with pytest.raises(Compacted) as caught, trio.fail_after(20):
            await watcher.receive()
        assert caught.value.revision == revisions[1]
    async with client.watch(path, start_revision=revisions[1], prev_kv=True) as watcher:
        events = await take(watcher, 2)
        assert [event.kv.value for event in events] == [b"2", b"3"]
        previous = [event.prev_kv and event.prev_kv.value for event in events]
        assert previous == [None, b"2"], "what was before the oldest revision is not known"


async def test_history_that_begins_with_a_deletion_at_the_compacted_revision(
    client: Client, path: str
) -> None:
    """Since etcd 3.5.16 that deletion is an event; before, it is lost."""
    await client.put(path, "1")
    deleted = (await client.delete(path)).revision
    await client.put(path, "2")
    await client.compact(deleted, physical=True)
    kept = await version(client) >= (3, 5, 16)
    async with client.watch(path, start_revision=deleted, prev_kv=True) as watcher:
        events = await take(watcher, 1 + kept)
    found = [(event.type, event.kv.value, event.prev_kv) for event in events]
    assert found == [(DELETE, b"", None)] * kept + [(PUT, b"2", None)]


@pytest.mark.at_the_root
async def test_of_the_compacted_revision_the_last_event_of_a_key_is_left(
    client: Client, path: str
) -> None:
    await client.put(f"{path}/a", "1")
    revision = (
        await client.txn(
            success=[
                Put(f"{path}/b", "2"),
                Put(f"{path}/c", "3"),
                Delete(f"{path}/c", ALL_KEYS),
            ]
        )
    ).revision
    await client.put(f"{path}/d", "4")
    await client.compact(revision, physical=True)
    kept = await version(client) >= (3, 5, 16)
    async with client.watch(f"{path}/", prefix=True, start_revision=revision) as watcher:
        events = await take(watcher, 2 + kept)
    found = [(event.type, event.kv.key[-1:]) for event in events]
    assert found == [(PUT, b"b"), *[(DELETE, b"c")] * kept, (PUT, b"d")]


async def test_a_watch_that_lives_is_not_compacted(client: Client, path: str) -> None:
    async with client.watch(path, prev_kv=True) as watcher:
        await client.put(path, "1")
        assert await values(watcher, 1) == [b"1"]
        await client.compact((await client.put(path, "2")).revision, physical=True)
        assert await values(watcher, 1) == [b"2"]
        await client.put(path, "3")
        (event,) = await take(watcher, 1)
        assert event.kv.value == b"3"
        assert event.prev_kv is not None
        assert event.prev_kv.value == b"2"


# ---- several -----------------------------------------------------------------------


async def test_a_watch_that_is_left_takes_no_other_with_it(client: Client, path: str) -> None:
    async with client.watch(path) as stays:
        for index in range(5):
            async with client.watch(path) as leaves:
                await client.put(path, str(index))
                assert await values(leaves, 1) == [str(index).encode()]
        await client.put(path, "last")
        assert await values(stays, 6) == [b"0", b"1", b"2", b"3", b"4", b"last"]


async def test_a_watch_that_is_cancelled_while_it_waits(client: Client, path: str) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(watch_forever, client, path)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    async with client.watch(path) as other:
        await client.put(path, "2")
        assert await values(other, 1) == [b"2"]


async def watch_forever(client: Client, path: str, *, task_status: trio.TaskStatus[None]) -> None:
    async with client.watch(path) as watcher:
        task_status.started()
        async for _event in watcher:
            pass


async def test_progress_on_an_idle_watch(client: Client, path: str) -> None:
    async with client.watch(path, progress_notify=True) as watcher:
        revision = (await client.put(f"{path}/other", "1")).revision
        with trio.fail_after(20):
            while (batch := await watcher.receive()).revision < revision:
                assert not batch.events
        assert not batch.events
        assert watcher.next_revision == revision + 1


async def test_following_a_prefix(client: Client, path: str) -> None:
    await client.put(f"{path}/a", "1")
    async with client.follow(f"{path}/") as follower:
        assert [kv.value for kv in follower.first] == [b"1"]
        await client.put(f"{path}/b", "2")
        await client.delete(f"{path}/a")
        with trio.fail_after(20):
            events = [await follower.__anext__() for _ in range(2)]
        assert [(event.type, event.kv.key[-1:]) for event in events] == [
            (PUT, b"b"),
            (DELETE, b"a"),
        ]
