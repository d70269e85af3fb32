"""A cluster of three whose members fall silent: what one does not answer goes to another."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from tests.etcd_shim.split import open_split_etcd
from trio_sched.etcd_shim import Client, Get, open_client
from trio_sched.etcd_shim.errors import ConnectionFailed, ConnectionLost, RpcError
from trio_sched.testing import Etcd, Member, open_etcd

TTL = 4  # half of the time for which etcd itself waits for a raft leader
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
            assert client.statistics().endpoint == endpoints[0]
            yield server, client, leader


@pytest.mark.parametrize("fault", ["pause", "kill"])
async def test_f46_renewals_do_not_wait_for_a_dead_raft_leader(fault: str) -> None:
    """No session is lost, as two members serve; by its deadline each has been renewed twice."""
    kept = 0
    async with open_behind_a_follower() as (_, client, leader):

        async def keep() -> None:
            nonlocal kept
            async with client.open_lease(TTL) as lease:  # raises if it is lost
                ready.release()
                await failed.wait()
                for _ in range(2):
                    deadline = lease.deadline
                    while lease.deadline == deadline:  # noqa: ASYNC110 # it gives no event
                        await trio.sleep(0.01)
                kept += 1

        ready, failed = trio.Semaphore(0), trio.Event()
        async with trio.open_nursery() as nursery:
            for _ in range(SESSIONS):
                nursery.start_soon(keep)
            for _ in range(SESSIONS):
                await ready.acquire()
            getattr(leader, fault)()
            failed.set()
    assert kept == SESSIONS


async def test_f48_what_may_be_made_twice_leaves_a_member_without_quorum(path: str) -> None:
    """Reads, transactions that read, leases and watches: all before etcd itself gives up."""
    async with open_split_etcd() as cluster, open_client(*cluster.endpoints) as client:
        await client.put(path, "1")
        lease = await client.lease_grant(60)
        assert client.statistics().endpoint == cluster.endpoints[0]
        async with client.watch(path) as watcher, open_client(cluster.endpoints[1]) as other:
            cluster.isolate(0)
            answers: list[object] = []

            async def ask(number: int) -> None:
                found: object
                match number:
                    case 0:
                        found = (await client.get(path)).value
                    case 1:
                        found = (await client.txn((), [Get(path)])).get(0).value
                    case 2:
                        found = (await client.lease_time_to_live(lease.id)).granted_ttl
                    case _:
                        found = await client.lease_renew(lease.id)
                answers.append(found)

            async with trio.open_nursery() as nursery:
                for number in range(4):
                    nursery.start_soon(ask, number)
            assert sorted(map(str, answers)) == ["60", "60", "b'1'", "b'1'"]
            await other.put(path, "2")
            assert (await watcher.__anext__()).kv.value == b"2"
            statistics = client.statistics()
            assert statistics.endpoint in cluster.endpoints[1:]
            reasons = {unused.endpoint: unused.reason for unused in statistics.unused}
            assert "not answer" in reasons[cluster.endpoints[0]]


async def test_f48_writes_to_come_go_elsewhere_and_one_under_way_tells_its_fate(path: str) -> None:
    async with open_split_etcd() as cluster, open_client(*cluster.endpoints) as client:
        await client.put(path, "1")
        cluster.isolate(0)
        outcome: list[str] = []

        async def put() -> None:
            try:
                await client.put(path, "2")
            except (ConnectionLost, RpcError) as exc:
                outcome.append(type(exc).__name__)
            else:
                outcome.append("done")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(put)
            while client.statistics().endpoint == cluster.endpoints[0]:  # noqa: ASYNC110 # likewise
                await trio.sleep(0.01)
            assert not outcome
            await client.put(f"{path}/other", "x")
            assert not outcome, "the other one did not wait for it"
            nursery.cancel_scope.cancel()
        kv = (await client.get(path)).kv
        assert kv is not None
        assert kv.version == 1, "it was not made a second time"


async def test_f74_a_member_that_restarts_is_waited_for(path: str) -> None:
    async with open_etcd() as server, open_client(server.endpoint) as client:
        await client.put(path, "1")
        (member,) = server.members
        await member.stop()
        async with trio.open_nursery() as nursery:
            values: list[bytes | None] = []

            async def get() -> None:
                values.append((await client.get(path)).value)

            nursery.start_soon(get)
            nursery.start_soon(client.put, f"{path}/new", "2")
            await trio.testing.wait_all_tasks_blocked()
            await member.start()
        assert values == [b"1"]


async def test_f74_where_there_never_was_an_etcd_it_is_told_at_once() -> None:
    async with open_client("http://127.0.0.1:1") as client:
        with pytest.raises(ConnectionFailed):
            await client.get("a")
        assert client.statistics().connects == 0


async def test_f73_a_write_waits_while_etcd_stalls(path: str) -> None:
    """For longer than it takes to give a silent member up: its fate is known all the same."""
    async with open_etcd() as server, open_client(server.endpoint) as client:
        await write_while_it_stalls(server.members[0], client, path)


async def test_f73_a_write_waits_while_its_member_stalls_and_the_rest_goes_on(path: str) -> None:
    async with open_behind_a_follower() as (server, client, _):
        (member,) = [one for one in server.members if one.endpoint == client.statistics().endpoint]
        await write_while_it_stalls(member, client, path)


async def write_while_it_stalls(member: Member, client: Client, path: str) -> None:
    await client.put(path, "1")
    member.pause()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.put, path, "2")
        await trio.sleep(2.5)  # what is shown is that this much is survived
        member.resume()
    assert (await client.get(path)).value == b"2"
