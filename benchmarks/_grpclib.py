"""Column: grpclib's own channel on asyncio, under our generated stubs."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import _pb
from _asyncio_loop import Asyncio
from _peer import Peer
from grpclib.client import Channel

__all__ = ["LOOP", "open_peer"]

_pb.stand_in()
pb: Any = importlib.import_module("trio_sched.etcd_shim._pb.messages_pb2")
stubs: Any = importlib.import_module("trio_sched.etcd_shim._pb.services_grpc")

LOOP = Asyncio


class Grpclib:
    """See `Peer`."""

    def __init__(self, channel: Channel) -> None:
        self._kv = stubs.KVStub(channel)
        self._lease = stubs.LeaseStub(channel)
        self._watch = stubs.WatchStub(channel)
        self._renewals: Any = None

    async def put(self, key: bytes, value: bytes) -> object:
        """Write a key."""
        return await self._kv.Put(pb.PutRequest(key=key, value=value))

    async def get(self, key: bytes) -> object:
        """Read a key, serializable."""
        return await self._kv.Range(pb.RangeRequest(key=key, serializable=True))

    async def renew(self, lease: int) -> object:
        """Renew a lease, over one call for all renewals."""
        if self._renewals is None:
            self._renewals = await self._lease.LeaseKeepAlive.open().__aenter__()
        await self._renewals.send_message(pb.LeaseKeepAliveRequest(id=lease))
        return await self._renewals.recv_message()

    @asynccontextmanager
    async def watch(self, prefix: bytes) -> AsyncIterator[AsyncIterator[object]]:
        """Watch a prefix."""
        create = pb.WatchCreateRequest(key=prefix, range_end=prefix[:-1] + bytes([prefix[-1] + 1]))
        async with self._watch.Watch.open() as call:
            await call.send_message(pb.WatchRequest(create_request=create))
            assert (await call.recv_message()).created
            try:
                yield _events(call)
            finally:
                await call.cancel()  # noqa: ASYNC102 # asyncio

    async def close(self) -> None:
        """End the call that renews leases."""
        if self._renewals is not None:
            await self._renewals.cancel()


async def _events(call: Any) -> AsyncIterator[object]:  # noqa: ASYNC900 # asyncio, nothing held
    async for answer in call:
        for event in answer.events:
            yield event


@asynccontextmanager
async def open_peer(address: str) -> AsyncIterator[Peer]:
    """Open a channel to ``HOST:PORT``."""
    host, _, port = address.rpartition(":")
    async with Channel(host, int(port)) as channel:
        peer = Grpclib(channel)
        yield peer
        await peer.close()
