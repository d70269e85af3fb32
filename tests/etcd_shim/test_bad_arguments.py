"""A bad argument to the etcd client is told by the call that it is given to, and harms no other."""

from __future__ import annotations

import inspect
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest
import trio

from tests.bad_values import (
    CHOICE,
    COUNT,
    FLAG,
    INT64,
    KEY,
    NAME,
    OBJECT,
    POSITIVE,
    RANGE_END,
    SECONDS,
    SEQUENCE,
    TEXT,
    Call,
    or_none,
)
from trio_sched import etcd_shim
from trio_sched.etcd_shim import (
    Client,
    Compare,
    Delete,
    Get,
    PingPolicy,
    Put,
    Txn,
    open_client,
    prefix_range,
    tls_context,
)
from trio_sched.etcd_shim.errors import (
    ConnectionFailed,
    FutureRevision,
    LeaseNotFound,
    RequestTooLarge,
)
from trio_sched.etcd_shim.lease import MAX_TTL
from trio_sched.simulation import MemoryEtcd

if TYPE_CHECKING:
    pass

MB: Final = 1_000_000
LARGE: Final = b"x" * (3 * MB)

READ: Final = {
    "range_end": RANGE_END,
    "limit": COUNT,
    "revision": COUNT,
    "sort_order": [*or_none(CHOICE), "upwards"],
    "sort_target": [None, *CHOICE],
    "serializable": FLAG,
    "keys_only": FLAG,
    "count_only": FLAG,
    "min_mod_revision": COUNT,
    "max_mod_revision": COUNT,
    "min_create_revision": COUNT,
    "max_create_revision": COUNT,
}
READ_PREFIX: Final = {name: bad for name, bad in READ.items() if name != "range_end"}
TTL: Final = [*POSITIVE, MAX_TTL + 1]
NEW_LEASE: Final = [*or_none(INT64), 0]
WRONG_SEQUENCE: Final = [*SEQUENCE, [Get], ["x"]]
ENDPOINT: Final = [
    *NAME,
    "localhost",
    "ftp://localhost",
    "http://",
    "http://localhost:0",
    "http://localhost:65536",
    "http://localhost:x",
    "http://localhost/path",
    "http://[::1",
    "http://a\x00b:2379",
    "http://a\nb:2379",
    f"http://{'a' * 64}:2379",
    f"http://{'a' * 64}.example.org:2379",
    f"http://{'ü' * 60}.example.org:2379",
    f"http://{'a.' * 200}:2379",
    "http://a..b:2379",
    f"http://{'a' * 3 * MB}:2379",
    "unix://",
    "unix:///tmp/a\x00b",
]


