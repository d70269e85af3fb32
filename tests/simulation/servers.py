"""What the tests that run on a real etcd and on the one in memory need of both."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Protocol, cast

from grpclib.client import UnaryUnaryMethod

from trio_sched.etcd_shim import Client, open_client
from trio_sched.etcd_shim._pb import messages_pb2 as pb
from trio_sched.simulation.memory_etcd import MemoryEtcd

if TYPE_CHECKING:
    import grpclib.client

__all__ = ["MemoryServer", "RealServer", "Server", "version"]


async def version(client: Client) -> tuple[int, ...]:
    """Return the version of etcd, for what differs among them; the one in memory is the newest."""
    return tuple(int(part) for part in (await client.status()).version.split("."))


class Server(Protocol):
    """An etcd that a test runs on."""

    def open_client(self) -> AbstractAsyncContextManager[Client]:
        """Open a client of it."""
        ...

    async def compact(self, client: Client, revision: int) -> None:
        """Forget all history before a revision. Raises as etcd does."""
        ...


class RealServer:
    """A real etcd."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint

    def open_client(self) -> AbstractAsyncContextManager[Client]:
        return open_client(self._endpoint)

    async def compact(self, client: Client, revision: int) -> None:
        # The client has no messages for it; this one has the same fields as etcd's, with the same
        # numbers: the revision, and whether to wait until the history is gone from the disk.
        channel = cast("grpclib.client.Channel", client._channel)
        method = UnaryUnaryMethod(
            channel, "/etcdserverpb.KV/Compact", pb.LeaseTimeToLiveRequest, pb.LeaseRevokeResponse
        )
        await method(pb.LeaseTimeToLiveRequest(id=revision, keys=True))


class MemoryServer:
    """An etcd in memory."""

    def __init__(self, etcd: MemoryEtcd) -> None:
        self._etcd = etcd
        self._etcd.cluster.progress_interval = 0.1

    def open_client(self) -> AbstractAsyncContextManager[Client]:
        return self._etcd.open_client()

    async def compact(self, _client: Client, revision: int) -> None:
        self._etcd.compact(revision)
