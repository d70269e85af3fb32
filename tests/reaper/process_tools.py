"""Looking at processes that are not our children."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio

__all__ = ["alive", "ended_with_block", "eventually", "exists", "open_files", "proc_bytes"]


def exists(pid: int) -> bool:
    """Whether there is such a process, zombies included."""
    return Path(f"/proc/{pid}").exists()


def alive(pid: int) -> bool:
    """Whether there is such a process that has not ended."""
    try:
        return proc_bytes(pid, "stat").rpartition(b")")[2].split()[0] not in b"ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def proc_bytes(pid: int, name: str) -> bytes:
    """What /proc says of a process."""
    return Path(f"/proc/{pid}/{name}").read_bytes()


def open_files(pid: int) -> list[str]:
    """What a process has open."""
    found = []
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it has just been closed
            found.append(str(file.readlink()))
    return found


@asynccontextmanager
async def ended_with_block(process: trio.Process, seconds: float) -> AsyncIterator[None]:
    """Fail after so many seconds; whatever happens, the process has ended afterwards."""
    try:
        with trio.fail_after(seconds):
            yield
    finally:
        if process.returncode is None:
            process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def eventually(holds: Callable[[], object]) -> None:
    """Wait until something holds for which there is no event; the test's timeout is the bound."""
    while not holds():  # noqa: ASYNC110 # of foreign processes
        await trio.sleep(0.01)
