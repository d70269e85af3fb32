"""How long no host runs after the running host's wrapper was killed with SIGKILL.

``python benchmarks/failover.py`` starts an etcd, lets one host run a command and another wait,
kills the first one's wrapper, and takes the time until the other one's command runs. With the
reaper, without it, and with ``etcdctl lock``, all with the same TTL and in the same run. It says,
too, whether what the killed wrapper ran was still running when the next one began.

And what the reaper costs: how long opening it takes, and its memory.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import trio

from trio_sched import Client, open_client
from trio_sched.reaper.helper.groups import kill_group, living_members
from trio_sched.reaper.helper.tree import children_of
from trio_sched.reaper.owner import open_reaper
from trio_sched.testing import Etcd, open_etcd
from trio_sched.testing.find import find_etcdctl

CHILD = ["sh", "-c", "echo began; exec sleep 300"]
LIMIT = 0.150  # seconds that a takeover may take in the median, with the reaper
OPENING = 0.030  # seconds that opening the reaper may take


@dataclass(frozen=True)
class Contender:
    """A way to run a command on one host of several.

    Attributes:
        name: what to call it.
        lock: whether it is ``etcdctl lock``.
        options: of ``trio-sched run``.
    """

    name: str
    lock: bool = False
    options: tuple[str, ...] = ()

    def command(self, server: Etcd, path: str, host: str, ttl: int) -> list[str]:
        """Return the command of one host."""
        if self.lock:
            etcdctl = [str(find_etcdctl()), f"--endpoints={server.endpoint}"]
            return [*etcdctl, "lock", f"--ttl={ttl}", "--", path, *CHILD]
        ours = [sys.executable, "-m", "trio_sched", "run", path, "--endpoints", server.endpoint]
        return [*ours, "--hostname", host, "--ttl", str(ttl), *self.options, "--", *CHILD]


CONTENDERS = (
    Contender("run, with the reaper"),
    Contender("run --no-reaper", options=("--no-reaper",)),
    Contender("etcdctl lock", lock=True),
)


@dataclass
class Figures:
    """What was measured of a contender.

    Attributes:
        seconds: from SIGKILL until the next one's command ran.
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


@asynccontextmanager
async def open_host(command: Sequence[str]) -> AsyncIterator[trio.Process]:
    """Run a host; nothing of it is left after the block."""
    process = await trio.lowlevel.open_process(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield process
    finally:
        group = groups_below(process.pid)
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
        for pid in group:
            kill_group(pid, 5)


def groups_below(pid: int) -> set[int]:
    """Return the groups that what is below a process is in."""
    found = set()
    for child in children_of(pid):
        with suppress(ProcessLookupError):
            found.add(os.getpgid(child))
        found |= groups_below(child)
    return found


def read_proc(pid: int, name: str) -> str:
    """Return what /proc says of a process; nothing if it is gone."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except OSError:
        return ""


async def began(process: trio.Process) -> float:
    """Wait until a host's command runs; return when that was."""
    assert process.stdout is not None
    if await process.stdout.receive_some() != b"began\n":
        raise RuntimeError("the command has not begun")
    return time.perf_counter()


async def waits(client: Client, contender: Contender, path: str) -> None:
    """Wait until a second host stands in line."""
    prefix = path if contender.lock else f"{path}/election"
    async with client.watch(f"{prefix}/", prefix=True) as events:
        while (await client.get_prefix(f"{prefix}/")).count < 2:
            await anext(events)
    await trio.sleep(0.3)  # until it is at rest: it has still to read and to watch


async def take_over(
    server: Etcd, client: Client, contender: Contender, path: str, ttl: int, figures: Figures
) -> None:
    """Kill the host that runs, and take the time until another one does."""
    command = partial(contender.command, server, path, ttl=ttl)
    async with open_host(command(host="a")) as first:
        await began(first)
        groups = groups_below(first.pid)
        async with open_host(command(host="b")) as second:
            await waits(client, contender, path)
            first.kill()
            killed = time.perf_counter()
            figures.seconds.append(await began(second) - killed)
            figures.overlaps += any(sleeps(group) for group in groups)
        for group in groups:
            kill_group(group, 5)


def sleeps(group: int) -> bool:
    """Whether the command in a group still runs."""
    return any(read_proc(pid, "cmdline").startswith("sleep") for pid in living_members(group))


async def measure(ttl: int, rounds: int, slow_rounds: int) -> dict[str, Figures]:
    """Measure all contenders."""
    found = {contender.name: Figures() for contender in CONTENDERS}
    async with open_etcd() as server, open_client(server.endpoint) as client:
        quick, *slow = CONTENDERS
        for number in range(rounds):
            await take_over(server, client, quick, f"/q{number}", ttl, found[quick.name])
        for number in range(slow_rounds):
            async with trio.open_nursery() as nursery:  # they wait for a TTL, nothing else
                for index, contender in enumerate(slow):
                    path, figures = f"/s{number}-{index}", found[contender.name]
                    nursery.start_soon(take_over, server, client, contender, path, ttl, figures)
    return found


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
    print(f"TTL {ttl} s; seconds from SIGKILL of the wrapper until another host's command runs")
    print(f"{'':<24}{'rounds':>7}{'median':>9}{'least':>9}{'most':>9}   the old one still ran")
    for name, figures in found.items():
        if seconds := figures.seconds:
            print(
                f"{name:<24}{len(seconds):>7}{statistics.median(seconds):>9.3f}"
                f"{min(seconds):>9.3f}{max(seconds):>9.3f}   {figures.overlaps} times"
            )
    opening = statistics.median(cost.opening)
    print(
        f"opening a reaper takes {opening * 1e3:.1f} ms; it has {cost.resident / 1e6:.1f} MB, "
        f"{cost.private / 1e6:.1f} MB of them its own"
    )
    quick = found[CONTENDERS[0].name]
    required = (
        (f"a takeover takes less than {LIMIT * 1e3:.0f} ms in the median, with the reaper",
         statistics.median(quick.seconds) < LIMIT),
        ("and never while the old one ran", not quick.overlaps),
        (f"opening a reaper takes less than {OPENING * 1e3:.0f} ms", opening < OPENING),
    )  # fmt: skip
    for words, holds in required:
        print("PASS" if holds else "FAIL", words)
    return all(holds for _, holds in required)


def main() -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(description="How long no host runs after a crash.")
    parser.add_argument("--ttl", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=15, help="with the reaper")
    parser.add_argument("--slow-rounds", type=int, default=3, help="without it, a TTL each")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    parser.add_argument("--no-check", action="store_true", help="exit 0 whatever comes out")
    arguments = parser.parse_args()
    cost = trio.run(measure_reaper, arguments.rounds)
    found = trio.run(measure, arguments.ttl, arguments.rounds, arguments.slow_rounds)
    good = show(found, cost, arguments.ttl)
    if arguments.json:
        shown = {name: asdict(figures) for name, figures in found.items()}
        arguments.json.write_text(json.dumps({**shown, "reaper": asdict(cost)}, indent=2))
    return 0 if good or arguments.no_check else 1


if __name__ == "__main__":
    sys.exit(main())
