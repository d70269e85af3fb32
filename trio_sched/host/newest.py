"""A stream of which only the newest item counts.

Whoever has news puts it there and goes on; whoever reads gets it when it asks. So a
reader that sleeps holds nobody up, and when it wakes up it gets what counts now.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Generic, Self, TypeVar

import trio

from trio_sched._support.tasks import Doorbell
from trio_sched.exceptions import EndOfResults

__all__ = ["NewestOnly"]

T = TypeVar("T")


class NewestOnly(Generic[T]):
    """Iterate it, or call `next`.

    Every method that waits is a checkpoint, and a cancelled one loses nothing.

    Attributes:
        path: the path that it is about.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._unread = False
        self._ended = False
        self._bell = Doorbell()

    async def next(self) -> T:
        """Wait for what was not returned yet, and return the newest.

        Raises:
            EndOfResults: the block was left, or `Result.shutdown` called.
            trio.BusyResourceError: another task is waiting already.
        """
        if self._unread or self._ended:
            await trio.lowlevel.checkpoint()
        while not self._unread:
            if self._ended:
                raise EndOfResults(f"nothing more comes of {self.path!r}: the block was left")
            await self._bell.wait()
        self._unread = False
        return self._read()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        """Wait for the next one; the end of the block ends the loop."""
        try:
            return await self.next()
        except EndOfResults:
            raise StopAsyncIteration from None

    @abstractmethod
    def _read(self) -> T:
        """Return the newest, as it is being read."""

    def _note_news(self) -> None:
        self._unread = True
        self._bell.ring()

    def _end(self) -> None:
        self._ended = True
        self._unread = False
        self._bell.ring()
