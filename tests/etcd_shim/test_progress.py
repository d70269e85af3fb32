"""Progress that is asked for: on a real etcd where that can be relied on, and in memory."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial

import pytest
import trio
import trio.testing

from tests.simulation.servers import version
from trio_sched.etcd_shim import Client, WatchBatch, Watcher, open_client
from trio_sched.etcd_shim._versions import reports_progress
from trio_sched.etcd_shim.errors import Compacted, Unimplemented
from trio_sched.simulation import MemoryEtcd
from trio_sched.simulation.memory_server import _WatchCall
from trio_sched.simulation.memory_watches import Watch
from trio_sched.testing import Etcd, FaultyLink, open_etcd, open_faulty_link


@pytest.mark.parametrize(
    ("number", "reliable"),
    [
        *(("3.3.27", False), ("3.4.23", False), ("3.4.30", False), ("3.4.31", True)),
        *(("3.5.0", False), ("3.5.1", False), ("3.5.12", False), ("3.5.13", True)),
        *(("3.5.30", True), ("3.6.0-rc.1", True), ("of another kind", True)),
    ],
)
def test_which_versions_answer_in_time(number: str, reliable: bool) -> None:
    assert reports_progress(number) is reliable


async def is_refused(client: Client, watcher: Watcher) -> bool:
    """Return whether this etcd cannot be relied on for it; if so, see that it is refused."""
    if reports_progress(".".join(map(str, await version(client)))):
        return False
    with pytest.raises(Unimplemented, match="15220") as caught:
        await watcher.request_progress()
    assert caught.value.status.name == "UNIMPLEMENTED"
    return True


async def test_up_to_where_all_has_been_delivered(endpoint: str, path: str) -> None:
    """What others write moves the store on, and the watch hears of that, though not of them."""
    async with open_client(endpoint) as client, client.watch(path) as watcher:
        if await is_refused(client, watcher):
            return
        mine = (await client.put(path, "1")).revision
        newest = (await client.put(f"{path}-beside", "1")).revision
        with trio.fail_after(30):
            reached = await watcher.request_progress()
        assert reached >= newest
        assert watcher.next_revision == reached + 1
        batch = await watcher.receive()
        assert [event.kv.mod_revision for event in batch.events] == [mine]
        assert batch.revision == reached


async def test_an_idle_watch_gets_an_empty_batch(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client, client.watch(path) as watcher:
        if await is_refused(client, watcher):
            return
        with trio.fail_after(30):
            reached = await watcher.request_progress()
            assert await watcher.receive() == WatchBatch((), reached)


async def test_it_is_asked_for_again_until_history_has_come(endpoint: str, path: str) -> None:
    """etcd is silent as long as a watch catches up."""
    async with open_client(endpoint) as client:
        revisions = [(await client.put(path, str(index))).revision for index in range(300)]
        async with client.watch(path, start_revision=revisions[0]) as watcher:
            if await is_refused(client, watcher):
                return
            with trio.fail_after(30):
                reached = await watcher.request_progress()
            batch = await watcher.receive()
            assert [event.kv.mod_revision for event in batch.events] == revisions
            assert reached >= revisions[-1]


async def test_only_who_has_asked_is_given_it(endpoint: str, path: str) -> None:
    async with (
        open_client(endpoint) as client,
        client.watch(path) as asking,
        client.watch(path) as other,
    ):
        if await is_refused(client, asking):
            return
        with trio.fail_after(30):
            await asking.request_progress()
            await asking.receive()
            await client.put(path, "1")
            assert len((await other.receive()).events) == 1


async def test_the_watch_goes_on_from_there(path: str) -> None:
    """History up to where it has come may be gone; a watch that has not asked ends then."""
    etcd = MemoryEtcd()
    async with etcd.open_client() as client:
        async with client.watch(path) as asking, client.watch(path) as other:
            for index in range(5):
                await client.put(f"{path}-beside", str(index))
            reached = await asking.request_progress()
            assert (await asking.receive()).revision == reached == 6
            await client.compact(reached)
            (member,) = etcd.cluster.members
            etcd.cluster.stop(member)
            etcd.cluster.start(member)
            with pytest.raises(Compacted):
                await other.receive()
            await client.put(path, "1")
            assert (await asking.receive()).events[0].kv.value == b"1"


async def test_over_a_lost_connection(endpoint: str, path: str) -> None:
    """It is asked for again on the next one."""
    async with open_faulty_link(endpoint) as link, open_client(link.endpoint) as client:
        async with client.watch(path) as watcher:
            if await is_refused(client, watcher):
                return
            await _ask_while_cut_off(link, watcher)


async def _ask_while_cut_off(link: FaultyLink, watcher: Watcher) -> None:
    link.stall()
    answered = trio.Event()
    async with trio.open_nursery() as nursery:

        async def ask() -> None:
            await watcher.request_progress()
            answered.set()

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        assert not answered.is_set()
        link.cut()
        link.heal()
        with trio.fail_after(30):
            await answered.wait()


async def test_an_error_of_the_watch_ends_it(path: str) -> None:
    etcd = MemoryEtcd()
    async with etcd.open_client() as client:
        await client.put(path, "1")
        await client.compact((await client.put(path, "2")).revision)
        async with client.watch(path, start_revision=1) as watcher:
            with pytest.raises(Compacted):
                await watcher.request_progress()


async def test_cancelled_it_loses_nothing(path: str) -> None:
    etcd = MemoryEtcd()
    async with etcd.open_client() as client, client.watch(path) as watcher:
        with trio.CancelScope() as scope:
            scope.cancel()
            await watcher.request_progress()
        await client.put(path, "1")
        assert await watcher.request_progress() == 2
        assert len((await watcher.receive()).events) == 1


async def test_members_of_different_versions(path: str) -> None:
    """Each is asked what it is, also after the stream has moved to another one."""
    async with open_etcd(members=3) as etcd, open_client(*etcd.endpoints) as client:
        async with client.watch(path) as watcher:
            if await is_refused(client, watcher):
                return
            await watcher.request_progress()
            _kill_current(etcd, client)
            await client.get(path)  # at another member
            newest = (await client.put(f"{path}-beside", "1")).revision
            with trio.fail_after(50):
                while await watcher.request_progress() < newest:
                    pass


def _kill_current(etcd: Etcd, client: Client) -> None:
    used = client.statistics().endpoint
    (member,) = (each for each in etcd.members if each.endpoint == used)
    member.kill()


class HeldAnswers:
    """Answers of the server about progress, and a history, that wait until they are released."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.progress: list[Callable[[], None]] = []
        self.history: list[Callable[[], None]] = []
        self.has_history = trio.Event()
        say, catch_up = _WatchCall._progress, _WatchCall._catch_up

        def hold_progress(call: _WatchCall, watch_id: int, watches: Collection[Watch]) -> None:
            send = call.send
            with monkeypatch.context() as patch:
                hold = self.progress.append
                patch.setattr(call, "send", lambda answer: hold(partial(send, answer)))
                say(call, watch_id, watches)

        def hold_history(call: _WatchCall, watch: Watch) -> None:
            self.history.append(partial(catch_up, call, watch))
            self.has_history.set()

        monkeypatch.setattr(_WatchCall, "_progress", hold_progress)
        monkeypatch.setattr(_WatchCall, "_catch_up", hold_history)


