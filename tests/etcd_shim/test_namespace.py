"""Namespaces on a real etcd: what the contract suite, which runs in one, too, does not show."""

from __future__ import annotations

import pytest
import trio

from tests.host.test_process import open_host, slot_taken
from trio_sched import Slot, observe, schedule
from trio_sched.etcd_shim import (
    ALL_KEYS,
    Client,
    Compare,
    Delete,
    Get,
    GetResult,
    Put,
    Txn,
    TxnResult,
    open_client,
)
from trio_sched.etcd_shim._namespace import range_within
from trio_sched.exceptions import HostnameInUse


@pytest.mark.parametrize(
    ("prefix", "key", "range_end", "moved"),
    [
        (b"/a", b"k", b"", (b"/ak", b"")),
        (b"/a", b"k", b"l", (b"/ak", b"/al")),
        (b"/a", b"k", ALL_KEYS, (b"/ak", b"/b")),
        (b"/a\xff\xff", b"k", ALL_KEYS, (b"/a\xff\xffk", b"/b")),
        (b"\xff", b"k", ALL_KEYS, (b"\xffk", ALL_KEYS)),
        (b"/a", b"", b"", (b"/a", b"")),
    ],
)
def test_where_a_range_is(
    prefix: bytes, key: bytes, range_end: bytes, moved: tuple[bytes, bytes]
) -> None:
    assert range_within(prefix, key, range_end) == moved


async def keys_of(client: Client, prefix: str) -> list[bytes]:
    return [kv.key for kv in await client.get_prefix(prefix)]


async def test_keys_are_given_and_come_without_the_prefix(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client:
        below = client.namespace(path)
        assert (client.prefix, below.prefix) == (b"", path.encode())
        await below.put("/k", "1")
        assert await keys_of(client, path) == [f"{path}/k".encode()]
        assert [kv.key for kv in await below.get("/k")] == [b"/k"]
        before = (await below.put("/k", "2", prev_kv=True)).prev_kv
        assert before is not None
        assert before.key == b"/k"
        gone = await below.delete("/k", prev_kv=True)
        assert [kv.key for kv in gone.prev_kvs] == [b"/k"]


async def test_what_is_beside_is_neither_seen_nor_touched(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client:
        below = client.namespace(f"{path}/b")
        for key in ("a", "b/k", "b/l", "c"):
            await client.put(f"{path}/{key}", key)
        assert [kv.key for kv in await below.get_prefix("")] == [b"/k", b"/l"]
        assert [kv.key for kv in await below.get("\0", range_end=ALL_KEYS)] == [b"/k", b"/l"]
        same = Compare.version("\0", "==", 1).over(ALL_KEYS)
        await client.put(f"{path}/c", "again")
        assert (await below.txn([same])).succeeded
        assert (await below.delete_prefix("")).deleted == 2
        assert await keys_of(client, path) == [f"{path}/{key}".encode() for key in "ac"]


async def test_a_transaction_within_another(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client:
        below = client.namespace(path)
        inner = Txn([Compare.value("/k", "==", "1")], [Put("/in", "2"), Get("/in")])
        await below.put("/k", "1")
        done = await below.txn([], [Put("/k", "1", prev_kv=True), inner, Delete("/x")])
        nested = done.responses[1]
        assert isinstance(nested, TxnResult)
        assert nested.succeeded
        found = nested.responses[1]
        assert isinstance(found, GetResult)
        assert [kv.key for kv in found] == [b"/in"]


async def test_a_request_that_is_made_twice_is_below_the_prefix_once(
    endpoint: str, path: str
) -> None:
    read = Get("/k")
    async with open_client(endpoint) as client:
        below = client.namespace(path)
        await below.put("/k", "1")
        assert [(await below.read(read)).value for _ in range(3)] == [b"1"] * 3


async def test_watches_and_followers(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client:
        below = client.namespace(path)
        await below.put("/k", "1")
        async with (
            below.watch("/", prefix=True, prev_kv=True) as events,
            below.follow("/") as follower,
        ):
            await client.put(f"{path}/k", "2")
            await client.put(f"{path}x", "beside")
            await client.delete(f"{path}/k")
            seen = [await events.__anext__() for _ in range(2)]
            assert [(event.kv.key, event.prev_kv and event.prev_kv.key) for event in seen] == [
                (b"/k", b"/k")
            ] * 2
            while follower.state:
                await follower.receive()
            assert [kv.key for kv in follower.first] == [b"/k"]


async def test_the_keys_of_a_lease(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client:
        below = client.namespace(path).namespace("/deep")
        assert below.prefix == f"{path}/deep".encode()
        async with below.open_lease(5) as lease:
            await below.put("/k", "1", lease=lease.id)
            await client.put(f"{path}/beside", "1", lease=lease.id)
            info = await below.lease_time_to_live(lease.id, keys=True)
            assert info.keys == (b"/k",)


async def test_hosts_of_a_namespace_are_apart_from_others(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client:
        below = client.namespace(path)
        async with (
            schedule(client, "/same" + path, "a") as outer,
            schedule(below, "/same" + path, "a") as inner,
        ):
            assert await outer.next() == await inner.next() == ("a",)
            with pytest.raises(HostnameInUse):
                async with schedule(client, f"{path}/same{path}", "a"):
                    pass
            async with observe(client, f"{path}/same{path}") as decisions:
                assert await decisions.next() == ("a",)
        assert not await keys_of(client, path)


async def test_a_slot_is_guarded_below_the_prefix(endpoint: str, path: str) -> None:
    """By the guard with that client, and by `txn`; what it writes is there, too."""

    async def work(slot: Slot, below: Client) -> None:
        assert (await below.txn(slot.guard(), [Put("/by-guard", "1")])).succeeded
        await slot.txn(success=[Put("/by-txn", "1")])

    async with open_client(endpoint) as client:
        below = client.namespace(path)
        async with schedule(below, "/jobs", "a") as result:
            await result.run_while_scheduled(work, below)
        assert await keys_of(client, f"{path}/by") == [
            f"{path}/by-guard".encode(),
            f"{path}/by-txn".encode(),
        ]


async def test_a_reaper_releases_below_the_prefix(endpoint: str, path: str) -> None:
    """The slot's mark, too, which hangs on the lease of another host's decision."""
    async with open_client(endpoint) as client:
        below = client.namespace(path)
        async with schedule(below, "/jobs", "leader", hosts_filter=["a"]):
            order = ["sleep", "300"]
            async with open_host(endpoint, "/jobs", "a", order, namespace=path, ttl=60) as host:
                await slot_taken(below, "/jobs", "a")
                async with below.watch("/jobs/slots", prefix=True, puts=False) as gone:
                    host.kill()
                    keys = {(await gone.__anext__()).kv.key for _ in range(2)}
        assert keys == {b"/jobs/slots/0", b"/jobs/slots.taken/0"}


def test_a_prefix_is_needed() -> None:
    async def ask() -> None:
        async with open_client() as client:
            for wrong in ("", b""):
                with pytest.raises(ValueError, match="must not be empty"):
                    client.namespace(wrong)
            with pytest.raises(TypeError, match="bytes or str"):
                client.namespace(5)  # type: ignore[arg-type] # as tested

    trio.run(ask)
