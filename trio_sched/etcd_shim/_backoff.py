"""How long to wait before trying again: capped, doubled, jittered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar, TypeVarTuple

import trio

from trio_sched._support.chance import chance
from trio_sched.etcd_shim._about import TRANSIENT

__all__ = ["Backoff", "retry_transient"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Backoff:
    """A series of delays, each a random part of a limit that doubles.

    At least half of the limit is waited, so that nothing spins; the other half
    is random, so that many who failed together do not come back together.

    Args:
        first: the first limit, in seconds.
        cap: the highest limit, in seconds.
    """

    __slots__ = ("_cap", "_first", "_limit", "_used")

    def __init__(self, first: float = 0.05, cap: float = 5.0) -> None:
        self._first = first
        self._cap = cap
        self._limit = first
        self._used = False

    def next(self) -> float:
        """Return the next delay, in seconds."""
        limit = self._limit
        self._used = True
        self._limit = min(limit * 2, self._cap)
        return limit * (0.5 + chance().random() / 2)

    @property
    def used(self) -> bool:
        """True if a delay was taken since the beginning, or since `reset`."""
        return self._used

    def reset(self) -> None:
        """Begin anew, as something has worked."""
        self._limit = self._first
        self._used = False


async def retry_transient(fn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
    """Call ``fn(*args)`` until it does not fail by a transient error.

    For what may be done twice. It is as patient as the scope that it runs in.
    """
    backoff = Backoff()
    while True:
        try:
            return await fn(*args)
        except TRANSIENT:
            await trio.sleep(backoff.next())
