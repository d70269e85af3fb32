"""What one evaluation costs a leader, by the size of its pool, for each built-in strategy.

``python benchmarks/strategies.py`` lets a `LeaderMachine` lead pools of 100 to 10,000
hosts and posts one change after the other; each is one evaluation: who may be
chosen, what the strategy says, and whether that is stored already. There is no etcd.
The time must stay below 50 ms at 10,000 hosts, and from 100 hosts on it must not grow with
them where the strategy tracks its hosts, and else not faster than n log n; the exit code is 1 if
one of them does.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import statistics
import sys
import time
from pathlib import Path

from trio_sched.leader.machine import (
    Elected,
    HostJoined,
    LeaderMachine,
    Snapshot,
    State,
    StoredDecision,
    WriteDecision,
    WriteDone,
)
from trio_sched.model.records import Host, Options
from trio_sched.strategies import get_strategy, known_strategies

SIZES = (100, 316, 1000, 3162, 10_000)
MAX_SECONDS = 0.050  # at the largest size
MAX_EXPONENT = 0.2  # of a strategy that tracks its hosts
ZONES = 7


def host(at: int, revision: int) -> Host:
    """Return a host unlike its neighbours; its priority changes with the revision."""
    return Host(
        f"host-{at:05}",
        1000 + at,
        1 + at,
        weight=1.0 + at % 5,
        zone=f"zone-{at % ZONES}",
        priority=(at + revision) % 3,
    )


def leading(strategy: str, size: int, max_count: int) -> LeaderMachine:
    """Return a machine that leads a pool and has written its first decision."""
    core = LeaderMachine(
        hostname="host-00000",
        path="/jobs/benchmark",
        options=Options(max_count, strategy),
        strategy=get_strategy(strategy),
    )
    core.handle(Elected(1))
    hosts = tuple(host(at, 0) for at in range(size))
    core.handle(Snapshot(size + 10, hosts, StoredDecision((), 0, size + 10)))
    core.handle(WriteDone(size + 11))
    return core


def seconds(strategy: str, size: int, max_count: int, rounds: int) -> float:
    """Return the median time of an evaluation after one host has changed."""
    core, revision = leading(strategy, size, max_count), size + 20
    taken: list[float] = []
    gc.collect()
    gc.disable()
    for at in range(rounds):
        revision += 2
        event = HostJoined(host(at * 37 % size, revision), revision)
        began = time.perf_counter()
        intents = core.handle(event)
        taken.append(time.perf_counter() - began)
        if any(isinstance(intent, WriteDecision) for intent in intents):
            core.handle(WriteDone(revision + 1))
        if core.state is not State.LEADING:
            raise RuntimeError(f"{strategy} left the core {core.state}")
    gc.enable()
    return statistics.median(taken)


def exponent(times: list[float]) -> float:
    """Return the slope of the least-squares line through the logarithms."""
    x, y = [math.log(size) for size in SIZES], [math.log(taken) for taken in times]
    return statistics.linear_regression(x, y).slope


def main() -> int:
    """Measure, print, and judge."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=30, help="evaluations for each size")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    arguments = parser.parse_args()
    n_log_n = exponent([size * math.log(size) for size in SIZES])
    figures: dict[str, dict[str, object]] = {}
    good = True
    print(f"{'ms for one evaluation':28}" + "".join(f"{size:>9,}" for size in SIZES) + "  grows as")
    for strategy in known_strategies():
        tracks = get_strategy(strategy).track("/jobs/benchmark") is not None
        for max_count in (1, 50):
            times = [seconds(strategy, size, max_count, arguments.rounds) for size in SIZES]
            growth = exponent(times)
            fine = times[-1] < MAX_SECONDS and growth <= (MAX_EXPONENT if tracks else n_log_n)
            good &= fine
            name = f"{strategy}, max_count={max_count}"
            cells = "".join(f"{taken * 1e3:9.3f}" for taken in times)
            print(f"{name:28}{cells}  n^{growth:.2f}{'' if fine else '  TOO MUCH'}")
            figures[name] = {"seconds": dict(zip(SIZES, times, strict=True)), "exponent": growth}
    print(
        f"n log n grows as n^{n_log_n:.2f} over these sizes; allowed are {MAX_SECONDS * 1e3:g} ms, "
        f"and n^{MAX_EXPONENT} where hosts are tracked"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
