"""What is asked of members, and not of the store: how they do."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Final, Self, cast

import trio

from trio_sched._support.arguments import check_instance, check_int, shown
from trio_sched.etcd_shim._pb import messages_pb2 as pb
from trio_sched.etcd_shim._pb.services_grpc import MaintenanceStub
from trio_sched.etcd_shim._retry import call
from trio_sched.etcd_shim._versions import known_faults
from trio_sched.etcd_shim.errors import EtcdError, RemoteProtocolError
from trio_sched.etcd_shim.lease import new_lease_id

if TYPE_CHECKING:
    from io import BufferedWriter

    import grpclib.client
    from grpclib.client import Stream
    from trio._file_io import AsyncIOWrapper

    from trio_sched.etcd_shim.channel import Channel

__all__ = ["Alarm", "Hash", "Maintenance", "MemberStatus"]

MAX_MEMBER_ID: Final = 2**64 - 1

_DIGEST_SIZE: Final = 32  # bytes, at the end of a snapshot
_MOMENT: Final = 1.0  # second
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
        db_size_in_use: what of that holds data, in bytes; `Maintenance.defragment` frees the rest.
        learner: whether it has no vote yet.
        cluster_id: of its cluster.
        raft_term: of raft's leadership.
        raft_index: of raft's newest entry.
        raft_applied_index: of the newest entry that is in its store.
    """

    version: str
    member_id: int
    leader_id: int
    revision: int
    db_size: int
    errors: tuple[str, ...] = ()
    db_size_in_use: int = 0
    learner: bool = False
    cluster_id: int = 0
    raft_term: int = 0
    raft_index: int = 0
    raft_applied_index: int = 0


@dataclass(frozen=True, slots=True)
class Alarm:
    """What makes a cluster refuse writes.

    Attributes:
        member_id: whose alarm it is.
        type: ``NOSPACE`` or ``CORRUPT``.
    """

    member_id: int
    type: str


@dataclass(frozen=True, slots=True)
class Hash:
    """A hash of a member's keys: those of two members at one revision are the same.

    Attributes:
        hash: of all keys up to the revision that was asked for.
        revision: the store's.
        compact_revision: up to which history is gone; hashes of one revision can be
            compared if this is the same.
    """

    hash: int
    revision: int
    compact_revision: int


