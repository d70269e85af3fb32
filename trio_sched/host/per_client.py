"""What all hosts of one client share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from trio_sched.etcd_shim import Client

__all__ = ["PerClient"]

T = TypeVar("T")


class PerClient(Generic[T]):
    """One of a kind for each client; it must not refer to the client.

    Args:
        make: makes one.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: WeakKeyDictionary[Client, T] = WeakKeyDictionary()

    def of(self, client: Client) -> T:
        """Return the one of this client."""
        found = self._made.get(client)
        if found is None:
            found = self._made[client] = self._make()
        return found
