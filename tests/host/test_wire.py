"""Our hosts and one that behaves as the Go package does, on one path of a real etcd."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio

from tests.helpers import watch_leftovers
from tests.host.go_host import HANG, GoHost, open_go_host
from trio_sched import Hosts, Observation, Result, observe, open_client, schedule
from trio_sched.etcd_shim import Client, Event, EventType, Watcher
from trio_sched.model.records import DecisionRecord
from trio_sched.testing import FaultyLink, open_faulty_link

TTL = 2  # seconds; of hosts that crash


async def until(results: Observation, *names: str) -> Hosts:
    """Wait until the newest decision chooses exactly these hosts."""
    with trio.fail_after(HANG):
        while results.newest is None or results.newest != names:
            await results.next()
        return results.newest


class Ours:
    """A host of ours behind a link of its own, so that it can crash."""

    def __init__(self, result: Result, link: FaultyLink) -> None:
        self.result = result
        self.link = link

    async def until(self, *names: str) -> Hosts:
        return await until(self.result, *names)

    async def leave(self) -> None:
        await self.result.shutdown()

    async def crash(self) -> None:
        self.link.stall()
        await self.result.shutdown()


@asynccontextmanager
async def open_ours(
    endpoint: str, path: str, hostname: str, *, max_count: int = 2, shutdown_timeout: float = 1
) -> AsyncIterator[Ours]:
    async with (
        open_faulty_link(endpoint) as link,
        open_client(link.endpoint) as client,
        schedule(
            client,
            path,
            hostname,
            max_count=max_count,
            session_ttl=TTL,
            shutdown_timeout=shutdown_timeout,
        ) as result,
    ):
        yield Ours(result, link)


class History:
    """All that happens under a path."""

    def __init__(self, client: Client, path: str) -> None:
        self.events: list[Event] = []
        self._client = client
        self._path = path
        self._grown = trio.lowlevel.ParkingLot()

    async def listen(self, watcher: Watcher) -> None:
        async for event in watcher:
            self.events.append(event)
            self._grown.unpark_all()

    async def complete(self) -> None:
        """Wait until all that has happened by now is in `events`."""
        now = (await self._client.put(f"{self._path}/mark", "")).revision
        with trio.fail_after(HANG):
            while not self.events or self.events[-1].kv.mod_revision < now:
                await self._grown.park()
        await self._client.delete(f"{self._path}/mark")

    async def until_ours_wrote(self, times: int) -> None:
        """Wait for that many puts of `scheduled` on a lease; Go's have none."""
        with trio.fail_after(HANG):
            while self.ours_wrote < times:
                await self._grown.park()

    async def until_values(self, *values: str | None) -> None:
        """Wait until `scheduled` has had these values."""
        with trio.fail_after(HANG):
            while self.values() != list(values):
                await self._grown.park()

    @property
    def ours_wrote(self) -> int:
        return sum(event.kv.lease != 0 for event in self.of("scheduled"))

    def names_below(self, folder: str) -> set[str]:
        prefix = f"{self._path}/{folder}/"
        keys = {event.kv.key.decode() for event in self.events}
        return {key.removeprefix(prefix) for key in keys if key.startswith(prefix)}

    def puts_below(self, folder: str) -> list[Event]:
        prefix = f"{self._path}/{folder}/".encode()
        below = [event for event in self.events if event.kv.key.startswith(prefix)]
        return [event for event in below if event.type is EventType.PUT]

    def of(self, name: str) -> list[Event]:
        key = f"{self._path}/{name}".encode()
        return [event for event in self.events if event.kv.key == key]

    def values(self) -> list[str | None]:
        """The values that `scheduled` has had; None where it was deleted."""
        return [
            event.kv.value.decode() if event.type is EventType.PUT else None
            for event in self.of("scheduled")
        ]


@asynccontextmanager
async def record(endpoint: str, path: str) -> AsyncIterator[History]:
    async with (
        open_client(endpoint) as client,
        client.watch(f"{path}/", prefix=True) as watcher,
        trio.open_nursery() as nursery,
    ):
        history = History(client, path)
        nursery.start_soon(history.listen, watcher)
        yield history
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_both(
    endpoint: str, path: str, first: str, *, max_count: int = 2
) -> AsyncIterator[tuple[Ours, GoHost]]:
    """One of ours, "a", and one of Go's, "go"; `first` leads."""
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(open_client(endpoint))
        ours = open_ours(endpoint, path, "a", max_count=max_count)
        go = open_go_host(client, path, "go", max_count=max_count, ttl=TTL)
        if first == "ours":
            our_host = await stack.enter_async_context(ours)
            await our_host.until("a")
            go_host = await stack.enter_async_context(go)
        else:
            go_host = await stack.enter_async_context(go)
            await go_host.until("go")
            our_host = await stack.enter_async_context(ours)
        yield our_host, go_host


