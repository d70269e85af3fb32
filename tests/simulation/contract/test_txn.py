"""Transactions: conditions, branches, and one revision for all that is written."""

from __future__ import annotations

from typing import Literal

import pytest
from grpclib.const import Status

from trio_sched.etcd_shim import (
    ALL_KEYS,
    Client,
    Compare,
    Delete,
    DeleteResult,
    EventType,
    Get,
    Put,
    PutResult,
    Txn,
    TxnResult,
)
from trio_sched.etcd_shim._pb import messages_pb2 as pb
from trio_sched.etcd_shim.errors import (
    FutureRevision,
    InvalidArgument,
    LeaseNotFound,
    RevisionCompacted,
)
from trio_sched.etcd_shim.kv import Relation

RELATIONS: tuple[Relation, ...] = ("==", "!=", "<", ">")
NUMBERS = ("version", "create_revision", "mod_revision", "lease")
Number = Literal["version", "create_revision", "mod_revision", "lease"]


def holds(relation: Relation, left: int | bytes, right: int | bytes) -> bool:
    if isinstance(left, int) and isinstance(right, int):
        order = (left > right) - (left < right)
    else:
        assert isinstance(left, bytes)
        assert isinstance(right, bytes)
        order = (left > right) - (left < right)
    return {"==": order == 0, "!=": order != 0, "<": order < 0, ">": order > 0}[relation]


async def succeeds(client: Client, *compares: Compare) -> bool:
    return (await client.txn(compares)).succeeded


# ---- compares ----------------------------------------------------------------------


@pytest.mark.parametrize("target", NUMBERS)
async def test_compares_of_numbers(client: Client, path: str, target: Number) -> None:
    lease = await client.lease_grant(1000)
    for _ in range(3):
        await client.put(path, "x", lease=lease.id)
    kv = (await client.get(path)).kv
    assert kv is not None
    found = int(getattr(kv, target))
    assert len({kv.version, kv.create_revision, kv.mod_revision, kv.lease}) == 4
    for relation in RELATIONS:
        for operand in (found - 1, found, found + 1):
            compare = Compare(path.encode(), target, relation, operand)
            assert await succeeds(client, compare) == holds(relation, found, operand), compare


@pytest.mark.parametrize("target", NUMBERS)
async def test_compares_of_numbers_of_a_key_that_is_not_there(
    client: Client, path: str, target: Number
) -> None:
    for relation in RELATIONS:
        for operand in (-1, 0, 1):
            compare = Compare(path.encode(), target, relation, operand)
            assert await succeeds(client, compare) == holds(relation, 0, operand), compare


async def test_compares_of_values(client: Client, path: str) -> None:
    await client.put(path, "m")
    for relation in RELATIONS:
        for operand in (b"", b"a", b"m", b"m\0", b"z", b"\xff"):
            compare = Compare.value(path, relation, operand)
            assert await succeeds(client, compare) == holds(relation, b"m", operand), compare


async def test_no_compare_of_the_value_of_a_key_that_is_not_there_holds(
    client: Client, path: str
) -> None:
    for relation in RELATIONS:
        for operand in (b"", b"a"):
            assert not await succeeds(client, Compare.value(path, relation, operand))


async def test_a_compare_of_an_empty_value(client: Client, path: str) -> None:
    await client.put(path, "")
    assert await succeeds(client, Compare.value(path, "==", ""))
    assert not await succeeds(client, Compare.value(path, "!=", ""))


async def test_all_compares_must_hold(client: Client, path: str) -> None:
    await client.put(path, "m")
    yes, no = Compare.value(path, "==", "m"), Compare.value(path, "==", "n")
    assert await succeeds(client)
    assert await succeeds(client, yes, yes)
    assert not await succeeds(client, yes, no)
    assert not await succeeds(client, no, yes)


