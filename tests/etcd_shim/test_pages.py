"""Ranges of any size are read in pages, and all of them at one revision."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from trio_sched import Client, open_client
from trio_sched.etcd_shim import Compare, Get, GetResult, TxnResult
from trio_sched.etcd_shim._pages import read_ranges
from trio_sched.etcd_shim.errors import MessageTooLarge, RevisionCompacted
from trio_sched.etcd_shim.kv import Operation
from trio_sched.simulation import MemoryEtcd

RANGES = [(b"a/", b"a0"), (b"b", b"b\0"), (b"c/", b"c0")]


class Counted:
    """A client whose reads are counted, and disturbed before the one of a number."""

    def __init__(
        self, client: Client, *, compacts: MemoryEtcd | None = None, largest: int = 10**9
    ) -> None:
        self.client = client
        self.compacts = compacts
        self.compact_before: Sequence[int] = ()
        self.largest = largest
        self.asked: list[Get] = []

    async def _disturb(self) -> None:
        if self.compacts is not None and len(self.asked) in self.compact_before:
            written = await self.client.put("z", "another")
            self.compacts.cluster.store.compact(written.revision)

    async def read(self, request: Get) -> GetResult:
        await self._disturb()
        self.asked.append(request)
        self._check(request)
        return await self.client.read(request)

    async def txn(
        self,
        compare: Sequence[Compare] = (),
        success: Sequence[Operation] = (),
        failure: Sequence[Operation] = (),
    ) -> TxnResult:
        await self._disturb()
        for each in success:
            assert isinstance(each, Get)
            self.asked.append(each)
            self._check(each)
        return await self.client.txn(compare, success, failure)

    def _check(self, request: Get) -> None:
        if request.limit > self.largest:
            raise MessageTooLarge(request.limit, self.largest)


async def filled(client: Client) -> list[bytes]:
    keys = [f"a/{number:02}" for number in range(10)] + ["b", "c/x", "c/y"]
    for key in (*keys, "a", "a0", "b0", "c0"):
        await client.put(key, f"value of {key}")
    return [key.encode() for key in keys]


@pytest.mark.parametrize("page_size", [1, 2, 3, 9, 10, 11, 100])
async def test_what_is_read_in_pages_is_what_one_read_would_find(page_size: int) -> None:
    async with MemoryEtcd().open_client() as client:
        keys = await filled(client)
        found = await read_ranges(client, RANGES, page_size)
        assert [kv.key for kv in found] == keys
        assert (found.count, found.more) == (len(keys), False)
        assert found.revision == (await client.get("a")).revision
        assert found.kvs[0] == (await client.get(keys[0])).kv


async def test_one_range_that_fits_costs_one_read_and_several_one_transaction() -> None:
    async with MemoryEtcd().open_client() as client:
        await filled(client)
        counted = Counted(client)
        await read_ranges(counted, RANGES[:1])
        assert len(counted.asked) == 1
        await read_ranges(counted, RANGES)
        assert len(counted.asked) == 1 + len(RANGES)


async def test_all_pages_are_of_one_revision() -> None:
    async with MemoryEtcd().open_client() as client:
        keys = await filled(client)

        class Changing(Counted):
            async def _disturb(self) -> None:
                if self.asked:
                    await client.delete("a/09")
                    await client.put(f"a/new{len(self.asked)}", "")

        assert [kv.key for kv in await read_ranges(Changing(client), RANGES, 2)] == keys


async def test_history_that_is_compacted_meanwhile_is_read_again() -> None:
    etcd = MemoryEtcd()
    async with etcd.open_client() as client:
        keys = await filled(client)
        counted = Counted(client, compacts=etcd)
        counted.compact_before = [5, 9]
        found = await read_ranges(counted, RANGES, 2)
        assert [kv.key for kv in found] == keys
        assert found.revision == (await client.get("z")).revision


async def test_history_that_is_compacted_each_time_is_an_error() -> None:
    etcd = MemoryEtcd()
    async with etcd.open_client() as client:
        await filled(client)
        counted = Counted(client, compacts=etcd)
        counted.compact_before = range(1, 1000)
        with pytest.raises(RevisionCompacted):
            await read_ranges(counted, RANGES, 2)


@pytest.mark.parametrize("largest", [1, 3, 100, 900])
async def test_pages_that_are_too_large_become_smaller(largest: int) -> None:
    async with MemoryEtcd().open_client() as client:
        keys = await filled(client)
        assert [
            kv.key for kv in await read_ranges(Counted(client, largest=largest), RANGES)
        ] == keys


async def test_a_key_that_is_too_large_by_itself_is_an_error() -> None:
    async with MemoryEtcd().open_client() as client:
        with pytest.raises(MessageTooLarge):
            await read_ranges(Counted(client, largest=0), RANGES)


async def test_f64_an_answer_larger_than_a_message_is_read_in_pages(
    endpoint: str, path: str
) -> None:
    async with open_client(endpoint, max_message_size=100_000) as client:
        for number in range(40):
            await client.put(f"{path}/{number:02}", "x" * 10_000)
        with pytest.raises(MessageTooLarge):
            await client.get_prefix(f"{path}/")
        found = await read_ranges(client, [(f"{path}/".encode(), f"{path}0".encode())])
        assert [kv.key for kv in found] == [f"{path}/{n:02}".encode() for n in range(40)]
