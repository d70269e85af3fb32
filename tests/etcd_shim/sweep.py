"""Cancel something at each of its checkpoints in turn."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

__all__ = ["AtStep", "sweep"]


class AtStep(trio.abc.Instrument):
    """Does something just before the n-th step of any task."""

    def __init__(self, step: int, deed: Callable[[], object]) -> None:
        self._left = step
        self._deed = deed

    def before_task_step(self, _task: trio.lowlevel.Task) -> None:
        self._left -= 1
        if self._left == 0:
            self._deed()

    @property
    def done(self) -> bool:
        return self._left <= 0


class CancelAtStep(trio.abc.Instrument):
    """Cancels a scope just before a task's n-th step: at its n-th checkpoint."""

    def __init__(self, task: trio.lowlevel.Task, scope: trio.CancelScope, step: int) -> None:
        self._task = task
        self._scope = scope
        self._left = step

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self._left -= 1
            if self._left == 0:
                self._scope.cancel()

    @property
    def reached(self) -> bool:
        return self._left <= 0


async def sweep(
    fn: Callable[[], Awaitable[object]], after_each: Callable[[], Awaitable[object]]
) -> int:
    """Run `fn` again and again, cancelled one checkpoint later each time.

    Ends when `fn` ended before it could be cancelled; returns how often it was.
    """
    step = 0
    reached = True
    while reached:
        step += 1
        with trio.CancelScope() as scope:
            instrument = CancelAtStep(trio.lowlevel.current_task(), scope, step)
            trio.lowlevel.add_instrument(instrument)
            try:
                await fn()
            finally:
                trio.lowlevel.remove_instrument(instrument)
        reached = instrument.reached
        await after_each()
    return step - 1
