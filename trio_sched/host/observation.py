"""`PathObservation`: what ``observe(..., pool=True)`` gives."""

from __future__ import annotations

import trio

from trio_sched.etcd_shim._following import Follower
from trio_sched.host.newest import NewestOnly
from trio_sched.model.keys import PathKeys
from trio_sched.model.path_state import PathState

__all__ = ["PathObservation"]


class PathObservation(NewestOnly[PathState]):
    """The stream of states of a path: hosts, decision, slots and control, all as of one revision.

    Iterate it, or call `next`; the first comes at once, also when there is nothing
    below the path. Every method that waits is a checkpoint, and a cancelled one loses
    nothing.

    Attributes:
        path: the path.
    """

    def __init__(self, path: str, follower: Follower) -> None:
        super().__init__(path)
        self._keys = PathKeys(path)
        self._follower = follower
        self._told_at = follower.fresh_at
        self._note_news()

    def __repr__(self) -> str:
        """Show the path, and the revision of what is known."""
        return f"<PathObservation of {self.path!r} at revision {self._follower.revision}>"

    @property
    def newest(self) -> PathState:
        """The newest state, read or not."""
        follower = self._follower
        return PathState.decode(self._keys, follower.state.values(), follower.revision)

    @property
    def heard_at(self) -> float:
        """By trio's clock, when etcd was heard of last: by a change, or an answer to a read."""
        return max(self._told_at, self._follower.fresh_at)

    def _read(self) -> PathState:
        return self.newest

    async def _follow(self) -> None:
        while True:
            await self._follower.receive()
            self._told_at = trio.current_time()
            self._note_news()
