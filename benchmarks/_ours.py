"""Column: `trio_sched.etcd_shim` on Trio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import trio
from _peer import Peer, Signal

from trio_sched.etcd_shim import Client, open_client

__all__ = ["LOOP", "open_peer"]

T = TypeVar("T")


class Trio:
    """Trio's loop; a new one for each `run`."""

    def run(self, main: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run `main` to its end."""
        return trio.run(main)

    async def together(self, tasks: list[Callable[[], Coroutine[Any, Any, None]]]) -> None:
        """Run all at once, to the end of the last."""
        async with trio.open_nursery() as nursery:
            for task in tasks:
                nursery.start_soon(task)

    def signal(self) -> Signal:
        """Return a new one."""
        return trio.Event()


LOOP = Trio


class Ours:
    """See `Peer`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.put = client.put
        self.renew = client.lease_renew

    async def get(self, key: bytes) -> object:
        """Read a key, serializable."""
        return await self._client.get(key, serializable=True)

    @asynccontextmanager
    async def watch(self, prefix: bytes) -> AsyncIterator[AsyncIterator[object]]:
        """Watch a prefix."""
        async with self._client.watch(prefix, prefix=True) as events:
            yield events


@asynccontextmanager
async def open_peer(address: str) -> AsyncIterator[Peer]:
    """Open a client of ``HOST:PORT``."""
    async with open_client(f"http://{address}") as client:
        yield Ours(client)
