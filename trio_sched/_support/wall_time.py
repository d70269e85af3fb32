"""What the clock on the wall says: for people, as a guide, and for when a tick is due.

Nothing else is decided by it, and who does a tick is not either.

The clock is a context variable, so that a simulated world can have one of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime

__all__ = ["set_wall_clock", "wall_clock", "wall_milliseconds", "wall_time"]


def _system_clock() -> datetime:
    return datetime.now(UTC)


_clock: ContextVar[Callable[[], datetime]] = ContextVar("trio_sched_clock", default=_system_clock)


def wall_clock() -> datetime:
    """Return the time, in UTC."""
    return _clock.get()()


def wall_time() -> str:
    """Return the time in ISO 8601, in UTC, to the second."""
    return _clock.get()().isoformat(timespec="seconds")


def wall_milliseconds() -> int:
    """Return the time since 1970, in milliseconds."""
    return int(_clock.get()().timestamp() * 1000)


def set_wall_clock(clock: Callable[[], datetime]) -> None:
    """Let this task, and those that it starts from now on, read `clock`; it gives UTC."""
    _clock.set(clock)
