"""Each test of this folder runs on a real etcd and on the one in memory.

On that without and by HTTP/2, and by clients whose keys are in a namespace.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.simulation.http2_etcd import Http2MemoryEtcd
from tests.simulation.servers import MemoryServer, RealServer, Server
from trio_sched.etcd_shim import Client
from trio_sched.etcd_shim.errors import LeaseNotFound
from trio_sched.simulation import MemoryEtcd


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what has no meaning in a namespace."""
    items[:] = [
        item
        for item in items
        if item.get_closest_marker("at_the_root") is None or "[namespace" not in item.name
    ]


@pytest.fixture(params=["memory", "namespace", "http2", "real"])
def server(request: pytest.FixtureRequest) -> Server:
    if request.param == "memory":
        return MemoryServer(MemoryEtcd())
    if request.param == "namespace":
        return MemoryServer(MemoryEtcd(), b"/a/b\xff")
    if request.param == "http2":
        return MemoryServer(Http2MemoryEtcd())
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
