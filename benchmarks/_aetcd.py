"""Column: `aetcd`, an asyncio client on grpc.aio."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from _asyncio_loop import Asyncio
from _peer import Peer

__all__ = ["LOOP", "open_peer"]

aetcd: Any = importlib.import_module("aetcd")

LOOP = Asyncio

# Else a new channel may get the connection of another that is open or was closed a moment ago.
OPTIONS = {"grpc.use_local_subchannel_pool": 1}


class Aetcd:
    """See `Peer`."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.put = client.put
        self.renew = client.refresh_lease  # begins a call for each renewal; there is no other way

    async def get(self, key: bytes) -> object:
        """Read a key, serializable."""
        return await self._client.get(key, serializable=True)

    @asynccontextmanager
    async def watch(self, prefix: bytes) -> AsyncIterator[AsyncIterator[object]]:
        """Watch a prefix."""
        watch = await self._client.watch_prefix(prefix)
        try:
            yield aiter(watch)
        finally:
            await watch.cancel()  # noqa: ASYNC102 # asyncio


@asynccontextmanager
async def open_peer(address: str) -> AsyncIterator[Peer]:
    """Open a client of ``HOST:PORT``."""
    host, _, port = address.rpartition(":")
    async with aetcd.Client(host=host, port=int(port), options=OPTIONS) as client:
        yield Aetcd(client)
