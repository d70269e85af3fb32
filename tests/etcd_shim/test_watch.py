"""Watches on a real etcd."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from trio_sched.etcd_shim import Client, Event, EventType, Put, Watcher, open_client
from trio_sched.etcd_shim._pb import messages_pb2 as pb
from trio_sched.etcd_shim.errors import Compacted, WatchOverflow
from trio_sched.testing import Etcd, open_etcd, open_faulty_link


async def take(watcher: Watcher, count: int) -> list[Event]:
    return [await watcher.__anext__() for _ in range(count)]


def values(events: list[Event]) -> list[bytes]:
    return [event.kv.value for event in events]


async def test_puts_and_deletes_in_order(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client, client.watch(path) as events:
        revisions = [(await client.put(path, str(index))).revision for index in range(3)]
        revisions.append((await client.delete(path)).revision)
        seen = await take(events, 4)
        assert [event.kv.mod_revision for event in seen] == revisions
        assert values(seen) == [b"0", b"1", b"2", b""]
        assert [event.type for event in seen] == [EventType.PUT] * 3 + [EventType.DELETE]
        assert seen[0].prev_kv is None
        assert events.next_revision == revisions[-1] + 1


async def test_async_for(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client, client.watch(path) as events:
        await client.put(path, "1")
        async for event in events:
            assert event.kv.value == b"1"
            break


async def test_what_is_left_of_an_iteration_is_received_first(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client, client.watch(path, prefix=True) as events:
        puts = [Put(f"{path}/{index}", str(index)) for index in range(3)]
        first = (await client.txn((), puts)).revision
        assert (await events.__anext__()).kv.value == b"0"
        last = (await client.put(f"{path}/9", "9")).revision
        with trio.move_on_after(0):
            await events.receive()
        batch = await events.receive()
        assert (values([*batch.events]), batch.revision) == ([b"1", b"2"], first)
        batch = await events.receive()
        assert (values([*batch.events]), batch.revision) == ([b"9"], last)


async def test_the_watch_exists_when_the_block_is_entered(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as watching, open_client(endpoint) as putting:
        for index in range(20):
            async with watching.watch(path) as events:
                await putting.put(path, str(index))
                assert values(await take(events, 1)) == [b"%d" % index]


async def test_f13_no_event_is_lost_between_a_read_and_its_watch(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client:
        read = await client.get(path)
        await client.put(path, "between")
        async with client.watch(path, start_revision=read.revision + 1) as events:
            assert values(await take(events, 1)) == [b"between"]


async def test_prefix_and_range(endpoint: str, path: str) -> None:
    async with (
        open_client(endpoint) as client,
        client.watch(f"{path}/", prefix=True) as prefix,
        client.watch(f"{path}/a", range_end=f"{path}/c") as some,
    ):
        for key in "abc":
            await client.put(f"{path}/{key}", key)
        await client.put(f"{path}0", "neighbour")
        await client.put(f"{path}/b", "last")
        assert values(await take(prefix, 4)) == [b"a", b"b", b"c", b"last"]
        assert values(await take(some, 3)) == [b"a", b"b", b"last"]


async def test_prev_kv_and_filters(endpoint: str, path: str) -> None:
    async with (
        open_client(endpoint) as client,
        client.watch(path, deletes=False) as puts,
        client.watch(path, puts=False, prev_kv=True) as deletes,
    ):
        for value in ("1", "2"):
            await client.put(path, value)
            await client.delete(path)
        assert values(await take(puts, 2)) == [b"1", b"2"]
        gone = await take(deletes, 2)
        assert [event.type for event in gone] == [EventType.DELETE] * 2
        assert [event.prev_kv.value for event in gone if event.prev_kv] == [b"1", b"2"]


async def test_neither_puts_nor_deletes_is_nonsense() -> None:
    async with open_client("http://127.0.0.1:1") as client:
        with pytest.raises(ValueError, match="nothing"):
            client.watch("a", puts=False, deletes=False)


async def test_one_revision_is_one_batch(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client, client.watch(f"{path}/", prefix=True) as watcher:
        await client.txn(success=[Put(f"{path}/{key}", key) for key in "abc"])
        batch = await watcher.receive()
        assert values(list(batch.events)) == [b"a", b"b", b"c"]
        assert {event.kv.mod_revision for event in batch.events} == {batch.revision}


async def test_fragments_are_put_together(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client:
        start = (await client.get(path)).revision + 1
        for index in range(4):
            await client.put(path, bytes([index]) * 1_000_000)
        # History of 4 MB in one answer is more than etcd sends in one message.
        async with client.watch(path, start_revision=start) as watcher:
            seen = await take(watcher, 4)
        assert [set(value) for value in values(seen)] == [{0}, {1}, {2}, {3}]


async def test_many_watches_share_one_stream(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client, trio.open_nursery() as nursery:
        seen: list[bytes] = []

        async def watch(key: str, task_status: trio.TaskStatus[None]) -> None:
            async with client.watch(key) as events:
                task_status.started()
                seen.extend(values(await take(events, 1)))

        for index in range(50):
            await nursery.start(watch, f"{path}/{index}")
        assert client.statistics().connections[0].open_calls == 1
        for index in range(50):
            await client.put(f"{path}/{index}", str(index))
        while len(seen) < 50:
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert sorted(seen) == sorted(b"%d" % index for index in range(50))


async def test_a_watch_that_was_left_hears_nothing_and_costs_nothing(
    endpoint: str, path: str
) -> None:
    async with open_client(endpoint) as client:
        async with client.watch(path) as events:
            pass
        await client.put(path, "late")
        async with client.watch(path) as other:
            await client.put(path, "now")
            assert values(await take(other, 1)) == [b"now"]
        with trio.move_on_after(0) as scope:
            await events.receive()
        assert scope.cancelled_caught


async def test_a_cancelled_receive_loses_nothing(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client, client.watch(path) as events:
        for index in range(5):
            await client.put(path, str(index))
            with trio.CancelScope() as scope:
                scope.cancel()
                await events.receive()
        assert values(await take(events, 5)) == [b"0", b"1", b"2", b"3", b"4"]


async def test_progress(path: str) -> None:
    every = "--experimental-watch-progress-notify-interval=100ms"
    async with open_etcd(extra_args=[every]) as server, open_client(server.endpoint) as client:
        if server.version < (3, 5):
            pytest.skip("this etcd reports progress only every ten minutes")
        async with client.watch(path, progress_notify=True) as watcher:
            revision = (await client.put("/elsewhere", "x")).revision
            batch = await watcher.receive()
            while batch.revision < revision:
                batch = await watcher.receive()
            assert batch.events == ()
            assert watcher.next_revision == revision + 1


# ---- what goes wrong -----------------------------------------------------------------


async def test_f12_a_compacted_start_says_where_to_go_on(etcd: Etcd, path: str) -> None:
    async with open_client(etcd.endpoint) as client:
        old = (await client.put(path, "1")).revision
        new = (await client.put(path, "2")).revision
        await etcd.etcdctl("compact", str(new))
        async with client.watch(path, start_revision=old) as watcher:
            with pytest.raises(Compacted) as caught:
                await watcher.receive()
        assert caught.value.revision == new
        async with client.watch(path, start_revision=caught.value.revision) as watcher:
            assert values(await take(watcher, 1)) == [b"2"]


async def test_a_watcher_that_does_not_read_is_told(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client, client.watch(path, buffer_size=10) as watcher:
        async with client.watch(path) as healthy:
            for index in range(30):
                await client.put(path, str(index))
            assert len(await take(healthy, 30)) == 30
        seen: list[Event] = []
        with pytest.raises(WatchOverflow) as caught:
            while True:
                seen.extend((await watcher.receive()).events)
        assert values(seen) == [b"%d" % index for index in range(10)]
        assert caught.value.limit == 10
        assert caught.value.revision == seen[-1].kv.mod_revision
        async with client.watch(path, start_revision=caught.value.revision + 1) as again:
            rest = await take(again, 20)
        assert values(rest) == [b"%d" % index for index in range(10, 30)]


async def test_two_tasks_in_receive_are_one_too_many(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client, client.watch(path) as watcher:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watcher.receive)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await watcher.receive()
            nursery.cancel_scope.cancel()


async def put_and_check(client: Client, watcher: Watcher, path: str, first: int) -> None:
    for index in range(first, first + 5):
        await client.put(path, str(index))
    assert values(await take(watcher, 5)) == [b"%d" % index for index in range(first, first + 5)]


@pytest.mark.parametrize("fault", ["cut", "mute then cut"])
async def test_f11_a_lost_connection_is_resumed_without_gap_or_repeat(
    endpoint: str, path: str, fault: str
) -> None:
    async with (
        open_faulty_link(endpoint) as link,
        open_client(link.endpoint) as watching,
        open_client(endpoint) as putting,
        watching.watch(path) as watcher,
    ):
        for first in range(0, 50, 10):
            await put_and_check(putting, watcher, path, first)
            if "mute" in fault:
                link.mute()  # what is put now is sent to us, and never arrives
                await putting.put(path, "unseen")
            link.cut()
            link.heal()
            if "mute" not in fault:
                await putting.put(path, "unseen")
            assert values(await take(watcher, 1)) == [b"unseen"]
            await put_and_check(putting, watcher, path, first + 5)
        assert link.connections >= 6


async def test_a_watch_survives_a_restart_of_etcd(path: str) -> None:
    async with open_etcd() as server, open_client(server.endpoint) as client:
        async with client.watch(path) as watcher:
            await put_and_check(client, watcher, path, 0)
            await server.members[0].restart()
            await put_and_check(client, watcher, path, 5)


async def test_an_event_says_whether_the_key_was_created(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client, client.watch(path) as events:
        for value in ("1", "2"):
            await client.put(path, value)
        await client.delete(path)
        await client.put(path, "3")
        seen = await take(events, 4)
        assert [event.is_create for event in seen] == [True, False, False, True]
        assert [event.is_modify for event in seen] == [False, True, False, False]


def answer(revision: int) -> pb.WatchResponse:
    """An answer with one event."""
    kv = pb.KeyValue(key=b"a", value=b"%d" % revision, mod_revision=revision)
    return pb.WatchResponse(events=[pb.Event(kv=kv)])


async def test_when_something_came_last_is_noted_though_no_task_waits(
    autojump_clock: trio.testing.MockClock,
) -> None:
    assert trio.lowlevel.current_clock() is autojump_clock
    watcher = Watcher(1, pb.WatchCreateRequest(), 10_000)
    for revision in range(1, 5):
        await trio.sleep(1)
        watcher._take(answer(revision))
        assert watcher.heard_at == trio.current_time()
        if revision > 1:  # others come while what came is there, or was received
            assert len((await watcher.receive()).events) in {1, 2}


async def test_what_comes_in_one_tick_is_received_together(
    autojump_clock: trio.testing.MockClock,
) -> None:
    assert trio.lowlevel.current_clock() is autojump_clock
    watcher = Watcher(1, pb.WatchCreateRequest(), 10_000)
    received: list[bytes] = []

    async def read() -> None:
        async for event in watcher:
            received.append(event.kv.value)  # noqa: PERF401 # seen before the end, which never comes

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        for first in (1, 4, 7):
            await trio.testing.wait_all_tasks_blocked()
            await trio.sleep(1)
            for revision in range(first, first + 3):
                watcher._take(answer(revision))
            assert watcher.heard_at == trio.current_time()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert received == [b"%d" % revision for revision in range(1, 10)]


async def test_after_a_wait_that_was_cancelled_the_next_is_woken(
    autojump_clock: trio.testing.MockClock,
) -> None:
    assert trio.lowlevel.current_clock() is autojump_clock
    watcher = Watcher(1, pb.WatchCreateRequest(), 10_000)
    for revision in range(1, 4):
        with trio.move_on_after(1):
            await watcher.receive()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watcher.receive)
            await trio.testing.wait_all_tasks_blocked()
            watcher._take(answer(revision))
