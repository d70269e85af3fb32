"""What a client has to do in a benchmark, and an event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar

__all__ = ["Driver", "Loop", "Peer", "Signal", "Unsupported"]

T = TypeVar("T")


class Unsupported(Exception):
    """The client has no such feature; the text says what is missing."""


class Peer(Protocol):
    """A client with a connection."""

    async def put(self, key: bytes, value: bytes) -> object:
        """Write a key."""

    async def get(self, key: bytes) -> object:
        """Read a key, serializable."""

    async def renew(self, lease: int) -> object:
        """Renew a lease."""

    def watch(self, prefix: bytes) -> AbstractAsyncContextManager[AsyncIterator[object]]:
        """Watch a prefix; gives events one by one. Entered when etcd has created the watch."""


class Signal(Protocol):
    """`trio.Event` or `asyncio.Event`."""

    def set(self) -> object:
        """Let the one who waits go on."""

    async def wait(self) -> object:
        """Wait for `set`."""


class Loop(Protocol):
    """An event loop for the whole of a process."""

    def run(self, main: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run `main` to its end."""

    async def together(self, tasks: list[Callable[[], Coroutine[Any, Any, None]]]) -> None:
        """Run all at once, to the end of the last."""

    def signal(self) -> Signal:
        """Return a new one."""


class Driver(Protocol):
    """A module of this folder that drives one client."""

    LOOP: Callable[[], Loop]
    open_peer: Callable[[str], AbstractAsyncContextManager[Peer]]
