"""Column: `etcd-client-py`, a binding of Rust's etcd-client, on asyncio."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from _asyncio_loop import Asyncio
from _peer import Peer, Unsupported

__all__ = ["LOOP", "open_peer"]

etcd_client: Any = importlib.import_module("etcd_client")

LOOP = Asyncio


class Rust:
    """See `Peer`."""

    def __init__(self, communicator: Any) -> None:
        self._communicator = communicator
        self.put = communicator.put
        self.renew = communicator.lease_keep_alive

    async def get(self, key: bytes) -> object:
        """Read a key, serializable."""
        del key
        raise Unsupported("its get() has no serializable reads")

    @asynccontextmanager
    async def watch(self, prefix: bytes) -> AsyncIterator[AsyncIterator[object]]:
        """Watch a prefix."""
        ready = etcd_client.CondVar()
        events = aiter(self._communicator.watch_prefix(prefix, ready_event=ready))
        # The watch begins with the first anext(), and what is created meanwhile goes to `ready`.
        waiting = asyncio.ensure_future(_first(ready))
        first = asyncio.ensure_future(_first_event(events))
        await waiting
        yield _chained(first, events)


async def _first(ready: Any) -> None:
    await ready.wait()


async def _first_event(events: AsyncIterator[object]) -> object:
    return await anext(events)


async def _chained(  # noqa: ASYNC900 # asyncio, nothing held
    first: asyncio.Future[object], events: AsyncIterator[object]
) -> AsyncIterator[object]:
    yield await first
    async for event in events:
        yield event


@asynccontextmanager
async def open_peer(address: str) -> AsyncIterator[Peer]:
    """Open a client of ``HOST:PORT``."""
    async with etcd_client.Client([f"http://{address}"]).connect() as communicator:
        yield Rust(communicator)
