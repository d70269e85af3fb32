"""Elections by `concurrency.Election`, on a real etcd and on the one in memory."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.etcd_shim.concurrency.rows import WAIT, row, wait_row
from tests.simulation.servers import Server
from trio_sched.etcd_shim import Client, Put
from trio_sched.etcd_shim.concurrency import Election, KeyDeleted, LeaderObserver
from trio_sched.etcd_shim.errors import LeaseLost


async def test_a_leader_is_a_key_on_a_lease_for_a_block(client: Client, path: str) -> None:
    election = Election(client, path)
    assert await election.leader() is None
    async with election.campaign("me", ttl=20) as leadership:
        leader = await election.leader()
        assert leader is not None
        assert (leader.key, leader.value) == (f"{path}/{leadership.lease:x}".encode(), b"me")
        assert (leader.create_revision, leader.lease) == (leadership.fence, leadership.lease)
        assert leadership.alive
        assert (await client.txn([leadership.guard], [Put(path, "by the leader")])).succeeded
    assert not leadership.alive
    assert await election.leader() is None
    assert leadership.lease not in await client.lease_list()
    assert not (await client.txn([leadership.guard], [Put(path, "too late")])).succeeded


async def test_what_is_proclaimed_is_the_leaders_value(client: Client, path: str) -> None:
    election = Election(client, path)
    async with election.campaign("before") as leadership:
        revision = await leadership.proclaim("after")
        leader = await election.leader()
        assert leader is not None
        assert (leader.value, leader.mod_revision) == (b"after", revision)
        assert (leader.create_revision, leader.lease) == (leadership.fence, leadership.lease)
        await client.put(leader.key, "of another client", lease=leader.lease)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(leadership.proclaim, "one")
            nursery.start_soon(leadership.proclaim, "other")
        leader = await election.leader()
        assert leader is not None
        assert leader.value in {b"one", b"other"}
    with pytest.raises(LeaseLost, match="block was left"):
        await leadership.proclaim("too late")


async def test_they_lead_in_the_order_in_which_they_came(
    server: Server, client: Client, path: str
) -> None:
    led: list[bytes] = []

    async def lead(own: Client, name: str) -> None:
        async with Election(own, path).campaign(name):
            leader = await Election(own, path).leader()
            assert leader is not None
            led.append(leader.value)

    with trio.fail_after(WAIT):
        async with server.open_client() as other, trio.open_nursery() as nursery:
            async with Election(client, path).campaign("first"):
                for number, name in enumerate("zam"):
                    nursery.start_soon(lead, (client, other)[number % 2], name)
                    await wait_row(client, path, number + 2)
    assert led == [b"z", b"a", b"m"]
    assert not await row(client, path)


@pytest.mark.parametrize("how", ["deleted", "revoked"])
async def test_a_leader_whose_key_goes_is_cancelled(client: Client, path: str, how: str) -> None:
    kind = KeyDeleted if how == "deleted" else LeaseLost
    with pytest.raises(kind), trio.fail_after(WAIT):
        async with Election(client, path).campaign("me") as leadership:
            if how == "deleted":
                await client.delete(leadership.key)
            else:
                await client.lease_revoke(leadership.lease)
            await trio.sleep_forever()


async def test_a_proclamation_of_one_that_does_not_lead_is_refused(
    client: Client, path: str
) -> None:
    with pytest.raises(KeyDeleted) as caught, trio.fail_after(WAIT):
        async with Election(client, path).campaign("me") as leadership:
            with trio.CancelScope(shield=True):
                await client.delete(leadership.key)
                await leadership.proclaim("still me")
    assert caught.value.key == leadership.key
    assert not await row(client, path)


# ---- observing -----------------------------------------------------------------------------


async def value(leaders: LeaderObserver) -> bytes:
    with trio.fail_after(WAIT):
        return (await leaders.__anext__()).value


async def test_an_observer_is_given_each_leader_and_each_value(client: Client, path: str) -> None:
    election = Election(client, path)
    async with election.observe() as leaders:
        async with election.campaign("a") as leadership:
            assert await value(leaders) == b"a"
            await leadership.proclaim("b")
            assert await value(leaders) == b"b"
        async with election.campaign("b") as leadership:
            leader = await leaders.__anext__()
            assert (leader.value, leader.create_revision) == (b"b", leadership.fence)


async def test_an_observer_that_comes_late_is_given_who_leads(client: Client, path: str) -> None:
    election = Election(client, path)
    async with election.campaign("me"):
        async with election.observe() as leaders:
            async for leader in leaders:
                assert leader.value == b"me"
                break


async def test_an_observer_waits_for_a_first_leader(client: Client, path: str) -> None:
    election = Election(client, path)
    async with election.observe() as leaders, trio.open_nursery() as nursery:

        async def observe() -> None:
            seen.append(await value(leaders))

        seen: list[bytes] = []
        nursery.start_soon(observe)
        await trio.testing.wait_all_tasks_blocked()
        async with election.campaign("me"):
            with trio.fail_after(WAIT):
                while not seen:
                    await trio.lowlevel.checkpoint()
    assert seen == [b"me"]


async def test_a_slow_observer_is_given_the_newest(client: Client, path: str) -> None:
    election = Election(client, path)
    async with election.observe() as leaders:
        async with election.campaign("0") as leadership:
            assert await value(leaders) == b"0"
            for number in range(1, 50):
                await leadership.proclaim(str(number))
            seen = [await value(leaders)]
            while seen[-1] != b"49":
                seen.append(await value(leaders))
            assert seen == sorted(seen, key=int)


async def test_a_cancelled_observer_loses_nothing(client: Client, path: str) -> None:
    election = Election(client, path)
    async with election.observe() as leaders:
        for name in ("a", "b", "c"):
            for _ in range(3):
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await leaders.__anext__()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(leaders.__anext__)
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
            async with election.campaign(name):
                assert await value(leaders) == name.encode()


async def test_observing_survives_compaction(client: Client, path: str) -> None:
    election = Election(client, path)
    async with election.observe() as leaders:
        for name in ("a", "b", "c"):
            async with election.campaign(name) as leadership:
                revision = await leadership.proclaim(f"{name}-compacted")
                await client.compact(revision)
                assert await value(leaders) == f"{name}-compacted".encode()
            revision = (await client.put(f"{path}-beside", "x")).revision
            await client.compact(revision)


async def test_candidates_disturb_no_observer(client: Client, path: str) -> None:
    election = Election(client, path)
    with trio.fail_after(WAIT):
        async with election.observe() as leaders, trio.open_nursery() as nursery:

            async def stand(name: str) -> None:
                async with election.campaign(name):
                    await trio.sleep_forever()

            async with election.campaign("me"):
                assert await value(leaders) == b"me"
                for number in range(5):
                    nursery.start_soon(stand, f"candidate-{number}")
                await wait_row(client, path, 6)
                assert leaders._follower is not None
                assert len(leaders._follower.state) == 1
            assert (await value(leaders)).startswith(b"candidate-")
            nursery.cancel_scope.cancel()
