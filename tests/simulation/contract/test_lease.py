"""Leases: granted, renewed, revoked, lapsed; and the keys that hang on them."""

from __future__ import annotations

import pytest
import trio
from grpclib.const import Status

from tests.simulation.servers import Server
from trio_sched.etcd_shim import Client, Event, EventType, Put, Txn
from trio_sched.etcd_shim._pb import messages_pb2 as pb
from trio_sched.etcd_shim.errors import LeaseExists, LeaseLost, LeaseNotFound, OutOfRange

LAPSE = 30  # seconds until a wait for a lease to lapse is given up; it takes a tenth of it


async def keys_of(client: Client, lease: int) -> set[bytes]:
    return set((await client.lease_time_to_live(lease, keys=True)).keys)


async def wait_lapsed(client: Client, lease: int) -> None:
    with trio.fail_after(LAPSE):
        while lease in await client.lease_list():  # etcd has no event for it  # noqa: ASYNC110
            await trio.sleep(0.05)


# ---- granting ----------------------------------------------------------------------


async def test_a_grant_is_no_revision(client: Client, path: str) -> None:
    before = (await client.put(path, "1")).revision
    granted = await client._lease.LeaseGrant(pb.LeaseGrantRequest(ttl=60))
    assert (granted.header.revision, granted.ttl, granted.error) == (before, 60, "")
    assert granted.id > 0
    revoked = await client._lease.LeaseRevoke(pb.LeaseRevokeRequest(id=granted.id))
    assert revoked.header.revision == before
    assert (await client.put(path, "2")).revision == before + 1


async def test_an_id_of_ones_own(client: Client) -> None:
    lease = await client.lease_grant(60, 7)
    assert (lease.id, lease.ttl) == (7, 60)
    with pytest.raises(LeaseExists) as caught:
        await client.lease_grant(10, 7)
    assert (caught.value.status, caught.value.message) == (
        Status.FAILED_PRECONDITION,
        "etcdserver: lease already exists",
    )
    assert (await client.lease_time_to_live(7)).granted_ttl == 60
    await client.lease_revoke(7)
    assert (await client.lease_grant(10, 7)).ttl == 10


async def test_ids_that_etcd_makes_differ(client: Client) -> None:
    grants = [await client._lease.LeaseGrant(pb.LeaseGrantRequest(ttl=60)) for _ in range(5)]
    assert len({granted.id for granted in grants}) == 5
    assert all(0 < granted.id < 2**63 for granted in grants)


@pytest.mark.parametrize(("asked", "given"), [(-5, 2), (0, 2), (1, 2), (2, 2), (3, 3)])
async def test_two_seconds_are_the_least(client: Client, asked: int, given: int) -> None:
    granted = await client._lease.LeaseGrant(pb.LeaseGrantRequest(ttl=asked))
    assert granted.ttl == given
    assert (await client.lease_time_to_live(granted.id)).granted_ttl == given
    assert await client.lease_renew(granted.id) == given


async def test_the_longest(client: Client) -> None:
    assert (await client.lease_grant(9_000_000_000)).ttl == 9_000_000_000
    with pytest.raises(OutOfRange) as caught:
        await client._lease.LeaseGrant(pb.LeaseGrantRequest(ttl=9_000_000_001))
    assert caught.value.message == "etcdserver: too large lease TTL"


# ---- asking ------------------------------------------------------------------------


async def test_time_to_live(client: Client, path: str) -> None:
    lease = await client.lease_grant(1000)
    await client.put(f"{path}/a", "1", lease=lease.id)
    await client.txn(success=[Txn(success=[Put(f"{path}/b", "2", lease=lease.id)])])
    info = await client.lease_time_to_live(lease.id)
    assert (info.id, info.granted_ttl, info.keys) == (lease.id, 1000, ())
    assert 0 < info.ttl <= 1000
    assert await keys_of(client, lease.id) == {f"{path}/a".encode(), f"{path}/b".encode()}


async def test_all_leases(client: Client) -> None:
    assert await client.lease_list() == ()
    for lease in (3, 1, 2):
        await client.lease_grant(60, lease)
    assert set(await client.lease_list()) == {1, 2, 3}
    await client.lease_revoke(1)
    assert set(await client.lease_list()) == {2, 3}


async def test_a_renewal_answers_with_the_ttl(client: Client) -> None:
    one, other = await client.lease_grant(1000), await client.lease_grant(2000)
    assert await client.lease_renew(one.id) == 1000
    assert await client.lease_renew(other.id) == 2000


async def test_a_lease_that_is_gone(client: Client, path: str) -> None:
    lease = await client.lease_grant(60)
    await client.lease_revoke(lease.id)
    with pytest.raises(LeaseNotFound) as caught:
        await client.lease_revoke(lease.id)
    assert (caught.value.status, caught.value.message) == (
        Status.NOT_FOUND,
        "etcdserver: requested lease not found",
    )
    with pytest.raises(LeaseNotFound):
        await client.lease_renew(lease.id)
    with pytest.raises(LeaseNotFound):
        await client.put(path, "1", lease=lease.id)
    request = pb.LeaseTimeToLiveRequest(id=lease.id, keys=True)
    answer = await client._lease.LeaseTimeToLive(request)
    assert (answer.id, answer.ttl, answer.granted_ttl, list(answer.keys)) == (lease.id, -1, 0, [])


async def test_renewals_of_the_living_and_the_gone_share_a_stream(client: Client) -> None:
    gone, lives = await client.lease_grant(60), await client.lease_grant(70)
    await client.lease_revoke(gone.id)
    async with client._lease.LeaseKeepAlive.open() as call:
        for lease in (gone, lives, gone, lives):
            await call.send_message(pb.LeaseKeepAliveRequest(id=lease.id))
        answers = [await call.recv_message() for _ in range(4)]
        await call.cancel()
    assert [(answer.id, answer.ttl) for answer in answers if answer is not None] == [
        (gone.id, 0),
        (lives.id, 70),
        (gone.id, 0),
        (lives.id, 70),
    ]


