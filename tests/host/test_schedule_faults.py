"""What goes wrong around a host: its network, its etcd, its clock, its own process."""

from __future__ import annotations

import logging
import signal
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.helpers import until, watch_leftovers
from tests.host.test_schedule_processes import TTL, open_host
from trio_sched import Client, Control, open_client, schedule
from trio_sched.model.keys import PathKeys
from trio_sched.testing import Etcd, open_etcd, open_faulty_link

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from trio_sched.etcd_shim import Event, KeyValue, WatchBatch, Watcher


async def test_f2_f5_a_process_that_was_stopped_wakes_up_unscheduled(
    endpoint: str, path: str
) -> None:
    """It led and was chosen. Another one leads meanwhile; what it writes late is refused."""
    async with (
        watch_leftovers(endpoint, path) as left,
        open_host(endpoint, path, "a-stopped") as stopped,
    ):
        await stopped.read_until("a-stopped")
        async with (
            open_client(endpoint) as client,
            schedule(client, path, "b", max_count=2, session_ttl=TTL) as result,
        ):
            await stopped.read_until("a-stopped", "b")
            stopped.process.send_signal(signal.SIGSTOP)
            hosts = await until(result, "b")
            stopped.process.send_signal(signal.SIGCONT)
            assert (await stopped.read())["hosts"] == [], "the first thing that it learns"
            rejoined = await until(result, "a-stopped", "b")
            assert rejoined.leader == "b"
            assert rejoined.fence == hosts.fence, "no other host has led"
            await stopped.read_until("a-stopped", "b")
    assert left.nothing


