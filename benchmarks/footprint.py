"""What memory ``trio-sched run`` takes, with its reaper, next to a program that only imports Trio.

``python benchmarks/footprint.py``, or ``-- footprint`` for nox. PSS, as the kernel counts it: pages
that several processes share count in parts. Exits 1 if it is more than is required.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import trio

from trio_sched.testing import open_etcd

# `run` and its reaper, by Trio's: less than Trio and a bare Python cannot be had.
MOST = 2.0
PATIENCE = 30.0  # seconds for a command to run
PROC = Path("/proc")
READY = "echo up; exec sleep 600"
TRIO = [sys.executable, "-c", "import time, trio; print('up', flush=True); time.sleep(600)"]
BARE = [sys.executable, "-I", "-S", "-c", "import time; print('up', flush=True); time.sleep(600)"]


def run(endpoint: str, *options: str) -> list[str]:
    """Return the command that runs one which says when it runs."""
    where = [f"/footprint{len(options)}", "--endpoints", endpoint, "--ttl", "5"]
    return [sys.executable, "-m", "trio_sched", "run", *where, *options, "--", "sh", "-c", READY]


def pss_of(pid: int) -> float:
    """Return what a process takes, in MB."""
    for line in (PROC / str(pid) / "smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise LookupError(pid)


def children(pid: int) -> dict[int, str]:
    """Return the command lines of a process's children."""
    found = (PROC / str(pid) / "task" / str(pid) / "children").read_text().split()
    lines = {int(child): (PROC / child / "cmdline").read_text() for child in found}
    return {child: line.replace("\0", " ") for child, line in lines.items()}


def helper(pid: int, module: str) -> float:
    """Return what the helper of a process takes, in MB; 0 if there is none."""
    name = f"reaper.helper.{module} "
    return sum(pss_of(child) for child, line in children(pid).items() if name in line)


@contextmanager
def running(command: list[str]) -> Iterator[int]:
    """Start a program, wait until it is up, and give its process id; end it."""
    keep_byte_code = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    with subprocess.Popen(  # noqa: S603 # programs of ours
        command, stdout=subprocess.PIPE, env=keep_byte_code
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n", command
            time.sleep(1)  # what comes after, as a warning of this etcd's version
            yield process.pid
        finally:
            process.terminate()


def measure(endpoint: str) -> int:
    """Print a line for each, and return the exit code."""
    with ExitStack() as stack:
        pids = [
            stack.enter_context(running(command))
            for command in (TRIO, BARE, run(endpoint), run(endpoint, "--no-reaper"))
        ]
        plain, bare, ours, alone = pids
        reaper, none = helper(ours, "reap"), helper(alone, "reap")
        figures = {
            "a program that imports Trio": pss_of(plain),
            "a bare Python": pss_of(bare),
            "trio-sched run": pss_of(ours),
            "its reaper": reaper,
            "the keeper of its command": helper(ours, "keep"),
            "trio-sched run --no-reaper": pss_of(alone),
        }
    for name, size in figures.items():
        print(f"{name:30} {size:5.1f} MB")
    together = figures["trio-sched run"] + reaper
    ratio = together / figures["a program that imports Trio"]
    print(f"run and its reaper: {together:.1f} MB, {ratio:.2f} x Trio's, at most {MOST} x")
    print(f"reapers with --no-reaper: {0 if none == 0 else 'some'}")
    return int(ratio > MOST or none > 0 or reaper == 0)


async def main() -> int:
    """Measure beside an etcd of its own."""
    async with open_etcd() as etcd:
        return await trio.to_thread.run_sync(measure, etcd.endpoint)


if __name__ == "__main__":
    sys.exit(trio.run(main))
