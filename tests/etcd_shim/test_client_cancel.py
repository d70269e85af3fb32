"""Each public call of the client, cancelled at each of its checkpoints."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio

from tests.etcd_shim.sweep import sweep
from trio_sched.etcd_shim import Client, Compare, Get, Put, open_client
from trio_sched.testing import open_etcd

Scenario = Callable[[Client, str], Awaitable[object]]
LARGE = bytes(700_000)  # more than the windows take at once


async def watch(client: Client, path: str) -> None:
    async with client.watch(path) as events:
        await client.put(path, "x")
        await events.receive()


async def follow(client: Client, path: str) -> None:
    async with client.follow(path) as follower:
        await client.put(path, "x")
        await follower.receive()


async def open_lease(client: Client, path: str) -> None:
    async with client.open_lease(60) as lease:
        await client.put(path, "x", lease=lease.id)
        await client.lease_renew(lease.id)


async def lease_life(client: Client, _path: str) -> None:
    lease = 4711
    try:
        await client.lease_grant(60, lease)
        await client.lease_renew(lease)
        await client.lease_time_to_live(lease)
        await client.lease_list()
    finally:
        with trio.CancelScope(shield=True):
            await revoke_if_there(client, lease)


async def revoke_if_there(client: Client, lease: int) -> None:
    while lease in await client.lease_list():
        await client.lease_revoke(lease)


async def get_large(client: Client, path: str) -> None:
    assert (await client.get(path + "-large")).value == LARGE


async def large_txn(client: Client, path: str) -> None:
    condition = Compare.create_revision(path, ">", -1)
    await client.txn([condition], [Put(path, LARGE), Get(path + "-large")])


SCENARIOS: dict[str, Scenario] = {
    "get": lambda client, path: client.get(path),
    "get large": get_large,
    "get_prefix": lambda client, path: client.get_prefix(path),
    "put": lambda client, path: client.put(path, "x"),
    "put large": lambda client, path: client.put(path, LARGE),
    "delete": lambda client, path: client.delete(path),
    "txn": large_txn,
    "lease": lease_life,
    "open_lease": open_lease,
    "watch": watch,
    "follow": follow,
    "status": lambda client, _path: client.status(),
}


@pytest.mark.parametrize("fresh", [False, True], ids=["warm", "cold"])
@pytest.mark.parametrize("name", list(SCENARIOS))
async def test_nothing_is_leaked_and_the_client_still_works(
    endpoint: str, path: str, name: str, fresh: bool
) -> None:
    async with open_client(endpoint) as client, open_client(endpoint) as witness:
        await client.put(path + "-large", LARGE)
        await watch(client, path)
        await client.lease_renew((await client.lease_grant(60, 4712)).id)
        await client.lease_revoke(4712)
        leases = set(await witness.lease_list())
        baseline = client.statistics().connections[0].open_calls  # the two streams

        async def cold() -> None:
            async with open_client(endpoint) as other:
                await SCENARIOS[name](other, path)

        async def warm() -> None:
            await SCENARIOS[name](client, path)

        async def check() -> None:
            await client.put(path, "still works")
            assert (await client.get(path)).value == b"still works"
            await trio.testing.wait_all_tasks_blocked()
            (connection,) = client.statistics().connections
            assert connection.open_calls == baseline
            assert (connection.waiting_calls, connection.unread_bytes) == (0, 0)
            assert client.statistics().connects == 1, "a cancellation tore the connection"
            assert set(await witness.lease_list()) <= leases, (
                "others' may expire, ours may not stay"
            )

        cancelled = await sweep(cold if fresh else warm, check)
        assert cancelled >= (2 if fresh else 1)


async def test_a_transaction_that_only_reads_is_answered_before_it_is_cancelled(path: str) -> None:
    """etcd before 3.5.5 may panic otherwise (etcd issue 14110)."""
    async with open_etcd() as server, open_client(server.endpoint) as client:
        (member,) = server.members
        for _ in range(20):
            await client.get(path)
            member.pause()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.txn, (), [Get(path), Get.prefix(path)])
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
                with trio.CancelScope(shield=True):
                    await trio.testing.wait_all_tasks_blocked()
                assert client.statistics().connections[0].open_calls == 1
                member.resume()
            assert client.statistics().connections[0].open_calls == 0
        await client.get(path)
        assert member.running
