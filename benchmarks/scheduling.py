"""What it costs to join a path and to leave it, by etcd's own count.

``python benchmarks/scheduling.py`` starts an etcd, lets N hosts join at once in
this process over one connection, and then one of them leave: a follower, and the
leader. etcd's ``/metrics`` have how many requests that took and how many bytes;
the growth from one N to the next is what matters. Renewals, and the reads that
prove a decision fresh, come once in a third of a TTL and are not counted: the
TTL is too long for that here.

Then, how long one change takes, from when it begins until all hosts are right: see
``_latency``. Other programs on the machine disturb that; what must not be is a join
that meets the slow path of etcd's watches.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TypeAlias

import trio
from _latency import Latency, measure_latencies

from trio_sched import Client, Hosts, Observation, open_client, schedule
from trio_sched.testing import Etcd, open_etcd

MAX_COUNT = 2
TTL = 600  # seconds
MAX_REQUESTS_TO_JOIN = 5  # and six for the first host, which leads
# For each N. Hosts that join at once stand behind any host that is older, one behind each on
# average: so none may notice that one leaves, or some, and the middle one of some leavers counts.
MAX_REQUESTS_TO_LEAVE = {"follower": 11, "leader": 15}
LEAVERS = {"follower": 5, "leader": 3}
MAX_BYTES_AT_200 = 3e6
MAX_CPU_AT_200 = 2.0


@dataclass
class Cost:
    """What something cost.

    Attributes:
        seconds: until all hosts agreed.
        client_cpu: of this process, in seconds.
        server_cpu: of etcd, in seconds.
        bytes: to and from etcd.
        requests: by method; messages, for streams.
    """

    seconds: float
    client_cpu: float
    server_cpu: float
    bytes: float
    requests: dict[str, int]

    @property
    def total(self) -> int:
        """All requests."""
        return sum(self.requests.values())


class Host:
    """A host in this process."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.newest: Hosts | None = None
        self.leave = trio.Event()
        self.left = trio.Event()

    async def live(self, client: Client, path: str, changed: trio.lowlevel.ParkingLot) -> None:
        """Join, note each decision, and leave when asked."""
        async with (
            schedule(client, path, self.name, max_count=MAX_COUNT, session_ttl=TTL) as result,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(self._read, result, changed)
            await self.leave.wait()
            nursery.cancel_scope.cancel()
        self.left.set()
        changed.unpark_all()

    async def _read(self, result: Observation, changed: trio.lowlevel.ParkingLot) -> None:
        async for hosts in result:
            self.newest = hosts
            changed.unpark_all()


async def counters(server: Etcd) -> dict[str, float]:
    """Return etcd's counters."""
    return await server.members[0].metrics()


def difference(before: dict[str, float], after: dict[str, float]) -> tuple[dict[str, int], float]:
    """Return requests by method, and bytes both ways."""
    requests: dict[str, int] = {}
    total_bytes = 0.0
    for name, value in after.items():
        more = value - before.get(name, 0.0)
        if name.startswith("grpc_server_msg_received_total") and more:
            requests[name.split('grpc_method="')[1].split('"')[0]] = int(more)
        elif name.startswith("etcd_network_client_grpc"):
            total_bytes += more
    return requests, total_bytes


@asynccontextmanager
async def measured(server: Etcd) -> AsyncIterator[list[Cost]]:
    """Measure the block; the list holds its cost afterwards. Agreement ends the clock."""
    found: list[Cost] = []
    before = await counters(server)
    cpu, began = time.process_time(), time.perf_counter()
    yield found
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    await trio.sleep(0.5)  # what is still under way belongs to it
    after = await counters(server)
    requests, total_bytes = difference(before, after)
    name = "process_cpu_seconds_total"
    found.append(Cost(seconds, cpu, after[name] - before[name], total_bytes, requests))


async def agree(hosts: list[Host], lot: trio.lowlevel.ParkingLot, gone: str | None) -> None:
    """Wait until all hosts know the same full decision, without the one that is gone."""
    expected = min(MAX_COUNT, len(hosts))
    while True:
        known = {host.newest for host in hosts}
        (decision, *others) = known
        full = decision is not None and len(decision) == expected and gone not in decision
        if full and not others:
            return
        await lot.park()


Costs: TypeAlias = dict[str, Cost]


async def run(count: int) -> Costs:
    """Let `count` hosts join; then let some chosen followers leave, and then some leaders."""
    lot = trio.lowlevel.ParkingLot()
    hosts = [Host(f"host-{number:05}") for number in range(count)]
    costs: Costs = {}
    async with open_etcd() as server, open_client(server.endpoint) as client:
        await client.put("/warm", "up")
        async with trio.open_nursery() as nursery:
            async with measured(server) as cost:
                for host in hosts:
                    nursery.start_soon(host.live, client, "/path", lot)
                await agree(hosts, lot, None)
            costs["join"] = cost[0]
            for who, number in LEAVERS.items():
                departures: list[Cost] = []
                for _ in range(number):
                    goes = pick(hosts, leads=who == "leader")
                    hosts.remove(goes)
                    async with measured(server) as cost:
                        goes.leave.set()
                        await agree(hosts, lot, goes.name)
                        await goes.left.wait()
                    departures += cost
                costs[f"{who} leaves"] = middle(departures)
            for host in hosts:
                host.leave.set()
        left = await client.get_prefix("/path/")
        if left.count or await client.lease_list():
            raise RuntimeError("something was left behind")
    return costs


def middle(costs: list[Cost]) -> Cost:
    """Return the one of them that is in the middle, by requests."""
    return sorted(costs, key=lambda cost: cost.total)[len(costs) // 2]


def pick(hosts: list[Host], *, leads: bool) -> Host:
    """Return a chosen host that leads, or one that does not; the leader need not be chosen."""
    decision = hosts[0].newest
    assert decision is not None
    for host in hosts:
        if (host.name == decision.leader) == leads and (leads or host.name in decision):
            return host
    raise RuntimeError("no such host")


async def first_decision() -> dict[str, int]:
    """Return the requests of a single host until its first decision."""
    async with open_etcd() as server, open_client(server.endpoint) as client:
        await client.put("/warm", "up")
        async with measured(server) as cost, schedule(client, "/path", "a", session_ttl=TTL) as one:
            await one.next()
        return cost[0].requests


def medians(rounds: list[Costs]) -> Costs:
    """Return the median of each figure over the rounds; of requests, the last round's."""
    return {
        what: Cost(
            seconds=median(costs[what].seconds for costs in rounds),
            client_cpu=median(costs[what].client_cpu for costs in rounds),
            server_cpu=median(costs[what].server_cpu for costs in rounds),
            bytes=median(costs[what].bytes for costs in rounds),
            requests=rounds[-1][what].requests,
        )
        for what in rounds[0]
    }


def measure(counts: list[int], rounds: int) -> dict[int, Costs]:
    """Return the figures for each N."""
    return {count: medians([trio.run(run, count) for _ in range(rounds)]) for count in counts}


def table(results: dict[int, Costs]) -> Iterator[str]:
    """Lay out the figures as text."""
    yield (
        f"{'N':>6} {'what':<16} {'requests':>9} {'each':>6} {'kB':>8} "
        f"{'client s':>9} {'etcd s':>7} {'agree s':>8}"
    )
    for count, costs in results.items():
        for what, cost in costs.items():
            each = cost.total / count if what == "join" else cost.total
            yield (
                f"{count:>6} {what:<16} {cost.total:>9} {each:>6.2f} {cost.bytes / 1e3:>8.1f} "
                f"{cost.client_cpu:>9.3f} {cost.server_cpu:>7.2f} {cost.seconds:>8.3f}"
            )
            yield " " * 24 + ", ".join(f"{n} {name}" for name, n in sorted(cost.requests.items()))


def growth(results: dict[int, Costs]) -> Iterator[str]:
    """Return how much a further host costs, from each N to the next."""
    counts = sorted(results)
    for few, many in pairwise(counts):
        less, more = results[few]["join"], results[many]["join"]
        hosts = many - few
        yield (
            f"from {few} to {many}: each further host "
            f"{(more.total - less.total) / hosts:.2f} requests, "
            f"{(more.bytes - less.bytes) / hosts / 1e3:.2f} kB, "
            f"{(more.client_cpu - less.client_cpu) / hosts * 1e3:.2f} ms of client CPU"
        )


def verdicts(results: dict[int, Costs]) -> Iterator[tuple[str, bool]]:
    """Compare with what is required."""
    for count, costs in results.items():
        each = costs["join"].total / count
        limit = MAX_REQUESTS_TO_JOIN + 6 / count
        yield f"N={count}: {each:.2f} requests for a join, at most {limit:.2f}", each <= limit
        for who, most in MAX_REQUESTS_TO_LEAVE.items():
            total = costs[f"{who} leaves"].total
            yield f"N={count}: {total} requests when a {who} leaves, at most {most}", total <= most
        if count == 200:
            join = costs["join"]
            yield f"N=200: {join.bytes / 1e6:.2f} MB, less than 3", join.bytes < MAX_BYTES_AT_200
            yield (
                f"N=200: {join.client_cpu:.2f} s of client CPU, less than 2",
                join.client_cpu < MAX_CPU_AT_200,
            )


def latency_verdicts(latencies: list[Latency]) -> Iterator[tuple[str, bool]]:
    """Compare with what is required: of joins, none meets the slow path."""
    joins = latencies[0]
    yield f"{joins.slow} of {len(joins.seconds)} joins met the slow path, none may", not joins.slow


@contextmanager
def quiet() -> Iterator[None]:
    """Log nothing: a thousand hosts that join are a thousand lines."""
    logging.disable(logging.CRITICAL)
    yield


def main() -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(description="What joining and leaving cost.")
    parser.add_argument("--hosts", type=int, nargs="*", default=[10, 50, 200, 1000, 2000])
    parser.add_argument("--no-latency", action="store_true", help="count only")
    parser.add_argument("--rounds", type=int, default=1, help="medians of so many (default: 1)")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    parser.add_argument("--no-check", action="store_true", help="exit 0 whatever comes out")
    arguments = parser.parse_args()
    with quiet():
        single = trio.run(first_decision)
        results = measure(arguments.hosts, arguments.rounds)
        latencies = [] if arguments.no_latency else trio.run(measure_latencies)
    print("a single host, until its first decision and out again:", single)
    for line in (*table(results), *growth(results)):
        print(line)
    if latencies:
        print(f"{'ms until all are right':<32} {'median':>7} {'p99':>7} {'Go, quiet':>9} slow path")
        for latency in latencies:
            print(latency.text)
    good = True
    judged = [*verdicts(results), *(latency_verdicts(latencies) if latencies else ())]
    for words, holds in judged:
        print("PASS" if holds else "FAIL", words)
        good = good and holds
    if arguments.json:
        shown = {n: {what: asdict(c) for what, c in costs.items()} for n, costs in results.items()}
        seconds = {latency.what: latency.seconds for latency in latencies}
        arguments.json.write_text(json.dumps({"hosts": shown, "latencies": seconds}, indent=2))
    return 0 if good or arguments.no_check else 1


if __name__ == "__main__":
    sys.exit(main())
