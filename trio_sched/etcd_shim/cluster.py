"""The members of a cluster: who they are, and changing that."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self, cast

import trio

from trio_sched._support.arguments import check_bools, check_int, check_text, check_tuple
from trio_sched._support.chance import chance
from trio_sched.etcd_shim._pb import messages_pb2 as pb
from trio_sched.etcd_shim._pb.services_grpc import ClusterStub
from trio_sched.etcd_shim._retry import call
from trio_sched.etcd_shim.channel import Endpoint
from trio_sched.etcd_shim.errors import EtcdError
from trio_sched.etcd_shim.maintenance import MAX_MEMBER_ID

if TYPE_CHECKING:
    import grpclib.client

    from trio_sched.etcd_shim.channel import Channel

__all__ = ["Cluster", "ClusterMember"]

_logger: Final = logging.getLogger("trio_sched.etcd_shim")


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

    async def sync_endpoints(self) -> tuple[str, ...]:
        """Connect to all members from now on, where they say that clients reach them.

        Learners are left out, as they do not serve, and URLs of a kind that `open_client` does not
        know. Members come and go, so do it now and then; see `open_client`, `auto_sync_interval`.

        Returns:
            The URLs. If there are none, as no member says where, the endpoints stay as they were.

        Raises:
            EtcdError: there is no answer, and the endpoints stay as they were.
        """
        members = [member for member in await self.member_list() if not member.learner]
        found: dict[str, Endpoint] = {}
        for url in (url for member in members for url in member.client_urls):
            with suppress(ValueError):
                found[url] = Endpoint.parse(url)
        if found:
            self._channel.set_endpoints([*found.values()])
        return tuple(found)

    async def keep_syncing(self, interval: float) -> None:
        """Synchronise the endpoints each so many seconds, for as long as it is left to run."""
        while True:
            await trio.sleep(interval * (0.9 + 0.2 * chance().random()))  # clients not in phase
            with trio.move_on_after(interval):
                try:
                    await self.sync_endpoints()
                except EtcdError as exc:
                    _logger.debug("endpoints could not be synchronised: %s", exc)

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
    for url in peer_urls:
        check_text("a URL of peer_urls", url, least=1)
    return peer_urls


def _decode(members: Sequence[pb.Member]) -> tuple[ClusterMember, ...]:
    return tuple(ClusterMember.decode(member) for member in members)