async def test_compares_of_a_range(client: Client, path: str) -> None:
    for name in "abc":
        await client.put(f"{path}/{name}", "x")
    await client.put(f"{path}/b", "y")
    prefix = f"{path}/"
    assert await succeeds(client, Compare.value(prefix, ">", "w").over_prefix())
    assert not await succeeds(client, Compare.value(prefix, "==", "x").over_prefix())
    assert await succeeds(client, Compare.version(prefix, ">", 0).over_prefix())
    assert not await succeeds(client, Compare.version(prefix, "==", 1).over_prefix())
    assert await succeeds(client, Compare.value(f"{path}/a", "==", "x").over(f"{path}/b"))
    assert await succeeds(client, Compare.lease(prefix, "==", 0).over_prefix())
    assert not await succeeds(client, Compare.create_revision(prefix, "==", 0).over_prefix())


async def test_compares_of_an_empty_range(client: Client, path: str) -> None:
    prefix = f"{path}/"
    for make in (Compare.version, Compare.create_revision, Compare.mod_revision, Compare.lease):
        assert await succeeds(client, make(prefix, "==", 0).over_prefix())
        assert await succeeds(client, make(prefix, "<", 1).over_prefix())
        assert not await succeeds(client, make(prefix, ">", 0).over_prefix())
    for relation in RELATIONS:
        assert not await succeeds(client, Compare.value(prefix, relation, "").over_prefix())


async def test_a_compare_of_everything_from_a_key_on(client: Client, path: str) -> None:
    await client.put(path, "x")
    assert await succeeds(client, Compare.create_revision(path, ">", 0).over(ALL_KEYS))
    assert not await succeeds(client, Compare.create_revision(path, "==", 0).over(ALL_KEYS))


async def test_a_compare_without_an_operand_is_one_with_zero(client: Client, path: str) -> None:
    key = path.encode()
    for target in (pb.Compare.VERSION, pb.Compare.CREATE, pb.Compare.MOD, pb.Compare.LEASE):
        compare = pb.Compare(key=key, target=target)
        assert (await client._kv.Txn(pb.TxnRequest(compare=[compare]))).succeeded
    await client.put(path, "")
    compare = pb.Compare(key=key, target=pb.Compare.VALUE)
    assert (await client._kv.Txn(pb.TxnRequest(compare=[compare]))).succeeded


# ---- branches ----------------------------------------------------------------------


async def test_the_branch_that_is_not_taken_does_nothing(client: Client, path: str) -> None:
    branches = [Put(f"{path}/yes", "1")], [Put(f"{path}/no", "1")]
    done = await client.txn([Compare.version(path, "==", 0)], *branches)
    assert done.succeeded
    assert [kv.key for kv in await client.get_prefix(f"{path}/")] == [f"{path}/yes".encode()]
    done = await client.txn([Compare.version(path, "==", 1)], *branches)
    assert not done.succeeded
    assert [kv.key[-2:] for kv in await client.get_prefix(f"{path}/")] == [b"no", b"es"]


async def test_an_empty_transaction(client: Client, path: str) -> None:
    before = (await client.put(path, "1")).revision
    assert await client.txn() == TxnResult(succeeded=True, responses=(), revision=before)
    failed = await client.txn([Compare.version(path, "==", 0)], [Put(path, "2")])
    assert failed == TxnResult(succeeded=False, responses=(), revision=before)


async def test_each_operation_is_answered_in_its_order(client: Client, path: str) -> None:
    first = (await client.put(f"{path}/a", "1")).revision
    done = await client.txn(
        success=[
            Get(f"{path}/a"),
            Put(f"{path}/b", "2", prev_kv=True),
            Delete(f"{path}/a", prev_kv=True),
            Get.prefix(f"{path}/"),
        ]
    )
    before, put, deleted, after = done.responses
    assert done.revision == first + 1
    assert done.get(0).value == b"1"
    assert isinstance(put, PutResult)
    assert put.prev_kv is None
    assert isinstance(deleted, DeleteResult)
    assert (deleted.deleted, deleted.prev_kvs) == (1, done.get(0).kvs)
    assert [kv.value for kv in done.get(3)] == [b"2"]
    assert (before, after) == (done.get(0), done.get(3))


# ---- revisions ---------------------------------------------------------------------


