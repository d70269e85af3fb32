"""Column: grpc.aio, with our messages and stubs made by hand."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import _pb
from _asyncio_loop import Asyncio
from _peer import Peer

__all__ = ["LOOP", "open_peer"]

_pb.stand_in()
pb: Any = importlib.import_module("trio_sched.etcd_shim._pb.messages_pb2")
aio: Any = importlib.import_module("grpc.aio")

LOOP = Asyncio

# Else a new channel may get the connection of another that is open or was closed a moment ago.
OPTIONS = [("grpc.use_local_subchannel_pool", 1)]


class GrpcAio:
    """See `Peer`."""

    def __init__(self, channel: Any) -> None:
        self._put = _stub(channel.unary_unary, "KV/Put", pb.PutRequest, pb.PutResponse)
        self._range = _stub(channel.unary_unary, "KV/Range", pb.RangeRequest, pb.RangeResponse)
        self._watch = _stub(channel.stream_stream, "Watch/Watch", pb.WatchRequest, pb.WatchResponse)
        self._keep_alive = _stub(
            channel.stream_stream,
            "Lease/LeaseKeepAlive",
            pb.LeaseKeepAliveRequest,
            pb.LeaseKeepAliveResponse,
        )
        self._renewals: Any = None

    async def put(self, key: bytes, value: bytes) -> object:
        """Write a key."""
        return await self._put(pb.PutRequest(key=key, value=value))

    async def get(self, key: bytes) -> object:
        """Read a key, serializable."""
        return await self._range(pb.RangeRequest(key=key, serializable=True))

    async def renew(self, lease: int) -> object:
        """Renew a lease, over one call for all renewals."""
        if self._renewals is None:
            self._renewals = self._keep_alive()
        await self._renewals.write(pb.LeaseKeepAliveRequest(id=lease))
        return await self._renewals.read()

    @asynccontextmanager
    async def watch(self, prefix: bytes) -> AsyncIterator[AsyncIterator[object]]:
        """Watch a prefix."""
        call = self._watch()
        create = pb.WatchCreateRequest(key=prefix, range_end=prefix[:-1] + bytes([prefix[-1] + 1]))
        await call.write(pb.WatchRequest(create_request=create))
        answers = aiter(call)
        assert (await anext(answers)).created
        try:
            yield _events(answers)
        finally:
            call.cancel()


async def _events(answers: AsyncIterator[Any]) -> AsyncIterator[object]:  # noqa: ASYNC900 # asyncio, nothing held
    async for answer in answers:
        for event in answer.events:
            yield event


def _stub(kind: Any, path: str, request: Any, response: Any) -> Any:
    return kind(
        f"/etcdserverpb.{path}",
        request_serializer=request.SerializeToString,
        response_deserializer=response.FromString,
    )


@asynccontextmanager
async def open_peer(address: str) -> AsyncIterator[Peer]:
    """Open a channel to ``HOST:PORT``."""
    async with aio.insecure_channel(address, options=OPTIONS) as channel:
        yield GrpcAio(channel)