# All methods of a client that are public.
CLIENT: Final = {
    "get": Call(Client.get, {"key": KEY, **READ}, {"key": "k"}, options=Get),
    "get_prefix": Call(
        Client.get_prefix, {"prefix": RANGE_END, **READ_PREFIX}, {"prefix": "k"}, options=Get
    ),
    "read": Call(Client.read, {"request": [*OBJECT, Get, Put("k")]}),
    "put": Call(
        Client.put,
        {
            "key": KEY,
            "value": RANGE_END,
            "lease": INT64,
            "prev_kv": FLAG,
            "ignore_value": FLAG,
            "ignore_lease": FLAG,
        },
        {"key": "k", "value": "v"},
    ),
    "set_endpoints": Call(Client.set_endpoints, {"endpoints": ENDPOINT}),
    "compact": Call(Client.compact, {"revision": POSITIVE, "physical": FLAG}, {"revision": 1}),
    "delete": Call(
        Client.delete, {"key": KEY, "range_end": RANGE_END, "prev_kv": FLAG}, {"key": "k"}
    ),
    "delete_prefix": Call(
        Client.delete_prefix, {"prefix": RANGE_END, "prev_kv": FLAG}, {"prefix": "k"}
    ),
    "txn": Call(
        Client.txn,
        {
            "compare": [*WRONG_SEQUENCE, [Put("k")]],
            "success": [*WRONG_SEQUENCE, [Compare.version("k", "==", 0)]],
            "failure": WRONG_SEQUENCE,
        },
    ),
    "lease_grant": Call(Client.lease_grant, {"ttl": TTL, "lease": NEW_LEASE}, {"ttl": 5}),
    "lease_revoke": Call(Client.lease_revoke, {"lease": INT64}),
    "lease_renew": Call(Client.lease_renew, {"lease": INT64}),
    "lease_time_to_live": Call(
        Client.lease_time_to_live, {"lease": INT64, "keys": FLAG}, {"lease": 5}
    ),
    "lease_list": Call(Client.lease_list),
    "open_lease": Call(Client.open_lease, {"ttl": TTL, "lease": NEW_LEASE}, {"ttl": 5}),
    "watch": Call(
        Client.watch,
        {
            "key": [*KEY, LARGE],
            "prefix": FLAG,
            "range_end": [*RANGE_END, LARGE],
            "start_revision": COUNT,
            "prev_kv": FLAG,
            "puts": FLAG,
            "deletes": FLAG,
            "progress_notify": FLAG,
            "buffer_size": POSITIVE,
        },
        {"key": "k"},
    ),
    "follow": Call(
        Client.follow,
        {"prefix": [*RANGE_END, LARGE], "reconcile": or_none(SECONDS), "buffer_size": POSITIVE},
        {"prefix": "k"},
    ),
    "namespace": Call(Client.namespace, {"prefix": KEY}),
    "status": Call(Client.status),
    "statistics": Call(Client.statistics),
}

CONDITION: Final = {"key": KEY, "relation": [None, *CHOICE, "=", ">="]}
TXN: Final = {"compare": WRONG_SEQUENCE, "success": WRONG_SEQUENCE, "failure": WRONG_SEQUENCE}
COMPARE: Final = {
    "version": {**CONDITION, "version": INT64},
    "create_revision": {**CONDITION, "revision": INT64},
    "mod_revision": {**CONDITION, "revision": INT64},
    "value": {**CONDITION, "value": RANGE_END},
    "lease": {**CONDITION, "lease": INT64},
}
SOME: Final = {"key": "k", "relation": "==", "version": 1, "revision": 1, "value": "v", "lease": 1}

# What is put into a transaction; it need not be refused before that.
PARTS: Final = {
    Get: Call(Get, {"key": KEY, **READ}, {"key": "k"}),
    Put: Call(
        Put,
        {
            "key": KEY,
            "value": RANGE_END,
            "lease": INT64,
            "prev_kv": FLAG,
            "ignore_value": FLAG,
            "ignore_lease": FLAG,
        },
        {"key": "k"},
    ),
    Delete: Call(Delete, {"key": KEY, "range_end": RANGE_END, "prev_kv": FLAG}, {"key": "k"}),
    Compare: Call(
        Compare,
        {
            "key": KEY,
            "target": [None, *CHOICE],
            "relation": [None, *CHOICE],
            "operand": INT64,
            "range_end": RANGE_END,
        },
        {"key": b"k", "target": "version", "relation": "==", "operand": 0},
    ),
    Txn: Call(Txn, TXN),
}

FILE: Final[list[object]] = [5, 1.5, None, b"x", [], "/nowhere\x00"]
FUNCTIONS: Final = {
    "open_client": Call(
        open_client,
        {
            "endpoints": ENDPOINT,
            "user": [*or_none(NAME), "me"],
            "password": [*or_none(TEXT), "secret"],
            "ssl_context": [*or_none(OBJECT), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)],
            "connect_timeout": SECONDS,
            "max_message_size": POSITIVE,
            "pings": [*or_none(OBJECT), PingPolicy],
            "auto_sync_interval": or_none(SECONDS),
        },
    ),
    "PingPolicy": Call(
        PingPolicy,
        {
            "gap": [each for each in SECONDS if each != 0],
            "interval": SECONDS,
            "patience": [each for each in SECONDS if each != 0],
            "timeout": SECONDS,
            "grace": [each for each in SECONDS if each != 0],
        },
    ),
    "tls_context": Call(
        tls_context, {"cacert": FILE, "cert": FILE, "key": FILE, "key_password": or_none(TEXT)}
    ),
    "prefix_range": Call(prefix_range, {"prefix": RANGE_END}),
}

