"""What is asked of members, and not of the store: how they do."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

import trio

from trio_sched.etcd_shim._pb import messages_pb2 as pb
from trio_sched.etcd_shim._pb.services_grpc import MaintenanceStub
from trio_sched.etcd_shim._retry import call
from trio_sched.etcd_shim._versions import known_faults
from trio_sched.etcd_shim.errors import EtcdError

if TYPE_CHECKING:
    import grpclib.client

    from trio_sched.etcd_shim.channel import Channel

__all__ = ["Maintenance", "MemberStatus"]

_PATIENCE: Final = 1.0  # seconds in which a version that no caller asked for is to be known

_logger = logging.getLogger("trio_sched.etcd_shim")


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """How a member does.

    Attributes:
        version: of etcd.
        member_id: its id.
        leader_id: id of the raft leader; 0 if the member knows none.
        revision: the store's revision.
        db_size: size of its database, in bytes.
        errors: what is wrong with it, in etcd's words: alarms, or that it has no leader.
    """

    version: str
    member_id: int
    leader_id: int
    revision: int
    db_size: int
    errors: tuple[str, ...] = ()


class Maintenance:
    """Calls about members. Made by `Client`.

    Attributes:
        version: of etcd, once a member has said it.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._stub = MaintenanceStub(cast("grpclib.client.Channel", channel))
        self.version: str | None = None

    async def status(self) -> MemberStatus:
        """Ask the member that we are connected to; see `Client.status`."""
        request = pb.StatusRequest()
        answer = await call(self._channel, self._stub.Status, request, repeatable=True)
        self.version = answer.version
        return MemberStatus(
            version=answer.version,
            member_id=answer.header.member_id,
            leader_id=answer.leader,
            revision=answer.header.revision,
            db_size=answer.db_size,
            errors=tuple(answer.errors),
        )

    async def warn_of_faults(self) -> None:
        """Ask which etcd this is, and log known faults of it."""
        with trio.move_on_after(_PATIENCE), suppress(EtcdError):
            version = (await self.status()).version
            if faults := "; ".join(map(str, known_faults(version))):
                _logger.warning("etcd %s has known faults: %s", version, faults)
