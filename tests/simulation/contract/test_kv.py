"""Keys: their revisions, puts and deletes, and what etcd says to a request that makes no sense.

Reads with all their options are in ``test_range.py``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from grpclib.const import Status

from tests.simulation.servers import Server
from trio_sched.etcd_shim import Client, KeyValue
from trio_sched.etcd_shim._pb import messages_pb2 as pb
from trio_sched.etcd_shim.errors import (
    FutureRevision,
    InvalidArgument,
    LeaseNotFound,
    RevisionCompacted,
    RpcError,
)

# ---- revisions ---------------------------------------------------------------------


async def test_each_write_is_a_revision(client: Client, path: str) -> None:
    before = (await client.get(path)).revision
    first = await client.put(path, "1")
    second = await client.put(f"{path}/other", "2")
    assert (first.revision, second.revision) == (before + 1, before + 2)
    assert (await client.get(path)).revision == before + 2


async def test_the_revisions_of_a_key(client: Client, path: str) -> None:
    created = (await client.put(path, "1")).revision
    key = path.encode()
    assert (await client.get(path)).kv == KeyValue(key, b"1", created, created, 1, 0)
    await client.put(f"{path}/other", "x")
    modified = (await client.put(path, "2")).revision
    assert modified == created + 2
    assert (await client.get(path)).kv == KeyValue(key, b"2", created, modified, 2, 0)
    await client.delete(path)
    assert (await client.get(path)).kv is None
    again = (await client.put(path, "3")).revision
    assert (await client.get(path)).kv == KeyValue(key, b"3", again, again, 1, 0)


async def test_the_same_value_is_a_revision_too(client: Client, path: str) -> None:
    first = (await client.put(path, "1")).revision
    assert (await client.put(path, "1")).revision == first + 1
    kv = (await client.get(path)).kv
    assert kv is not None
    assert (kv.version, kv.mod_revision) == (2, first + 1)


async def test_an_empty_value(client: Client, path: str) -> None:
    await client.put(path, "")
    assert (await client.get(path)).value == b""


async def test_the_lease_of_a_key(client: Client, path: str) -> None:
    lease = await client.lease_grant(1000)
    await client.put(path, "1", lease=lease.id)
    kv = (await client.get(path)).kv
    assert kv is not None
    assert kv.lease == lease.id


# ---- put ---------------------------------------------------------------------------


async def test_a_put_returns_the_key_before(client: Client, path: str) -> None:
    assert (await client.put(path, "1", prev_kv=True)).prev_kv is None
    before = (await client.get(path)).kv
    assert (await client.put(path, "2", prev_kv=True)).prev_kv == before
    assert (await client.put(path, "3")).prev_kv is None
    await client.delete(path)
    assert (await client.put(path, "4", prev_kv=True)).prev_kv is None


async def test_a_put_with_a_lease_that_is_not_there(client: Client, path: str) -> None:
    before = (await client.get(path)).revision
    with pytest.raises(LeaseNotFound) as caught:
        await client.put(path, "1", lease=1234567)
    assert (caught.value.status, caught.value.message) == (
        Status.NOT_FOUND,
        "etcdserver: requested lease not found",
    )
    found = await client.get(path)
    assert (found.kv, found.revision) == (None, before)


async def test_a_put_that_keeps_the_value(client: Client, path: str) -> None:
    key = path.encode()
    lease = await client.lease_grant(1000)
    await client.put(path, "1")
    await client._kv.Put(pb.PutRequest(key=key, ignore_value=True, lease=lease.id))
    kv = (await client.get(path)).kv
    assert kv is not None
    assert (kv.value, kv.lease, kv.version) == (b"1", lease.id, 2)


async def test_a_put_that_keeps_the_lease(client: Client, path: str) -> None:
    key = path.encode()
    lease = await client.lease_grant(1000)
    await client.put(path, "1", lease=lease.id)
    await client._kv.Put(pb.PutRequest(key=key, value=b"2", ignore_lease=True))
    kv = (await client.get(path)).kv
    assert kv is not None
    assert (kv.value, kv.lease, kv.version) == (b"2", lease.id, 2)
    assert (await client.lease_time_to_live(lease.id, keys=True)).keys == (key,)
    await client._kv.Put(pb.PutRequest(key=key, ignore_value=True, ignore_lease=True))
    kv = (await client.get(path)).kv
    assert kv is not None
    assert (kv.value, kv.lease, kv.version) == (b"2", lease.id, 3)


@pytest.mark.at_the_root
@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (pb.PutRequest(value=b"x"), "etcdserver: key is not provided"),
        (pb.PutRequest(key=b"k", value=b"x", ignore_value=True), "etcdserver: value is provided"),
        (pb.PutRequest(key=b"k", lease=1, ignore_lease=True), "etcdserver: lease is provided"),
        (pb.PutRequest(key=b"/nowhere", ignore_value=True), "etcdserver: key not found"),
        (pb.PutRequest(key=b"/nowhere", ignore_lease=True), "etcdserver: key not found"),
    ],
    ids=str,
)
async def test_a_put_that_makes_no_sense(
    client: Client, request_: pb.PutRequest, words: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await client._kv.Put(request_)
    assert (caught.value.status, caught.value.message) == (Status.INVALID_ARGUMENT, words)


async def test_the_lease_of_a_put_is_checked_first(client: Client, path: str) -> None:
    with pytest.raises(LeaseNotFound):
        await client._kv.Put(pb.PutRequest(key=path.encode(), ignore_value=True, lease=1234567))


# ---- delete ------------------------------------------------------------------------


async def test_delete(client: Client, path: str) -> None:
    await client.put(path, "1")
    kv = (await client.get(path)).kv
    before = (await client.put(f"{path}/other", "x")).revision
    done = await client.delete(path, prev_kv=True)
    assert (done.revision, done.deleted, done.prev_kvs) == (before + 1, 1, (kv,))


async def test_a_delete_of_nothing_is_no_revision(client: Client, path: str) -> None:
    before = (await client.put(f"{path}/other", "x")).revision
    done = await client.delete(path, prev_kv=True)
    assert (done.revision, done.deleted, done.prev_kvs) == (before, 0, ())
    assert (await client.put(path, "1")).revision == before + 1


async def test_a_delete_of_a_range_is_one_revision(client: Client, path: str) -> None:
    for name in "cabd":
        await client.put(f"{path}/{name}", name)
    before = (await client.get(path)).revision
    found = await client.get(f"{path}/a", range_end=f"{path}/d")
    done = await client.delete(f"{path}/a", f"{path}/d", prev_kv=True)
    assert (done.revision, done.deleted, done.prev_kvs) == (before + 1, 3, found.kvs)
    assert [kv.value for kv in await client.get_prefix(f"{path}/")] == [b"d"]
    without = await client.delete_prefix(f"{path}/")
    assert (without.deleted, without.prev_kvs) == (1, ())


async def test_a_delete_of_a_range_that_ends_before_it_begins(client: Client, path: str) -> None:
    await client.put(path, "1")
    before = (await client.get(path)).revision
    for end in (path, path[:-1]):
        done = await client.delete(path, end)
        assert (done.revision, done.deleted) == (before, 0)


@pytest.mark.at_the_root
async def test_a_delete_without_a_key(client: Client) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await client._kv.DeleteRange(pb.DeleteRangeRequest(range_end=b"\0"))
    assert caught.value.message == "etcdserver: key is not provided"


# ---- compaction --------------------------------------------------------------------


async def test_reads_of_history(client: Client, path: str) -> None:
    revisions = [(await client.put(path, str(index))).revision for index in range(3)]
    deleted = (await client.delete(path)).revision
    for index, revision in enumerate(revisions):
        found = await client.get(path, revision=revision)
        assert (found.value, found.count) == (str(index).encode(), 1)
        assert found.revision == deleted, "an answer has the store's revision, not the one asked"
    assert (await client.get(path, revision=revisions[0] - 1)).count == 0
    assert (await client.get(path, revision=deleted)).count == 0


async def test_a_read_below_zero_is_one_of_the_newest(client: Client, path: str) -> None:
    await client.put(path, "1")
    answer = await client._kv.Range(pb.RangeRequest(key=path.encode(), revision=-7))
    assert [kv.value for kv in answer.kvs] == [b"1"]


async def test_reads_of_the_future(client: Client, path: str) -> None:
    now = (await client.put(path, "1")).revision
    assert (await client.get(path, revision=now)).value == b"1"
    with pytest.raises(FutureRevision) as caught:
        await client.get(path, revision=now + 1)
    assert (caught.value.status, caught.value.message) == (
        Status.OUT_OF_RANGE,
        "etcdserver: mvcc: required revision is a future revision",
    )


async def test_compaction(client: Client, path: str) -> None:
    first, second, third = [(await client.put(path, text)).revision for text in "123"]
    await client.compact(second, physical=True)
    assert (await client.get(path, revision=third)).value == b"3"
    assert (await client.get(path, revision=second)).value == b"2"
    with pytest.raises(RevisionCompacted) as caught:
        await client.get(path, revision=first)
    assert (caught.value.status, caught.value.message) == (
        Status.OUT_OF_RANGE,
        "etcdserver: mvcc: required revision has been compacted",
    )
    found = await client.get(path)
    assert found.kv == KeyValue(path.encode(), b"3", first, third, 3, 0)
    assert found.revision == third, "a compaction is no revision"


async def test_a_compaction_that_is_done_already(client: Client, path: str) -> None:
    first, second = [(await client.put(path, text)).revision for text in "12"]
    await client.compact(second, physical=True)
    for revision in (second, first):
        with pytest.raises(RevisionCompacted) as caught:
            await client.compact(revision, physical=True)
        assert caught.value.message == "etcdserver: mvcc: required revision has been compacted"


async def test_a_compaction_below_zero(client: Client) -> None:
    with pytest.raises(RevisionCompacted):
        await client._kv.Compact(pb.CompactionRequest(revision=-1))


async def test_a_compaction_in_the_future(client: Client, path: str) -> None:
    now = (await client.put(path, "1")).revision
    with pytest.raises(FutureRevision) as caught:
        await client.compact(now + 1, physical=True)
    assert caught.value.message == "etcdserver: mvcc: required revision is a future revision"
    assert (await client.get(path, revision=now)).value == b"1"


async def test_a_compaction_of_a_deleted_key(client: Client, path: str) -> None:
    await client.put(path, "1")
    deleted = (await client.delete(path)).revision
    await client.compact(deleted, physical=True)
    assert (await client.get(path)).count == 0
    assert (await client.get(path, revision=deleted)).count == 0
    again = (await client.put(path, "2")).revision
    assert (await client.get(path)).kv == KeyValue(path.encode(), b"2", again, again, 1, 0)


# ---- the rest ----------------------------------------------------------------------


async def test_status(client: Client, path: str) -> None:
    revision = (await client.put(path, "1")).revision
    status = await client.status()
    assert status.revision == revision
    assert status.leader_id == status.member_id != 0
    major, minor, _ = status.version.split(".", 2)
    assert (int(major), int(minor)) >= (3, 4)
    assert status.db_size > 0


async def test_the_header_of_each_answer_is_of_one_member(client: Client, path: str) -> None:
    key = path.encode()
    headers = [
        (await client._kv.Range(pb.RangeRequest(key=key))).header,
        (await client._kv.Put(pb.PutRequest(key=key))).header,
        (await client._kv.DeleteRange(pb.DeleteRangeRequest(key=key))).header,
        (await client._kv.Txn(pb.TxnRequest())).header,
        (await client._lease.LeaseLeases(pb.LeaseLeasesRequest())).header,
        (await client.maintenance._stub.Status(pb.StatusRequest())).header,
    ]
    for header in headers:
        assert header.cluster_id == headers[0].cluster_id != 0
        assert header.member_id == headers[0].member_id != 0
        assert header.raft_term == headers[0].raft_term != 0


async def test_two_clients_see_the_same_store(server: Server, client: Client, path: str) -> None:
    async with server.open_client() as other:
        put = await client.put(path, "1")
        found = await other.get(path)
        assert (found.value, found.revision) == (b"1", put.revision)


@pytest.mark.at_the_root
@pytest.mark.parametrize(
    "call",
    [
        lambda client: client._kv.Range(pb.RangeRequest()),
        lambda client: client._kv.Range(pb.RangeRequest(range_end=b"\0")),
        lambda client: client._kv.Put(pb.PutRequest()),
        lambda client: client._kv.DeleteRange(pb.DeleteRangeRequest()),
        lambda client: client._kv.Txn(pb.TxnRequest(compare=[pb.Compare()])),
    ],
)
async def test_a_key_is_needed(client: Client, call: Callable[[Client], Awaitable[object]]) -> None:
    with pytest.raises(RpcError) as caught:
        await call(client)
    assert type(caught.value) is InvalidArgument
    assert caught.value.message == "etcdserver: key is not provided"