# ---- the keys of a lease -----------------------------------------------------------


async def test_a_key_that_is_put_without_a_lease_is_free(client: Client, path: str) -> None:
    lease = await client.lease_grant(60)
    await client.put(path, "1", lease=lease.id)
    await client.put(path, "2")
    assert await keys_of(client, lease.id) == set()
    await client.lease_revoke(lease.id)
    kv = (await client.get(path)).kv
    assert kv is not None
    assert (kv.value, kv.lease, kv.version) == (b"2", 0, 2)


async def test_a_key_that_is_put_with_another_lease_moves(client: Client, path: str) -> None:
    one, other = await client.lease_grant(60), await client.lease_grant(60)
    await client.put(path, "1", lease=one.id)
    await client.put(path, "2", lease=other.id)
    assert await keys_of(client, one.id) == set()
    assert await keys_of(client, other.id) == {path.encode()}
    await client.lease_revoke(one.id)
    assert (await client.get(path)).value == b"2"
    await client.lease_revoke(other.id)
    assert (await client.get(path)).kv is None


async def test_a_key_that_is_deleted_is_free(client: Client, path: str) -> None:
    lease = await client.lease_grant(60)
    await client.put(path, "1", lease=lease.id)
    await client.delete(path)
    assert await keys_of(client, lease.id) == set()
    await client.put(path, "2")
    await client.lease_revoke(lease.id)
    assert (await client.get(path)).value == b"2"


# ---- the end of a lease ------------------------------------------------------------


async def end_events(client: Client, path: str, lease: int, *, revoke: bool) -> list[Event]:
    """End a lease that keys below `path` hang on; return the one batch that says so."""
    for name in "cab":
        await client.put(f"{path}/{name}", name, lease=lease)
    await client.put(f"{path}/other", "stays")
    before = (await client.get(path)).revision
    async with client.watch(f"{path}/", prefix=True, prev_kv=True) as watcher:
        if revoke:
            assert await client.lease_revoke(lease) == before + 1
        with trio.fail_after(LAPSE):
            batch = await watcher.receive()
    assert batch.revision == before + 1
    assert (await client.get(path)).revision == before + 1, "it is one revision"
    assert [kv.key[-5:] for kv in await client.get_prefix(f"{path}/")] == [b"other"]
    return list(batch.events)


@pytest.mark.parametrize("revoke", [True, False])
async def test_all_keys_go_in_one_revision(client: Client, path: str, *, revoke: bool) -> None:
    lease = (await client.lease_grant(2 if not revoke else 60)).id
    events = await end_events(client, path, lease, revoke=revoke)
    assert [event.kv.key[-1:] for event in events] == [b"a", b"b", b"c"], "in the order of keys"
    assert {event.type for event in events} == {EventType.DELETE}
    assert len({event.kv.mod_revision for event in events}) == 1
    previous = [event.prev_kv for event in events]
    assert [kv and (kv.value, kv.lease) for kv in previous] == [(x.encode(), lease) for x in "abc"]
    assert lease not in await client.lease_list()


async def test_a_lease_without_keys_lapses_without_a_revision(client: Client, path: str) -> None:
    before = (await client.put(path, "1")).revision
    lease = await client.lease_grant(2)
    await wait_lapsed(client, lease.id)
    assert (await client.get(path)).revision == before
    with pytest.raises(LeaseNotFound):
        await client.lease_renew(lease.id)
    with pytest.raises(LeaseNotFound):
        await client.lease_revoke(lease.id)


async def test_each_lease_lapses_by_itself(client: Client, path: str) -> None:
    lives = await client.lease_grant(1000)
    for index in range(3):
        lease = await client.lease_grant(2)
        await client.put(f"{path}/{index}", "x", lease=lease.id)
    await client.put(f"{path}/lives", "x", lease=lives.id)
    before = (await client.get(path)).revision
    async with client.watch(f"{path}/", prefix=True, start_revision=before + 1) as watcher:
        with trio.fail_after(LAPSE):
            gone = [await watcher.__anext__() for _ in range(3)]
    assert {event.type for event in gone} == {EventType.DELETE}
    assert [event.kv.mod_revision - before for event in gone] == [1, 2, 3]
    assert (await client.get(path)).revision == before + 3
    assert await client.lease_list() == (lives.id,)


async def test_a_lease_that_is_kept_alive_outlives_its_ttl(client: Client, path: str) -> None:
    """A lease of the same TTL that is granted later lapses meanwhile."""
    async with client.open_lease(3) as kept:
        await client.put(path, "1", lease=kept.id)
        later = await client.lease_grant(3)
        await wait_lapsed(client, later.id)
        assert kept.alive
        assert (await client.get(path)).value == b"1"
    assert (await client.get(path)).kv is None


async def test_who_keeps_a_lease_learns_of_its_end(
    server: Server, client: Client, path: str
) -> None:
    with trio.fail_after(LAPSE), pytest.raises(LeaseLost):
        async with server.open_client() as other, client.open_lease(2) as kept:
            await client.put(path, "1", lease=kept.id)
            await other.lease_revoke(kept.id)
            await trio.sleep_forever()
    assert (await client.get(path)).kv is None


async def test_a_lease_outlives_its_client(server: Server, client: Client, path: str) -> None:
    async with server.open_client() as other:
        lease = await other.lease_grant(60)
        await other.put(path, "1", lease=lease.id)
    assert lease.id in await client.lease_list()
    assert (await client.get(path)).value == b"1"
