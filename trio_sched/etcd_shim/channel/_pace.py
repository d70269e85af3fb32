"""How soon to connect again where that comes to nothing.

Hundreds of calls may wait for a connection, and each tries again by itself. Where all members
refuse, or accept and hang up at once, as a proxy without a server behind it does, that is a storm
of connections. So from the third attempt in vain on there is a pause before the next, for all.
"""

from __future__ import annotations

from typing import Final

import trio

from trio_sched.etcd_shim._backoff import Backoff

__all__ = ["Pace"]

_FREE: Final = 3  # attempts in vain after which the next is made at once
_FIRST: Final = 0.02  # seconds
_LONGEST: Final = 0.5


class Pace:
    """Remembers what came of attempts to connect."""

    __slots__ = ("_backoff", "_in_vain", "_until")

    def __init__(self) -> None:
        self._backoff = Backoff(_FIRST, _LONGEST)
        self._in_vain = 0  # in a row
        self._until = 0.0  # by trio's clock

    def worked(self) -> None:
        """Note that a connection was good for something."""
        self._in_vain = 0
        self._backoff.reset()

    def failed(self) -> None:
        """Note that an attempt failed, or that on its connection no call was answered."""
        self._in_vain += 1
        if self._in_vain >= _FREE:
            self._until = trio.current_time() + self._backoff.next()

    @property
    def pause(self) -> float:
        """Seconds to wait before the next attempt; 0 for none."""
        if self._in_vain < _FREE:
            return 0.0
        return max(0.0, self._until - trio.current_time())
