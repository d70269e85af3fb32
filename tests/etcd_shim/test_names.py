"""One name with several addresses is several members."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from tests.etcd_shim.split import open_split_etcd
from trio_sched.etcd_shim import open_client
from trio_sched.etcd_shim.errors import ConnectionFailed
from trio_sched.testing import FaultyLink
from trio_sched.testing._ports import free_ports

NAME = "members.test"


class Resolver(trio.abc.HostnameResolver):
    """Knows one name, and all numeric addresses."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self.addresses = list(addresses)
        self.asked = 0

    async def getaddrinfo(  # type: ignore[override] # trio's own is as wide as the C library's
        self, host: bytes | None, port: int, *_: int
    ) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        await trio.lowlevel.checkpoint()
        assert host == NAME.encode()
        self.asked += 1
        kind = socket.SOCK_STREAM
        return [(socket.AF_INET, kind, 0, "", (address, port)) for address in self.addresses]

    async def getnameinfo(self, sockaddr: object, flags: int) -> tuple[str, str]:
        raise NotImplementedError


@asynccontextmanager
async def open_addresses(targets: Sequence[str]) -> AsyncIterator[tuple[str, list[FaultyLink]]]:
    """Let a name have an address for each target; return its URL, and the ways to the targets."""
    (port,) = free_ports(1)
    addresses = [f"127.0.0.{number}" for number in range(2, 2 + len(targets))]
    links = [FaultyLink(target) for target in targets]
    before = trio.socket.set_custom_hostname_resolver(Resolver(addresses))
    try:
        async with trio.open_nursery() as nursery:
            for address, link in zip(addresses, links, strict=True):
                listeners = await trio.open_tcp_listeners(port, host=address)
                await nursery.start(partial(trio.serve_listeners, link.serve, listeners))
            yield f"http://{NAME}:{port}", links
            nursery.cancel_scope.cancel()
    finally:
        trio.socket.set_custom_hostname_resolver(before)


async def test_f68_the_addresses_of_a_name_are_members(path: str) -> None:
    """The first is cut off from the others: calls and watches go on at another address."""
    async with open_split_etcd() as cluster:
        async with (
            open_addresses(cluster.endpoints) as (url, _),
            open_client(url) as client,
            client.watch(path) as watcher,
        ):
            await client.put(path, "1")
            assert client.statistics().endpoint == f"{url} (127.0.0.2)"
            assert (await watcher.__anext__()).kv.value == b"1"
            cluster.isolate(0)
            assert (await client.get(path)).value == b"1"
            await client.put(path, "2")
            assert (await watcher.__anext__()).kv.value == b"2"
            statistics = client.statistics()
            assert statistics.endpoint in {f"{url} (127.0.0.3)", f"{url} (127.0.0.4)"}
            reasons = {unused.endpoint: unused.reason for unused in statistics.unused}
            reason = reasons[f"{url} (127.0.0.2)"]  # silence, or its own word, if that came first
            assert "not answer" in reason or reason == "UNAVAILABLE: etcdserver: no leader"


async def test_f69_a_first_address_that_stays_silent(endpoint: str, path: str) -> None:
    async with (
        open_addresses([endpoint, endpoint]) as (url, (first, _)),
        open_client(url) as client,
    ):
        first.stall()
        await client.put(path, "1")
        assert client.statistics().endpoint == f"{url} (127.0.0.3)"
        assert (await client.get(path)).value == b"1"
        assert first.connections == 1, "it is passed over once"


async def test_f69_a_first_address_that_refuses(endpoint: str, path: str) -> None:
    async with (
        open_addresses([endpoint, endpoint]) as (url, (first, _)),
        open_client(url) as client,
    ):
        first.refuse()
        await client.put(path, "1")
        assert client.statistics().endpoint == f"{url} (127.0.0.3)"


async def test_each_address_has_its_reason() -> None:
    (port,) = free_ports(1)
    before = trio.socket.set_custom_hostname_resolver(Resolver(["127.0.0.2", "127.0.0.3"]))
    try:
        async with open_client(f"http://{NAME}:{port}") as client:
            with pytest.raises(ConnectionFailed) as caught:
                await client.get("a")
            assert len(caught.value.reasons) == 2
            unused = client.statistics().unused
            assert all("refused" in each.reason.lower() for each in unused)
    finally:
        trio.socket.set_custom_hostname_resolver(before)
