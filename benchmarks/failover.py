"""How long no host runs after a failure, and how soon work ends that must not go on.

``python benchmarks/failover.py`` starts an etcd, lets one host run a command and another wait,
makes something fail, and takes the time until the other one's command runs:

- the first one's wrapper is killed, with the reaper, without it, and with ``etcdctl lock``;
- the wrapper and the reaper are killed by one blow;
- the wrapper is killed while the raft leader of three members is stopped.

All with the same TTL and in the same run. It says, too, whether what the killed wrapper ran was
still running when the next one began. Then it deletes a slot's key, and takes the time from etcd's
event until the work under that slot has ended: a command, and a task of a program.

And what the reaper costs: how long opening it takes, and its memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import trio
from _hosts import (
    CHILD,
    Host,
    command_of,
    end_all,
    ended,
    helpers_of,
    open_host,
    read_proc,
    runs_command,
)

from trio_sched import Client, open_client
from trio_sched.etcd_shim import EventType
from trio_sched.reaper.owner import open_reaper
from trio_sched.testing import Etcd, open_etcd
from trio_sched.testing.find import find_etcdctl

LIMIT = 0.150  # seconds that a takeover may take in the median, with the reaper
OPENING = 0.030  # seconds that opening the reaper may take
REST = 0.3  # seconds until a host is at rest: it has still to read and to watch
ENDING = 0.020  # seconds that work may go on in the median, once its slot is known to be gone


@dataclass(frozen=True)
class Contender:
    """A way to run a command on one host of several.

    Attributes:
        name: what to call it.
        lock: whether it is ``etcdctl lock``.
        options: of ``trio-sched run``.
        helpers: whether what looks after the command is killed, too.
    """

    name: str
    lock: bool = False
    options: tuple[str, ...] = ()
    helpers: bool = False

    def command(self, server: Etcd, path: str, host: str, ttl: int) -> list[str]:
        """Return the command of one host."""
        endpoints = ",".join(server.endpoints)
        if self.lock:
            etcdctl = [str(find_etcdctl()), f"--endpoints={endpoints}"]
            return [*etcdctl, "lock", f"--ttl={ttl}", "--", path, *CHILD]
        ours = [sys.executable, "-m", "trio_sched", "run", path, "--endpoints", endpoints]
        return [*ours, "--hostname", host, "--ttl", str(ttl), *self.options, "--", *CHILD]


QUICK = Contender("run, with the reaper")
SLOW = (
    Contender("run --no-reaper", options=("--no-reaper",)),
    Contender("run, both are killed", helpers=True),
    Contender("etcdctl lock", lock=True),
)
SILENT = Contender("run, raft leader stopped")
COMMAND, TASK = "slot deleted, a command", "slot deleted, a task"


@dataclass
class Figures:
    """What was measured of a contender.

    Attributes:
        seconds: from the failure until the next one's command ran, or the work had ended.
        overlaps: how often the killed one's command was running still.
    """

    seconds: list[float] = field(default_factory=list)
    overlaps: int = 0


@dataclass
class Cost:
    """What a reaper costs.

    Attributes:
        opening: seconds until its block is entered.
        resident: bytes of memory that it has, with what it shares with others.
        private: bytes that are its alone.
    """

    opening: list[float] = field(default_factory=list)
    resident: int = 0
    private: int = 0


async def waits(client: Client, contender: Contender, path: str) -> None:
    """Wait until a second host stands in line."""
    prefix = path if contender.lock else f"{path}/election"
    async with client.watch(f"{prefix}/", prefix=True) as events:
        while (await client.get_prefix(f"{prefix}/")).count < 2:
            await anext(events)
    await trio.sleep(REST)


async def nothing() -> None:
    """Let nothing else fail."""
    await trio.lowlevel.checkpoint()


async def take_over(
    server: Etcd,
    client: Client,
    contender: Contender,
    path: str,
    ttl: int,
    figures: Figures,
    fail: Callable[[], Awaitable[None]] = nothing,
) -> None:
    """Let something fail, kill the host that runs, and take the time until another one does."""
    command = partial(contender.command, server, path, ttl=ttl)
    async with open_host(command(host="a")) as first:
        await first.began()
        running = await command_of(first.pid)
        async with open_host(command(host="b")) as second:
            await waits(client, contender, path)
            helpers = helpers_of(first.pid) if contender.helpers else []
            await fail()
            end_all([first.pid, *helpers])
            killed = time.perf_counter()
            figures.seconds.append(await second.began() - killed)
            figures.overlaps += runs_command(running)
        end_all([running] if runs_command(running) else [])


async def measure(ttl: int, rounds: int, slow_rounds: int) -> dict[str, Figures]:
    """Measure all that one member is enough for."""
    found = {each.name: Figures() for each in (QUICK, *SLOW)}
    async with open_etcd() as server, open_client(server.endpoint) as client:
        for number in range(rounds):
            await take_over(server, client, QUICK, f"/q{number}", ttl, found[QUICK.name])
        for number in range(slow_rounds):
            async with trio.open_nursery() as nursery:  # they wait for a TTL, nothing else
                for index, contender in enumerate(SLOW):
                    path, figures = f"/s{number}-{index}", found[contender.name]
                    nursery.start_soon(take_over, server, client, contender, path, ttl, figures)
        found[COMMAND], found[TASK] = Figures(), Figures()
        await delete_slots(server, client, rounds, found[COMMAND], task=False)
        await delete_slots(server, client, rounds, found[TASK], task=True)
    return found


async def measure_silence(ttl: int, rounds: int) -> Figures:
    """Measure a takeover while the raft leader of three members is stopped."""
    figures = Figures()
    for number in range(rounds):
        async with (
            open_etcd(members=3) as server,
            open_client(*server.endpoints) as client,
        ):
            leader = await server.raft_leader()

            async def stop() -> None:
                await trio.lowlevel.checkpoint()
                leader.pause()  # noqa: B023 # called before the next round

            await take_over(server, client, SILENT, f"/r{number}", ttl, figures, stop)
            leader.resume()
    return figures


async def delete_slots(
    server: Etcd, client: Client, rounds: int, figures: Figures, *, task: bool
) -> None:
    """Delete the slot of a host that works, again and again; take the time until its work ends."""
    path = "/task" if task else "/command"
    slot = f"{path}/slots/0"
    working = [sys.executable, str(Path(__file__).with_name("_working.py")), server.endpoint, path]
    command = working if task else QUICK.command(server, path, "a", 10)
    async with open_host(command) as host, client.watch(slot) as events:
        for _ in range(rounds):
            await host.began()
            await trio.sleep(REST)
            ends: list[float] = []
            async with trio.open_nursery() as nursery:
                if task:
                    nursery.start_soon(said_end, host, ends)
                else:
                    await nursery.start(partial(ended, await command_of(host.pid), ends=ends))
                await client.delete(slot)
                while (await anext(events)).type is not EventType.DELETE:
                    pass
                known = time.perf_counter()
            figures.seconds.append(max(0.0, ends[0] - known))


async def said_end(host: Host, ends: list[float]) -> None:
    """Note when a host's work has ended, as it says itself."""
    ends.append(float(await host.line()))