async def test_work_that_ends_as_soon_as_a_frozen_process_wakes_is_not_said_to_go_on(
    endpoint: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It hears of the end only then; what it does to end takes a turn of the loop or two."""
    started, ended = trio.Event(), trio.Event()

    async def work(_slot: object) -> None:
        started.set()
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
            ended.set()

    async with (
        open_client(endpoint) as client,
        schedule(client, path, "a", session_ttl=1) as result,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(result.run_while_scheduled, work)
        await started.wait()
        time.sleep(1.5)  # noqa: ASYNC251 # all of the process stands still
        await ended.wait()
        await until(result, "a")
        nursery.cancel_scope.cancel()
    assert "beyond its deadline" not in caplog.text


class Deaf:
    """A watcher that receives nothing."""

    def __init__(self, real: Watcher) -> None:
        self._real = real

    async def receive(self) -> WatchBatch:
        while True:
            await self._real.receive()


@asynccontextmanager
async def open_deaf(
    endpoint: str, wrap: Callable[[bytes, Watcher], object]
) -> AsyncIterator[Client]:
    """Open a client whose watches are what `wrap` makes of them, by their keys."""
    async with open_client(endpoint) as client:
        real = client.watch

        @asynccontextmanager
        async def watch(key: bytes, **options: Any) -> AsyncIterator[object]:
            async with real(key, **options) as watcher:
                yield wrap(key, watcher)

        client.watch = watch  # type: ignore[method-assign, assignment] # as a silent server does
        yield client


async def test_f3_f14_a_decision_that_no_watch_tells_is_read(endpoint: str, path: str) -> None:
    def wrap(key: bytes, watcher: Watcher) -> object:
        return Deaf(watcher) if key == PathKeys(path).scheduled else watcher

    async with open_client(endpoint) as client, open_deaf(endpoint, wrap) as deaf:
        async with (
            schedule(client, path, "a", max_count=2) as leader,
            schedule(deaf, path, "b", max_count=2, session_ttl=1) as result,
        ):
            await until(leader, "a", "b")
            await until(result, "a", "b")
            assert result.statistics().healed >= 1
            assert result.scheduled
            assert result.statistics().sessions == 1


class DeafTo:
    """A watcher that misses one name's keys, and receives all that comes after them."""

    def __init__(self, real: Watcher, name: str) -> None:
        self._real = real
        self._name = name.encode()

    async def receive(self) -> WatchBatch:
        batch = await self._real.receive()
        return replace(batch, events=tuple(e for e in batch.events if not self._is_of(e.kv)))

    def _is_of(self, kv: KeyValue) -> bool:
        return kv.key.endswith(b"/exchange/" + self._name) or kv.value == self._name


async def test_f14_a_leader_that_misses_a_join_and_hears_what_comes_after_it_reads_its_pool(
    endpoint: str, path: str
) -> None:
    """That no key was put since the newest event would prove nothing."""
    async with (
        open_client(endpoint) as client,
        open_deaf(endpoint, lambda _, watcher: DeafTo(watcher, "b")) as deaf,
    ):
        async with schedule(deaf, path, "a", max_count=2, session_ttl=1) as leader:
            await until(leader, "a")
            async with schedule(client, path, "b", max_count=2) as result:
                await Control(client, path).pause()
                await Control(client, path).resume()
                assert (await until(result, "a", "b")).leader == "a"


async def test_f14_a_leader_that_hears_nothing_reads_its_pool(endpoint: str, path: str) -> None:
    async with (
        open_client(endpoint) as client,
        open_deaf(endpoint, lambda _, watcher: Deaf(watcher)) as deaf,
    ):
        async with schedule(deaf, path, "a", max_count=2, session_ttl=1) as leader:
            async with schedule(client, path, "b", max_count=2) as result:
                assert (await until(result, "a", "b")).leader == "a"
                await until(leader, "a", "b")
            await until(leader, "a")
            assert leader.statistics().sessions == 1


async def test_f6_a_revoked_lease_is_loss_though_renewals_answer(
    endpoint: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_client(endpoint) as client, open_client(endpoint) as misled:

        async def renew(_lease: int) -> int:
            await trio.lowlevel.checkpoint()
            return 10  # as etcd#15247 has it: a member that does not know of the revoke

        monkeypatch.setattr(misled, "lease_renew", renew)
        async with (
            schedule(client, path, "z", max_count=2) as leader,
            schedule(misled, path, "a", max_count=2) as result,
        ):
            await until(result, "a", "z")
            kv = (await client.get(PathKeys(path).host("a"))).kv
            assert kv is not None
            before = result.statistics().deadline
            await client.lease_revoke(kv.lease)
            assert "a" not in await result.next()  # lost, or the others have decided already
            assert trio.current_time() < before, "known by its key, not by the clock"
            await until(result, "a", "z")
            assert result.statistics().sessions == 2
            assert leader.statistics().sessions == 1


class Late:
    """A watcher that delivers nothing until `release` is set, and then all at once."""

    def __init__(self, real: Watcher, release: trio.Event) -> None:
        self._real = real
        self._release = release

    def __aiter__(self) -> Late:
        return self

    async def __anext__(self) -> Event:
        await self._release.wait()
        return await anext(self._real)

    async def receive(self) -> WatchBatch:
        await self._release.wait()
        return await self._real.receive()


async def test_f20_the_oldest_candidate_leads_however_late_it_hears(
    endpoint: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = PathKeys(path)
    async with open_client(endpoint) as client, open_client(endpoint) as slow:
        real, release = slow.watch, trio.Event()

        @asynccontextmanager
        async def watch(key: bytes, **options: Any) -> AsyncIterator[Late]:
            async with real(key, **options) as watcher:
                yield Late(watcher, release)

        monkeypatch.setattr(slow, "watch", watch)
        async with schedule(client, path, "a", max_count=3) as first:
            await first.next()
            async with (
                schedule(slow, path, "b", max_count=3) as second,
                schedule(client, path, "c", max_count=3) as third,
            ):
                await until(third, "a", "b", "c")
                candidates = await client.get_prefix(
                    keys.election, sort_order="ascending", sort_target="create_revision"
                )
                await first.shutdown()
                for kv in candidates.kvs[1:]:  # the last one that is put is the youngest's
                    await client.put(kv.key, kv.value, lease=kv.lease)
                await trio.testing.wait_all_tasks_blocked(0.05)
                assert not third.statistics().leading
                assert not second.statistics().leading
                release.set()
                assert (await until(third, "b", "c")).leader == "b"
                assert third.newest is not None
                assert third.newest.fence == candidates.kvs[1].create_revision


async def test_f7_a_session_that_dies_while_campaigning(endpoint: str, path: str) -> None:
    keys = PathKeys(path)
    async with (
        open_client(endpoint) as client,
        schedule(client, path, "a", max_count=2) as leader,
        schedule(client, path, "b", max_count=2) as waiting,
    ):
        await until(waiting, "a", "b")
        kv = (await client.get(keys.host("b"))).kv
        assert kv is not None
        await client.lease_revoke(kv.lease)
        await until(waiting)
        await until(waiting, "a", "b")
        live = set(await client.lease_list())
        candidates = await client.get_prefix(
            keys.election, sort_order="ascending", sort_target="create_revision"
        )
        assert [candidate.value for candidate in candidates] == [b"a", b"b"]
        assert all(candidate.lease in live for candidate in candidates)
        await leader.shutdown()
        hosts = await until(waiting, "b")
        assert hosts.leader == "b"
        assert hosts.fence == candidates.kvs[1].create_revision


async def test_f12_history_compacted_while_we_were_away(etcd: Etcd, path: str) -> None:
    async with (
        open_faulty_link(etcd.endpoint) as link,
        open_client(link.endpoint) as away,
        open_client(etcd.endpoint) as client,
        schedule(client, path, "a", max_count=3) as leader,
        schedule(away, path, "b", max_count=3, session_ttl=60) as result,
    ):
        await until(result, "a", "b")
        link.stall()
        async with schedule(client, path, "c", max_count=3):
            await until(leader, "a", "b", "c")
        await until(leader, "a", "b")
        async with schedule(client, path, "d", max_count=3):
            await until(leader, "a", "b", "d")
            revision = (await client.put("/elsewhere", "x")).revision
            await etcd.etcdctl("compact", str(revision))
            link.cut()
            link.heal()
            await until(result, "a", "b", "d")
            assert result.statistics().sessions == 1


async def test_f8_f21_etcd_away_for_many_ttls(path: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "trio_sched")
    async with open_etcd() as server, open_client(server.endpoint) as client:
        async with schedule(client, path, "a", session_ttl=1) as result:
            await until(result, "a")
            (member,) = server.members
            await member.stop()
            await until(result)
            assert not result.scheduled
            logged = len(caplog.records)
            await trio.sleep(5)  # the outage itself, five TTLs long
            assert len(caplog.records) - logged <= 2, "an outage floods no log"
            await member.start()
            await result.wait_scheduled()
        assert (await client.get_prefix(f"{path}/")).count == 0


async def test_f32_the_wall_clock_jumps(
    endpoint: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = time.time
    async with (
        open_client(endpoint) as client,
        schedule(client, path, "a", session_ttl=1) as result,
    ):
        await until(result, "a")
        for jump in (3600.0, -3600.0):
            monkeypatch.setattr(time, "time", lambda jump=jump: real() + jump)
            before = result.deadline
            await trio.sleep_until(before)  # it must have been renewed by then
            assert result.scheduled
        assert result.statistics().sessions == 1
