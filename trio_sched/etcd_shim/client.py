"""The etcd client: what `open_client` gives.

Every method that is ``async`` is a checkpoint; a cancelled one becomes an
RST_STREAM, and a write may then have been carried out or not.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict, Unpack, cast

from grpclib.const import Status

from trio_sched._tasks import ServiceNursery, open_service_nursery
from trio_sched.etcd_shim._pb import messages_pb2 as pb
from trio_sched.etcd_shim._pb.services_grpc import KVStub, LeaseStub, MaintenanceStub, WatchStub
from trio_sched.etcd_shim.channel import Channel, ChannelStatistics, Endpoint, open_channel
from trio_sched.etcd_shim.errors import LeaseNotFound
from trio_sched.etcd_shim.kv import (
    Compare,
    Delete,
    DeleteResult,
    Get,
    GetResult,
    Key,
    Operation,
    Put,
    PutResult,
    SortOrder,
    SortTarget,
    Txn,
    TxnResult,
    prefix_range,
)
from trio_sched.etcd_shim.lease import Lease, LeaseInfo, Renewals, check_ttl, new_lease_id
from trio_sched.etcd_shim.watch import Watcher, WatchHub, creation

if TYPE_CHECKING:
    import grpclib.client

__all__ = ["Client", "MemberStatus", "open_client"]


class _PrefixOptions(TypedDict, total=False):
    limit: int
    revision: int
    sort_order: SortOrder | None
    sort_target: SortTarget
    serializable: bool
    keys_only: bool
    count_only: bool
    min_mod_revision: int
    max_mod_revision: int
    min_create_revision: int
    max_create_revision: int


class _GetOptions(_PrefixOptions, total=False):
    range_end: Key


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """How a member does.

    Attributes:
        version: of etcd.
        member_id: its id.
        leader_id: id of the raft leader; 0 if the member knows none.
        revision: the store's revision.
        db_size: size of its database, in bytes.
    """

    version: str
    member_id: int
    leader_id: int
    revision: int
    db_size: int


class Client:
    """A client of one etcd cluster. Made by `open_client`."""

    def __init__(self, services: ServiceNursery, channel: Channel) -> None:
        self._channel = channel
        stub_channel = cast("grpclib.client.Channel", channel)  # the part of it that stubs touch
        self._kv = KVStub(stub_channel)
        self._lease = LeaseStub(stub_channel)
        self._maintenance = MaintenanceStub(stub_channel)
        self._renewals = Renewals(services, self._lease)
        self._watches = WatchHub(services, WatchStub(stub_channel))

    # ---- keys ----------------------------------------------------------------

    async def get(self, key: Key, **options: Unpack[_GetOptions]) -> GetResult:
        """Read one key, or with `range_end` a range. Options as for `Get`."""
        return await self.read(Get(key, **options))

    async def get_prefix(self, prefix: Key, **options: Unpack[_PrefixOptions]) -> GetResult:
        """Read all keys that start with `prefix`. Options as for `Get`."""
        key, range_end = prefix_range(prefix)
        return await self.read(Get(key, range_end, **options))

    async def read(self, request: Get) -> GetResult:
        """Carry out a read."""
        return GetResult.decode(await self._kv.Range(request.encode()))

    async def put(
        self, key: Key, value: Key, *, lease: int = 0, prev_kv: bool = False
    ) -> PutResult:
        """Write one key. Arguments as for `Put`.

        Raises:
            LeaseNotFound: there is no such lease.
        """
        request = Put(key, value, lease, prev_kv)
        return PutResult.decode(await self._kv.Put(request.encode()))

    async def delete(
        self, key: Key, range_end: Key = b"", *, prev_kv: bool = False
    ) -> DeleteResult:
        """Delete one key, or with `range_end` a range."""
        request = Delete(key, range_end, prev_kv)
        return DeleteResult.decode(await self._kv.DeleteRange(request.encode()))

    async def delete_prefix(self, prefix: Key, *, prev_kv: bool = False) -> DeleteResult:
        """Delete all keys that start with `prefix`."""
        key, range_end = prefix_range(prefix)
        return await self.delete(key, range_end, prev_kv=prev_kv)

    async def txn(
        self,
        compare: Sequence[Compare] = (),
        success: Sequence[Operation] = (),
        failure: Sequence[Operation] = (),
    ) -> TxnResult:
        """Carry out a transaction. Arguments as for `Txn`."""
        request = Txn(compare, success, failure)
        return TxnResult.decode(await self._kv.Txn(request.encode()))

    # ---- leases ----------------------------------------------------------------

    async def lease_grant(self, ttl: int, lease: int | None = None) -> Lease:
        """Grant a lease.

        Args:
            ttl: seconds without a renewal after which it lapses. etcd gives at
                least 2; see the TTL in the answer.
            lease: its id; None for a random one. Whoever chooses it can still
                revoke the lease when the answer gets lost.

        Raises:
            LeaseExists: a lease of this id exists.
        """
        request = pb.LeaseGrantRequest(
            ttl=check_ttl(ttl), id=new_lease_id() if lease is None else lease
        )
        answer = await self._lease.LeaseGrant(request)
        return Lease(answer.id, answer.ttl)

    async def lease_revoke(self, lease: int) -> int:
        """Revoke a lease: all its keys are deleted in one revision, returned.

        Raises:
            LeaseNotFound: there is no such lease.
        """
        answer = await self._lease.LeaseRevoke(pb.LeaseRevokeRequest(id=lease))
        return answer.header.revision

    async def lease_renew(self, lease: int) -> int:
        """Renew a lease over the shared stream; return its TTL in seconds.

        Raises:
            LeaseNotFound: there is no such lease.
        """
        return await self._renewals.renew(lease)

    async def lease_time_to_live(self, lease: int, *, keys: bool = False) -> LeaseInfo:
        """Ask how long a lease has still to live, and for its keys.

        Raises:
            LeaseNotFound: there is no such lease.
        """
        answer = await self._lease.LeaseTimeToLive(pb.LeaseTimeToLiveRequest(id=lease, keys=keys))
        if answer.ttl < 0:
            raise LeaseNotFound(Status.NOT_FOUND, f"lease {lease:x} is gone")
        return LeaseInfo(answer.id, answer.ttl, answer.granted_ttl, tuple(answer.keys))

    async def lease_list(self) -> tuple[int, ...]:
        """Return the ids of all leases."""
        answer = await self._lease.LeaseLeases(pb.LeaseLeasesRequest())
        return tuple(status.id for status in answer.leases)

    # ---- watches ------------------------------------------------------------------

    def watch(
        self,
        key: Key,
        *,
        prefix: bool = False,
        range_end: Key = b"",
        start_revision: int = 0,
        prev_kv: bool = False,
        progress_notify: bool = False,
        buffer_size: int = 10_000,
    ) -> AbstractAsyncContextManager[Watcher]:
        """Watch a key, or a range, from the moment at which the block is entered.

        ``async with client.watch("/jobs/", prefix=True) as events:`` and then
        ``async for event in events:``.

        Args:
            key: the key, or the first of the range.
            prefix: watch all keys that start with `key`.
            range_end: the first key behind the range.
            start_revision: begin with the events of this revision; 0 for those
                after the watch is created.
            prev_kv: tell how each key was before.
            progress_notify: have etcd tell now and then, on an idle watch, up to
                which revision everything has been delivered.
            buffer_size: how many events may wait to be read.

        Raises:
            Compacted: `start_revision` is older than what etcd keeps.
        """
        request = creation(
            key,
            prefix=prefix,
            range_end=range_end,
            start_revision=start_revision,
            prev_kv=prev_kv,
            progress_notify=progress_notify,
        )
        return self._watches.watch(request, buffer_size)

    # ---- the rest --------------------------------------------------------------------

    async def status(self) -> MemberStatus:
        """Ask the member that we are connected to how it does."""
        answer = await self._maintenance.Status(pb.StatusRequest())
        return MemberStatus(
            version=answer.version,
            member_id=answer.header.member_id,
            leader_id=answer.leader,
            revision=answer.header.revision,
            db_size=answer.db_size,
        )

    def statistics(self) -> ChannelStatistics:
        """Return how the connections do."""
        return self._channel.statistics()


@asynccontextmanager
async def open_client(
    *endpoints: str,
    ssl_context: ssl.SSLContext | None = None,
    connect_timeout: float = 5.0,
    max_message_size: int = 64 * 2**20,
) -> AsyncIterator[Client]:
    """Open a client. Nothing is sent before the first call.

    Args:
        endpoints: URLs of members, ``http://…``, ``https://…`` or ``unix://…``;
            ``http://127.0.0.1:2379`` if there are none.
        ssl_context: for ``https`` endpoints; None for Python's default one.
        connect_timeout: bound for connecting to one endpoint, in seconds.
        max_message_size: the largest answer accepted, in bytes.

    Raises:
        ValueError: an endpoint is not understood.
        ConnectionFailed: out of the first call, if no endpoint lets us in.

    A cancellation of the body leaves the connection to the clean-up inside it;
    it is closed when the block is left.
    """
    parsed = [Endpoint.parse(url) for url in endpoints or ("http://127.0.0.1:2379",)]
    async with (
        open_channel(
            parsed,
            ssl_context=ssl_context,
            connect_timeout=connect_timeout,
            max_message_size=max_message_size,
        ) as channel,
        open_service_nursery() as services,
    ):
        yield Client(services, channel)
