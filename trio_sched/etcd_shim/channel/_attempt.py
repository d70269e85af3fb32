"""One attempt to connect: a race of addresses. Its tasks are the channel's.

Addresses are tried in turn, as they stand in a queue; a name that the resolver has several
addresses for becomes several. The first connection on which the server has spoken wins. Each
address that has lost has its reason.
"""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from trio_sched._support.tasks import Wakeup
from trio_sched.etcd_shim.channel._endpoint import Endpoint
from trio_sched.etcd_shim.errors import ClientClosed, ConnectionFailed, EtcdError

if TYPE_CHECKING:
    from trio_sched._support.tasks import ServiceNursery
    from trio_sched.etcd_shim.channel._connection import Connection

__all__ = ["Attempt", "LeftMembers", "deciding"]

_MAX_REMEMBERED = 256  # addresses; names may get others, again and again


class Attempt:
    """An attempt to connect, which several callers may wait for.

    Args:
        queue: where to connect to, in this order.
    """

    __slots__ = ("done", "error", "left", "lost", "queue", "reasons", "runners", "wakeup", "winner")

    def __init__(self, queue: Iterable[Endpoint]) -> None:
        self.done = trio.Event()
        self.error: EtcdError | None = None
        # of the race:
        self.queue = deque(queue)
        self.left = len(self.queue)  # that have not failed
        self.lost = 0  # that have
        self.reasons: dict[str, BaseException] = {}
        self.runners: dict[Endpoint, trio.CancelScope] = {}
        self.winner: Connection | None = None
        self.wakeup = Wakeup()

    def runs_on(self, lost: int) -> bool:
        """Whether nothing was decided since so many addresses had failed."""
        return self.winner is None and self.lost == lost

    def lose(self, endpoint: Endpoint, reason: BaseException) -> bool:
        """Note that an address did not let us in; return whether it was the last one."""
        known = self.reasons.get(endpoint.url)
        if known is not None and _says_more(reason, known):
            self.reasons[f"{endpoint.url} (another address)"] = known
            self.reasons[endpoint.url] = reason
        else:
            self.reasons[endpoint.url if known is None else endpoint.label] = reason
        self.left -= 1
        self.lost += 1
        self.wakeup.notify()
        return self.left == 0 and self.winner is None

    def expand(self, others: Iterable[Endpoint]) -> None:
        """Try further addresses of a name next."""
        for other in reversed(tuple(others)):
            self.queue.appendleft(other)
            self.left += 1
        self.wakeup.notify()

    def win(self, connection: Connection) -> bool:
        """Note that a connection is ready; return whether it is the first one."""
        if self.winner is not None:
            return False
        self.winner = connection
        self.queue.clear()
        self.wakeup.notify()
        for endpoint, runner in self.runners.items():
            if endpoint is not connection.endpoint:
                runner.cancel()
        return True


@contextmanager
def deciding(settle: Callable[[EtcdError], object], services: ServiceNursery) -> Iterator[None]:
    """Settle an attempt if the task that decides it ends by what has no part in that.

    That is the end of the channel; or Ctrl-C, which may find any task, and those who wait for the
    attempt have to clean up then.
    """
    try:
        yield
    except (KeyboardInterrupt, Exception) as exc:
        settle(ConnectionFailed({"the attempt": exc}))
        raise
    finally:
        if services.closing:
            settle(ClientClosed("the client's block was left"))


def _says_more(reason: BaseException, known: BaseException) -> bool:
    """Whether one address of a name got further than another one, as a server was there."""
    return isinstance(reason, (ssl.SSLError, EtcdError)) and not isinstance(known, ssl.SSLError)


class LeftMembers:
    """Which addresses were left, as they did not serve: these are tried last, the latest last."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left: dict[Endpoint, None] = {}

    def add(self, endpoint: Endpoint) -> None:
        """Note that an address was left now."""
        self._left.pop(endpoint, None)
        self._left[endpoint] = None
        if len(self._left) > _MAX_REMEMBERED:
            del self._left[next(iter(self._left))]

    def order(self, endpoints: Iterable[Endpoint]) -> list[Endpoint]:
        """Return them in the order in which to try them."""
        left = list(self._left)
        return sorted(endpoints, key=lambda one: left.index(one) if one in self._left else -1)