async def measure_reaper(rounds: int) -> Cost:
    """Measure what a reaper costs."""
    cost = Cost()
    text = ""
    async with open_client("http://127.0.0.1:1") as client:
        for _ in range(rounds):
            start = time.perf_counter()
            async with open_reaper(client) as reaper:
                cost.opening.append(time.perf_counter() - start)
                await trio.sleep(0.2)  # until it is ready
                text = read_proc(reaper.pid or 0, "smaps_rollup")
        lines = dict(line.split(":", 1) for line in text.splitlines()[1:])
        cost.resident = _bytes(lines["Rss"])
        cost.private = _bytes(lines["Private_Clean"]) + _bytes(lines["Private_Dirty"])
    return cost


def _bytes(text: str) -> int:
    return int(text.rstrip().removesuffix("kB")) * 1024


def show(found: dict[str, Figures], cost: Cost, ttl: int) -> bool:
    """Print everything; return whether what is required holds."""
    print(f"TTL {ttl} s; seconds from SIGKILL of the wrapper until another host's command runs;")
    print("where a slot is deleted, from etcd's event until the work under it has ended")
    print(f"{'':<26}{'rounds':>7}{'median':>9}{'least':>9}{'most':>9}   the old one still ran")
    for name, figures in found.items():
        if seconds := figures.seconds:
            print(
                f"{name:<26}{len(seconds):>7}{statistics.median(seconds):>9.3f}"
                f"{min(seconds):>9.3f}{max(seconds):>9.3f}   {figures.overlaps} times"
            )
    opening = statistics.median(cost.opening)
    print(
        f"opening a reaper takes {opening * 1e3:.1f} ms; it has {cost.resident / 1e6:.1f} MB, "
        f"{cost.private / 1e6:.1f} MB of them its own"
    )
    required = tuple(requirements(found, opening))
    for words, holds in required:
        print("PASS" if holds else "FAIL", words)
    return all(holds for _, holds in required)


def requirements(found: dict[str, Figures], opening: float) -> Iterator[tuple[str, bool]]:
    """Yield what is required, and whether it holds."""
    yield (
        f"a takeover takes less than {LIMIT * 1e3:.0f} ms in the median, with the reaper",
        statistics.median(found[QUICK.name].seconds) < LIMIT,
    )
    ours = [figures for name, figures in found.items() if name != "etcdctl lock"]
    yield "and never while the old one ran", not any(figures.overlaps for figures in ours)
    for name in (COMMAND, TASK):
        yield (
            f"{name}: it has ended within {ENDING * 1e3:.0f} ms in the median",
            statistics.median(found[name].seconds) < ENDING,
        )
    yield f"opening a reaper takes less than {OPENING * 1e3:.0f} ms", opening < OPENING


def main() -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(description="How long no host runs after a failure.")
    parser.add_argument("--ttl", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=15, help="of what takes some round trips")
    parser.add_argument("--slow-rounds", type=int, default=3, help="of what takes a TTL")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    parser.add_argument("--no-check", action="store_true", help="exit 0 whatever comes out")
    arguments = parser.parse_args()
    cost = trio.run(measure_reaper, arguments.rounds)
    found = trio.run(measure, arguments.ttl, arguments.rounds, arguments.slow_rounds)
    found[SILENT.name] = trio.run(measure_silence, arguments.ttl, arguments.slow_rounds)
    good = show(found, cost, arguments.ttl)
    if arguments.json:
        shown = {name: asdict(figures) for name, figures in found.items()}
        arguments.json.write_text(json.dumps({**shown, "reaper": asdict(cost)}, indent=2))
    return 0 if good or arguments.no_check else 1


if __name__ == "__main__":
    sys.exit(main())
