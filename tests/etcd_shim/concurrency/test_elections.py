"""Elections on a real etcd, beside etcdctl and etcd's own service, and under faults."""

from __future__ import annotations

import signal
from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio
import trio.testing

from tests.etcd_shim.concurrency.others import campaign_by_service, start_etcdctl
from tests.etcd_shim.concurrency.rows import WAIT, row, wait_row
from tests.etcd_shim.sweep import sweep
from trio_sched import schedule
from trio_sched.etcd_shim import TxnResult, open_client
from trio_sched.etcd_shim.concurrency import Election, LeaderObserver
from trio_sched.etcd_shim.errors import ConnectionFailed
from trio_sched.testing import open_etcd, open_faulty_link


async def next_value(leaders: LeaderObserver) -> bytes:
    return (await leaders.__anext__()).value


async def test_etcdctl_elect_takes_turns_with_us(endpoint: str, path: str) -> None:
    """It leads after us, and we after it; and our observer sees all of it."""
    with trio.fail_after(WAIT):
        async with open_client(endpoint) as client, trio.open_nursery() as nursery:
            election = Election(client, path)
            async with election.observe() as leaders:
                async with election.campaign("ours"):
                    assert await next_value(leaders) == b"ours"
                    etcdctl = await start_etcdctl(nursery, endpoint, "elect", path, "theirs")
                    await wait_row(client, path, 2)
                assert await next_value(leaders) == b"theirs"
                led = trio.Event()

                async def lead_again() -> None:
                    async with election.campaign("ours again"):
                        led.set()
                        assert await next_value(leaders) == b"ours again"

                nursery.start_soon(lead_again)
                await wait_row(client, path, 2)
                assert not led.is_set()
                etcdctl.send_signal(signal.SIGINT)
                await led.wait()
                await wait_row(client, path, 0)


async def test_etcdctl_observes_what_we_proclaim(endpoint: str, path: str) -> None:
    with trio.fail_after(WAIT):
        async with open_client(endpoint) as client, trio.open_nursery() as nursery:
            async with Election(client, path).campaign("one") as leadership:
                etcdctl = await start_etcdctl(nursery, endpoint, "elect", "-l", path)
                assert etcdctl.stdout is not None
                seen = bytearray()
                async for chunk in etcdctl.stdout:
                    seen += chunk
                    if b"one\n" in seen:
                        await leadership.proclaim("another")
                    if b"another\n" in seen:
                        break
                assert leadership.key in seen
                etcdctl.send_signal(signal.SIGINT)


async def test_etcds_own_election_service_takes_turns_with_us(endpoint: str, path: str) -> None:
    with trio.fail_after(WAIT):
        async with open_client(endpoint) as client, trio.open_nursery() as nursery:
            election = Election(client, path)
            lease = (await client.lease_grant(60)).id
            elected = trio.Event()

            async def have_it_campaign() -> None:
                await campaign_by_service(client, path, lease, "theirs")
                elected.set()

            async with election.campaign("ours") as leadership:
                nursery.start_soon(have_it_campaign)
                keys = await wait_row(client, path, 2)
                assert keys == [leadership.key, f"{path}/{lease:x}".encode()]
                assert not elected.is_set()
            await elected.wait()
            leader = await election.leader()
            assert leader is not None
            assert (leader.value, leader.lease) == (b"theirs", lease)

            async def revoke_when_awaited() -> None:
                await wait_row(client, path, 2)
                await client.lease_revoke(lease)

            nursery.start_soon(revoke_when_awaited)
            async with election.campaign("ours again") as again:
                assert again.fence > leader.create_revision


async def test_hosts_of_the_scheduler_elect_by_the_same_recipe(endpoint: str, path: str) -> None:
    """So a campaign on their prefix waits for the host that leads, and an observer sees it."""
    with trio.fail_after(WAIT):
        async with open_client(endpoint) as client, trio.open_nursery() as nursery:
            election = Election(client, f"{path}/election")
            led = trio.Event()

            async def lead() -> None:
                async with election.campaign("b"):
                    led.set()

            async with schedule(client, path, "a"), election.observe() as leaders:
                assert await next_value(leaders) == b"a"
                nursery.start_soon(lead)
                await wait_row(client, f"{path}/election", 2)
                assert not led.is_set()
            await led.wait()


# ---- faults ------------------------------------------------------------------------------------


