"""Members come and go: on a real cluster."""

from __future__ import annotations

import pytest
import trio

from tests.reaper.process_tools import eventually
from trio_sched.etcd_shim import Client, open_client
from trio_sched.etcd_shim.errors import FailedPrecondition, NotFound, RpcError
from trio_sched.testing import open_etcd

PEER = "http://127.0.0.1:1"  # where no member is


async def test_members_are_listed() -> None:
    async with open_etcd(members=3) as server, open_client(*server.endpoints) as client:
        members = await client.cluster.member_list()
        assert {member.name for member in members} == {"m1", "m2", "m3"}
        assert {url for member in members for url in member.client_urls} == {*server.endpoints}
        assert all(member.peer_urls and not member.learner for member in members)
        assert {member.id for member in members} == {
            member.id for member in await client.cluster.member_list(linearizable=False)
        }


async def test_a_member_is_added_updated_and_removed() -> None:
    young = ["--strict-reconfig-check=false"]  # else members must have been there for 5 s
    async with (
        open_etcd(members=3, extra_args=young) as server,
        open_client(*server.endpoints) as client,
    ):
        learner, members = await client.cluster.member_add([PEER], learner=True)
        assert learner in members
        assert len(members) == 4
        assert learner.learner
        assert learner.name == ""
        assert learner.client_urls == ()
        with pytest.raises(FailedPrecondition):
            await client.cluster.member_add([PEER])
        with pytest.raises(RpcError, match="learner"):
            await client.cluster.member_promote(learner.id)  # it has never run
        moved = await client.cluster.member_update(learner.id, ["http://127.0.0.1:2"])
        (found,) = [member for member in moved if member.id == learner.id]
        assert found.peer_urls == ("http://127.0.0.1:2",)
        left = await client.cluster.member_remove(learner.id)
        assert len(left) == 3
        with pytest.raises(NotFound):
            await client.cluster.member_remove(learner.id)


async def test_bad_arguments_are_told_at_once() -> None:
    async with open_client(PEER) as client:
        with pytest.raises(TypeError):
            await client.cluster.member_add(PEER)
        with pytest.raises(ValueError, match="a URL, or more"):
            await client.cluster.member_add([])
        for url in ("", "http://\udc80:2380"):
            with pytest.raises(ValueError, match="a URL of peer_urls"):
                await client.cluster.member_add([url])
        with pytest.raises(ValueError, match="member_id"):
            await client.cluster.member_remove(0)
        with pytest.raises(TypeError):
            await client.cluster.member_list(linearizable=1)  # type: ignore[arg-type] # as tested
        assert client.statistics().connects == 0


async def test_endpoints_change_while_a_client_is_open(path: str) -> None:
    """Calls, a watch and a lease go on; the member that is no endpoint any more is let go."""
    async with open_etcd(members=3) as server, open_client(server.endpoints[0]) as client:
        async with client.watch(path) as watcher, client.open_lease(5) as lease:
            await client.put(path, "1", lease=lease.id)
            client.set_endpoints(*server.endpoints[1:])
            assert client.endpoints == server.endpoints[1:]
            await client.put(path, "2", lease=lease.id)
            await client.lease_renew(lease.id)
            seen = [(await watcher.__anext__()).kv.value for _ in range(2)]
            assert seen == [b"1", b"2"]
            assert client.statistics().endpoint in server.endpoints[1:]
            await trio.testing.wait_all_tasks_blocked()
            assert len(client.statistics().connections) == 1
        with pytest.raises(ValueError, match="an endpoint, or more"):
            client.set_endpoints()
        with pytest.raises(ValueError, match="not understood"):
            client.set_endpoints("nonsense")
        assert client.endpoints == server.endpoints[1:]


async def test_endpoints_are_those_that_the_cluster_says() -> None:
    async with open_etcd(members=3) as server, open_client(server.endpoints[0]) as client:
        assert set(await client.cluster.sync_endpoints()) == set(server.endpoints)
        assert set(client.endpoints) == set(server.endpoints)
        await client.put("a", "1")
        server.members[0].kill()
        assert (await client.get("a")).value == b"1"


async def test_endpoints_are_synchronised_in_the_background() -> None:
    """By one of them all are known; a member that is removed is no endpoint any more."""
    async with (
        open_etcd(members=3) as server,
        open_client(server.endpoints[0], auto_sync_interval=0.05) as client,
    ):
        with trio.fail_after(30):
            await eventually(lambda: set(client.endpoints) == set(server.endpoints))
            server.members[0].kill()
            assert (await client.get("a")).kv is None
            await until_removed(client, server.endpoints[0])


async def until_removed(client: Client, endpoint: str) -> None:
    members = await client.cluster.member_list()
    (gone,) = (member for member in members if endpoint in member.client_urls)
    await client.cluster.member_remove(gone.id)
    await eventually(lambda: endpoint not in client.endpoints)


async def test_what_cannot_be_synchronised_stays_as_it_was(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG", "trio_sched.etcd_shim")
    dead = "http://127.0.0.1:1"
    async with open_client(dead, auto_sync_interval=0.02) as client:
        await eventually(lambda: "could not be synchronised" in caplog.text)
        assert client.endpoints == (dead,)
