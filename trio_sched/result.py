"""`Result`: what ``async with schedule(...) as result`` gives.

It holds the newest decision only. Whoever learns a decision puts it here and
goes on; whoever reads gets it when it asks. So a reader that sleeps holds nobody
up, and when it wakes up it gets what counts now.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import trio

from trio_sched._tasks import Doorbell
from trio_sched.exceptions import EndOfResults
from trio_sched.model import Hosts

__all__ = ["Result"]


class Result:
    """The stream of decisions of a path, and this host's place in it.

    Iterate it, or call `next`. Every method that waits is a checkpoint, and a
    cancelled one loses no decision.

    Attributes:
        path: the path that the hosts share.
        hostname: the name of this host.
    """

    def __init__(self, path: str, hostname: str, believe: Callable[[], bool]) -> None:
        self.path = path
        self.hostname = hostname
        self._believe = believe
        self._newest: Hosts | None = None
        self._says: tuple[tuple[str, ...], bool] | None = None  # the newest decision
        self._said: tuple[tuple[str, ...], bool] | None = None  # the one that was read last
        self._unread = False
        self._ended = False
        self._bell = Doorbell()
        self._life = trio.CancelScope()  # of all that the scheduler does for this host
        self._stopped = trio.Event()

    def __repr__(self) -> str:
        """Show the path, the host and the newest decision."""
        return f"<Result of {self.path!r} for {self.hostname!r}: {self._newest!r}>"

    @property
    def newest(self) -> Hosts | None:
        """The newest decision, read or not; None before the first."""
        return self._newest

    @property
    def scheduled(self) -> bool:
        """True while this host is chosen and its session may be believed in.

        False after the block was left. It asks the clock each time, so it is
        right even if this process was stopped in between.
        """
        return (
            not self._ended
            and self._newest is not None
            and self.hostname in self._newest
            and self._believe()
        )

    async def next(self) -> Hosts:
        """Wait for a decision that was not returned yet, and return the newest.

        Raises:
            EndOfResults: the block was left, or `shutdown` called.
            trio.BusyResourceError: another task is waiting already.
        """
        if self._unread or self._ended:
            await trio.lowlevel.checkpoint()
        while not self._unread:
            if self._ended:
                raise EndOfResults(f"no more decisions of {self.path!r}: the block was left")
            await self._bell.wait()
        assert self._newest is not None
        self._unread = False
        self._said = self._says
        return self._newest

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Hosts:
        """Wait for the next decision; the end of the results ends the loop."""
        try:
            return await self.next()
        except EndOfResults:
            raise StopAsyncIteration from None

    async def shutdown(self) -> None:
        """Leave the pool now; return when this host's keys are revoked.

        Decisions end. Leaving the block does the same by itself. Cancelled, the
        departure goes on, and leaving the block waits for it.
        """
        self._life.cancel()
        await self._stopped.wait()

    # ---- what the scheduler says ------------------------------------------------

    def _publish(self, hosts: Hosts, *, ours: bool) -> None:
        """Take a decision in, unless it is older than the newest.

        It is to be read if it differs from the one that was read last: in whom it
        names, or in whether our name there means us (`ours`), and not a life of
        this host that has ended.
        """
        if self._newest is not None and hosts.revision < self._newest.revision:
            return
        self._newest = hosts
        self._says = (tuple(hosts), ours and self.hostname in hosts)
        self._unread = self._said != self._says
        if self._unread:
            self._bell.ring()

    def _lose(self) -> None:
        """The session is lost: nothing is decided for this host."""
        if self._newest is not None:
            self._publish(Hosts(revision=self._newest.revision), ours=False)

    def _end(self) -> None:
        self._ended = True
        self._unread = False
        self._stopped.set()
        self._bell.ring()
