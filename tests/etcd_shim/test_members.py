"""A cluster of three whose members fall silent: what is not answered goes to another one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from trio_sched.etcd_shim import Client, Get, open_client
from trio_sched.testing import Etcd, Member, open_etcd

TTL = 10
SESSIONS = 5


@asynccontextmanager
async def open_behind_a_follower() -> AsyncIterator[tuple[Etcd, Client, Member]]:
    """A cluster, a client that is connected to a follower, and the raft leader."""
    async with open_etcd(members=3) as server:
        leader = await server.raft_leader()
        others = [member for member in server.members if member is not leader]
        endpoints = [member.endpoint for member in (*others, leader)]
        async with open_client(*endpoints) as client:
            await client.get("a")
            assert client.statistics().connections[0].endpoint == endpoints[0]
            yield server, client, leader


@pytest.mark.parametrize("fault", ["pause", "kill"])
async def test_f46_renewals_do_not_wait_for_a_dead_raft_leader(fault: str) -> None:
    """Each session is renewed again within half a TTL, as two members serve."""
    async with open_behind_a_follower() as (_, client, leader):
        async with trio.open_nursery() as nursery:
            leases = [
                await nursery.start(keep_a_lease, client, ending := trio.Event())
                for _ in range(SESSIONS)
            ]
            del ending
            await trio.testing.wait_all_tasks_blocked()
            getattr(leader, fault)()
            before = [lease.deadline for lease in leases]
            with trio.fail_after(TTL):
                for lease, deadline in zip(leases, before, strict=True):
                    while lease.deadline == deadline:
                        await trio.sleep(0.01)  # a lease says nothing when it is renewed
            leader.resume()
            nursery.cancel_scope.cancel()
