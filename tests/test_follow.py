"""`Client.follow`: the state, then each change, whatever happens between."""

from __future__ import annotations

import trio

from trio_sched.etcd_shim import Client, EventType, Follower, open_client
from trio_sched.testing import Etcd, open_faulty_link


async def stored(client: Client, path: str) -> dict[bytes, bytes]:
    return {kv.key: kv.value for kv in await client.get_prefix(f"{path}/")}


def told(follower: Follower) -> dict[bytes, bytes]:
    return {key: kv.value for key, kv in follower.state.items()}


async def test_first_the_state_then_each_change(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client:
        await client.put(f"{path}/a", "1")
        async with client.follow(f"{path}/") as follower:
            assert [kv.value for kv in follower.first] == [b"1"]
            await client.put(f"{path}/b", "2")
            await client.delete(f"{path}/a")
            seen = [await follower.__anext__() for _ in range(2)]
            assert [event.type for event in seen] == [EventType.PUT, EventType.DELETE]
            assert told(follower) == await stored(client, path)
            assert follower.healed == 0


async def test_f12_it_heals_over_a_compaction_and_notices_deletions(etcd: Etcd, path: str) -> None:
    async with (
        open_faulty_link(etcd.endpoint) as link,
        open_client(link.endpoint) as following,
        open_client(etcd.endpoint) as client,
    ):
        for key in ("stays", "changes", "goes"):
            await client.put(f"{path}/{key}", "1")
        async with following.follow(f"{path}/") as follower:
            link.stall()
            await client.put(f"{path}/changes", "2")
            await client.delete(f"{path}/goes")
            revision = (await client.put(f"{path}/comes", "1")).revision
            revision = (await client.put("/elsewhere", "x")).revision
            await etcd.etcdctl("compact", str(revision))
            link.cut()
            link.heal()
            changes: dict[bytes, EventType] = {}
            while len(changes) < 3:
                for event in (await follower.receive()).events:
                    changes[event.kv.key.rpartition(b"/")[2]] = event.type
            assert changes == {
                b"changes": EventType.PUT,
                b"goes": EventType.DELETE,
                b"comes": EventType.PUT,
            }
            assert follower.healed <= 1  # 0 if the last bytes got through before the cut
            assert told(follower) == await stored(client, path)
            await client.put(f"{path}/after", "1")
            assert (await follower.__anext__()).kv.key.endswith(b"after")


async def test_it_heals_over_an_overflow(endpoint: str, path: str) -> None:
    async with (
        open_client(endpoint) as client,
        client.follow(f"{path}/", buffer_size=5) as follower,
    ):
        for index in range(40):
            await client.put(f"{path}/{index % 7}", str(index))
        await client.delete(f"{path}/3")
        last = (await client.put(f"{path}/last", "x")).revision
        while follower.revision < last:
            await follower.receive()
        assert follower.healed >= 1
        assert told(follower) == await stored(client, path)


async def test_a_cancelled_receive_loses_nothing(endpoint: str, path: str) -> None:
    async with (
        open_client(endpoint) as client,
        client.follow(f"{path}/", buffer_size=3) as follower,
    ):
        for index in range(20):
            await client.put(f"{path}/{index}", "x")
        for delay in (0, 0, 0.0005, 0.001, 0.002):
            with trio.move_on_after(delay):
                await follower.receive()
        last = (await client.put(f"{path}/last", "x")).revision
        while follower.revision < last:
            await follower.receive()
        assert told(follower) == await stored(client, path)
