"""How long the machine has been suspended, which trio's clock does not count.

Theory of operation
-------------------
Trio's clock is CLOCK_MONOTONIC. That stands still while the machine is suspended, and leases in
etcd do not. CLOCK_BOOTTIME counts that time, too (clock_gettime(2)); what it has gained on the
other is the time of suspensions. So what must not outlive a lease is counted by `lease_time`, and
only to wait for it is it turned back into a moment of trio's clock.

Timers of trio are late by a suspension, and nothing wakes up who waits; so what has to end asks
now and then, see `check_interval`.

The two clocks cannot be read in one moment. A gain counts once it is certain, from `_LEAST` on:
so without a suspension the answer is always the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Final

import trio

__all__ = ["SystemSuspension", "check_interval", "lease_time", "set_suspension", "suspended"]

_INTERVAL: Final = 0.5  # seconds
_LEAST: Final = 0.01  # seconds


def _boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class SystemSuspension:
    """Counts the suspensions of this machine since it was made.

    Args:
        monotonic: reads the clock that stands still, in seconds.
        boottime: reads the other one.
    """

    def __init__(
        self,
        monotonic: Callable[[], float] = time.monotonic,
        boottime: Callable[[], float] = _boottime,
    ) -> None:
        self._monotonic = monotonic
        self._boottime = boottime
        self._seconds = 0.0
        self._began = boottime() - monotonic()

    def __call__(self) -> float:
        """Return how many seconds that were."""
        boottime = self._boottime()
        gained = boottime - self._monotonic() - self._began  # rather too little, if interrupted
        if gained > self._seconds + _LEAST:
            self._seconds = gained
        return self._seconds


def _none() -> float:
    return 0.0


_system: Final = SystemSuspension() if hasattr(time, "CLOCK_BOOTTIME") else _none
_source: ContextVar[Callable[[], float]] = ContextVar("trio_sched_suspension", default=_system)
_interval: ContextVar[float] = ContextVar("trio_sched_suspension_interval", default=_INTERVAL)


def suspended() -> float:
    """Return for how many seconds the machine has been suspended, since some moment."""
    return _source.get()()


def set_suspension(source: Callable[[], float], interval: float = _INTERVAL) -> None:
    """Let this task, and those that it starts from now on, ask `source`, now and then."""
    _source.set(source)
    _interval.set(interval)


def check_interval() -> float:
    """Return after how many seconds, at most, to ask again; infinity where nothing can change."""
    return _interval.get()


def lease_time() -> float:
    """Return the time by a clock that counts suspensions, in seconds.

    Less `suspended()`, it is a moment of trio's clock.
    """
    return trio.current_time() + suspended()
