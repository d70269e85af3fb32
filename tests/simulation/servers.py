"""What the tests that run on a real etcd and on the one in memory need of both."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Protocol

from trio_sched.etcd_shim import Client, open_client
from trio_sched.simulation.memory_etcd import MemoryEtcd

if TYPE_CHECKING:
    pass

__all__ = ["MemoryServer", "RealServer", "Server", "version"]


async def version(client: Client) -> tuple[int, ...]:
    """Return the version of etcd, for what differs among them; the one in memory is the newest."""
    return tuple(int(part) for part in (await client.status()).version.split("."))


class Server(Protocol):
    """An etcd that a test runs on."""

    def open_client(self) -> AbstractAsyncContextManager[Client]:
        """Open a client of it."""
        ...


class RealServer:
    """A real etcd."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint

    def open_client(self) -> AbstractAsyncContextManager[Client]:
        return open_client(self._endpoint)


class MemoryServer:
    """An etcd in memory; its clients' keys may be in a namespace."""

    def __init__(self, etcd: MemoryEtcd, namespace: bytes = b"") -> None:
        self._etcd = etcd
        self._etcd.cluster.progress_interval = 0.1
        self._namespace = namespace

    @asynccontextmanager
    async def open_client(self) -> AsyncIterator[Client]:
        async with self._etcd.open_client() as client:
            yield client.namespace(self._namespace) if self._namespace else client
