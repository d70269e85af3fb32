"""How long it takes until all hosts are right again, one change at a time; used by `scheduling`.

Each host has a client of its own, as if it were a process of its own. A host is right when the
newest decision that it has read names the hosts that are there, under a leader that is one of them.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from statistics import median

import trio

from trio_sched import Hosts, Observation, open_client, schedule
from trio_sched.testing import open_etcd

__all__ = ["JOINS", "Latency", "measure_latencies"]

JOINS, OTHERS = 200, 50
SLOW = 0.05  # seconds: what comes by etcd's slow path to watchers waits for up to 0.1

# What the Go package takes on a quiet machine, in ms; joining and leaving as here.
GO = {
    "a third host joins": 7.2,
    "a follower leaves": 4.7,
    "the leader leaves": 9.2,
    "a single host's first decision": 45.0,
}


@dataclass
class Latency:
    """The seconds that one kind of change took, each time.

    Attributes:
        what: the kind.
        seconds: of each.
    """

    what: str
    seconds: list[float] = field(default_factory=list)

    @property
    def slow(self) -> int:
        """How many met the slow path."""
        return sum(each >= SLOW for each in self.seconds)

    @property
    def text(self) -> str:
        """A line of the table."""
        ordered = sorted(self.seconds)
        p99 = ordered[int(len(ordered) * 0.99)] * 1000
        return (
            f"{self.what:<32} {median(ordered) * 1000:>7.1f} {p99:>7.1f} {GO[self.what]:>9.1f} "
            f"{self.slow:>4} of {len(ordered)}"
        )


class _Member:
    """A host, from when it joins until it is asked to leave."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.newest: Hosts | None = None
        self.leave = trio.Event()
        self.left = trio.Event()

    async def live(self, endpoint: str, path: str, lot: trio.lowlevel.ParkingLot) -> None:
        async with (
            open_client(endpoint) as client,
            schedule(client, path, self.name, max_count=3) as result,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(self._read, result, lot)
            await self.leave.wait()
            nursery.cancel_scope.cancel()
        self.left.set()

    async def _read(self, result: Observation, lot: trio.lowlevel.ParkingLot) -> None:
        async for hosts in result:
            self.newest = hosts
            lot.unpark_all()


class _Fleet:
    """The hosts of a path, that join and leave one at a time."""

    def __init__(self, endpoint: str, nursery: trio.Nursery) -> None:
        self._endpoint = endpoint
        self._nursery = nursery
        self._lot = trio.lowlevel.ParkingLot()
        self._names = (f"host-{number:04}" for number in count())
        self.members: list[_Member] = []

    async def join(self) -> float:
        """Have one join; return how long it took until all are right."""
        member = _Member(next(self._names))
        self.members.append(member)
        began = time.perf_counter()
        self._nursery.start_soon(member.live, self._endpoint, "/latency", self._lot)
        await self._right()
        return time.perf_counter() - began

    async def leave(self, *, leads: bool) -> float:
        """Have the leader leave, or a follower; return how long it took until all are right."""
        decision = self.members[0].newest
        assert decision is not None
        leaver = next(m for m in self.members if (m.name == decision.leader) == leads)
        self.members.remove(leaver)
        began = time.perf_counter()
        leaver.leave.set()
        await self._right()
        took = time.perf_counter() - began
        await leaver.left.wait()  # one change at a time
        return took

    async def _right(self) -> None:
        names = {member.name for member in self.members}
        while not all(_is_right(member.newest, names) for member in self.members):
            await self._lot.park()


def _is_right(decision: Hosts | None, names: set[str]) -> bool:
    return decision is not None and set(decision) == names and decision.leader in names


async def measure_latencies() -> list[Latency]:
    """Measure each kind of change, one at a time."""
    found = {what: Latency(what) for what in GO}
    async with open_etcd() as server:
        async with _fleet(server.endpoint) as fleet:
            for _ in range(JOINS):
                found["a third host joins"].seconds.append(await fleet.join())
                found["a follower leaves"].seconds.append(await fleet.leave(leads=False))
            for _ in range(OTHERS):
                await fleet.join()
                found["the leader leaves"].seconds.append(await fleet.leave(leads=True))
        for number in range(OTHERS):
            seconds = await _first_decision(server.endpoint, f"/first/{number}")
            found["a single host's first decision"].seconds.append(seconds)
    return list(found.values())


@asynccontextmanager
async def _fleet(endpoint: str) -> AsyncIterator[_Fleet]:
    """Give a path with two hosts."""
    async with trio.open_nursery() as nursery:
        fleet = _Fleet(endpoint, nursery)
        await fleet.join()
        await fleet.join()
        yield fleet
        nursery.cancel_scope.cancel()


async def _first_decision(endpoint: str, path: str) -> float:
    async with open_client(endpoint) as client:
        began = time.perf_counter()
        async with schedule(client, path, "alone") as result:
            await result.next()
            return time.perf_counter() - began
