"""An etcd in memory, for tests: no process, no network, and time that can jump."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from trio_sched._support.arguments import check_int, check_text
from trio_sched._support.tasks import open_service_nursery
from trio_sched.etcd_shim.channel import ChannelSettings, Endpoint, Transport
from trio_sched.etcd_shim.client import Client
from trio_sched.etcd_shim.opening import client_block
from trio_sched.simulation.memory_cluster import Cluster
from trio_sched.simulation.network import MemoryTransport, Network

__all__ = ["MemoryEtcd"]


class MemoryEtcd:
    """An etcd that lives in this process, with the real client on it.

    ``async with MemoryEtcd().open_client() as client:`` gives a `Client` that does all that it
    does on a real etcd: retries, watches that resume, renewals. Only the bytes below its channel
    are not there. Time is trio's: with an autojump clock, leases lapse in no time.

    Keys, history, transactions, leases and watches are etcd's own, as a suite shows that plays the
    same programs to a real one. There are no users and no TLS.

    Args:
        members: how many servers it has.

    Attributes:
        cluster: its members and their store, and what can be done to them.
        network: what is between clients and members.
    """

    def __init__(self, members: int = 1) -> None:
        check_int("members", members, 1)
        self.cluster: Cluster = Cluster(members)
        self.network: Network = Network(self.cluster)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The URLs of its members."""
        return tuple(member.url for member in self.cluster.members)

    @asynccontextmanager
    async def open_client(
        self, *, host: str = "localhost", connect_timeout: float = 5.0
    ) -> AsyncIterator[Client]:
        """Open a client.

        Args:
            host: where it is on `network`.
            connect_timeout: as for `trio_sched.etcd_shim.open_client`.
        """
        check_text("host", host, least=1)
        endpoints = [Endpoint.parse(url) for url in self.endpoints]
        settings = ChannelSettings(connect_timeout=connect_timeout)
        transport = self._transport(host)
        async with open_service_nursery() as services:
            services.start_soon(self.cluster.timeline.run)
            async with client_block(endpoints, settings=settings, transport=transport) as client:
                yield client

    def _transport(self, host: str) -> Transport:
        return MemoryTransport(self.network, host)

    def compact(self, revision: int) -> None:
        """Forget history below a revision."""
        self.cluster.store.compact(check_int("revision", revision))
