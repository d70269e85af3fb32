"""What is still to happen, by trio's clock: of two things at one time, the older goes first.

One task carries everything out, so what happens at one time happens in one order, whatever order
trio runs its tasks in. With an autojump clock, waiting takes no time.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from contextvars import Context, copy_context
from itertools import count
from math import inf
from typing import Any, TypeVarTuple

import trio

__all__ = ["JumpingClock", "Timeline"]

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

    @property
    def next_time(self) -> float:
        """When something is due next; inf if nothing is."""
        return self._queue[0][0] if self._queue else inf

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
            with trio.CancelScope(deadline=self.next_time) as scope:
                self._sleepers.add(scope)
                try:
                    await trio.sleep_forever()
                finally:
                    self._sleepers.discard(scope)


class JumpingClock(trio.abc.Clock):
    """A clock that jumps to what is due next as soon as no task can run.

    It does what a `trio.testing.MockClock` does that jumps by itself, and the work of
    `Timeline.run` as well: trio asks its clock how long to sleep when there is nothing else to
    do, and then what is next on the timeline is done. That costs a fraction of a task that
    wakes for it. No task may wait for anything from outside.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._timeline = Timeline()
        self._context = Context()

    def drive(self, timeline: Timeline) -> None:
        """Do what is on a timeline, from now on, in this task's context, in place of its `run`."""
        self._timeline, self._context = timeline, copy_context()

    def start_clock(self) -> None:
        """Do nothing: time begins with 0."""

    def current_time(self) -> float:
        """Return the time."""
        return self._now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Jump to what is due next, if anything ever is; there is no need to sleep then."""
        due = self._timeline.next_time
        if due == deadline == inf:
            return inf
        self._now = max(self._now, min(due, deadline))
        if due <= self._now:
            self._context.run(self._timeline.catch_up)
        return 0.0