# What the client gives, and so nobody makes.
GIVEN: Final = {
    "ALL_KEYS",
    "Alarm",
    "Auth",
    "AuthStatus",
    "ChannelStatistics",
    "Client",
    "Cluster",
    "ClusterMember",
    "ConnectionStatistics",
    "DeleteResult",
    "EndpointStatistics",
    "EtcdError",
    "Event",
    "EventType",
    "Follower",
    "GetResult",
    "Hash",
    "KeptLease",
    "KeyValue",
    "Lease",
    "LeaseInfo",
    "Maintenance",
    "MemberStatus",
    "Permission",
    "PutResult",
    "ResponseHeader",
    "TLSContext",
    "TxnResult",
    "WatchBatch",
    "Watcher",
}


def test_f72_the_tables_have_all_that_is_public() -> None:
    methods = {name for name, each in vars(Client).items() if inspect.isfunction(each)}
    assert {name for name in methods if not name.startswith("_")} == CLIENT.keys()
    parts = {part.__name__ for part in PARTS}
    assert FUNCTIONS.keys() | parts | GIVEN == etcd_shim._HOMES.keys()
    made = {name for name, each in vars(Compare).items() if isinstance(each, classmethod)}
    assert made == COMPARE.keys()


@pytest.mark.parametrize("call", [*CLIENT.values(), *PARTS.values(), *FUNCTIONS.values()])
def test_f72_the_tables_have_all_parameters(call: Call) -> None:
    if call.options is None:
        assert not call.missing()
    else:  # of a read, some of which are arguments by themselves
        assert not call.missing() - {"range_end", "key"}


@asynccontextmanager
async def others_unharmed(client: Client, path: str = "/p") -> AsyncIterator[None]:
    """Have a watch, a lease and a read on the same client, and see that they go on."""
    async with (
        client.watch(f"{path}/beside/", prefix=True) as events,
        client.follow(f"{path}/beside/") as follower,
        client.open_lease(30) as kept,
    ):
        await client.lease_renew(kept.id)
        key = f"{path}/beside/a".encode()
        connects = client.statistics().connects
        yield
        await client.put(key, "b", lease=kept.id)
        assert (await events.receive()).events[0].kv.key == key
        assert (await follower.receive()).events[0].kv.key == key
        assert await client.lease_renew(kept.id)
        assert (await client.get(key)).value == b"b"
        assert kept.alive
        assert client.statistics().connects == connects


@pytest.mark.parametrize("name", CLIENT)
async def test_f72_each_method_tells_before_anything_is_sent(name: str) -> None:
    etcd = MemoryEtcd()
    async with etcd.open_client() as client, others_unharmed(client):
        before = dict(etcd.cluster.refusals.counts)
        assert not await CLIENT[name].wrong(client)
        assert dict(etcd.cluster.refusals.counts) == before


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
@pytest.mark.parametrize("where", ["at the top", "within another"])
async def test_f72_each_part_of_a_transaction_is_checked(part: type, where: str) -> None:
    etcd = MemoryEtcd()
    async with etcd.open_client() as client, others_unharmed(client):
        before = dict(etcd.cluster.refusals.counts)

        async def send(**arguments: Any) -> None:
            made = part(**arguments)
            txn = Txn([made]) if part is Compare else Txn(success=[made])
            if where == "within another":
                txn = Txn(failure=[txn])
            await client.txn(txn.compare, txn.success, txn.failure)

        assert not await Call(send, PARTS[part].bad, PARTS[part].good).wrong()
        assert dict(etcd.cluster.refusals.counts) == before


