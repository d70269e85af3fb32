"""Members come and go: on a real cluster."""

from __future__ import annotations

import pytest

from trio_sched.etcd_shim import open_client
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
        with pytest.raises(ValueError, match="member_id"):
            await client.cluster.member_remove(0)
        with pytest.raises(TypeError):
            await client.cluster.member_list(linearizable=1)  # type: ignore[arg-type] # as tested
        assert client.statistics().connects == 0