async def test_all_writes_are_one_revision(client: Client, path: str) -> None:
    await client.put(f"{path}/c", "0")
    before = (await client.get(path)).revision
    done = await client.txn(
        success=[Put(f"{path}/b", "1"), Delete(f"{path}/c"), Put(f"{path}/a", "2")]
    )
    assert done.revision == before + 1
    found = await client.get_prefix(f"{path}/")
    assert {(kv.create_revision, kv.mod_revision) for kv in found} == {(before + 1, before + 1)}
    assert found.revision == before + 1


async def test_a_transaction_that_only_reads_is_no_revision(client: Client, path: str) -> None:
    before = (await client.put(path, "1")).revision
    done = await client.txn(success=[Get(path), Txn(success=[Get(path)])])
    assert done.revision == before
    assert (await client.put(path, "2")).revision == before + 1


async def test_a_transaction_that_deletes_nothing_is_no_revision(client: Client, path: str) -> None:
    before = (await client.put(path, "1")).revision
    done = await client.txn(success=[Delete(f"{path}/a"), Delete.prefix(f"{path}/")])
    assert done.revision == before
    assert (await client.put(path, "2")).revision == before + 1


async def test_it_reads_what_it_wrote(client: Client, path: str) -> None:
    done = await client.txn(success=[Get(path), Put(path, "1"), Get(path)])
    assert done.get(0).kv is None
    kv = done.get(2).kv
    assert kv is not None
    assert (kv.value, kv.create_revision, kv.version) == (b"1", done.revision, 1)


async def test_the_inner_answers_have_the_revision_so_far(client: Client, path: str) -> None:
    key = path.encode()
    before = (await client.put(path, "1")).revision
    get = pb.RequestOp(request_range=pb.RangeRequest(key=key))
    put = pb.RequestOp(request_put=pb.PutRequest(key=key))
    nothing = pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=b"/nowhere"))
    answer = await client._kv.Txn(pb.TxnRequest(success=[get, nothing, put, get, nothing]))
    revisions = [
        answer.responses[0].response_range.header.revision,
        answer.responses[1].response_delete_range.header.revision,
        answer.responses[2].response_put.header.revision,
        answer.responses[3].response_range.header.revision,
        answer.responses[4].response_delete_range.header.revision,
    ]
    assert revisions == [before, before, before + 1, before + 1, before + 1]
    assert answer.responses[0].response_range.header.cluster_id == 0
    assert answer.header.cluster_id != 0


async def test_reads_of_history_within_a_transaction(client: Client, path: str) -> None:
    first, second = [(await client.put(path, text)).revision for text in "12"]
    done = await client.txn(success=[Put(path, "3"), Get(path, revision=first), Get(path)])
    assert done.get(1).value == b"1"
    assert done.get(2).value == b"3"
    with pytest.raises(FutureRevision):
        await client.txn(success=[Put(path, "4"), Get(path, revision=second + 2)])
    assert (await client.get(path)).value == b"3", "a transaction that fails writes nothing"


async def test_a_read_of_the_revision_that_it_makes_is_of_the_future(
    client: Client, path: str
) -> None:
    now = (await client.put(path, "1")).revision
    with pytest.raises(FutureRevision):
        await client.txn(success=[Put(path, "2"), Get(path, revision=now + 1)])
    assert (await client.get(path)).value == b"1"


async def test_a_read_below_zero_within_a_transaction_is_of_compacted_history(
    client: Client, path: str
) -> None:
    await client.put(path, "1")
    read = pb.RangeRequest(key=path.encode(), revision=-7)
    with pytest.raises(RevisionCompacted):
        await client._kv.Txn(pb.TxnRequest(success=[pb.RequestOp(request_range=read)]))


async def test_reads_of_compacted_history_within_a_transaction(client: Client, path: str) -> None:
    first, second = [(await client.put(path, text)).revision for text in "12"]
    await client.compact(second, physical=True)
    with pytest.raises(RevisionCompacted):
        await client.txn(success=[Put(path, "3"), Get(path, revision=first)])
    assert (await client.get(path)).value == b"2"
    done = await client.txn([Compare.version(path, "==", 0)], [Get(path, revision=first)])
    assert not done.succeeded, "what is in the other branch does not matter"


# ---- nested ------------------------------------------------------------------------