async def test_f10_cancelled_at_each_checkpoint_no_candidate_is_left(path: str) -> None:
    async with open_etcd() as server:
        async with open_client(server.endpoint) as client, open_client(server.endpoint) as witness:

            async def lead() -> None:
                election = Election(client, path)
                async with election.observe() as leaders, election.campaign("a") as leadership:
                    await leadership.proclaim("b")
                    assert await next_value(leaders) == b"b"

            async def nothing_left() -> None:
                assert not await row(witness, path)
                assert not await witness.lease_list()

            steps = await sweep(lead, nothing_left)
            assert steps > 8


async def test_f10_an_observer_cancelled_at_each_checkpoint_loses_no_leader(
    endpoint: str, path: str
) -> None:
    """Also between the event of the first leader, and the read that says who that is."""
    with trio.fail_after(WAIT):
        async with (
            open_client(endpoint) as client,
            trio.open_nursery() as nursery,
            AsyncExitStack() as stack,
        ):
            leaders = await stack.enter_async_context(Election(client, path).observe())
            seen: list[bytes] = []

            async def put_once_it_waits(observer: LeaderObserver) -> None:
                while observer._follower is None:
                    await trio.lowlevel.checkpoint()
                await client.put(f"{path}/1", "leader")

            async def observe() -> None:
                nursery.start_soon(put_once_it_waits, leaders)
                seen.append(await next_value(leaders))

            async def none_lost_and_begin_anew() -> None:
                nonlocal leaders
                if not seen:
                    seen.append(await next_value(leaders))
                assert seen == [b"leader"]
                seen.clear()
                await client.delete(f"{path}/1")
                await stack.aclose()
                leaders = await stack.enter_async_context(Election(client, path).observe())

            assert await sweep(observe, none_lost_and_begin_anew) > 5


async def test_two_tasks_that_wait_for_a_leader_are_one_too_many(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client:
        async with Election(client, path).observe() as leaders, trio.open_nursery() as nursery:
            nursery.start_soon(leaders.__anext__)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await leaders.__anext__()
            nursery.cancel_scope.cancel()


async def test_an_observer_whose_block_was_left_begins_no_watch(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client:
        async with Election(client, path).observe() as leaders:
            pass
        with pytest.raises(trio.ClosedResourceError):
            await leaders.__anext__()
        assert not client._watches._watchers


async def test_f17_a_proclamation_whose_answer_is_lost_is_made_once(
    endpoint: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trio.fail_after(WAIT):
        async with (
            open_client(endpoint) as witness,
            open_faulty_link(endpoint) as link,
            open_client(link.endpoint) as client,
            Election(client, path).campaign("a") as leadership,
            witness.watch(leadership.key) as events,
        ):
            txn = client.txn
            deeds = [link.mute]

            async def txn_without_answer(*arguments: Any) -> TxnResult:
                if deeds:
                    deeds.pop()()
                return await txn(*arguments)

            async def cut_when_written() -> None:
                await events.__anext__()
                link.cut()
                link.heal()

            monkeypatch.setattr(client, "txn", txn_without_answer)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cut_when_written)
                revision = await leadership.proclaim("b")
            (kv,) = await witness.get(leadership.key)
            assert (kv.value, kv.version, kv.mod_revision) == (b"b", 2, revision)


async def test_an_observer_outlives_a_restart_of_etcd(path: str) -> None:
    with trio.fail_after(WAIT):
        async with open_etcd() as server, open_client(server.endpoint) as client:
            election = Election(client, path)
            async with election.observe() as leaders:
                async with election.campaign("a", ttl=20) as leadership:
                    assert await next_value(leaders) == b"a"
                    await server.members[0].restart()
                    await leadership.proclaim("b")
                    assert await next_value(leaders) == b"b"
                await server.members[0].restart()
                async with election.campaign("c"):
                    assert await next_value(leaders) == b"c"


async def test_where_there_is_no_etcd_an_election_says_so_at_once() -> None:
    async with open_client("http://127.0.0.1:1") as client:
        election = Election(client, "/a")
        with pytest.raises(ConnectionFailed):
            await election.leader()
        with pytest.raises(ConnectionFailed):
            async with election.campaign("me"):
                raise AssertionError("there is no etcd")
        async with election.observe() as leaders:
            with pytest.raises(ConnectionFailed):
                await leaders.__anext__()
