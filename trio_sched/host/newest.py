"""A feed of which only the newest item counts: one writer, one reader, no queue.

The writer puts an item and goes on; the reader gets the newest when it asks. So a reader
that sleeps holds nothing up, and when it wakes up it gets what counts now.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, Self, TypeVar

import trio

from trio_sched._support.tasks import Wakeup
from trio_sched.etcd_shim.errors import again
from trio_sched.exceptions import EndOfResults
from trio_sched.model.path_view import PathView
from trio_sched.model.records import Hosts

__all__ = ["DecisionFeed", "Feed", "NewestOnly", "end_of"]

T = TypeVar("T")
Item = TypeVar("Item")


def end_of(failure: Exception | None, words: str) -> Exception:
    """Return what to raise where more is waited for: what failed, or that this is the end."""
    return EndOfResults(words) if failure is None else again(failure)


class Feed(ABC, Generic[T]):
    """The writer's half, and what is between the two.

    Attributes:
        path: the path that it is about.
        changed: where to wait for the next item, or the end; for any number of tasks.
        ended: True once nothing more comes.
        failure: by which it ended; None if the block was left, or it goes on.
        returned: how many items were read.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.changed: trio.lowlevel.ParkingLot = trio.lowlevel.ParkingLot()
        self.ended: bool = False
        self.returned: int = 0
        self._unread = False
        self.failure: Exception | None = None
        self._wakeup = Wakeup()

    @property
    @abstractmethod
    def newest(self) -> T | None:
        """The newest item, read or not; None before the first."""

    @abstractmethod
    def take(self, view: PathView) -> None:
        """Take in what a view shows now."""

    def begin_anew(self) -> None:
        """Admit any revision: the store is another one, and counts from elsewhere."""

    def _notify(self) -> None:
        """There is a new item."""
        self._unread = True
        self._wakeup.notify()
        self.changed.unpark_all()

    def end(self, failure: Exception | None = None) -> None:
        """Let nothing more come: because its block was left, or by a failure."""
        self.ended = True
        self.failure = failure
        self._unread = False
        self._wakeup.notify()
        self.changed.unpark_all()

    def put_back(self) -> None:
        """Note that what was read last has not come to its reader; the newest is read instead."""
        self.returned -= 1
        if not self.ended and not self._unread:
            self._notify()

    async def next(self) -> T:
        """Wait for an item that was not read yet, and return the newest. See `NewestOnly.next`."""
        if self._unread or self.ended:
            await trio.lowlevel.checkpoint()
        while not self._unread:
            if self.ended:
                raise end_of(
                    self.failure, f"nothing more comes of {self.path!r}: the block was left"
                )
            await self._wakeup.wait()
        newest = self.newest
        assert newest is not None
        self._note_read()
        return newest

    def _note_read(self) -> None:
        self._unread = False
        self.returned += 1


class DecisionFeed(Feed[Hosts]):
    """Decisions, of which only those are to be read that say something new.

    Attributes:
        count: how many were learned.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.count: int = 0
        self._newest: Hosts | None = None
        self._newest_says: tuple[tuple[str, ...], bool] | None = None
        self._read_said: tuple[tuple[str, ...], bool] | None = None  # the one that was read last
        self._read_before: tuple[tuple[str, ...], bool] | None = None  # the one before

    @property
    def newest(self) -> Hosts | None:
        """The newest decision, read or not; None before the first."""
        return self._newest

    def take(self, view: PathView) -> None:
        """Take in the decision of a view, if anything was decided."""
        if view.known:
            self.publish(view.hosts)

    def publish(self, hosts: Hosts, *, ours: bool = False) -> None:
        """Take a decision in, unless it is older than the newest.

        It is to be read if it differs from the one that was read last: in which hosts
        it names, or in whether our name there means us (`ours`), and not a life of
        this host that has ended.
        """
        newest, says = self._newest, (tuple(hosts), ours)
        if newest is not None and hosts.revision < newest.revision:
            return
        if newest is not None and hosts.revision == newest.revision and says == self._newest_says:
            return  # nothing has changed
        self.count += newest is None or hosts.revision > newest.revision
        self._newest_says = says
        self._newest = hosts
        if self._read_said != says:
            self._notify()
        else:
            self._unread = False
            self.changed.unpark_all()

    def lose(self) -> None:
        """Say that nothing is decided for this host."""
        if self._newest is not None:
            self.publish(Hosts(revision=self._newest.revision))
        self.changed.unpark_all()

    def begin_anew(self) -> None:
        """Admit any revision: the store is another one, and counts from elsewhere."""
        if self._newest is not None:
            self.lose()
            self._newest = Hosts(revision=0)

    def _note_read(self) -> None:
        super()._note_read()
        self._read_before, self._read_said = self._read_said, self._newest_says

    def put_back(self) -> None:
        """Note that what was read last has not come to its reader; the newest is read instead."""
        self._read_said = self._read_before
        super().put_back()


class NewestOnly(Generic[Item]):
    """The reader's half: iterate it, or call `next`.

    Every method that waits is a checkpoint, and a cancelled one loses nothing.

    Attributes:
        path: the path that it is about.
    """

    def __init__(self, feed: Feed[Item]) -> None:
        self.path: str = feed.path
        self._feed = feed

    async def next(self) -> Item:
        """Wait for what was not returned yet, and return the newest.

        Raises:
            EndOfResults: the block was left, or `Result.shutdown` called. If something
                failed, that is raised instead, as it is out of the block.
            trio.BusyResourceError: another task is waiting already.
        """
        return await self._feed.next()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item:
        """Wait for the next one; the end of the block ends the loop, unless it failed."""
        try:
            return await self.next()
        except EndOfResults:
            raise StopAsyncIteration from None
