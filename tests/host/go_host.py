"""A scripted host that does to etcd what the Go package of 2018 does.

All of it is from the facts about its wire: the keys, the values, etcd's election recipe, the
unguarded writes, what it delivers to its user. Where those facts leave a choice (how a new leader
orders hosts that were there before it), it is the simplest one, and said here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from trio_sched.etcd_shim import Client, Compare, Delete, EventType, Get, Put, Watcher, prefix_range

__all__ = ["HANG", "GoHost", "open_go_host"]

HANG = 30  # seconds until a wait is given up; none takes a quarter of it


class GoHost:
    """One host. Made by `open_go_host`.

    Attributes:
        delivered: what its user was given so far, one item for each call of ``Next``.
        leader: who leads, by etcd's ``Observe``.
        leads: whether it was elected.
        writes: how often it put ``scheduled``.
    """

    def __init__(
        self, client: Client, path: str, hostname: str, max_count: int, *, alpha: bool
    ) -> None:
        self.hostname = hostname
        self.delivered: list[tuple[str, ...]] = []
        self.leader: str | None = None
        self.leads = False
        self.writes = 0
        self.lease = 0
        self._client = client
        self._exchange = f"{path}/exchange/"
        self._election = f"{path}/election/"
        self._scheduled = f"{path}/scheduled"
        self._max_count = max_count
        self._alpha = alpha
        self._created = 0  # create_revision of its candidate key
        self._chosen: list[str] = []  # rr's memory; it dies with the process
        self._deciding = trio.Lock()
        self._changed = trio.lowlevel.ParkingLot()
        self._life = trio.CancelScope()
        self._over = trio.Event()
        self._gone = False

    # ---- for the test --------------------------------------------------------------

    async def until(self, *names: str) -> None:
        """Wait until it has delivered a decision for exactly these hosts."""
        await self._wait(lambda: bool(self.delivered) and self.delivered[-1] == names)

    async def until_it_leads(self) -> None:
        """Wait until it was elected and sees itself as the leader."""
        await self._wait(lambda: self.leads and self.leader == self.hostname)

    async def until_it_sees(self, leader: str) -> None:
        """Wait until it has observed that this one leads."""
        await self._wait(lambda: self.leader == leader)

    async def _wait(self, is_so: Callable[[], bool]) -> None:
        await trio.lowlevel.checkpoint()
        with trio.fail_after(HANG):
            while not is_so():
                await self._changed.park()

    async def leave(self) -> None:
        """Leave as it does: first the election key, then the lease."""
        await self._stop()
        if not self._gone:
            self._gone = True
            ours = Compare.create_revision(self._candidate, "==", self._created)
            await self._client.txn([ours], [Delete(self._candidate)])
            await self._client.lease_revoke(self.lease)

    async def crash(self) -> None:
        """Stop at once. Its keys stay until its lease lapses."""
        await self._stop()
        self._gone = True

    async def _stop(self) -> None:
        self._life.cancel()
        await self._over.wait()

    # ---- its life --------------------------------------------------------------------

    @property
    def _candidate(self) -> str:
        return f"{self._election}{self.lease:x}"

    async def join(self, ttl: int) -> None:
        self.lease = (await self._client.lease_grant(ttl)).id
        await self._client.put(self._exchange + self.hostname, "TODO", lease=self.lease)
        candidate = self._candidate
        answer = await self._client.txn(
            [Compare.create_revision(candidate, "==", 0)],
            [Put(candidate, self.hostname, self.lease)],
            [Get(candidate)],
        )
        assert answer.succeeded
        self._created = answer.revision

    async def live(self, *, insists: bool) -> None:
        try:
            with self._life:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._renew)
                    nursery.start_soon(self._campaign)
                    nursery.start_soon(self._observe)
                    nursery.start_soon(self._deliver)
                    if insists:
                        nursery.start_soon(self._decide_on_events)
        finally:
            self._over.set()

    async def _renew(self) -> None:
        ttl = await self._client.lease_renew(self.lease)
        while True:
            await trio.sleep(ttl / 3)
            await self._client.lease_renew(self.lease)

    async def _deliver(self) -> None:
        found = await self._client.get(self._scheduled)
        for kv in found:
            self._give(kv.value)
        async with self._client.watch(self._scheduled, start_revision=found.revision + 1) as events:
            async for event in events:
                if event.type is EventType.PUT:  # of a deletion it says nothing
                    self._give(event.kv.value)

    def _give(self, value: bytes) -> None:
        self.delivered.append(tuple(value.decode().split(",")))  # "" gives one empty name
        self._changed.unpark_all()

    # ---- etcd's election recipe ----------------------------------------------------------

    async def _campaign(self) -> None:
        key, end = prefix_range(self._election)
        before = Get(
            key,
            end,
            limit=1,
            sort_order="descending",
            sort_target="create_revision",
            max_create_revision=self._created - 1,
        )
        found = await self._client.read(before)
        while found.kv is not None:
            await self._wait_deleted(found.kv.key, found.revision)
            found = await self._client.read(before)
        self.leads = True
        self._changed.unpark_all()
        await self._decide_on_events()

    async def _wait_deleted(self, key: bytes, revision: int) -> None:
        async with self._client.watch(key, start_revision=revision + 1) as events:
            async for event in events:
                if event.type is EventType.DELETE:
                    return

    async def _observe(self) -> None:
        key, end = prefix_range(self._election)
        first = Get(key, end, limit=1, sort_order="ascending", sort_target="create_revision")
        while True:
            found = await self._client.read(first)
            if found.kv is None:
                await self._wait_for_a_candidate(found.revision)
                continue
            self._see(found.kv.value)
            async with self._client.watch(
                found.kv.key, start_revision=found.revision + 1
            ) as events:
                async for event in events:
                    if event.type is EventType.DELETE:
                        break
                    self._see(event.kv.value)

    async def _wait_for_a_candidate(self, revision: int) -> None:
        async with self._client.watch(
            self._election, prefix=True, start_revision=revision + 1
        ) as events:
            async for event in events:
                if event.type is EventType.PUT:
                    return

    def _see(self, leader: bytes) -> None:
        self.leader = leader.decode()
        self._changed.unpark_all()

    # ---- what its leader does ------------------------------------------------------------

    async def _decide_on_events(self) -> None:
        now = (await self._client.get(self._scheduled)).revision
        async with (
            self._client.watch(self._exchange, prefix=True, start_revision=now + 1) as hosts,
            self._client.watch(self._scheduled, start_revision=now + 1) as scheduled,
            trio.open_nursery() as nursery,
        ):
            await self._decide()
            nursery.start_soon(self._decide_on, hosts)
            nursery.start_soon(self._decide_on, scheduled)

    async def _decide_on(self, events: Watcher) -> None:
        async for _event in events:
            await self._decide()

    async def _decide(self) -> None:
        """Read all hosts, choose, and put the choice if another is stored. Nothing guards it."""
        async with self._deciding:
            found = await self._client.get_prefix(self._exchange)
            by_age = sorted(found, key=lambda kv: kv.create_revision)
            names = [kv.key.decode().removeprefix(self._exchange) for kv in by_age]
            value = ",".join(sorted(self._choose(names), key=str.encode)).encode()
            stored = await self._client.get(self._scheduled)
            if (stored.value or b"") != value:
                self.writes += 1
                await self._client.put(self._scheduled, value)

    def _choose(self, names: list[str]) -> list[str]:
        if self._alpha:
            return sorted(names, key=str.encode)[: self._max_count]
        kept = [name for name in self._chosen if name in names]
        kept += [name for name in names if name not in kept]
        self._chosen = kept[: self._max_count]
        return self._chosen


@asynccontextmanager
async def open_go_host(
    client: Client,
    path: str,
    hostname: str,
    *,
    max_count: int = 1,
    strategy: str = "rr",
    ttl: int = 10,
    insists: bool = False,
) -> AsyncIterator[GoHost]:
    """Have a host of the Go package on `path`; it leaves at the end of the block.

    Args:
        client: whose connection it uses.
        path: as for ``schedule()``.
        hostname: its name.
        max_count: its own; it decides with this if it leads.
        strategy: ``rr`` or ``alpha``; likewise.
        ttl: of its session, in seconds.
        insists: it decides whether it was elected or not, as a leader that missed its own end.
    """
    host = GoHost(client, path, hostname, max_count, alpha=strategy == "alpha")
    await host.join(ttl)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: host.live(insists=insists))
        try:
            yield host
        finally:
            with trio.move_on_after(5, shield=True):
                await host.leave()