async def test_nested_transactions(client: Client, path: str) -> None:
    a, b = f"{path}/a", f"{path}/b"
    inner = Txn([Compare.version(a, "==", 0)], [Put(b, "new")], [Put(b, "old"), Get(b)])
    done = await client.txn(success=[inner, Get(b)])
    (first, read) = done.responses
    assert isinstance(first, TxnResult)
    assert first.succeeded
    assert done.get(1) == read
    assert done.get(1).value == b"new"
    await client.put(a, "1")
    done = await client.txn(success=[Txn(success=[inner])])
    outer = done.responses[0]
    assert isinstance(outer, TxnResult)
    first = outer.responses[0]
    assert isinstance(first, TxnResult)
    assert not first.succeeded
    assert first.get(1).value == b"old"


async def test_compares_within_are_of_the_state_before(client: Client, path: str) -> None:
    inner = Txn([Compare.version(path, "==", 0)], [Put(f"{path}/b", "1")])
    done = await client.txn(success=[Put(path, "1"), inner])
    first = done.responses[1]
    assert isinstance(first, TxnResult)
    assert first.succeeded, "all compares are made before anything is written"


async def test_nested_in_a_branch_that_is_not_taken(client: Client, path: str) -> None:
    inner = Txn(success=[Put(f"{path}/b", "1")])
    done = await client.txn([Compare.version(path, "==", 1)], [inner], [Get(path)])
    assert not done.succeeded
    assert (await client.get_prefix(f"{path}/")).count == 0


async def test_many_levels(client: Client, path: str) -> None:
    request = Txn(success=[Put(path, "deep")])
    for _ in range(20):
        request = Txn(success=[request])
    await client.txn(success=[request])
    assert (await client.get(path)).value == b"deep"


# ---- what is refused ---------------------------------------------------------------

DUPLICATES = {
    "two puts": [Put("k", "1"), Put("k", "2")],
    "a put and a delete": [Put("k", "1"), Delete("k")],
    "a delete and a put": [Delete("k"), Put("k", "1")],
    "a put in a range of a delete": [Delete("j", "l"), Put("k", "1")],
    "a put within": [Put("k", "1"), Txn(success=[Put("k", "2")])],
    "a put within, in the other branch": [Put("k", "1"), Txn(failure=[Put("k", "2")])],
    "a put in each of two": [Txn(success=[Put("k", "1")]), Txn(success=[Put("k", "2")])],
    "a delete within": [Put("k", "1"), Txn(success=[Delete("k")])],
    "a put within and a delete": [Txn(success=[Put("k", "1")]), Delete("k")],
}


@pytest.mark.parametrize("operations", DUPLICATES.values(), ids=DUPLICATES)
@pytest.mark.parametrize("branch", ["success", "failure"])
async def test_two_writes_of_one_key(
    client: Client, operations: list[Get | Put | Delete | Txn], branch: str
) -> None:
    before = (await client.get("k")).revision
    with pytest.raises(InvalidArgument) as caught:
        if branch == "success":
            await client.txn(success=operations)
        else:
            await client.txn(failure=operations)
    assert (caught.value.status, caught.value.message) == (
        Status.INVALID_ARGUMENT,
        "etcdserver: duplicate key given in txn request",
    )
    found = await client.get("k")
    assert (found.kv, found.revision) == (None, before)


async def test_one_key_in_both_branches(client: Client, path: str) -> None:
    inner = Txn(success=[Put(f"{path}/b", "1")], failure=[Put(f"{path}/b", "2")])
    await client.txn(success=[Put(path, "1"), inner], failure=[Delete(path), Put(f"{path}/b", "")])
    assert (await client.get(path)).value == b"1"


@pytest.mark.at_the_root
async def test_a_delete_of_everything_from_a_key_on_and_a_put(client: Client, path: str) -> None:
    """etcd does not see that these are of one key; what is put is deleted at once."""
    before = (await client.get(path)).revision
    async with client.watch(f"{path}/", prefix=True, prev_kv=True) as watcher:
        await client.txn(success=[Put(f"{path}/b", "1"), Delete(f"{path}/a", ALL_KEYS)])
        batch = await watcher.receive()
    assert [event.type for event in batch.events] == [EventType.PUT, EventType.DELETE]
    assert {event.kv.mod_revision for event in batch.events} == {before + 1}
    assert [event.prev_kv for event in batch.events] == [None, None], "that is of the state before"
    assert (await client.get_prefix(f"{path}/")).count == 0


