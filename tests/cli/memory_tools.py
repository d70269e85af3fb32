"""Commands on an etcd in memory, in place of the one that their options name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from trio_sched import Client
from trio_sched.cli.connect import Connection
from trio_sched.etcd_shim.channel import ChannelSettings, Endpoint
from trio_sched.etcd_shim.opening import client_block
from trio_sched.simulation import MemoryEtcd

__all__ = ["connect_to"]


def connect_to(etcd: MemoryEtcd, monkeypatch: pytest.MonkeyPatch) -> Connection:
    """Let all commands connect to this etcd; return a connection, as their options make one."""

    def open_client(_connection: Connection) -> AbstractAsyncContextManager[Client]:
        return etcd.open_client()

    @asynccontextmanager
    async def open_member(_connection: Connection, url: str) -> AsyncIterator[Client]:
        transport = etcd._transport("localhost")
        endpoint = Endpoint.parse(url)
        async with client_block(
            [endpoint], settings=ChannelSettings(), transport=transport
        ) as client:
            yield client

    monkeypatch.setattr(Connection, "open", open_client)
    monkeypatch.setattr(Connection, "open_member", open_member)
    return Connection(etcd.endpoints)
