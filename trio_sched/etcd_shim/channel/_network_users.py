"""Who of this run of trio is on a network, and whether it waits for what is outside.

For clocks of tests that jump when all tasks wait: while the answer to a request is on its way, time
must not jump to where it is too late. A channel notes itself when it connects, and is asked by
such a clock only; a call costs nothing.
"""

from __future__ import annotations

from typing import Protocol
from weakref import WeakSet

import trio

__all__ = ["NetworkUser", "Stream", "network_awaited", "note_network_user"]


class Stream(Protocol):
    """Sends many requests on one call, and matches the answers."""

    @property
    def awaits_answer(self) -> bool:
        """Whether a request was sent that is not answered."""
        ...


class NetworkUser(Protocol):
    """What may wait for the network."""

    @property
    def awaits_network(self) -> bool:
        """Whether something from outside is to come next."""
        ...


_users: trio.lowlevel.RunVar[WeakSet[NetworkUser]] = trio.lowlevel.RunVar(
    "trio_sched_network_users"
)


def note_network_user(user: NetworkUser) -> None:
    """Have `user` asked from now on, as long as it exists and this run of trio lasts."""
    try:
        users = _users.get()
    except LookupError:
        users = WeakSet()
        _users.set(users)
    users.add(user)


def network_awaited() -> bool:
    """Return whether a client of this run of trio waits for a server on a network.

    Raises:
        RuntimeError: trio does not run.
    """
    try:
        users = _users.get()
    except LookupError:
        return False
    return any(user.awaits_network for user in users)
