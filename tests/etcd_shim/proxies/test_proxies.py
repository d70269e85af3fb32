"""Behind real proxies, which end what is idle, all goes on: `nox -s proxies`."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme

from tests.etcd_shim.proxies.programs import IDLE, PROXIES, open_proxy
from trio_sched.etcd_shim import Client, Compare, Get, Put, Watcher, open_client

TTL = 2 * IDLE
NAMES = sorted(PROXIES)


@asynccontextmanager
async def open_behind(name: str, etcd: str, folder: Path) -> AsyncIterator[Client]:
    authority = trustme.CA()
    context = None
    if name == "stunnel":
        context = ssl.create_default_context()
        authority.configure_trust(context)
    async with (
        open_proxy(name, etcd, folder, authority) as endpoint,
        open_client(endpoint, ssl_context=context) as client,
    ):
        yield client


async def values(watcher: Watcher, count: int) -> list[bytes]:
    return [(await watcher.__anext__()).kv.value for _ in range(count)]


@pytest.mark.parametrize("name", NAMES)
async def test_calls_behind_a_proxy(name: str, endpoint: str, path: str, tmp_path: Path) -> None:
    async with open_behind(name, endpoint, tmp_path) as client:
        await client.put(path, "1")
        assert (await client.get(path)).value == b"1"
        unchanged = Compare.value(path, "==", "1")
        assert (await client.txn([unchanged], [Put(path, "2"), Get(path)])).get(1).value == b"2"
        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(client.put, f"{path}/{number}", "x" * 5000)
        assert len(await client.get_prefix(f"{path}/")) == 200
        assert (await client.delete_prefix(path)).deleted == 201


@pytest.mark.parametrize("name", NAMES)
async def test_f67_idle_watches_and_leases_behind_a_proxy(
    name: str, endpoint: str, path: str, tmp_path: Path
) -> None:
    """No event is lost or repeated, and no lease lapses, over many ends of streams."""
    async with (
        open_behind(name, endpoint, tmp_path) as client,
        open_client(endpoint) as other,
        client.open_lease(TTL) as lease,
        client.watch(path) as watcher,
        client.watch(f"{path}/", prefix=True) as below,
    ):
        await other.put(path, "first", lease=lease.id)
        assert await values(watcher, 1) == [b"first"]
        for number in range(3):
            await trio.sleep(1.2 * IDLE)  # the time in which nothing happens is what is shown
            await other.put(path, str(number), lease=lease.id)
            await other.put(f"{path}/x", str(number))
        assert await values(watcher, 3) == [b"0", b"1", b"2"]
        assert await values(below, 3) == [b"0", b"1", b"2"]
        assert lease.alive
        assert (await client.get(path)).value == b"2"


@pytest.mark.parametrize("name", NAMES)
async def test_f70_each_watch_gets_its_own_events(
    name: str, endpoint: str, path: str, tmp_path: Path
) -> None:
    """``etcd grpc-proxy`` numbers watches, joins those of one key, and answers out of turn."""
    async with (
        open_behind(name, endpoint, tmp_path) as client,
        open_client(endpoint) as other,
        trio.open_nursery() as nursery,
    ):
        got: dict[int, list[bytes]] = {}
        ready = trio.Semaphore(0)

        async def watch(number: int) -> None:
            async with client.watch(f"{path}/{number % 10}") as watcher:
                ready.release()
                got[number] = await values(watcher, 3)
            ready.release()

        for number in range(40):
            nursery.start_soon(watch, number)
        for _ in range(40):
            await ready.acquire()
        for value in range(3):
            for number in range(10):
                await other.put(f"{path}/{number}", f"{number}-{value}")
        for _ in range(40):
            await ready.acquire()
        for number, found in got.items():
            assert found == [b"%d-%d" % (number % 10, value) for value in range(3)]


async def test_f70_a_watch_that_is_left_before_it_has_a_number_is_ended(
    endpoint: str, path: str, tmp_path: Path
) -> None:
    """Else ``etcd grpc-proxy`` goes on to send its events, for as long as there is a watch."""
    async with (
        open_behind("grpc-proxy", endpoint, tmp_path) as client,
        client.watch(path) as watcher,
    ):
        hub = client._watches
        for _ in range(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_watch, client, path)
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
        async with client.watch(path) as last:  # it is created after all of them
            assert len(hub._ours) == len(hub._theirs) == 2
            await client.put(path, "x")
            assert await values(last, 1) == await values(watcher, 1) == [b"x"]
        assert len(hub._ours) == len(hub._theirs) == 1


async def _watch(client: Client, path: str) -> None:
    async with client.watch(path):
        await trio.sleep_forever()
