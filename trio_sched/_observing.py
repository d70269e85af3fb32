"""`PathObservation`: what ``observe(..., pool=True)`` gives."""

from __future__ import annotations

from typing import Self

import trio

from trio_sched._tasks import Doorbell
from trio_sched.etcd_shim._following import Follower
from trio_sched.exceptions import EndOfResults
from trio_sched.keys import PathKeys
from trio_sched.path_state import PathState

__all__ = ["PathObservation"]


class PathObservation:
    """The stream of states of a path: hosts, decision, slots and control, all as of one revision.

    Iterate it, or call `next`. A reader that sleeps holds nobody up, and gets the newest
    when it wakes up. Every method that waits is a checkpoint; cancelled, it loses nothing.

    Attributes:
        path: the path.
    """

    def __init__(self, path: str, follower: Follower) -> None:
        self.path = path
        self._keys = PathKeys(path)
        self._follower = follower
        self._unread = True
        self._ended = False
        self._bell = Doorbell()

    def __repr__(self) -> str:
        """Show the path, and the revision of what is known."""
        return f"<PathObservation of {self.path!r} at revision {self._follower.revision}>"

    @property
    def newest(self) -> PathState:
        """The newest state, read or not."""
        follower = self._follower
        return PathState.decode(self._keys, follower.state.values(), follower.revision)

    async def next(self) -> PathState:
        """Wait for a state that was not returned yet, and return the newest.

        The first comes at once, also when there is nothing below the path.

        Raises:
            EndOfResults: the block was left.
            trio.BusyResourceError: another task is waiting already.
        """
        if self._unread or self._ended:
            await trio.lowlevel.checkpoint()
        while not self._unread:
            if self._ended:
                raise EndOfResults(f"no more states of {self.path!r}: the block was left")
            await self._bell.wait()
        self._unread = False
        return self.newest

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> PathState:
        """Wait for the next state; the end of the block ends the loop."""
        try:
            return await self.next()
        except EndOfResults:
            raise StopAsyncIteration from None

    async def _follow(self) -> None:
        while True:
            await self._follower.receive()
            self._unread = True
            self._bell.ring()

    def _end(self) -> None:
        self._ended = True
        self._unread = False
        self._bell.ring()
