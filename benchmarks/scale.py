"""What many paths in a process, and many candidates and slots on a path, cost.

``python benchmarks/scale.py`` starts an etcd for each row. Paths are those of one host under one
session (`open_host`), or each has a session of its own (`schedule`). *entering*: so many blocks are
entered at once, and no lease may lapse. *idle*: requests and CPU of paths on which nothing happens.
*candidates*: etcd's CPU for a join beside so many candidates, and how long it takes. *slots*: the
requests of K chosen hosts that take their slots. Requests are counted by etcd; growth is an
exponent: 0 if nothing grows, 1 if it is linear.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from math import log
from statistics import median

import trio
from scheduling import counters, difference

from trio_sched import Client, Result, Slot, observe, open_client, open_host, schedule
from trio_sched.etcd_shim import Put
from trio_sched.testing import Etcd, open_etcd

# Blocks, their TTL in seconds, and whether they are of one host.
ENTERING = ((1000, 2, True), (5000, 10, True), (1000, 2, False), (5000, 10, False))
IDLE = (100, 1000)  # paths
IDLE_TTL = 10
CANDIDATES = (10, 1000, 10_000, 30_000)
JOINS = 30
SLOTS = (10, 50, 200)
PUTS = 64  # candidates that are put in one transaction

MAX_EXPONENT_OF_CANDIDATES = 0.1
MAX_REQUESTS_FOR_A_SLOT = 3
MAX_PROOFS = 2.5  # of a path, in a TTL
MAX_REQUESTS = 10  # a second, of 1,000 paths of one host with a TTL of 10 s, with renewals


@dataclass
class Row:
    """One figure.

    Attributes:
        words: what it is.
        holds: whether it is as required; None if nothing is.
    """

    words: str
    holds: bool | None = None

    def __str__(self) -> str:
        verdict = {None: "    ", True: "PASS", False: "FAIL"}[self.holds]
        return f"{verdict} {self.words}"


class Losses(logging.Handler):
    """Counts sessions that were lost."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Count it if it is one."""
        message = record.getMessage()
        self.count += "session lost" in message or "session of all paths is lost" in message


@asynccontextmanager
async def opened() -> AsyncIterator[tuple[Etcd, Client]]:
    """An etcd of its own, and a client."""
    async with open_etcd() as server, open_client(server.endpoint) as client:
        await client.put("/warm", "up")
        yield server, client


@asynccontextmanager
async def paths(client: Client, count: int, ttl: int, *, shared: bool) -> AsyncIterator[float]:
    """Paths, all entered at once, of one host or of as many; gives the seconds that it took."""
    if shared:
        async with (
            open_host(client, "host", session_ttl=ttl) as host,
            entered_at_once(count, host.schedule) as seconds,
        ):
            yield seconds
    else:
        alone = partial(schedule, client, hostname="host", session_ttl=ttl)
        async with entered_at_once(count, alone) as seconds:
            yield seconds


@asynccontextmanager
async def entered_at_once(
    count: int, enter: Callable[[str], AbstractAsyncContextManager[Result]]
) -> AsyncIterator[float]:
    """Enter so many paths at once; gives the seconds until all had a decision."""
    entered, all_in = 0, trio.Event()

    async def live(number: int) -> None:
        nonlocal entered
        async with enter(f"/p/{number}") as result:
            await result.next()
            entered += 1
            if entered == count:
                all_in.set()
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        began = time.perf_counter()
        for number in range(count):
            nursery.start_soon(live, number)
        await all_in.wait()
        yield time.perf_counter() - began
        nursery.cancel_scope.cancel()


# ---- the rows ---------------------------------------------------------------------------


def kind_of(*, shared: bool) -> str:
    """Say whose the paths are."""
    return "paths of a host" if shared else "paths with sessions of their own"


async def entering(count: int, ttl: int, shared: bool) -> list[Row]:  # noqa: FBT001 # of a table
    """Enter so many blocks at once, and stay for two TTLs."""
    losses = Losses()
    logger = logging.getLogger("trio_sched")
    logger.addHandler(losses)
    cpu = time.process_time()
    async with opened() as (_, client), paths(client, count, ttl, shared=shared) as seconds:
        cpu = time.process_time() - cpu
        await trio.sleep(2 * ttl)
    logger.removeHandler(losses)
    words = f"{count} {kind_of(shared=shared)}, TTL {ttl}, are in after {seconds:.1f} s"
    return [
        Row(
            f"{words}, {cpu / count * 1000:.2f} ms of CPU each; {losses.count} sessions were lost",
            losses.count == 0,
        )
    ]