async def test_f76_an_answer_from_before_a_watch_says_nothing_of_it(
    monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """That a watch is created overtakes what etcd has said before: they are sent by two ways."""
    etcd = MemoryEtcd()
    held = HeldAnswers(monkeypatch)
    reached: dict[str, int] = {}
    answered = trio.Event()

    async def ask(name: str, watcher: Watcher) -> None:
        reached[name] = await watcher.request_progress()
        if name == "late":
            answered.set()

    async with etcd.open_client() as client, client.watch(path) as first:
        first_revision = (await client.put(f"{path}-beside", "1")).revision
        newest = (await client.put(f"{path}-beside", "2")).revision
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "first", first)
            await trio.testing.wait_all_tasks_blocked()
            (stale,) = held.progress
            async with (
                client.watch(f"{path}-beside", start_revision=first_revision) as late,
                trio.open_nursery() as inner,
            ):
                inner.start_soon(ask, "late", late)
                await held.has_history.wait()
                await trio.testing.wait_all_tasks_blocked()
                stale()
                await trio.testing.wait_all_tasks_blocked()
                assert reached == {"first": newest}
                (release_history,) = held.history
                release_history()
                monkeypatch.undo()
                with trio.fail_after(30):
                    await answered.wait()
                assert reached["late"] == newest
                revisions = [event.kv.mod_revision for event in (await late.receive()).events]
                assert revisions == [first_revision, newest]


async def test_f76_requests_that_are_never_answered_delay_only_a_little(
    monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Which one an answer is for cannot be known; so there is another one for each."""
    etcd = MemoryEtcd()
    async with etcd.open_client() as client, client.watch(path) as first:
        await client.put(f"{path}-beside", "1")
        newest = (await client.put(f"{path}-beside", "2")).revision
        with monkeypatch.context() as patch:
            patch.setattr(_WatchCall, "_progress", lambda *_: None)
            for _ in range(5):
                with trio.move_on_after(0.01):
                    await first.request_progress()
        async with client.watch(path, start_revision=1) as late:
            with trio.fail_after(30):
                assert await late.request_progress() == newest
