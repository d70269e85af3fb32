"""What is still to happen, by trio's clock: of two things at one time, the older goes first.

One task carries everything out, so what happens at one time happens in one order, whatever order
trio runs its tasks in. With an autojump clock, waiting takes no time.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from math import inf
from typing import Any, TypeVarTuple

import trio

__all__ = ["Timeline"]

Ts = TypeVarTuple("Ts")


class Timeline:
    """A queue of actions with their times."""

    def __init__(self) -> None:
        self._queue: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._numbers = count()
        self._sleepers: set[trio.CancelScope] = set()

    @property
    def now(self) -> float:
        """Seconds, by trio's clock."""
        return trio.current_time()

    def after(self, delay: float, action: Callable[[*Ts], object], *args: *Ts) -> None:
        """Call ``action(*args)`` in `delay` seconds."""
        self.at(trio.current_time() + delay, action, *args)

    def at(self, time: float, action: Callable[[*Ts], object], *args: *Ts) -> None:
        """Call ``action(*args)`` at `time`."""
        heapq.heappush(self._queue, (time, next(self._numbers), action, args))
        for scope in self._sleepers:
            scope.deadline = min(scope.deadline, time)

    def catch_up(self) -> None:
        """Do what is due."""
        now = trio.current_time()
        while self._queue and self._queue[0][0] <= now:
            _, _, action, args = heapq.heappop(self._queue)
            action(*args)

    async def run(self) -> None:
        """Do what becomes due, until cancelled. Several tasks may run it."""
        while True:
            self.catch_up()
            deadline = self._queue[0][0] if self._queue else inf
            with trio.CancelScope(deadline=deadline) as scope:
                self._sleepers.add(scope)
                try:
                    await trio.sleep_forever()
                finally:
                    self._sleepers.discard(scope)
