"""A process that has just begun: what import, the first put, and being connected cost it.

Started by `_runner`, and imports next to nothing before the clock runs.
"""

from __future__ import annotations

import importlib
import sys
import time
from contextlib import AsyncExitStack

TYPE_CHECKING = False
if TYPE_CHECKING:  # type checkers know this name; to import typing takes memory
    from typing import Any

KEY, VALUE, WATCHED = b"bench/0001", b"0123456789", b"watched/"
# Clients, to see what one of them takes; the first find room that the imports have left.
SLACK, MORE = 200, 100


def rss() -> int:
    """Return what this process holds of memory, in bytes; statm is off by some hundred kB."""
    with open("/proc/self/smaps_rollup", encoding="ascii") as file:  # noqa: PTH123 # pathlib costs
        line = next(line for line in file if line.startswith("Rss:"))
    return int(line.split()[1]) * 1024


def took(cpu: int, wall: int) -> dict[str, float]:
    """Return the time since then, in microseconds."""
    now = (time.process_time_ns(), time.perf_counter_ns())
    return {"cpu": (now[0] - cpu) / 1000, "wall": (now[1] - wall) / 1000}


def measured_import(names: list[str]) -> dict[str, float]:
    """Import modules."""
    cpu, wall = time.process_time_ns(), time.perf_counter_ns()
    for name in names:
        importlib.import_module(name)
    return took(cpu, wall)


class Connected:
    """What clients take once they are connected."""

    def __init__(self, driver: Any, address: str, bare: int, *, memory: bool) -> None:
        self._driver = driver
        self._address = address
        self._bare = bare
        self._memory = memory

    async def figures(self) -> dict[str, dict[str, float]]:
        """Open one client, and many if their memory is asked for."""
        async with AsyncExitStack() as stack:
            cpu, wall = time.process_time_ns(), time.perf_counter_ns()
            peer = await stack.enter_async_context(self._driver.open_peer(self._address))
            await peer.put(KEY, VALUE)
            figures = {"cold": took(cpu, wall)}
            await stack.enter_async_context(peer.watch(WATCHED))
            figures["process"] = {"bytes": rss() - self._bare}
            if self._memory:
                await self._more(stack, SLACK)
                before = rss()
                await self._more(stack, MORE)
                figures["memory"] = {"bytes": (rss() - before) / MORE}
            return figures

    async def _more(self, stack: AsyncExitStack, count: int) -> None:
        for _ in range(count):
            peer = await stack.enter_async_context(self._driver.open_peer(self._address))
            await peer.put(KEY, VALUE)
            await stack.enter_async_context(peer.watch(WATCHED))


def main() -> None:
    """Print one line of JSON."""
    _, driver_name, address, flags, *imports = sys.argv
    if "borrows" in flags:
        importlib.import_module("_pb").stand_in()
    bare = rss()
    imported = measured_import(imports)
    driver = importlib.import_module(driver_name)
    connected = Connected(driver, address, bare, memory="memory" in flags)
    figures = {"import": imported, **driver.LOOP().run(connected.figures)}
    sys.stdout.write(importlib.import_module("json").dumps(figures) + "\n")


if __name__ == "__main__":
    main()
