"""Leases on a real etcd."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio
import trio.testing

from trio_sched._support.tasks import open_service_nursery
from trio_sched.etcd_shim import Client, open_client
from trio_sched.etcd_shim._keep import margin_of
from trio_sched.etcd_shim._pb import messages_pb2 as pb
from trio_sched.etcd_shim._watch_hub import WatchHub
from trio_sched.etcd_shim.errors import ConnectionLost, LeaseExists, LeaseLost, LeaseNotFound
from trio_sched.etcd_shim.lease import Renewals
from trio_sched.testing import FaultyLink, open_etcd, open_faulty_link

if TYPE_CHECKING:
    from trio_sched.etcd_shim._pb.services_grpc import LeaseStub
    from trio_sched.etcd_shim._watch_hub import _Call as _WatchCall
    from trio_sched.etcd_shim.lease import _Call


async def test_a_life(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client:
        lease = await client.lease_grant(30)
        assert lease.ttl == 30
        assert lease.id in await client.lease_list()
        await client.put(path, "x", lease=lease.id)
        info = await client.lease_time_to_live(lease.id, keys=True)
        assert (info.id, info.granted_ttl, info.keys) == (lease.id, 30, (path.encode(),))
        assert 0 < info.ttl <= 30
        assert await client.lease_renew(lease.id) == 30
        await client.lease_revoke(lease.id)
        assert (await client.get(path)).kv is None
        for gone in (client.lease_revoke, client.lease_renew, client.lease_time_to_live):
            with pytest.raises(LeaseNotFound):
                await gone(lease.id)


async def test_an_id_of_ones_own(endpoint: str) -> None:
    async with open_client(endpoint) as client:
        lease = await client.lease_grant(30, 987654321)
        assert lease.id == 987654321
        with pytest.raises(LeaseExists):
            await client.lease_grant(30, 987654321)
        await client.lease_revoke(987654321)


@pytest.mark.parametrize("ttl", [0, -5, 10**10])
async def test_f30_a_ttl_that_makes_no_sense(ttl: int) -> None:
    async with open_client("http://127.0.0.1:1") as client:
        with pytest.raises(ValueError, match="between 1 and"):
            await client.lease_grant(ttl)
        assert client.statistics().connects == 0


async def test_all_renewals_share_one_stream(endpoint: str) -> None:
    async with open_client(endpoint) as client:
        leases = [await client.lease_grant(20 + index) for index in range(20)]
        before = client.statistics().connections[0].started_calls
        ttls: dict[int, int] = {}

        async def renew(lease: int) -> None:
            for _ in range(5):
                ttls[lease] = await client.lease_renew(lease)

        async with trio.open_nursery() as nursery:
            for lease in leases:
                nursery.start_soon(renew, lease.id)
        assert ttls == {lease.id: lease.ttl for lease in leases}
        assert client.statistics().connections[0].started_calls == before + 1
        for lease in leases:
            await client.lease_revoke(lease.id)


async def test_a_cancelled_renewal_takes_nobody_elses_answer(endpoint: str) -> None:
    async with open_client(endpoint) as client:
        one, other = await client.lease_grant(20), await client.lease_grant(21)
        await client.lease_renew(one.id)
        for _ in range(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.lease_renew, one.id)
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
            assert await client.lease_renew(other.id) == 21
            assert await client.lease_renew(one.id) == 20
        await client.lease_revoke(one.id)
        await client.lease_revoke(other.id)


async def test_renewals_go_on_over_a_new_connection(endpoint: str) -> None:
    async with open_faulty_link(endpoint) as link, open_client(link.endpoint) as client:
        lease = await client.lease_grant(20)
        await client.lease_renew(lease.id)
        link.cut()
        assert await client.lease_renew(lease.id) == 20
        assert client.statistics().connects == 2
        await client.lease_revoke(lease.id)


# ---- open_lease ----------------------------------------------------------------------


async def test_open_lease_outlives_its_ttl_and_ends_with_the_block(
    endpoint: str, path: str
) -> None:
    async with open_client(endpoint) as client:
        async with client.open_lease(1) as lease:
            await client.put(path, "x", lease=lease.id)
            first_deadline = lease.deadline
            await trio.sleep_until(first_deadline + lease.ttl)
            assert lease.alive
            assert lease.deadline > first_deadline
            assert (await client.get(path)).value == b"x"
        assert not lease.alive
        assert (await client.get(path)).kv is None
        assert lease.id not in await client.lease_list()


async def test_open_lease_cancels_the_body_when_the_lease_is_revoked(endpoint: str) -> None:
    async with open_client(endpoint) as client:
        with pytest.raises(LeaseLost, match="revoked") as caught:
            async with client.open_lease(1) as lease:
                await client.lease_revoke(lease.id)
                await trio.sleep_forever()
        assert caught.value.lease == lease.id
        assert isinstance(caught.value.__cause__, LeaseNotFound)


async def test_f1_open_lease_cancels_the_body_by_the_deadline(path: str) -> None:
    """etcd is stopped: the body ends before the server could have let the lease lapse."""
    async with open_etcd() as server, open_client(server.endpoint) as client:
        ended = None
        with pytest.raises(LeaseLost, match="no renewal"):
            async with client.open_lease(4) as lease:
                await client.put(path, "x", lease=lease.id)
                server.members[0].pause()
                try:
                    await trio.sleep_forever()
                finally:
                    ended = trio.current_time()
                    server.members[0].resume()
        assert ended is not None
        assert lease.deadline <= ended < lease.deadline + margin_of(lease.ttl)


async def test_open_lease_keeps_the_bodys_exception(endpoint: str) -> None:
    async with open_client(endpoint) as client:
        with pytest.raises(KeyError):
            async with client.open_lease(5) as lease:
                raise KeyError(1)
        assert lease.id not in await client.lease_list()


async def test_open_lease_cancelled_revokes_all_the_same(endpoint: str) -> None:
    async with open_client(endpoint) as client:
        with trio.CancelScope() as scope:
            async with client.open_lease(5) as lease:
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught
        assert lease.id not in await client.lease_list()


async def test_open_lease_of_an_id_that_another_client_has_leaves_that_alone(
    endpoint: str, path: str
) -> None:
    taken = 123456788
    async with open_client(endpoint) as other, open_client(endpoint) as client:
        await other.lease_grant(30, taken)
        await other.put(path, "theirs", lease=taken)
        with pytest.raises(LeaseExists):
            async with client.open_lease(30, taken):
                pytest.fail("it is not ours")
        with trio.CancelScope() as scope:
            scope.cancel()
            async with client.open_lease(30, taken):
                pytest.fail("it is not ours")
        assert (await other.get(path)).value == b"theirs"
        await other.lease_revoke(taken)


async def test_f10_open_lease_of_an_id_of_ones_own_cancelled_meanwhile_revokes_it(
    endpoint: str,
) -> None:
    lease = 123456787
    async with open_client(endpoint) as client:
        await client.get("x")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_enter, client, lease)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert lease not in await client.lease_list()


async def _enter(client: Client, lease: int) -> None:
    async with client.open_lease(30, lease):
        await trio.sleep_forever()


async def test_f17_open_lease_whose_grant_is_not_answered_goes_on_with_it(endpoint: str) -> None:
    async with open_client(endpoint) as witness, open_faulty_link(endpoint) as link:
        async with open_client(link.endpoint) as client:
            await client.get("x")
            link.mute()
            before = set(await witness.lease_list())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cut_when_granted, witness, link, before)
                async with client.open_lease(30) as lease:
                    assert (await witness.lease_time_to_live(lease.id)).granted_ttl == lease.ttl
                    assert set(await witness.lease_list()) - before == {lease.id}
            assert lease.id not in await witness.lease_list()


async def _cut_when_granted(witness: Client, link: FaultyLink, before: set[int]) -> None:
    while set(await witness.lease_list()) == before:
        await trio.lowlevel.checkpoint()
    link.cut()
    link.heal()


class SlowCall:
    """A call on which sending takes as long as a test says."""

    def __init__(self) -> None:
        self.sent = trio.Event()

    async def send_message(self, _message: object) -> None:
        await self.sent.wait()


async def test_what_is_queued_for_the_next_call_is_left_by_the_one_before() -> None:
    """A call may end while it sends: then nothing is left of its queue, or what is there is new."""
    call = cast("_Call", SlowCall())
    async with open_service_nursery() as services:
        renewals = Renewals(services, cast("LeaseStub", None))
        renewals._call, renewals._queued = call, [7]
        services.start_soon(renewals._send_queued, call)
        await trio.testing.wait_all_tasks_blocked()
        renewals._call = None
        renewals._fail_all(ConnectionLost("the stream of renewals ended"))
        cast("SlowCall", call).sent.set()
        await trio.testing.wait_all_tasks_blocked()
        assert renewals._queued == []


async def test_watches_for_the_next_call_are_left_by_the_one_before() -> None:
    call = cast("_WatchCall", SlowCall())
    async with open_service_nursery() as services:
        channel = cast("Any", SimpleNamespace(token=None))
        hub = WatchHub(services, channel, *cast("tuple[Any, Any, Any]", (None,) * 3))
        hub._call, hub._outgoing = call, [pb.WatchRequest()]
        services.start_soon(hub._send_outgoing, call)
        await trio.testing.wait_all_tasks_blocked()
        hub._begin(cast("_WatchCall", SlowCall()))
        cast("SlowCall", call).sent.set()
        await trio.testing.wait_all_tasks_blocked()
        assert hub._outgoing == []
