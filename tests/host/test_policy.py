"""What an error does: each cell of the table of `policy`, on an etcd in memory that refuses."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from grpclib.const import Status

from tests.helpers import until
from tests.host.test_patience import KEYS, PATH, fleet, in_no_time
from tests.places import DOCS
from trio_sched import Client, Control, observe, schedule
from trio_sched.etcd_shim import errors
from trio_sched.etcd_shim._about import _ABOUT, TRANSIENT, About, about
from trio_sched.etcd_shim.errors import (
    ClientClosed,
    EtcdError,
    LeaseNotFound,
    RpcError,
    rpc_error,
)
from trio_sched.exceptions import HostnameInUse, SessionLost, StrategyError
from trio_sched.host.policy import POLICY, OurOwn, Then, Where, outcome, subject_of
from trio_sched.simulation import MemoryEtcd

PAGE = DOCS.joinpath("errors.md").read_text()

ERRORS = [
    rpc_error(Status.RESOURCE_EXHAUSTED, "etcdserver: too many requests"),
    rpc_error(Status.UNAVAILABLE, "etcdserver: no leader"),
    rpc_error(Status.UNAVAILABLE, "etcdserver: request timed out"),
    rpc_error(Status.DEADLINE_EXCEEDED, "context deadline exceeded"),
    rpc_error(Status.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded"),
    rpc_error(Status.RESOURCE_EXHAUSTED, "grpc: received message larger than max"),
    rpc_error(Status.UNKNOWN, "raft proposal dropped"),
    rpc_error(Status.UNIMPLEMENTED, "unknown service"),
    rpc_error(Status.INTERNAL, "a proxy's own words"),
    rpc_error(Status.INVALID_ARGUMENT, "etcdserver: request is too large"),
    rpc_error(Status.PERMISSION_DENIED, "etcdserver: permission denied"),
    rpc_error(Status.UNAUTHENTICATED, "etcdserver: invalid auth token"),
    rpc_error(Status.NOT_FOUND, "etcdserver: requested lease not found"),
    rpc_error(Status.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted"),
    rpc_error(Status.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision"),
]

Matches = Callable[[str, Any], bool]

SO_LONG = 6  # seconds: a proof falls into them, and they are over before a TTL of 10


def refuse(etcd: MemoryEtcd, error: RpcError, seconds: float, matches: Matches) -> None:
    """Let etcd answer what matches with an error, for a while."""
    end = trio.current_time() + seconds
    etcd.cluster.refusals.refuse = lambda method, request: (
        error if trio.current_time() < end and matches(method, request) else None
    )


def is_method(*names: str) -> Matches:
    return lambda method, _request: method in names


def puts(prefix: bytes, fenced_by: bytes = b"") -> Matches:
    """Match transactions that put a key that begins so."""

    def matches(method: str, request: Any) -> bool:
        if method != "KV/Txn":
            return False
        keys = [op.request_put.key for op in request.success if op.HasField("request_put")]
        compared = [compare.key for compare in request.compare]
        return any(key.startswith(prefix) for key in keys) and (
            not fenced_by or fenced_by in compared
        )

    return matches


# ---- what is seen, in each place -------------------------------------------------------


async def at_entry(error: RpcError) -> Then:
    etcd = MemoryEtcd()
    async with etcd.open_client() as client:
        refuse(etcd, error, 8, is_method("Lease/LeaseGrant"))
        try:
            async with schedule(client, PATH, "a") as result:
                await until(result, "a")
        except type(error):
            return Then.END
        return Then.LOSE  # there was no session yet; but it was tried again


async def joining(error: RpcError) -> Then:
    etcd = MemoryEtcd()
    async with etcd.open_client() as client:
        refuse(etcd, error, 8, puts(KEYS.exchange))
        try:
            async with schedule(client, PATH, "a") as result:
                await until(result, "a")
                return Then.WAIT if result.statistics().sessions == 1 else Then.LOSE
        except type(error):
            return Then.END


async def joined(error: RpcError) -> Then:
    etcd = MemoryEtcd()
    async with fleet(etcd, "a", "b") as (_, (_leader, follower)):
        refuse(etcd, error, SO_LONG, is_method("KV/Txn"))
        await trio.sleep(20)
        assert follower.newest
        return Then.WAIT if follower.statistics().sessions == 1 else Then.LOSE


async def while_leading(error: RpcError) -> Then:
    etcd = MemoryEtcd()
    async with fleet(etcd, "a", "b") as (client, (leader, other)):
        (candidate,) = [kv.key for kv in await client.get_prefix(KEYS.election) if kv.value == b"a"]
        refuse(etcd, error, 30, puts(KEYS.scheduled, candidate))
        await Control(client, PATH).set_count(2)
        await trio.sleep(29)
        if other.statistics().leading:
            assert other.newest == ("a", "b")
            return Then.RESIGN if leader.statistics().sessions == 1 else Then.LOSE
        assert leader.newest == ("a",)
        await until(leader, "a", "b")
        return Then.WAIT


async def taking_a_slot(error: RpcError) -> Then:
    etcd, begun = MemoryEtcd(), trio.Event()

    async def work(_slot: object) -> None:
        await trio.lowlevel.checkpoint()
        begun.set()

    async with fleet(etcd, "a") as (_, (result,)), trio.open_nursery() as nursery:
        refuse(etcd, error, 5, puts(KEYS.slots))
        nursery.start_soon(result.run_while_scheduled, work)
        await begun.wait()
        sessions = result.statistics().sessions
    return Then.WAIT if sessions == 1 else Then.LOSE


async def while_working(error: RpcError) -> Then:
    etcd, begun = MemoryEtcd(), list[float]()

    async def work(_slot: object) -> None:
        begun.append(trio.current_time())
        await trio.sleep_forever()

    async with fleet(etcd, "a") as (_, (result,)), trio.open_nursery() as nursery:
        nursery.start_soon(result.run_while_scheduled, work)
        await trio.sleep(1)
        refuse(etcd, error, SO_LONG, is_method("KV/Txn", "KV/Range"))
        await trio.sleep(30)
        nursery.cancel_scope.cancel()
        runs = len(begun)
    return Then.WAIT if runs == 1 else Then.LOSE


async def while_leaving(error: RpcError) -> Then:
    etcd = MemoryEtcd()
    async with etcd.open_client() as client:
        async with schedule(client, PATH, "a", shutdown_timeout=5) as result:
            await until(result, "a")
            refuse(etcd, error, 1, is_method("Lease/LeaseRevoke"))
        left = (await client.get_prefix(f"{PATH}/")).kvs
        return Then.LEAVE_IT if left else Then.WAIT


async def observing(error: RpcError) -> Then:
    etcd = MemoryEtcd()
    async with (
        fleet(etcd, "a") as (client, _),
        observe(client, PATH, pool=True, reconcile=1.0) as states,
        observe(client, PATH, reconcile=1.0) as decisions,
    ):
        refuse(etcd, error, 4, is_method("KV/Txn", "KV/Range"))
        await trio.sleep(20)
        await client.put(KEYS.host("z"), "TODO")
        async for state in states:
            if "z" in state.pool:
                break
        await Control(client, PATH).set_count(2)
        await until(decisions, "a", "z")
        return outcome(error, Where.OBSERVING)  # from without, one is as good as the other


SCENES: dict[Where, Callable[[RpcError], Awaitable[Then]]] = {
    Where.ENTRY: at_entry,
    Where.JOINING: joining,
    Where.JOINED: joined,
    Where.LEADING: while_leading,
    Where.TAKING: taking_a_slot,
    Where.WORKING: while_working,
    Where.LEAVING: while_leaving,
    Where.OBSERVING: observing,
}


def test_there_is_a_scene_for_each_place_and_an_error_of_each_kind() -> None:
    assert set(SCENES) == set(Where)
    assert {about(error) for error in ERRORS} == {*About} - {About.CLIENT}


@pytest.mark.parametrize("where", SCENES, ids=lambda where: where.name)
@pytest.mark.parametrize(
    "error", ERRORS, ids=lambda error: f"{type(error).__name__} {error.message}"
)
@in_no_time
async def test_what_an_answer_of_etcd_does(error: RpcError, where: Where) -> None:
    if isinstance(error, LeaseNotFound) and where is Where.LEADING:
        return  # it is the decision's lease then, and another is granted
    assert await SCENES[where](error) is outcome(error, where)


# ---- the rest of the table ---------------------------------------------------------------


@asynccontextmanager
async def client_to_be_left(etcd: MemoryEtcd) -> AsyncIterator[tuple[Client, trio.Event]]:
    """A client whose block is left by another task, when that is asked for."""
    leave = trio.Event()
    async with trio.open_nursery() as nursery:

        async def hold(task_status: trio.TaskStatus[Client]) -> None:
            async with etcd.open_client() as client:
                task_status.started(client)
                await leave.wait()

        yield await nursery.start(hold), leave


@in_no_time
async def test_leaving_the_clients_block_first_ends_hosts_that_use_it() -> None:
    async with client_to_be_left(MemoryEtcd()) as (client, leave):
        with pytest.raises(ClientClosed):
            async with schedule(client, PATH, "a") as result:
                await until(result, "a")
                leave.set()
                await trio.sleep_forever()


@in_no_time
async def test_leaving_the_clients_block_first_ends_observers_that_use_it() -> None:
    async with client_to_be_left(MemoryEtcd()) as (client, leave):
        with pytest.raises(ClientClosed):
            async with observe(client, PATH, pool=True) as states:
                await states.next()
                leave.set()
                with trio.CancelScope(shield=True):  # F36: who waits gets the cause
                    while True:
                        await states.next()


@pytest.mark.parametrize(
    ("error", "subject"),
    [
        (HostnameInUse(PATH, "a", 1), OurOwn.NAME),
        (StrategyError("mine", "it raised"), OurOwn.STRATEGY),
        (SessionLost(1, "gone"), About.GONE),
        (ClientClosed("left"), About.CLIENT),
        (ValueError("a bug"), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_an_error_is_about(error: Exception, subject: object) -> None:
    assert subject_of(error) is subject


def test_each_error_of_etcd_is_about_something() -> None:
    kinds = [getattr(errors, name) for name in errors.__all__]
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, EtcdError):
            assert any(base in _ABOUT for base in kind.__mro__)
    assert set(TRANSIENT) == {kind for kind, what in _ABOUT.items() if what is About.WAY}


def test_the_page_has_the_same_table() -> None:
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in re.findall(r"^\|.*\|$", PAGE, re.MULTILINE)
    ]
    places = rows[0][1:]
    assert places == [where.value for where in Where]
    shown = {row[0]: dict(zip(places, row[1:], strict=True)) for row in rows[2 : 2 + len(POLICY)]}
    assert shown == {
        subject.value: {where.value: then.value for where, then in cells.items()}
        for subject, cells in POLICY.items()
    }


def test_the_page_names_each_error_with_what_it_is_about() -> None:
    for kind, what in _ABOUT.items():
        (line,) = [line for line in PAGE.splitlines() if line.startswith(f"- *{what.value}*")]
        assert f"`{kind.__name__}`" in PAGE[PAGE.index(line) :].split("\n- *")[0]