# ---- agreement --------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["rr", "alpha"])
@pytest.mark.parametrize("order", ["m z a", "z m a", "z a m"])
async def test_both_sides_choose_the_same_hosts(
    endpoint: str, path: str, order: str, strategy: str
) -> None:
    """Go's is "m". The first to join leads; what it chooses does not depend on who that is."""
    names = order.split()
    async with open_client(endpoint) as client, AsyncExitStack() as stack:
        ours: list[Result] = []
        go: list[GoHost] = []
        for count, name in enumerate(names, 1):
            if name == "m":
                host = open_go_host(client, path, name, max_count=2, strategy=strategy)
                go.append(await stack.enter_async_context(host))
            else:
                block = schedule(client, path, name, max_count=2, strategy=strategy)
                ours.append(await stack.enter_async_context(block))
            joined = names[:count]
            chosen = sorted(joined[:2] if strategy == "rr" else sorted(joined)[:2])
            for host_of_go in go:
                await host_of_go.until(*chosen)
            for result in ours:
                hosts = await until(result, *chosen)
                assert hosts.leader == (None if names[0] == "m" else names[0])
                assert (hosts.fence is None) == (names[0] == "m")
                assert result.scheduled == (result.hostname in chosen)
            assert (await client.get(f"{path}/scheduled")).value == ",".join(chosen).encode()
        (go_host,) = go
        await go_host.until_it_sees(names[0])
        assert go_host.leads == (names[0] == "m")


# ---- leaving ------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["leaves", "crashes"])
@pytest.mark.parametrize("who", ["leader", "follower"])
@pytest.mark.parametrize("leads", ["ours", "go"])
async def test_either_can_lead_and_either_can_leave(
    endpoint: str, path: str, leads: str, who: str, how: str
) -> None:
    async with record(endpoint, path) as history:
        async with open_both(endpoint, path, leads) as (ours, go):
            hosts = await ours.until("a", "go")
            await go.until("a", "go")
            assert hosts.leader == ("a" if leads == "ours" else None)
            assert go.leads == (leads == "go")
            our_host_goes = (leads == "ours") == (who == "leader")
            if our_host_goes:
                await (ours.leave() if how == "leaves" else ours.crash())
                await go.until("go")
                await go.until_it_leads()
            else:
                await (go.leave() if how == "leaves" else go.crash())
                hosts = await ours.until("a")
                assert hosts.leader == "a"
                assert ours.result.scheduled
        await history.complete()
    assert ("",) not in go.delivered
    assert "" not in history.values()
    # Nothing of ours where Go would take it for a host or a candidate.
    assert history.names_below("exchange") == {"a", "go"}
    candidates = history.puts_below("election")
    assert {event.kv.value for event in candidates} == {b"a", b"go"}
    assert history.names_below("election") == {f"{event.kv.lease:x}" for event in candidates}


async def test_nothing_is_left_when_ours_leaves_last(endpoint: str, path: str) -> None:
    """Not even what Go wrote without a lease."""
    async with watch_leftovers(endpoint, path) as left:
        async with open_client(endpoint) as client, schedule(client, path, "a") as result:
            await until(result, "a")
            async with open_go_host(client, path, "go") as go:
                await go.until("a")
                await result.shutdown()
                await go.until("go")
                async with schedule(client, path, "b") as last:
                    hosts = await until(last, "go")
                    assert hosts.leader is None
                    await go.leave()
                    await until(last, "b")
    assert left.nothing


async def test_what_go_wrote_is_cleared_by_a_host_of_ours_that_never_led(
    endpoint: str, path: str
) -> None:
    """It is asked to leave while Go is there, and when it gets to leave, no host is."""
    async with watch_leftovers(endpoint, path) as left, open_client(endpoint) as client:
        async with (
            open_go_host(client, path, "go") as go,
            open_ours(endpoint, path, "a", shutdown_timeout=HANG) as ours,
        ):
            assert (await ours.until("go")).leader is None
            async with trio.open_nursery() as nursery:
                ours.link.stall()
                nursery.start_soon(ours.leave)
                await trio.testing.wait_all_tasks_blocked()
                await go.leave()
                (scheduled,) = await client.get(f"{path}/scheduled")
                assert (scheduled.value, scheduled.lease) == (b"go", 0)
                ours.link.heal()
    assert left.nothing


