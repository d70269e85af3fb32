"""Who may open a call now, and who waits: fair, bounded, cancellable."""

from __future__ import annotations

from collections import OrderedDict

import trio
from grpclib.const import Status

from trio_sched.etcd_shim.errors import ResourceExhausted

__all__ = ["Admission"]


class Admission:
    """A queue before the calls that a server takes at once.

    A waiter that is woken has its place already, so that no other can overtake it; one
    that is cancelled has left the queue before it could be woken.

    Args:
        limit: how many may be in at once; may be changed at any time.
        max_waiting: how many may wait.
    """

    def __init__(self, limit: int, max_waiting: int = 10_000) -> None:
        self._limit = limit
        self._max_waiting = max_waiting
        self._inside = 0
        self._waiting: OrderedDict[trio.lowlevel.Task, None] = OrderedDict()
        self._closed = False

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def set_limit(self, limit: int) -> None:
        """Change how many may be in at once. Those who are in stay."""
        self._limit = limit
        self._admit()

    def enter_nowait(self) -> bool:
        """Take a place if there is one that no other waits for; return whether that was done."""
        if self._closed or self._waiting or self._inside >= self._limit:
            return False
        self._inside += 1
        return True

    async def enter(self) -> bool:
        """Wait for a place and take it; False if the place is closed instead.

        Cancelled, it has taken none.

        Raises:
            ResourceExhausted: too many wait already.
        """
        if self._closed:
            return False
        if self.enter_nowait():
            return True
        if len(self._waiting) >= self._max_waiting:
            raise ResourceExhausted(
                Status.RESOURCE_EXHAUSTED, f"{len(self._waiting)} calls wait to be sent already"
            )
        first = False
        while await self._wait_for_turn(first=first):
            if self._inside <= self._limit:
                return True
            self._inside -= 1  # the limit has shrunk since this task was woken
            first = True
        return False

    async def _wait_for_turn(self, *, first: bool) -> bool:
        task = trio.lowlevel.current_task()
        self._waiting[task] = None
        self._waiting.move_to_end(task, last=not first)

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            del self._waiting[task]
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        return not self._closed

    def leave(self) -> None:
        """Give a place back."""
        self._inside -= 1
        self._admit()

    def close(self) -> None:
        """Admit no more calls; wake those that wait."""
        self._closed = True
        while self._waiting:
            trio.lowlevel.reschedule(self._waiting.popitem(last=False)[0])

    def _admit(self) -> None:
        while self._waiting and self._inside < self._limit:
            self._inside += 1
            trio.lowlevel.reschedule(self._waiting.popitem(last=False)[0])