async def idle(count: int, shared: bool) -> list[Row]:  # noqa: FBT001 # of a table
    """Have so many paths on which nothing happens."""
    async with opened() as (server, client), paths(client, count, IDLE_TTL, shared=shared):
        await trio.sleep(IDLE_TTL)  # what is of the joins is over
        before, cpu, began = await counters(server), time.process_time(), time.perf_counter()
        worst = 0.0
        while time.perf_counter() - began < 3 * IDLE_TTL:
            asked = time.perf_counter()
            await trio.sleep(0.01)
            worst = max(worst, time.perf_counter() - asked - 0.01)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        requests, _ = difference(before, await counters(server))
    calls = requests.get("Txn", 0) + requests.get("Range", 0)
    renewals = requests.get("LeaseKeepAlive", 0)
    a_ttl = seconds / IDLE_TTL * count
    whose = kind_of(shared=shared)
    return [
        Row(
            f"{count} idle {whose}: {calls / a_ttl:.2f} calls a path and TTL, "
            f"{(calls + renewals) / seconds:.1f} requests a second with renewals",
            calls / a_ttl <= MAX_PROOFS
            and (not shared or (calls + renewals) / seconds <= MAX_REQUESTS),
        ),
        Row(
            f"{count} idle {whose}: {renewals / a_ttl:.2f} renewals a "
            f"path and TTL, {cpu / seconds * 100:.1f} % of a core, late by {worst * 1000:.0f} ms "
            "at most"
        ),
    ]


async def candidates(count: int) -> tuple[float, list[Row]]:
    """Join beside so many candidates; return etcd's CPU for a join, and our time for it."""
    async with opened() as (server, client):
        lease = (await client.lease_grant(3600)).id
        await client.put("/p/scheduled", "other")
        for first in range(0, count, PUTS):
            numbers = range(first, min(first + PUTS, count))
            await client.txn(
                [], [Put(f"/p/election/{2**62 + number:x}", "other", lease) for number in numbers]
            )
        before, seconds = await counters(server), []
        for _ in range(JOINS):
            began = time.perf_counter()
            async with schedule(client, "/p", "joiner", session_ttl=60):
                seconds.append(time.perf_counter() - began)
        name = "process_cpu_seconds_total"
        cpu = ((await counters(server))[name] - before[name]) / JOINS
    words = f"beside {count} candidates a join and leave takes {cpu * 1000:.2f} ms of etcd's CPU"
    return median(seconds), [Row(f"{words}; joined after {median(seconds) * 1000:.1f} ms")]


async def slots(count: int) -> list[Row]:
    """Let K chosen hosts of one path take their slots, all at once."""
    taken, all_taken = 0, trio.Event()

    async def work(_slot: Slot) -> None:
        nonlocal taken
        taken += 1
        if taken == count:
            all_taken.set()
        await trio.sleep_forever()

    async with opened() as (server, client), trio.open_nursery() as nursery:
        results: list[Result] = []

        async def live(number: int) -> None:
            async with schedule(
                client, "/p", f"host-{number}", max_count=count, session_ttl=600
            ) as result:
                results.append(result)
                await trio.sleep_forever()

        for number in range(count):
            nursery.start_soon(live, number)
        async with observe(client, "/p") as decisions:
            async for hosts in decisions:
                if len(hosts) == count:
                    break
        while not all(result.scheduled for result in results):  # noqa: ASYNC110 # they learn it now
            await trio.sleep(0.05)
        before = await counters(server)
        for result in results:
            nursery.start_soon(result.run_while_scheduled, work)
        await all_taken.wait()
        requests, _ = difference(before, await counters(server))
        nursery.cancel_scope.cancel()
    each = (requests.get("Txn", 0) + requests.get("Range", 0)) / count
    words = f"{count} chosen hosts take their slots with {each:.2f} calls each"
    return [Row(words, each <= MAX_REQUESTS_FOR_A_SLOT)]


def measured(arguments: argparse.Namespace) -> Iterator[Row]:
    """Measure all that is asked for."""
    if "entering" in arguments.rows:
        for count, ttl, shared in ENTERING:
            yield from trio.run(entering, count, ttl, shared)
    if "idle" in arguments.rows:
        for count in IDLE:
            for shared in (True, False):
                yield from trio.run(idle, count, shared)
    if "candidates" in arguments.rows:
        times: dict[int, float] = {}
        for count in CANDIDATES:
            times[count], rows = trio.run(candidates, count)
            yield from rows
        few, many = min(times), max(times)
        grows = log(times[many] / times[few]) / log(many / few)
        words = f"from {few} to {many} candidates the time to join grows by the power {grows:.2f}"
        yield Row(words, grows <= MAX_EXPONENT_OF_CANDIDATES)
    if "slots" in arguments.rows:
        for count in SLOTS:
            yield from trio.run(slots, count)


def main() -> int:
    """Measure, print, and return the exit code."""
    rows = ("entering", "idle", "candidates", "slots")
    parser = argparse.ArgumentParser(description="What many paths, candidates and slots cost.")
    parser.add_argument("rows", nargs="*", default=rows, choices=[*rows, rows])
    parser.add_argument("--no-check", action="store_true", help="exit 0 whatever comes out")
    arguments = parser.parse_args()
    logging.getLogger("trio_sched").propagate = False
    logging.getLogger("trio_sched").addHandler(logging.NullHandler())
    good = True
    for row in measured(arguments):
        print(row, flush=True)
        good = good and row.holds is not False
    return 0 if good or arguments.no_check else 1


if __name__ == "__main__":
    sys.exit(main())
