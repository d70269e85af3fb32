"""Hosts that do ticks, on an etcd in memory, under a clock that jumps."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import trio

from trio_sched import Client, Slot, Tick, TickOutcome, TickSchedule, read_ticks, schedule
from trio_sched._support.wall_time import set_wall_clock
from trio_sched.simulation import MemoryEtcd
from trio_sched.testing.hosts import ScheduledHosts, open_scheduled_hosts

__all__ = ["EPOCH", "PATH", "PERIOD", "TIMES", "Fleet", "open_fleet", "wall"]

PATH = "/ticks"
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
PERIOD = 600
TIMES = TickSchedule(PERIOD)


def wall(ahead: Callable[[], float]) -> None:
    """Let this task, and those that it starts, read a clock that is so many seconds ahead."""
    set_wall_clock(lambda: EPOCH + timedelta(seconds=ahead() + trio.current_time()))


@dataclass
class Fleet:
    """Hosts, and what they do.

    Attributes:
        begun: which host began which tick, in order.
        ended: which one came to its end.
        ahead: seconds by which a host's clock on the wall is ahead.
        outcomes: what each host was given, by its name.
        seconds: that the work takes.
    """

    etcd: MemoryEtcd
    hosts: ScheduledHosts
    client: Client
    begun: list[tuple[str, str]] = field(default_factory=list)
    ended: list[tuple[str, str]] = field(default_factory=list)
    outcomes: dict[str, list[TickOutcome[str]]] = field(default_factory=dict)
    seconds: float = 1.0
    ahead: dict[str, float] = field(default_factory=dict)

    async def work(self, host: str, name: str) -> str:
        self.begun.append((host, name))
        await trio.sleep(self.seconds)
        self.ended.append((host, name))
        return host

    def start(self, host: str, *, times: TickSchedule = TIMES, **options: Any) -> None:
        """Let a host join, and do ticks."""
        self.hosts.start_soon(host, self._serve, host, times, options)

    async def _serve(
        self, client: Client, host: str, times: TickSchedule, options: dict[str, Any]
    ) -> None:
        wall(lambda: self.ahead.get(host, 0.0))
        joining = {name: options.pop(name) for name in ("max_count",) if name in options}

        async def work(_slot: Slot, name: str) -> str:
            return await self.work(host, name)

        async with schedule(client, PATH, host, session_ttl=5, **joining) as result:
            await result.run_ticks(
                times, work, each=self.outcomes.setdefault(host, []).append, **options
            )

    def once(self, host: str, key: str, **options: Any) -> None:
        """Let a host join, and do one thing once."""
        self.hosts.start_soon(host, self._once, host, key, options)

    async def _once(self, client: Client, host: str, key: str, options: dict[str, Any]) -> None:
        async def work(_slot: Slot) -> str:
            return await self.work(host, key)

        async with schedule(client, PATH, host, session_ttl=5) as result:
            outcome = await result.run_once(key, work, **options)
            self.outcomes.setdefault(host, []).append(outcome)

    async def wait_begun(self, number: int) -> None:
        while len(self.begun) < number:  # noqa: ASYNC110 # time passes at once here
            await trio.sleep(0.1)

    async def ticks(self) -> dict[str, Tick]:
        return {tick.name: tick for tick in await read_ticks(self.client, PATH)}


@asynccontextmanager
async def open_fleet(etcd: MemoryEtcd | None = None) -> AsyncIterator[Fleet]:
    etcd = etcd or MemoryEtcd()
    wall(lambda: 0.0)
    async with etcd.open_client() as client, open_scheduled_hosts(etcd) as hosts:
        yield Fleet(etcd, hosts, client)