class Maintenance:
    """Calls about members: `Client.maintenance`. The names are etcdctl's.

    What is about *a* member is about the one that the client is connected to: open a client for it
    alone. Cancelled, what was begun goes on at the server.

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
            db_size_in_use=answer.db_size_in_use,
            learner=answer.is_learner,
            cluster_id=answer.header.cluster_id,
            raft_term=answer.raft_term,
            raft_index=answer.raft_index,
            raft_applied_index=answer.raft_applied_index,
        )

    async def defragment(self) -> None:
        """Give what its database does not use back to the file system. It serves nothing meanwhile.

        Raises:
            EtcdError: it could not.
        """
        await call(self._channel, self._stub.Defragment, pb.DefragmentRequest(), repeatable=False)

    async def hash_kv(self, revision: int = 0) -> Hash:
        """Hash all keys of a member.

        Args:
            revision: up to which; 0 for the newest.

        Raises:
            RevisionCompacted: that is history which is gone.
            FutureRevision: it is not there yet.
        """
        request = pb.HashKVRequest(revision=check_int("revision", revision, 0))
        answer = await call(self._channel, self._stub.HashKV, request, repeatable=True)
        return Hash(answer.hash, answer.header.revision, answer.compact_revision)

    async def alarm_list(self) -> tuple[Alarm, ...]:
        """Return the alarms of all members."""
        request = pb.AlarmRequest(action=pb.AlarmRequest.GET)
        answer = await call(self._channel, self._stub.Alarm, request, repeatable=True)
        return tuple(_alarm(alarm) for alarm in answer.alarms)

    async def alarm_disarm(self) -> tuple[Alarm, ...]:
        """Take all alarms back, and return them. Make room before, or they come again."""
        disarmed: list[Alarm] = []
        for alarm in await self.alarm_list():
            request = pb.AlarmRequest(
                action=pb.AlarmRequest.DEACTIVATE,
                member_id=alarm.member_id,
                alarm=alarm.type,
            )
            await call(self._channel, self._stub.Alarm, request, repeatable=True)
            disarmed.append(alarm)
        return tuple(disarmed)

    async def move_leader(self, member_id: int) -> None:
        """Have the raft leader, to which the client must be connected, hand over to another member.

        Raises:
            RpcError: it is not the leader, or there is no such member.
        """
        request = pb.MoveLeaderRequest(
            target_id=check_int("member_id", member_id, 1, MAX_MEMBER_ID)
        )
        await call(self._channel, self._stub.MoveLeader, request, repeatable=False)

    @asynccontextmanager
    async def open_snapshot(self) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open a snapshot of a member's database, for ``etcdctl snapshot restore``.

        ``async with client.maintenance.open_snapshot() as parts: async for part in parts:``. The
        parts make a file, whose last 32 bytes are the SHA-256 of all before. `snapshot_save` writes
        and checks one. That of another member is another one, so it is not resumed elsewhere.

        Raises:
            ConnectionLost: out of the loop, if the connection ends before it is whole.
        """
        async with self._stub.Snapshot.open() as stream:
            await stream.send_message(pb.SnapshotRequest(), end=True)
            yield _Parts(stream)

    async def snapshot_save(self, file: str | os.PathLike[str]) -> int:
        """Write a snapshot to a file, which is there when it is whole; return its size in bytes.

        It is for its owner alone to read, as that of etcdctl is: all keys and users are in it.

        Raises:
            OSError: it cannot be written, or is there and no regular file; a device stays as it is.
            ValueError: it is no name of a file.
            RemoteProtocolError: what came is not what was sent: its hash is another one.
            ConnectionLost: the connection ended before it was whole.
        """
        check_instance("file", file, (str, os.PathLike), "the name of a file")
        target = trio.Path(os.fspath(file))
        await _check_replaceable(target)
        partial = target.with_name(f"{target.name}.{new_lease_id():x}.part")  # no other's
        try:
            async with await trio.open_file(partial, "xb", opener=_open_private) as out:
                size = await self._write_parts(out)
                await out.flush()
                await trio.to_thread.run_sync(os.fsync, out.fileno())
            await partial.replace(target)
        except BaseException:
            with trio.CancelScope(shield=True):
                await partial.unlink(missing_ok=True)
            raise
        return size

    async def _write_parts(self, out: AsyncIOWrapper[BufferedWriter]) -> int:
        digest, tail, size = sha256(), b"", 0
        async with self.open_snapshot() as parts:
            async for part in parts:
                await out.write(part)
                size += len(part)
                tail += part
                digest.update(tail[:-_DIGEST_SIZE])
                tail = tail[-_DIGEST_SIZE:]
        if size <= _DIGEST_SIZE or tail != digest.digest():
            raise RemoteProtocolError("the snapshot is not whole: its hash is another one")
        return size

    async def warn_of_faults(self) -> None:
        """Ask which etcd this is, when others have gone first, and log known faults of it."""
        await trio.sleep(_MOMENT)
        with trio.move_on_after(_PATIENCE), suppress(EtcdError):
            version = (await self.status()).version
            if faults := "; ".join(map(str, known_faults(version))):
                _logger.warning("etcd %s has known faults: %s", version, faults)


async def _check_replaceable(target: trio.Path) -> None:
    """Raise where a file cannot be put in its place, or must not be, as what is there is none."""
    if not target.name:
        raise ValueError(f"file must be the name of a file, not {shown(str(target))}")
    if await target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    if await target.exists() and not await target.is_file():
        raise FileExistsError(errno.EEXIST, "It is there, and no regular file", str(target))


def _open_private(file: str, flags: int) -> int:
    return os.open(file, flags, 0o600)


class _Parts:
    """The parts of a snapshot. A class, as the block that it belongs to ends it."""

    def __init__(self, stream: Stream[pb.SnapshotRequest, pb.SnapshotResponse]) -> None:
        self._stream = stream

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        answer = await self._stream.recv_message()
        if answer is None:
            raise StopAsyncIteration
        return answer.blob


def _alarm(alarm: pb.AlarmMember) -> Alarm:
    return Alarm(alarm.member_id, pb.AlarmType.Name(alarm.alarm))