async def test_two_deletes_of_one_key(client: Client, path: str) -> None:
    before = (await client.put(path, "1")).revision
    done = await client.txn(success=[Delete(path), Delete(path)])
    first, second = done.responses
    assert isinstance(first, DeleteResult)
    assert isinstance(second, DeleteResult)
    assert (first.deleted, second.deleted, done.revision) == (1, 0, before + 1)


async def test_128_operations_are_enough(client: Client, path: str) -> None:
    puts = [Put(f"{path}/{index:03}", "x") for index in range(129)]
    compares = [Compare.version(put.key, "==", 0) for put in puts]
    done = await client.txn(compares[:128], puts[:128], puts[:128])
    assert done.succeeded
    assert (await client.get_prefix(f"{path}/")).count == 128
    for too_many in (Txn(compares), Txn(success=puts), Txn(failure=puts)):
        with pytest.raises(InvalidArgument) as caught:
            await client._kv.Txn(too_many.encode())
        assert (caught.value.status, caught.value.message) == (
            Status.INVALID_ARGUMENT,
            "etcdserver: too many operations in txn request",
        )


async def test_those_within_count_with_those_around(client: Client, path: str) -> None:
    inner = Txn(success=[Put(f"{path}/inner-{index:03}", "x") for index in range(64)])
    outer = [Put(f"{path}/{index:03}", "x") for index in range(63)]
    assert (await client.txn(success=[*outer, inner])).succeeded
    with pytest.raises(InvalidArgument, match="too many operations"):
        await client.txn(success=[*outer, Get(path), inner])


async def test_an_operation_that_is_none(client: Client) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await client._kv.Txn(pb.TxnRequest(success=[pb.RequestOp()]))
    assert caught.value.message == "etcdserver: key not found"


@pytest.mark.at_the_root
@pytest.mark.parametrize(
    "operation",
    [
        pb.RequestOp(request_range=pb.RangeRequest()),
        pb.RequestOp(request_put=pb.PutRequest()),
        pb.RequestOp(request_delete_range=pb.DeleteRangeRequest()),
        pb.RequestOp(request_txn=pb.TxnRequest(compare=[pb.Compare()])),
    ],
    ids=str,
)
async def test_an_operation_without_a_key(client: Client, operation: pb.RequestOp) -> None:
    for request in (pb.TxnRequest(success=[operation]), pb.TxnRequest(failure=[operation])):
        with pytest.raises(InvalidArgument) as caught:
            await client._kv.Txn(request)
        assert caught.value.message == "etcdserver: key is not provided"


async def test_a_put_with_a_lease_that_is_not_there(client: Client, path: str) -> None:
    before = (await client.put(path, "1")).revision
    with pytest.raises(LeaseNotFound) as caught:
        await client.txn(success=[Put(f"{path}/a", "2"), Put(f"{path}/b", "2", lease=1234567)])
    assert caught.value.message == "etcdserver: requested lease not found"
    found = await client.get_prefix(path)
    assert (found.count, found.revision) == (1, before)
    done = await client.txn(failure=[Put(f"{path}/b", "2", lease=1234567)])
    assert done.succeeded, "what is in the other branch does not matter"


async def test_puts_are_checked_before_reads(client: Client, path: str) -> None:
    now = (await client.put(path, "1")).revision
    with pytest.raises(LeaseNotFound):
        await client.txn(success=[Get(path, revision=now + 9), Put(path, "2", lease=1234567)])


async def test_a_put_that_keeps_the_value_of_a_key_that_is_not_there(
    client: Client, path: str
) -> None:
    inner = Txn(success=[Put(f"{path}/a", ignore_value=True)])
    refused: list[list[Put | Txn]] = [
        [Put(f"{path}/a", ignore_value=True)],
        [Put(path, "1"), inner],
    ]
    for operations in refused:
        with pytest.raises(InvalidArgument) as caught:
            await client.txn(success=operations)
        assert caught.value.message == "etcdserver: key not found"
    assert (await client.get_prefix(path)).count == 0
