"""A process that drives one client: reads what to do, a line each, and says what it took.

Started by `_runner`. Between two orders it has no connection, so it costs the others nothing.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, cast

from _catalogue import AT_ONCE, BURST, KEY, VALUE, WATCHED
from _peer import Driver, Loop, Peer, Unsupported

Order = dict[str, Any]


def say(message: dict[str, Any]) -> None:
    """Answer the order."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


class Clock:
    """CPU time of this process with all its threads, wall time, and how long each call took."""

    def __init__(self) -> None:
        self.latencies: list[int] = []
        self._cpu = time.process_time_ns()
        self._wall = time.perf_counter_ns()

    def sample(self, count: int) -> dict[str, Any]:
        """Return what was taken since the clock was made, for each of `count` operations."""
        wall = time.perf_counter_ns() - self._wall
        cpu = time.process_time_ns() - self._cpu
        return {
            "cpu": cpu / count / 1000,
            "wall": wall / count / 1000,
            "latencies": [latency / 1000 for latency in self.latencies],
        }


async def repeat(clock: Clock, count: int, operation: Callable[[], Awaitable[object]]) -> None:
    """Carry out `operation` again and again, one at a time."""
    now = time.perf_counter_ns
    note = clock.latencies.append
    for _ in range(count):
        start = now()
        await operation()
        note(now() - start)


class Rows:
    """The rows that are measured in a process that lives on."""

    def __init__(self, loop: Loop, driver: Driver, order: Order) -> None:
        self._loop = loop
        self._address: str = order["address"]
        self._driver = driver
        self._count: int = order["count"]
        self._warm: int = order["warm"]
        self._lease: int = order["lease"]

    async def one_at_a_time(self, operation: Callable[[], Awaitable[object]]) -> dict[str, Any]:
        """Warm up, then measure."""
        await repeat(Clock(), self._warm, operation)
        clock = Clock()
        await repeat(clock, self._count, operation)
        return clock.sample(self._count)

    async def seq(self) -> dict[str, Any]:
        """One put after the other."""
        async with self._driver.open_peer(self._address) as peer:
            return await self.one_at_a_time(partial(peer.put, KEY, VALUE))

    async def get(self) -> dict[str, Any]:
        """One serializable get after the other."""
        async with self._driver.open_peer(self._address) as peer:
            await peer.put(KEY, VALUE)
            return await self.one_at_a_time(partial(peer.get, KEY))

    async def renew(self) -> dict[str, Any]:
        """One renewal after the other."""
        async with self._driver.open_peer(self._address) as peer:
            return await self.one_at_a_time(partial(peer.renew, self._lease))

    async def connect(self) -> dict[str, Any]:
        """Open a client, put, close it.

        Another stays open: the first client in a process starts threads or a runtime for some, and
        the last one ends them. That is for the rows of a new process to show.
        """

        async def connect() -> None:
            async with self._driver.open_peer(self._address) as peer:
                await peer.put(KEY, VALUE)

        async with self._driver.open_peer(self._address) as peer:
            await peer.put(KEY, VALUE)
            return await self.one_at_a_time(connect)

    async def conc(self) -> dict[str, Any]:
        """Many tasks, each with one put after the other."""
        async with self._driver.open_peer(self._address) as peer:
            await self._puts_at_once(peer, Clock(), AT_ONCE)
            clock = Clock()
            await self._puts_at_once(peer, clock, self._count)
            return clock.sample(self._count)

    async def _puts_at_once(self, peer: Peer, clock: Clock, count: int) -> None:
        task = partial(repeat, clock, count // AT_ONCE, partial(peer.put, KEY, VALUE))
        await self._loop.together([task] * AT_ONCE)

    async def watch(self) -> dict[str, Any]:
        """Events of others' puts, through one watch. The one who gave the order does the puts."""
        async with (
            self._driver.open_peer(self._address) as peer,
            peer.watch(WATCHED) as events,
        ):
            await self._bursts(events, self._warm // BURST)
            clock = Clock()
            await self._bursts(events, self._count // BURST)
            return clock.sample(self._count)

    async def _bursts(self, events: AsyncIterator[object], count: int) -> None:
        for _ in range(count):
            say({"burst": BURST})
            for _ in range(BURST):
                await anext(events)

    async def event(self) -> dict[str, Any]:
        """A put, until our own watch delivers it."""
        async with (
            self._driver.open_peer(self._address) as peer,
            peer.watch(WATCHED) as events,
        ):
            await self._echoes(peer, events, Clock(), self._warm)
            clock = Clock()
            await self._echoes(peer, events, clock, self._count)
            return clock.sample(self._count)

    async def _echoes(
        self, peer: Peer, events: AsyncIterator[object], clock: Clock, count: int
    ) -> None:
        starts: list[int] = []
        seen = [self._loop.signal() for _ in range(count)]

        async def put() -> None:
            for signal in seen:
                starts.append(time.perf_counter_ns())
                await peer.put(WATCHED + b"01", VALUE)
                await signal.wait()

        async def read() -> None:
            for number, signal in enumerate(seen):
                await anext(events)
                clock.latencies.append(time.perf_counter_ns() - starts[number])
                signal.set()

        await self._loop.together([read, put])


def _first(exc: BaseException) -> BaseException:
    return _first(exc.exceptions[0]) if isinstance(exc, BaseExceptionGroup) else exc


def main() -> None:
    """Carry out orders until there are no more."""
    driver = cast("Driver", importlib.import_module(sys.argv[1]))
    loop = driver.LOOP()
    for line in sys.stdin:
        order = json.loads(line)
        row = getattr(Rows(loop, driver, order), order["row"])
        try:
            answer = {"sample": loop.run(row)}
        except Unsupported as exc:
            answer = {"reason": str(exc)}
        except Exception as exc:  # noqa: BLE001 # the table says which client fails
            traceback.print_exc()
            answer = {"reason": f"failed: {_first(exc)!r}"}
        say(answer)


if __name__ == "__main__":
    main()