@pytest.mark.parametrize("name", COMPARE)
async def test_f72_each_condition_is_checked(name: str) -> None:
    make = getattr(Compare, name)
    good = {each: SOME[each] for each in inspect.signature(make).parameters}
    call = Call(make, COMPARE[name], good)
    assert not call.missing()
    assert not await call.wrong()
    over = Call(make(**good).over, {"range_end": RANGE_END})
    assert not over.missing()
    assert not await over.wrong()


@pytest.mark.parametrize("name", FUNCTIONS)
async def test_f72_each_function_checks_its_arguments(name: str) -> None:
    assert not await FUNCTIONS[name].wrong()


async def test_f72_arguments_that_do_not_go_together() -> None:
    client_of = open_client("http://127.0.0.1:1")
    with pytest.raises(ValueError, match="user and password together"):
        open_client(user="me")
    async with client_of as client:
        with pytest.raises(ValueError, match="not both"):
            client.watch("k", prefix=True, range_end="l")
        with pytest.raises(ValueError, match="neither"):
            client.watch("k", puts=False, deletes=False)
        with pytest.raises(ValueError, match="at most 512000 bytes"):
            client.watch(b"x" * 256_001, prefix=True)
        assert client.statistics().connects == 0


async def test_f72_transactions_may_be_nested_but_not_without_end() -> None:
    etcd = MemoryEtcd()
    nested = Txn(success=[Put("k", "v")])
    for _ in range(31):
        nested = Txn(success=[nested])
    endless = Txn(success=(loop := []))
    loop.append(endless)
    async with etcd.open_client() as client, others_unharmed(client):
        for deep in (Txn(success=[nested]), endless):
            with pytest.raises(ValueError, match="32 levels"):
                await client.txn(success=[deep])
        assert not etcd.cluster.refusals.counts["KV/Txn"]


async def refused_by_etcd(client: Client, path: str) -> None:
    """Ask for what only etcd can judge; each is told to the call alone."""
    for lease in (0, -5, 2**63 - 1, -(2**63)):
        with pytest.raises(LeaseNotFound):
            await client.lease_renew(lease)
        with pytest.raises(LeaseNotFound):
            await client.lease_revoke(lease)
        with pytest.raises(LeaseNotFound):
            await client.lease_time_to_live(lease)
        if lease:
            with pytest.raises(LeaseNotFound):
                await client.put(path, "v", lease=lease)
    with pytest.raises(FutureRevision):
        await client.get(path, revision=2**63 - 1)
    async with client.watch(path, start_revision=2**63 - 1):
        pass
    for large in (path.encode() + LARGE, path.encode() + LARGE[:1_600_000]):
        with pytest.raises(RequestTooLarge):
            await client.put(large, "v")
        with pytest.raises(RequestTooLarge):
            await client.put(path, large)
        with pytest.raises(RequestTooLarge):
            await client.delete(large)
        with pytest.raises(RequestTooLarge):
            await client.txn([Compare.value(path, "==", large)], [Put(path, "v")])
    assert (await client.get(path)).kv is None


async def test_f72_what_etcd_refuses_harms_no_other_call(path: str) -> None:
    async with MemoryEtcd().open_client() as client, others_unharmed(client):
        await refused_by_etcd(client, path)


async def test_f72_a_real_etcd_refuses_one_call_alone(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client, others_unharmed(client, path):
        await refused_by_etcd(client, path)
        with pytest.raises(RequestTooLarge):
            await client.get(path.encode() + LARGE)


async def test_f72_bad_arguments_beside_calls_on_a_real_etcd(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client, others_unharmed(client, path):
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                while True:
                    await client.get(path)

            nursery.start_soon(read)
            wrong = [each for call in CLIENT.values() for each in await call.wrong(client)]
            nursery.cancel_scope.cancel()
        assert not wrong


@pytest.mark.parametrize("host", ["☃.example", "xn--zz-.example", "a_b.invalid"])
async def test_f72_a_name_that_no_resolver_takes_fails_the_call(host: str) -> None:
    async with open_client(f"http://{host}:1", connect_timeout=5) as client:
        for _ in range(2):
            with pytest.raises(ConnectionFailed):
                await client.get("k")
