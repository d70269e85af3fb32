"""The etcd client: what `open_client`, of ``opening``, gives.

Every method that is ``async`` is a checkpoint; a cancelled one becomes an
RST_STREAM, and a write may then have been carried out or not.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from copy import copy
from functools import cached_property, partial
from typing import TYPE_CHECKING, TypeVar, Unpack, cast

from grpclib.const import Status

from trio_sched._support.arguments import (
    check_bool,
    check_instance,
    check_int,
    check_seconds,
    shown,
)
from trio_sched._support.tasks import (
    run_shielded,
)
from trio_sched.etcd_shim._pb import messages_pb2 as pb
from trio_sched.etcd_shim._pb.services_grpc import KVStub, LeaseStub, WatchStub
from trio_sched.etcd_shim._retry import call
from trio_sched.etcd_shim._watch_hub import WatchHub
from trio_sched.etcd_shim.channel import READS_ONLY, Access, Channel, Endpoint
from trio_sched.etcd_shim.errors import ConnectionLost, LeaseExists, LeaseNotFound
from trio_sched.etcd_shim.kv import (
    Compare,
    Delete,
    DeleteResult,
    Get,
    GetOptions,
    GetResult,
    Key,
    Operation,
    PrefixOptions,
    Put,
    PutResult,
    Txn,
    TxnResult,
    prefix_range,
    put_request,
    to_bytes,
)
from trio_sched.etcd_shim.lease import Lease, LeaseInfo, Renewals, check_ttl, id_to_grant
from trio_sched.etcd_shim.watch import Watcher, creation

if TYPE_CHECKING:
    import grpclib.client

    from trio_sched.etcd_shim._following import Follower
    from trio_sched.etcd_shim._keep import KeptLease
    from trio_sched.etcd_shim._namespace import KV
    from trio_sched.etcd_shim.auth import Auth
    from trio_sched.etcd_shim.channel import ChannelStatistics
    from trio_sched.etcd_shim.cluster import Cluster
    from trio_sched.etcd_shim.maintenance import Maintenance, MemberStatus

__all__ = ["Client", "check_client", "prefix_of"]


Req = TypeVar("Req")
Rep = TypeVar("Rep")

_CLEANUP_TIMEOUT = 1.0  # seconds for the answer to a transaction that etcd must not see cancelled


class Client:
    """A client of one etcd cluster. Made by `open_client`.

    Attributes:
        prefix: what its keys start with in etcd; empty, but of what `namespace` gives.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        services = channel.services
        stub_channel = cast("grpclib.client.Channel", channel)  # the part of it that stubs touch
        self._kv_stub = KVStub(stub_channel)
        self._kv: KV = self._kv_stub
        self.prefix: bytes = b""
        self._lease = LeaseStub(stub_channel)
        warn = self._warn_of_faults if channel.on_network else None
        self._renewals = Renewals(services, self._lease, warn)
        watches = WatchStub(stub_channel)
        self._watches = WatchHub(services, channel, watches, self._read_first, self.status)
        channel.note_stream(self._renewals)
        channel.note_stream(self._watches)

    def _repeatable(
        self, method: Callable[[Req], Awaitable[Rep]], request: Req
    ) -> Coroutine[object, object, Rep]:
        """Carry out a call that may be carried out twice."""
        return call(self._channel, method, request, repeatable=True)

    def _once(
        self, method: Callable[[Req], Awaitable[Rep]], request: Req
    ) -> Coroutine[object, object, Rep]:
        """Carry out a call that must not be carried out twice."""
        return call(self._channel, method, request, repeatable=False)

    # ---- keys ----------------------------------------------------------------

    async def get(self, key: Key, **options: Unpack[GetOptions]) -> GetResult:
        """Read one key, or with `range_end` a range. Options as for `Get`."""
        return await self.read(Get(key, **options))

    async def get_prefix(self, prefix: Key, **options: Unpack[PrefixOptions]) -> GetResult:
        """Read all keys that start with `prefix`. Options as for `Get`."""
        key, range_end = prefix_range(prefix)
        return await self.read(Get(key, range_end, **options))

    async def read(self, request: Get) -> GetResult:
        """Carry out a read."""
        check_instance("request", request, Get, "a Get")
        return GetResult.decode(await self._repeatable(self._kv.Range, request.encode()))

    async def _read_first(self, key: bytes, range_end: bytes) -> None:
        """Read a key of a range, as cheaply as can be, to see whether that is permitted."""
        request = pb.RangeRequest(key=key, range_end=range_end, limit=1, keys_only=True)
        await self._repeatable(self._kv.Range, request)

    async def put(
        self,
        key: Key,
        value: Key,
        *,
        lease: int = 0,
        prev_kv: bool = False,
        ignore_value: bool = False,
        ignore_lease: bool = False,
    ) -> PutResult:
        """Write one key. Arguments as for `Put`.

        Raises:
            LeaseNotFound: there is no such lease.
            InvalidArgument: with `ignore_value` or `ignore_lease`, the key is not there, or a value
                or lease is given all the same.
        """
        if ignore_value is ignore_lease is False:
            request = put_request(key, value, lease, prev_kv=prev_kv)
        else:
            request = Put(key, value, lease, prev_kv, ignore_value, ignore_lease).encode()
        return PutResult.decode(await self._once(self._kv.Put, request))

    async def delete(
        self, key: Key, range_end: Key = b"", *, prev_kv: bool = False
    ) -> DeleteResult:
        """Delete one key, or with `range_end` a range."""
        request = Delete(key, range_end, prev_kv)
        return DeleteResult.decode(await self._once(self._kv.DeleteRange, request.encode()))

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
        """Carry out a transaction. Arguments as for `Txn`.

        Cancellation: one that only reads is answered first, within a second, as
        etcd before 3.5.5 panics if such a transaction is cancelled at a bad
        moment (etcd issue 14110). To read within bounds, `get` is the better way.
        """
        request = Txn(compare, success, failure)
        message = request.encode()
        if request.reads_only:
            read = partial(self._kv.Txn, metadata=READS_ONLY)
            answer = await run_shielded(_CLEANUP_TIMEOUT, self._repeatable, read, message)
        else:
            answer = await self._once(self._kv.Txn, message)
        return TxnResult.decode(answer)

    async def compact(self, revision: int, *, physical: bool = False) -> None:
        """Forget the history before a revision.

        Args:
            revision: the oldest that can be read or watched then.
            physical: wait until it is gone from the database, too.

        Raises:
            RevisionCompacted: it is gone already.
            FutureRevision: it is not there yet.
        """
        check_bool("physical", physical)
        request = pb.CompactionRequest(
            revision=check_int("revision", revision, 1), physical=physical
        )
        await self._once(self._kv.Compact, request)

    # ---- leases ----------------------------------------------------------------

    async def lease_grant(self, ttl: int, lease: int | None = None) -> Lease:
        """Grant a lease.

        Args:
            ttl: seconds without a renewal after which it lapses. etcd gives at
                least 2; see the TTL in the answer.
            lease: its id; None for a random one. With an id of your own you
                can still revoke the lease when the answer gets lost.

        Raises:
            LeaseExists: a lease of this id exists.
        """
        request = pb.LeaseGrantRequest(ttl=check_ttl(ttl), id=id_to_grant(lease))
        try:
            answer = await self._once(self._lease.LeaseGrant, request)
        except ConnectionLost:
            if lease is not None:
                raise  # it may be another client's if it exists
            # The random id is ours alone: a second grant is refused if the first one worked.
            with suppress(LeaseExists):
                await self._repeatable(self._lease.LeaseGrant, request)
            return Lease(request.id, (await self.lease_time_to_live(request.id)).granted_ttl)
        return Lease(answer.id, answer.ttl)

    async def lease_revoke(self, lease: int) -> int:
        """Revoke a lease: all its keys are deleted in one revision, returned.

        Raises:
            LeaseNotFound: there is no such lease; also if a first attempt did
                revoke it, but its answer was lost.
        """
        request = pb.LeaseRevokeRequest(id=check_int("lease", lease))
        answer = await self._repeatable(self._lease.LeaseRevoke, request)
        return answer.header.revision

    async def lease_renew(self, lease: int) -> int:
        """Renew a lease over the shared stream; return its TTL in seconds.

        Raises:
            LeaseNotFound: there is no such lease.
        """
        return await self._repeatable(self._renewals.renew, check_int("lease", lease))

    async def lease_time_to_live(self, lease: int, *, keys: bool = False) -> LeaseInfo:
        """Ask how long a lease has still to live, and for its keys.

        Raises:
            LeaseNotFound: there is no such lease.
        """
        check_bool("keys", keys)
        request = pb.LeaseTimeToLiveRequest(id=check_int("lease", lease), keys=keys)
        answer = await self._repeatable(self._lease.LeaseTimeToLive, request)
        if answer.ttl < 0:
            raise LeaseNotFound(Status.NOT_FOUND, f"lease {lease:x} is gone")
        return LeaseInfo(
            answer.id,
            answer.ttl,
            answer.granted_ttl,
            tuple(key[len(self.prefix) :] for key in answer.keys if key.startswith(self.prefix)),
            answer.header.raft_term,
            answer.header.revision,
        )

    async def lease_list(self) -> tuple[int, ...]:
        """Return the ids of all leases."""
        answer = await self._repeatable(self._lease.LeaseLeases, pb.LeaseLeasesRequest())
        return tuple(status.id for status in answer.leases)

    def open_lease(
        self, ttl: int, lease: int | None = None
    ) -> AbstractAsyncContextManager[KeptLease]:
        """Keep a lease alive for a block, and revoke it at the end.

        ``async with client.open_lease(10) as lease: await client.put(key, value,
        lease=lease.id)``. When the lease is lost, the body is cancelled and the
        block raises `LeaseLost`; that is before the server can have deleted its
        keys, unless another client revoked it. The revoke at the end is shielded, and
        bounded by the TTL: if etcd does not answer, the lease lapses by itself.

        Args:
            ttl: as for `lease_grant`.
            lease: its id; None for a random one.

        Raises:
            LeaseExists: when the block is entered: a lease of this id exists. It is left alone, as
                it is if the answer to the grant is lost, since it may be another client's.
        """
        from trio_sched.etcd_shim._keep import open_kept_lease  # noqa: PLC0415 # not at once

        ours = lease is None
        return open_kept_lease(self, check_ttl(ttl), id_to_grant(lease), ours=ours)

    # ---- watches ------------------------------------------------------------------

    def watch(
        self,
        key: Key,
        *,
        prefix: bool = False,
        range_end: Key = b"",
        start_revision: int = 0,
        prev_kv: bool = False,
        puts: bool = True,
        deletes: bool = True,
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
            prev_kv: deliver how each key was before, too.
            puts: deliver keys that are put.
            deletes: deliver keys that are deleted.
            progress_notify: have etcd report now and then, on an idle watch, up to
                which revision everything has been delivered.
            buffer_size: how many events may wait to be read.

        Raises:
            Compacted: out of the first `Watcher.receive`, if `start_revision` is
                older than what etcd keeps.
            PermissionDenied: when the block is entered.
        """
        request = creation(
            key,
            prefix=prefix,
            range_end=range_end,
            start_revision=start_revision,
            prev_kv=prev_kv,
            puts=puts,
            deletes=deletes,
            progress_notify=progress_notify,
        )
        if self.prefix:
            from trio_sched.etcd_shim._namespace import range_within  # noqa: PLC0415 # not at once

            request.key, request.range_end = range_within(
                self.prefix, request.key, request.range_end
            )
        return self._watches.watch(request, buffer_size, len(self.prefix))

    def follow(
        self, prefix: Key, *, reconcile: float | None = None, buffer_size: int = 10_000
    ) -> AbstractAsyncContextManager[Follower]:
        """Follow all keys that start with `prefix`: the state, then each change.

        ``async with client.follow("/jobs/") as follower:`` gives `follower.first`,
        and ``async for event in follower:`` each change after it. Unlike a watch
        it goes on over compactions, overflows and restarts of etcd, by reading the state
        again and delivering the difference. While etcd is away it waits, for as long as
        the block lasts; `Follower.answered_at` says how old what it knows is.

        Args:
            prefix: what the keys start with.
            reconcile: read the state anew whenever the watch has been silent for
                so many seconds, in case the server lost an event; None for never.
            buffer_size: how many events may wait to be read.

        Raises:
            EtcdError: when the block is entered: etcd cannot be reached, or refuses.
        """
        from trio_sched.etcd_shim._following import open_follower  # noqa: PLC0415 # not at once
        from trio_sched.etcd_shim._pages import read_ranges  # noqa: PLC0415 # likewise

        if reconcile is not None:
            check_seconds("reconcile", reconcile)

        def watch(revision: int) -> AbstractAsyncContextManager[Watcher]:
            return self.watch(prefix, prefix=True, start_revision=revision, buffer_size=buffer_size)

        watch(0)  # not entered: it checks the arguments
        found = prefix_range(prefix)
        read = partial(read_ranges, self, [found])
        return open_follower(read, watch, reconcile, patient=True)

    # ---- the rest --------------------------------------------------------------------

    def namespace(self, prefix: Key) -> Client:
        """Return this client, for those keys that start with `prefix`.

        They are given without it, and come without it: in reads, writes, transactions, watches,
        leases' keys, and what `trio_sched.schedule` writes. The connection is the same one, and so
        are `compact`, leases, members and users, which are of the whole cluster. A range that ends
        at `ALL_KEYS` ends where the prefix does. A namespace of a namespace is below it.

        Raises:
            ValueError: `prefix` is empty.
        """
        from trio_sched.etcd_shim._namespace import NamespacedKV  # noqa: PLC0415 # not at once

        checked = to_bytes(prefix)
        if not checked:
            raise ValueError("the prefix of a namespace must not be empty")
        below = copy(self)
        below.prefix = self.prefix + checked
        below._kv = NamespacedKV(self._kv_stub, below.prefix)  # noqa: SLF001 # ours
        return below

    async def status(self) -> MemberStatus:
        """Ask the member that we are connected to how it does.

        A client that renews leases does so once by itself. If that version of etcd has known
        faults, they are logged, as one warning of the logger ``trio_sched.etcd_shim``.
        """
        return await self.maintenance.status()

    async def _warn_of_faults(self) -> None:
        await self.maintenance.warn_of_faults()

    @cached_property
    def maintenance(self) -> Maintenance:
        """Calls about members, such as to defragment, hash, disarm, and take snapshots."""
        from trio_sched.etcd_shim.maintenance import Maintenance  # noqa: PLC0415 # not at once

        return Maintenance(self._channel)

    @cached_property
    def cluster(self) -> Cluster:
        """The members of the cluster."""
        from trio_sched.etcd_shim.cluster import Cluster  # noqa: PLC0415 # most do not need it

        return Cluster(self._channel)

    @cached_property
    def auth(self) -> Auth:
        """Users and roles."""
        from trio_sched.etcd_shim.auth import Auth  # noqa: PLC0415 # most do not need it

        return Auth(self._channel)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The URLs of the members that this client connects to."""
        return tuple(endpoint.url for endpoint in self._channel.endpoints)

    def set_endpoints(self, *endpoints: str) -> None:
        """Connect to other members of the cluster from now on, as `open_client` would.

        If the member that is used is none of them any more, watches, renewals, and calls that may
        be made twice go on at another one. See `Cluster.sync_endpoints`, too.
        """
        if not endpoints:
            raise ValueError("set_endpoints needs an endpoint, or more")
        self._channel.set_endpoints([Endpoint.parse(url) for url in endpoints])

    @property
    def _access(self) -> Access:
        """What a reaper needs to connect as this client does. It holds the password."""
        return self._channel.access

    def statistics(self) -> ChannelStatistics:
        """Return how the connections do."""
        return self._channel.statistics()


def check_client(client: Client) -> Client:
    """Return a client, or what can do what one does.

    Raises:
        TypeError: it is something else.
    """
    like_one = all(hasattr(client, name) for name in ("read", "txn", "watch", "lease_grant"))
    if isinstance(client, type) or not (isinstance(client, Client) or like_one):
        raise TypeError(
            "client must be a Client, as `async with open_client() as client` gives it, "
            f"not {shown(client)}"
        )
    return client


def prefix_of(client: Client) -> bytes:
    """Return what a client's keys start with in etcd, also of one that only can what it does."""
    return getattr(client, "prefix", b"")
