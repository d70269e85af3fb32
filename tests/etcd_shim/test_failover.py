"""A cluster of three: members die, stop, restart, and lose each other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from trio_sched.etcd_shim import Client, Event, Watcher, open_client
from trio_sched.etcd_shim.errors import ConnectionFailed, ConnectionLost, Unavailable
from trio_sched.testing import Etcd, FaultyLink, Member, open_etcd, open_faulty_link

TTL = 6


@asynccontextmanager
async def open_three() -> AsyncIterator[tuple[Etcd, Client]]:
    async with open_etcd(members=3) as server, open_client(*server.endpoints) as client:
        yield server, client


def serving(server: Etcd, client: Client) -> Member:
    """Return the member that the client is connected to."""
    endpoint = client.statistics().connections[-1].endpoint
    return next(member for member in server.members if member.endpoint == endpoint)


async def put_until_it_works(client: Client, key: str, value: str) -> None:
    """Put, as often as it takes: a put whose answer is lost is not repeated by the client."""
    while True:
        try:
            await client.put(key, value)
        except (ConnectionLost, ConnectionFailed, Unavailable):
            await trio.sleep(0.05)
        else:
            return


async def next_value(watcher: Watcher) -> bytes:
    event: Event = await watcher.__anext__()
    return event.kv.value


@pytest.mark.parametrize("fault", ["kill", "pause", "restart"])
async def test_f11_all_goes_on_with_another_member(path: str, fault: str) -> None:
    """Reads, writes, a lease and a watch, while the member that serves us fails."""
    async with open_three() as (server, client):
        async with client.open_lease(TTL) as lease, client.watch(path) as watcher:
            await client.put(path, "before", lease=lease.id)
            assert await next_value(watcher) == b"before"
            member = serving(server, client)
            if fault == "kill":
                member.kill()
            elif fault == "pause":
                member.pause()
            else:
                await member.restart()
            with trio.fail_after(TTL / 2 + 5):  # 5 s for a machine that is busy
                assert (await client.get(path)).value == b"before"
            await put_until_it_works(client, path, "after")
            while (value := await next_value(watcher)) != b"after":
                assert value == b"before", "an event was repeated"
            await client.lease_renew(lease.id)
            assert lease.alive
            if fault == "restart":
                assert len(client.statistics().connections) <= 2
            else:
                assert serving(server, client) is not member
            member.resume()
        assert lease.id not in await client.lease_list()


async def test_f11_a_member_in_a_minority_is_left(path: str) -> None:
    """Two of three stop: the one that answers has no quorum. Then one of them comes back."""
    async with open_etcd(members=3) as server:
        alone, *others = server.members
        async with open_client(*server.endpoints) as client:
            await client.put(path, "1")
            assert serving(server, client) is alone
            async with client.watch(path) as watcher:
                for member in others:
                    member.pause()
                with trio.move_on_after(1.5) as silence:
                    await client.get(path)
                assert silence.cancelled_caught, "a read was answered without a quorum"
                others[0].resume()
                await put_until_it_works(client, path, "2")
                assert await next_value(watcher) == b"2"
                others[1].resume()


@pytest.mark.parametrize("fault", ["refuse", "stall"])
async def test_an_endpoint_that_does_not_let_us_in_is_passed_over(
    endpoint: str, path: str, fault: str
) -> None:
    async with open_faulty_link(endpoint) as link:
        getattr(link, fault)()
        async with open_client(link.endpoint, endpoint) as client:
            await client.put(path, "1")
            await trio.testing.wait_all_tasks_blocked()  # until the loser has given up
            (connection,) = client.statistics().connections
            assert connection.endpoint == endpoint


async def test_f11_a_link_that_goes_silent_is_noticed(endpoint: str, path: str) -> None:
    """No byte arrives any more, and nothing is closed: pings show it."""
    async with open_faulty_link(endpoint) as link:
        async with open_client(link.endpoint, endpoint) as client, client.watch(path) as watcher:
            await client.put(path, "1")
            assert await next_value(watcher) == b"1"
            link.stall()
            assert (await client.get(path)).value == b"1"
            await client.put(path, "2")
            assert await next_value(watcher) == b"2"
            assert client.statistics().connections[-1].endpoint == endpoint


async def test_f21_etcd_away_is_told_at_once_and_heals(path: str) -> None:
    async with open_etcd() as server, open_client(server.endpoint) as client:
        await client.put(path, "1")
        (member,) = server.members
        await member.stop()
        for _ in range(3):
            with pytest.raises(ConnectionFailed) as caught:
                await client.get(path)
            assert list(caught.value.reasons) == [server.endpoint]
            assert server.endpoint in str(caught.value)
        await member.start()
        assert (await client.get(path)).value == b"1"


async def test_every_endpoint_has_its_reason() -> None:
    async with open_client("http://127.0.0.1:1", "http://[::1]:1", "unix:///no/such") as client:
        with pytest.raises(ConnectionFailed) as caught:
            await client.get("a")
        reasons = caught.value.reasons
        assert set(reasons) == {"http://127.0.0.1:1", "http://[::1]:1", "unix:///no/such"}
        assert isinstance(reasons["unix:///no/such"], FileNotFoundError)
        for endpoint in reasons:
            assert endpoint in str(caught.value)


# ---- F17: a write whose answer is lost ---------------------------------------------------


async def lose_the_answer(link: FaultyLink, client: Client, path: str) -> ConnectionLost:
    """Put; the request arrives, the answer does not. Return what the client says."""
    await client.get(path)
    link.mute()
    caught: list[ConnectionLost] = []

    async def put() -> None:
        try:
            await client.put(path, "x")
        except ConnectionLost as exc:
            caught.append(exc)

    async with open_client(link.target) as witness, trio.open_nursery() as nursery:
        async with witness.watch(path) as watcher:
            nursery.start_soon(put)
            await watcher.receive()
        link.cut()
        link.heal()
    return caught[0]


async def test_f17_a_write_is_not_repeated_blindly(endpoint: str, path: str) -> None:
    async with open_faulty_link(endpoint) as link, open_client(link.endpoint) as client:
        error = await lose_the_answer(link, client, path)
        assert error.processed, "it is not known, and it says so"
        kv = (await client.get(path)).kv
        assert kv is not None
        assert kv.version == 1


async def test_f17_a_read_is_repeated(endpoint: str, path: str) -> None:
    async with open_faulty_link(endpoint) as link, open_client(link.endpoint) as client:
        await client.put(path, "1")
        link.mute()
        async with trio.open_nursery() as nursery:
            values: list[bytes | None] = []

            async def get() -> None:
                values.append((await client.get(path)).value)

            nursery.start_soon(get)
            await trio.testing.wait_all_tasks_blocked()
            link.cut()
            link.heal()
        assert values == [b"1"]


async def test_f17_a_grant_under_a_random_id_is_repeated(endpoint: str) -> None:
    async with open_faulty_link(endpoint) as link, open_client(link.endpoint) as client:
        before = set(await client.lease_list())
        link.mute()
        granted: list[int] = []

        async def grant() -> None:
            granted.append((await client.lease_grant(50)).id)

        async with open_client(endpoint) as witness, trio.open_nursery() as nursery:
            nursery.start_soon(grant)
            while not set(await witness.lease_list()) - before:
                await trio.testing.wait_all_tasks_blocked()
            link.cut()
            link.heal()
        assert set(await client.lease_list()) - before == set(granted), "one, not two"
        await client.lease_revoke(granted[0])
