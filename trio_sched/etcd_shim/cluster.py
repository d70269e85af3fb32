"""The members of a cluster: who they are, and changing that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, cast

from trio_sched._support.arguments import check_bools, check_int, check_tuple
from trio_sched.etcd_shim._pb import messages_pb2 as pb
from trio_sched.etcd_shim._pb.services_grpc import ClusterStub
from trio_sched.etcd_shim._retry import call
from trio_sched.etcd_shim.maintenance import MAX_MEMBER_ID

if TYPE_CHECKING:
    import grpclib.client

    from trio_sched.etcd_shim.channel import Channel

__all__ = ["Cluster", "ClusterMember"]


@dataclass(frozen=True, slots=True)
class ClusterMember:
    """A member of the cluster.

    Attributes:
        id: its id.
        name: its name; empty if it was added and has not started yet.
        peer_urls: where other members reach it.
        client_urls: where clients reach it; none if it has not started yet.
        learner: whether it has no vote yet.
    """

    id: int
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]
    learner: bool

    @classmethod
    def decode(cls, member: pb.Member) -> Self:
        """Return the value for a message."""
        urls = tuple(member.peer_urls), tuple(member.client_urls)
        return cls(member.id, member.name, *urls, member.is_learner)


class Cluster:
    """Calls about the members: `Client.cluster`. The names are etcdctl's, below ``member``.

    Changes are not made again after a lost answer: ask for the list then.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._stub = ClusterStub(cast("grpclib.client.Channel", channel))

    async def member_list(self, *, linearizable: bool = True) -> tuple[ClusterMember, ...]:
        """Return the members.

        Args:
            linearizable: False to have one member say what it knows, which may be old. Before
                etcd 3.5 that is always so.
        """
        check_bools(linearizable=linearizable)
        request = pb.MemberListRequest(linearizable=linearizable)
        answer = await call(self._channel, self._stub.MemberList, request, repeatable=True)
        return _decode(answer.members)

    async def member_add(
        self, peer_urls: Sequence[str], *, learner: bool = False
    ) -> tuple[ClusterMember, tuple[ClusterMember, ...]]:
        """Add a member, which is started afterwards; return it, and all of them.

        Args:
            peer_urls: where other members will reach it.
            learner: have it without a vote until it is promoted.

        Raises:
            FailedPrecondition: such a member is there, or the cluster is not healthy.
        """
        check_bools(learner=learner)
        request = pb.MemberAddRequest(peer_urls=_check(peer_urls), is_learner=learner)
        answer = await call(self._channel, self._stub.MemberAdd, request, repeatable=False)
        return ClusterMember.decode(answer.member), _decode(answer.members)

    async def member_promote(self, member_id: int) -> tuple[ClusterMember, ...]:
        """Give a learner a vote; return the members.

        Raises:
            FailedPrecondition: it is none, or has not caught up with the raft leader.
            NotFound: there is no such member.
        """
        request = pb.MemberPromoteRequest(id=check_int("member_id", member_id, 1, MAX_MEMBER_ID))
        answer = await call(self._channel, self._stub.MemberPromote, request, repeatable=False)
        return _decode(answer.members)

    async def member_update(
        self, member_id: int, peer_urls: Sequence[str]
    ) -> tuple[ClusterMember, ...]:
        """Change where other members reach a member; return the members.

        Raises:
            NotFound: there is no such member.
        """
        checked = check_int("member_id", member_id, 1, MAX_MEMBER_ID)
        request = pb.MemberUpdateRequest(id=checked, peer_urls=_check(peer_urls))
        answer = await call(self._channel, self._stub.MemberUpdate, request, repeatable=False)
        return _decode(answer.members)

    async def member_remove(self, member_id: int) -> tuple[ClusterMember, ...]:
        """Remove a member for ever; return those that are left.

        Raises:
            NotFound: there is no such member.
        """
        request = pb.MemberRemoveRequest(id=check_int("member_id", member_id, 1, MAX_MEMBER_ID))
        answer = await call(self._channel, self._stub.MemberRemove, request, repeatable=False)
        return _decode(answer.members)


def _check(peer_urls: Sequence[str]) -> Sequence[str]:
    check_tuple("peer_urls", peer_urls, str, "URLs, each a str,")
    if not peer_urls:
        raise ValueError("peer_urls must hold a URL, or more")
    return peer_urls


def _decode(members: Sequence[pb.Member]) -> tuple[ClusterMember, ...]:
    return tuple(ClusterMember.decode(member) for member in members)
