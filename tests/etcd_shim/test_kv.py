"""Keys, values and transactions, on a real etcd."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from grpclib.const import Status

from trio_sched.etcd_shim import (
    ALL_KEYS,
    Client,
    Compare,
    Delete,
    DeleteResult,
    Get,
    GetResult,
    Put,
    PutResult,
    Txn,
    TxnResult,
    open_client,
)
from trio_sched.etcd_shim.errors import (
    FutureRevision,
    InvalidArgument,
    LeaseNotFound,
    ProposalDropped,
    RequestTooLarge,
    RevisionCompacted,
    rpc_error,
)
from trio_sched.etcd_shim.kv import prefix_range
from trio_sched.simulation import MemoryEtcd
from trio_sched.testing import Etcd


@pytest.fixture
async def client(endpoint: str) -> AsyncIterator[Client]:
    async with open_client(endpoint) as client:
        yield client


@pytest.fixture
async def filled(client: Client, path: str) -> list[int]:
    """Keys a, b, c with values 3, 2, 1; their revisions."""
    pairs = [("a", "3"), ("b", "2"), ("c", "1")]
    return [(await client.put(f"{path}/{key}", value)).revision for key, value in pairs]


def names(result: GetResult) -> str:
    return "".join(kv.key.decode()[-1] for kv in result)


async def test_put_and_get(client: Client, path: str) -> None:
    put = await client.put(path, "value")
    got = await client.get(path)
    assert got.kv is not None
    assert got.value == got.kv.value == b"value"
    assert got.kv.key == path.encode()
    assert (got.kv.create_revision, got.kv.mod_revision) == (put.revision, put.revision)
    assert (got.kv.version, got.kv.lease) == (1, 0)
    assert got.revision >= put.revision
    assert (got.count, got.more, len(got)) == (1, False, 1)


async def test_what_is_not_there(client: Client, path: str) -> None:
    got = await client.get(path)
    assert (got.kv, got.value, got.count, list(got)) == (None, None, 0, [])
    assert await client.delete(path) == DeleteResult(got.revision, 0, ())


async def test_bytes_that_are_not_text(client: Client, path: str) -> None:
    key = path.encode() + b"\xff\x00"
    await client.put(key, bytes(range(256)))
    assert (await client.get(key)).value == bytes(range(256))
    assert (await client.get_prefix(path)).kvs[0].key == key


async def test_prev_kv(client: Client, path: str) -> None:
    assert (await client.put(path, "1", prev_kv=True)).prev_kv is None
    before = (await client.put(path, "2", prev_kv=True)).prev_kv
    assert before is not None
    assert before.value == b"1"
    (gone,) = (await client.delete(path, prev_kv=True)).prev_kvs
    assert (gone.value, gone.version) == (b"2", 2)


async def test_ignore_value_and_ignore_lease(client: Client, path: str) -> None:
    async with client.open_lease(60) as lease:
        await client.put(path, "kept", lease=lease.id)
        await client.txn(success=[Put(path, ignore_value=True, lease=lease.id)])
        assert (await client.get(path)).value == b"kept"
        await client.txn(success=[Put(path, "new", ignore_lease=True)])
        kv = (await client.get(path)).kv
        assert kv is not None
        assert (kv.value, kv.lease) == (b"new", lease.id)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "abc"),
        ({"limit": 2}, "ab"),
        ({"sort_order": "descending"}, "cba"),
        ({"sort_order": "ascending", "sort_target": "value"}, "cba"),
        ({"sort_order": "descending", "sort_target": "create_revision", "limit": 1}, "c"),
        ({"sort_order": "descending", "sort_target": "mod_revision"}, "cba"),
        ({"sort_order": "ascending", "sort_target": "version"}, "abc"),
        ({"serializable": True}, "abc"),
    ],
)
async def test_ranges(
    client: Client, path: str, filled: list[int], options: dict[str, Any], expected: str
) -> None:
    result = await client.get_prefix(f"{path}/", **options)
    assert names(result) == expected
    assert result.count == len(filled)
    assert result.more == (len(expected) < 3)


async def test_ranges_by_revision(client: Client, path: str, filled: list[int]) -> None:
    first, second, third = filled
    await client.put(f"{path}/a", "again")
    prefix = f"{path}/"
    assert names(await client.get_prefix(prefix, revision=second)) == "ab"
    assert names(await client.get_prefix(prefix, min_create_revision=second)) == "bc"
    assert names(await client.get_prefix(prefix, max_create_revision=second)) == "ab"
    assert names(await client.get_prefix(prefix, min_mod_revision=third)) == "ac"
    assert names(await client.get_prefix(prefix, max_mod_revision=third)) == "bc"
    assert first < second < third


async def test_ranges_by_key(client: Client, path: str, filled: list[int]) -> None:
    assert len(filled) == 3
    assert names(await client.get(f"{path}/a", range_end=f"{path}/c")) == "ab"
    from_key = await client.get(f"{path}/b", range_end=ALL_KEYS, limit=2)
    assert names(from_key) == "bc"
    assert (await client.delete(f"{path}/a", f"{path}/c")).deleted == 2
    assert names(await client.get_prefix(f"{path}/")) == "c"
    assert (await client.delete_prefix(f"{path}/")).deleted == 1


async def test_keys_only_and_count_only(client: Client, path: str, filled: list[int]) -> None:
    assert len(filled) == 3
    keys = await client.get_prefix(f"{path}/", keys_only=True)
    assert [kv.value for kv in keys] == [b"", b"", b""]
    counted = await client.get_prefix(f"{path}/", count_only=True)
    assert (len(counted), counted.count) == (0, 3)


def test_f29_a_prefix_ends_where_it_should() -> None:
    assert prefix_range("/a/") == (b"/a/", b"/a0")
    assert prefix_range(b"a\xff\xff") == (b"a\xff\xff", b"b")
    assert prefix_range(b"\xff") == (b"\xff", ALL_KEYS)
    assert prefix_range("") == (b"\0", ALL_KEYS)


async def test_a_transaction_either_way(client: Client, path: str) -> None:
    create: tuple[list[Compare], list[Put | Get], list[Get]] = (
        [Compare.create_revision(path, "==", 0)],
        [Put(path, "1"), Get(path)],
        [Get(path)],
    )
    first = await client.txn(*create)
    assert first.succeeded
    put, got = first.responses
    assert isinstance(put, PutResult)
    assert isinstance(got, GetResult)
    assert got.value == b"1"
    assert put.revision == got.revision == first.revision
    second = await client.txn(*create)
    assert not second.succeeded
    assert second.get(0).value == b"1"
    with pytest.raises(TypeError, match="PutResult"):
        first.get(0)


async def test_a_transaction_inside_a_transaction(client: Client, path: str) -> None:
    inner = Txn([Compare.value(path, "==", "1")], [Delete(path)], [Put(path, "other")])
    await client.put(path, "1")
    outer = await client.txn(success=[inner, Get(path)])
    (inside, after) = outer.responses
    assert isinstance(inside, TxnResult)
    assert inside.succeeded
    (deleted,) = inside.responses
    assert isinstance(deleted, DeleteResult)
    assert deleted.deleted == 1
    assert isinstance(after, GetResult)
    assert after.value is None


async def test_each_compare(client: Client, path: str) -> None:
    revision = (await client.put(path, "m")).revision
    holding = [
        Compare.version(path, "==", 1),
        Compare.create_revision(path, ">", revision - 1),
        Compare.mod_revision(path, "<", revision + 1),
        Compare.value(path, "!=", "n"),
        Compare.lease(path, "==", 0),
    ]
    assert (await client.txn(holding)).succeeded
    for index, compare in enumerate(holding):
        opposite = {"==": "!=", "!=": "==", "<": ">", ">": "<"}[compare.relation]
        broken = Compare(compare.key, compare.target, opposite, compare.operand)  # type: ignore[arg-type] # one of the four
        changed = [*holding[:index], broken, *holding[index + 1 :]]
        assert not (await client.txn(changed)).succeeded


async def test_a_compare_over_a_range(client: Client, path: str, filled: list[int]) -> None:
    assert len(filled) == 3
    everything = f"{path}/"
    assert (await client.txn([Compare.version(everything, "==", 1).over_prefix()])).succeeded
    await client.put(f"{path}/b", "again")
    assert not (await client.txn([Compare.version(everything, "==", 1).over_prefix()])).succeeded
    up_to_b = Compare.version(f"{path}/a", "==", 1).over(f"{path}/b")
    assert (await client.txn([up_to_b])).succeeded
    nothing = Compare.create_revision(f"{path}/nothing/", "==", 0).over_prefix()
    assert (await client.txn([nothing])).succeeded


async def test_text_and_bytes_are_the_same(client: Client, path: str) -> None:
    await client.put(path.encode(), b"x")
    assert (await client.get(path)).value == b"x"


@pytest.mark.parametrize("size", [16_384, 70_000, 1_400_000])
async def test_large_values_both_ways(client: Client, path: str, size: int) -> None:
    value = bytes(size)
    await client.put(path, value)
    assert (await client.get(path)).value == value


async def test_an_answer_larger_than_all_windows(client: Client, path: str) -> None:
    for index in range(4):
        await client.put(f"{path}/{index}", bytes([index]) * 1_000_000)
    result = await client.get_prefix(f"{path}/")
    assert [set(kv.value) for kv in result] == [{0}, {1}, {2}, {3}]


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda c: c.get(""), ValueError),
        (lambda c: c.put("", "x"), ValueError),
        (lambda c: c.delete(b""), ValueError),
        (lambda c: c.get(5), TypeError),
        (lambda c: c.put("a", 5), TypeError),
        (lambda c: c.txn(success=["get"]), TypeError),
        (lambda c: c.get("a", sort_target="nonesuch"), ValueError),
        (lambda c: c.get("a", sort_order="up"), ValueError),
        (lambda c: c.get("a", limit=-1), ValueError),
    ],
)
async def test_nonsense_is_refused_before_it_is_sent(call: Any, error: type[Exception]) -> None:
    async with open_client("http://127.0.0.1:1") as client:
        with pytest.raises(error):
            await call(client)
        assert client.statistics().connects == 0


def test_a_compare_with_an_unknown_relation() -> None:
    with pytest.raises(ValueError, match="=="):
        Compare.version("a", "=", 1)  # type: ignore[arg-type] # on purpose


async def test_what_etcd_refuses_has_its_own_error(client: Client, path: str) -> None:
    with pytest.raises(RequestTooLarge):
        await client.put(path, bytes(1_800_000))  # more than etcd takes
    with pytest.raises(RequestTooLarge):
        await client.put(path, bytes(3_000_000))  # more than its gRPC takes
    with pytest.raises(FutureRevision):
        await client.get(path, revision=10**9)
    with pytest.raises(LeaseNotFound) as caught:
        await client.put(path, "x", lease=123456)
    assert caught.value.status.name == "NOT_FOUND"
    with pytest.raises(InvalidArgument, match="duplicate key"):
        await client.txn(success=[Put(path, "1"), Put(path, "2")])


@pytest.mark.usefixtures("autojump_clock")
async def test_f73_a_write_that_raft_dropped_is_sent_again() -> None:
    """As happens while the raft leader is moved; nothing was done, so this is safe."""
    etcd = MemoryEtcd()
    dropped = rpc_error(Status.UNKNOWN, "raft proposal dropped")
    refusals = [dropped, dropped]
    etcd.cluster.refusals.refuse = lambda method, _request: (
        refusals.pop() if method.endswith("Put") and refusals else None
    )
    async with etcd.open_client() as client:
        await client.put("a", "1")
        assert not refusals
        kv = (await client.get("a")).kv
        assert kv is not None
        assert kv.version == 1
        refusals += [dropped] * 100
        with pytest.raises(ProposalDropped):  # it does not go on for ever
            await client.put("a", "2")
        assert refusals


async def test_a_revision_that_is_compacted(etcd: Etcd, client: Client, path: str) -> None:
    old = (await client.put(path, "1")).revision
    new = (await client.put(path, "2")).revision
    await etcd.etcdctl("compact", str(new))
    with pytest.raises(RevisionCompacted):
        await client.get(path, revision=old)


async def test_a_put_that_keeps_the_value_or_the_lease(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client:
        lease = await client.lease_grant(60)
        with pytest.raises(InvalidArgument):
            await client.put(path, b"", ignore_value=True)  # there is none to keep
        await client.put(path, "1", lease=lease.id)
        await client.put(path, "2", ignore_lease=True)
        kv = (await client.get(path)).kv
        assert kv is not None
        assert (kv.value, kv.lease) == (b"2", lease.id)
        await client.put(path, b"", ignore_value=True)
        kv = (await client.get(path)).kv
        assert kv is not None
        assert (kv.value, kv.lease) == (b"2", 0)
        with pytest.raises(InvalidArgument):
            await client.put(path, "3", ignore_value=True)
        with pytest.raises(InvalidArgument):
            await client.put(path, "3", lease=lease.id, ignore_lease=True)
        await client.lease_revoke(lease.id)


async def test_each_answer_has_a_header(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client:
        put = await client.put(path, "1")
        txn = await client.txn((), [Get(path), Put(path, "2")])
        answers = [put, await client.get(path), txn, await client.delete(path)]
        for answer in answers:
            assert answer.header.revision == answer.revision
            assert answer.header.cluster_id == put.header.cluster_id != 0
            assert answer.header.member_id == put.header.member_id != 0
            assert answer.header.raft_term == put.header.raft_term != 0
        assert txn.get(0).header == (0, 0, txn.revision, 0)
        assert "header" not in repr(put)