async def test_nothing_of_ours_is_left_for_long_when_go_leaves_last(
    endpoint: str, path: str
) -> None:
    async with watch_leftovers(endpoint, path) as left, open_client(endpoint) as client:
        async with open_both(endpoint, path, "ours") as (ours, go):
            await go.until("a", "go")
            await ours.leave()
            await go.until("go")
        decision, scheduled = await client.get_prefix(
            f"{path}/", sort_target="key", sort_order="descending"
        )
        assert (scheduled.value, scheduled.lease) == (b"go", 0)  # Go's own, for ever
        ttl = (await client.lease_time_to_live(decision.lease)).granted_ttl
        assert ttl <= 3 * TTL
        await client.lease_revoke(decision.lease)  # as time would do
    assert left.keys == [f"{path}/scheduled".encode()]
    assert not left.leases


async def test_go_takes_over_a_decision_that_it_would_make_too(endpoint: str, path: str) -> None:
    """It writes nothing then, so the key still hangs on our lease. When that lapses, it writes."""
    async with open_client(endpoint) as client, record(endpoint, path) as history:
        async with schedule(client, path, "z", strategy="alpha") as leader:
            await until(leader, "z")
            async with open_go_host(client, path, "m", strategy="alpha") as go:
                assert (await until(leader, "m")).leader == "z"
                await leader.shutdown()
                await go.until_it_leads()
                (scheduled,) = await client.get(f"{path}/scheduled")
                assert (scheduled.value, go.writes) == (b"m", 0)
                await client.lease_revoke(scheduled.lease)  # as time would do
                await history.until_values("z", "m", None, "m")  # with a gap
                assert go.writes == 1
                async with observe(client, path) as observation:
                    hosts = await observation.next()
                    assert tuple(hosts) == ("m",)
                    assert (hosts.leader, hosts.fence) == (None, None)


# ---- empty decisions -------------------------------------------------------------------------


async def test_go_never_sees_an_empty_name(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client, record(endpoint, path) as history:
        async with open_go_host(client, path, "go-1") as first:
            await first.until("go-1")
            async with schedule(client, path, "a", hosts_filter=["nobody"]) as ours:
                await until(ours, "go-1")
                async with open_go_host(client, path, "go-2") as second:
                    await second.until("go-1")
                    await first.leave()
                    assert not await until(ours)  # it leads, and chose no host
                    stored = await client.get(f"{path}/scheduled.record")
                    record_of_ours = DecisionRecord.decode(stored.value or b"")
                    assert record_of_ours is not None
                    assert (record_of_ours.leader, record_of_ours.hosts) == ("a", {})
                    await ours.shutdown()
                    await second.until("go-2")
        await history.complete()
    assert second.delivered == [("go-1",), ("go-2",)]
    assert history.values() == ["go-1", None, "go-2"]


# ---- disagreement -----------------------------------------------------------------------------


@pytest.mark.parametrize("leads", ["ours", "go"])
async def test_f24_the_leaders_options_hold(endpoint: str, path: str, leads: str) -> None:
    """Ours is for two hosts, Go's for one. Only who leads writes, so there is no fight."""
    async with (
        open_client(endpoint) as client,
        record(endpoint, path) as history,
        AsyncExitStack() as stack,
    ):
        opening = open_go_host(client, path, "go")
        if leads == "go":
            go = await stack.enter_async_context(opening)
            await go.until("go")
            ours = await stack.enter_async_context(schedule(client, path, "a", max_count=2))
        else:
            ours = await stack.enter_async_context(schedule(client, path, "a", max_count=2))
            await until(ours, "a")
            go = await stack.enter_async_context(opening)
        await stack.enter_async_context(schedule(client, path, "b", max_count=2))
        await until(ours, *(["go"] if leads == "go" else ["a", "go"]))
        await (go.leave() if leads == "go" else ours.shutdown())
        if leads == "ours":
            await go.until("go")
        else:
            await until(ours, "a", "b")
        await history.complete()
        values = history.values()
    assert values == (["a", "a,go", "go"] if leads == "ours" else ["go", "a,b"])


async def test_f33_a_go_host_that_does_not_know_that_it_leads_no_more(
    endpoint: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It answers each write of ours at once. Ours takes longer and longer to answer it."""
    async with (
        open_client(endpoint) as client,
        record(endpoint, path) as history,
        schedule(client, path, "a") as ours,
    ):
        await until(ours, "a")
        async with open_go_host(client, path, "go", max_count=2, insists=True) as go:
            await history.until_ours_wrote(3)
            with trio.move_on_after(3):  # what is counted is what happens in this time
                await history.until_ours_wrote(1000)
            await history.complete()
            # Its first write, and one 0.1, 0.2, 0.4, 0.8, 1.6, 3.2 s after each of Go's.
            assert history.ours_wrote <= 1 + 6
            assert go.writes <= history.ours_wrote
            await go.leave()
        hosts = await until(ours, "a")
        assert hosts.leader == "a"
    warned = [record for record in caplog.records if getattr(record, "kind", "") == "foreign-write"]
    assert len(warned) == 1
