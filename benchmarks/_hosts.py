"""Hosts as processes for the measurements of failures, and what /proc says of them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio

CHILD = ["sh", "-c", "echo began; exec sleep 300"]


class Host:
    """A host as a process. Made by `open_host`."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.pid = process.pid
        self._read = b""

    async def line(self) -> str:
        """Return the next line that it writes, or its command."""
        assert self.process.stdout is not None
        while b"\n" not in self._read:
            more = await self.process.stdout.receive_some()
            if not more:
                raise RuntimeError("a host has ended")
            self._read += more
        line, self._read = self._read.split(b"\n", 1)
        return line.decode()

    async def began(self) -> float:
        """Wait until its work has begun; return when that was."""
        if await self.line() != "began":
            raise RuntimeError("the work has not begun")
        return time.perf_counter()


@asynccontextmanager
async def open_host(command: Sequence[str]) -> AsyncIterator[Host]:
    """Run a host; nothing of it is left after the block."""
    process = await trio.lowlevel.open_process(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield Host(process)
    finally:
        with trio.CancelScope(shield=True):
            end_all([*descendants(process.pid), process.pid])
            await process.wait()


def end_all(pids: Sequence[int]) -> None:
    """Kill processes."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """Return the processes that a process has started, and those that they have, and so on."""
    found = list(children(pid))
    for child in found:
        found += children(child)  # the list grows as it is gone through
    return found


def children(pid: int) -> Iterator[int]:
    """Yield the children of a process, whichever thread started them."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 # names are wanted, no paths
    except OSError:
        return
    for thread in threads:
        yield from map(int, read_proc(pid, f"task/{thread}/children").split())


async def command_of(host: int) -> int:
    """Return the process of the command that a host runs, once the shell has become it."""
    while True:
        for pid in descendants(host):
            if runs_command(pid):
                return pid
        await trio.sleep(0.001)


def runs_command(pid: int) -> bool:
    """Whether a process is a host's command, and lives."""
    return read_proc(pid, "cmdline").startswith("sleep\0")


def helpers_of(host: int) -> list[int]:
    """Return the processes of ours that look after a host's command."""
    return [pid for pid in descendants(host) if "trio_sched" in read_proc(pid, "cmdline")]


def read_proc(pid: int, name: str) -> str:
    """Return what /proc says of a process; nothing if it is gone."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except OSError:
        return ""


async def ended(pid: int, task_status: trio.TaskStatus[None], ends: list[float]) -> None:
    """Note in `ends` when a process has ended."""
    descriptor = os.pidfd_open(pid)
    try:
        task_status.started()
        await trio.lowlevel.wait_readable(descriptor)
        ends.append(time.perf_counter())
    finally:
        os.close(descriptor)
