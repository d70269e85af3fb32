"""Each test of this folder runs twice: on a real etcd, and on the one in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.simulation.servers import MemoryServer, RealServer, Server
from trio_sched.etcd_shim import Client
from trio_sched.etcd_shim.errors import LeaseNotFound


@pytest.fixture(params=["memory", "real"])
def server(request: pytest.FixtureRequest) -> Server:
    if request.param == "memory":
        return MemoryServer()
    found = request.getfixturevalue("real_server")
    assert isinstance(found, RealServer)
    return found


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    """A client; after the test all leases are revoked, so that none lapses in another test."""
    async with server.open_client() as client:
        yield client
        for lease in await client.lease_list():
            try:
                await client.lease_revoke(lease)
            except LeaseNotFound:  # it lapsed
                continue
