"""What hosts of ours do while one leads that behaves as the Go package does, on a real etcd."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from tests.host.go_host import HANG, GoHost, open_go_host
from tests.host.test_slots import Work, slot_keys
from tests.host.test_wire import TTL, History, record, until
from trio_sched import Client, Control, Result, open_client, schedule
from trio_sched.etcd_shim import Event, EventType


async def until_deleted(history: History, name: str) -> Event:
    """Wait until a key is gone."""
    while True:
        for event in history.of(name):
            if event.type is EventType.DELETE:
                return event
        await trio.sleep(0.02)


class Renewals:
    """Counts what a client renews, by lease."""

    def __init__(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counts: dict[int, int] = {}
        self._changed = trio.lowlevel.ParkingLot()
        self._renew = client.lease_renew
        monkeypatch.setattr(client, "lease_renew", self._count)

    async def _count(self, lease: int) -> int:
        ttl = await self._renew(lease)
        self.counts[lease] = self.counts.get(lease, 0) + 1
        self._changed.unpark_all()
        return ttl

    async def until(self, lease: int, times: int) -> None:
        with trio.fail_after(HANG):
            while self.counts.get(lease, 0) < times:
                await self._changed.park()


@asynccontextmanager
async def open_go_behind_ours(client: Client, path: str) -> AsyncIterator[tuple[Result, GoHost]]:
    """Ours, "z", leads and has chosen "m", Go's, which stands behind it and agrees."""
    async with schedule(client, path, "z", strategy="alpha", session_ttl=TTL) as leader:
        await until(leader, "z")
        async with open_go_host(client, path, "m", strategy="alpha", ttl=TTL) as go:
            await until(leader, "m")
            yield leader, go


async def test_f62_a_decision_of_ours_does_not_lapse_while_go_leads_and_writes_nothing(
    endpoint: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It outlives the TTL of its lease; only the host of ours behind Go's renews that."""
    async with (
        open_client(endpoint) as client,
        record(endpoint, path) as history,
        open_go_behind_ours(client, path) as (leader, go),
        open_client(endpoint) as second,
        schedule(second, path, "x", session_ttl=TTL) as behind,
        open_client(endpoint) as third,
        schedule(third, path, "y", session_ttl=TTL) as last,
    ):
        renewals, none = Renewals(second, monkeypatch), Renewals(third, monkeypatch)
        await leader.shutdown()
        await go.until_it_leads()
        (scheduled,) = await client.get(f"{path}/scheduled")
        await renewals.until(scheduled.lease, 4)  # each a third of its TTL after the one before
        await history.complete()
        assert history.values()[-1] == "m"
        assert None not in history.values(), "and there was no gap"
        assert go.writes == 0
        assert scheduled.lease not in none.counts
        assert (behind.newest, last.newest) == (("m",), ("m",))
    async with open_client(endpoint) as client:
        await client.lease_revoke(scheduled.lease)


async def test_f62_the_next_of_ours_goes_on_when_the_one_behind_go_leaves(
    endpoint: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        open_client(endpoint) as client,
        open_go_behind_ours(client, path) as (leader, go),
        open_client(endpoint) as other,
        schedule(other, path, "x", session_ttl=TTL) as behind,
        open_client(endpoint) as third,
        schedule(third, path, "y", session_ttl=TTL),
    ):
        renewals, others = Renewals(third, monkeypatch), Renewals(other, monkeypatch)
        await leader.shutdown()
        await go.until_it_leads()
        (scheduled,) = await client.get(f"{path}/scheduled")
        await others.until(scheduled.lease, 1)
        await behind.shutdown()
        await renewals.until(scheduled.lease, 2)
        assert go.writes == 0
    async with open_client(endpoint) as client:
        await client.lease_revoke(scheduled.lease)


async def test_f63_a_record_whose_leader_is_gone_is_taken_away_while_go_leads(
    endpoint: str, path: str
) -> None:
    """So that each of ours sees who leads, and looks itself what operators want of it."""
    works = {name: Work() for name in ("a", "b")}
    async with open_client(endpoint) as client, record(endpoint, path) as history:
        async with schedule(
            client, path, "z", max_count=2, hosts_filter=["a", "b"], session_ttl=TTL
        ) as leader:
            async with (
                open_go_host(client, path, "go", strategy="alpha", max_count=2, ttl=TTL) as go,
                schedule(client, path, "a", max_count=2, session_ttl=TTL) as a,
                schedule(client, path, "b", max_count=2, session_ttl=TTL) as b,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(a.run_while_scheduled, works["a"])
                nursery.start_soon(b.run_while_scheduled, works["b"])
                for work in works.values():
                    await work.wait_running(1)
                await leader.shutdown()
                await go.until_it_leads()
                with trio.fail_after(HANG):
                    await until_deleted(history, "scheduled.record")
                assert go.writes == 0
                await Control(client, path).drain("a")
                await works["a"].wait_running(0)
                assert works["b"].running == 1, "what goes on goes on"
                assert len(works["b"].slots) == 1
                await b.drain()
                await works["b"].wait_running(0)
                await b.undrain()
                await works["b"].wait_running(1)
                assert history.values()[-1] == "a,b"
                nursery.cancel_scope.cancel()
        await client.delete_prefix(f"{path}/")


@pytest.mark.parametrize("why", ["drained by operators", "drained by itself", "ill"])
async def test_f63_a_host_that_may_not_run_takes_no_slot_though_go_chose_it(
    endpoint: str, path: str, why: str
) -> None:
    work, healthy = Work(), trio.Event()

    async def check() -> bool:
        await trio.lowlevel.checkpoint()
        return healthy.is_set()

    async with (
        open_client(endpoint) as client,
        open_go_host(client, path, "go", strategy="alpha") as go,
    ):
        control = Control(client, path)
        if why == "drained by operators":
            await control.drain("a")
        async with (
            schedule(
                client,
                path,
                "a",
                health_check=check if why == "ill" else None,
                health_interval=0.5,
            ) as a,
            trio.open_nursery() as nursery,
        ):
            if why == "drained by itself":
                await a.drain()
            await go.until("a")
            nursery.start_soon(a.run_while_scheduled, work)
            await until(a, "a")
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert (a.scheduled, work.running) == (False, 0)
            assert await slot_keys(client, path) == []
            healthy.set()
            if why == "drained by operators":
                await control.undrain("a")
            elif why == "drained by itself":
                await a.undrain()
            await work.wait_running(1)
            assert a.scheduled
            nursery.cancel_scope.cancel()
        await client.delete(f"{path}/control")
