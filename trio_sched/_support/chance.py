"""Where chance comes from: the system, or the seed of a simulated world.

Jitter and lease ids draw from here, so that a world which sets another source gets the same of
them in each run. The source is a context variable: a task has that of the one that started it.
"""

from __future__ import annotations

from contextvars import ContextVar
from random import Random, SystemRandom
from typing import Final

__all__ = ["chance", "set_chance"]

_SYSTEM: Final = SystemRandom()
_source: ContextVar[Random] = ContextVar("trio_sched_chance", default=_SYSTEM)


def chance() -> Random:
    """Return the source of this task."""
    return _source.get()


def set_chance(source: Random) -> None:
    """Let this task, and those that it starts from now on, draw from `source`."""
    _source.set(source)
