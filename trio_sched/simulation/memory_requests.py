"""Requests to an etcd in memory: how each is answered, and what is refused all the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from google.protobuf.message import Message
from grpclib.const import Status

from trio_sched.etcd_shim._pb import messages_pb2 as pb
from trio_sched.etcd_shim.errors import RpcError, rpc_error
from trio_sched.simulation.memory_leases import LeaseState
from trio_sched.simulation.memory_store import Store

__all__ = ["VERSION", "Refusals", "answer_request", "needs_quorum"]

VERSION: Final = "3.5.99"
_LOCAL: Final = {"Lease/LeaseLeases", "Maintenance/Status", "Auth/Authenticate"}
_MAX_REQUEST: Final = 1_572_864  # bytes: 1.5 MiB
_WRITES: Final = {"KV/Put", "KV/Txn", "KV/DeleteRange", "Lease/LeaseGrant", "Lease/LeaseRevoke"}


def needs_quorum(method: str, request: Message) -> bool:
    """Return whether a member cannot answer a request alone."""
    if isinstance(request, pb.RangeRequest):
        return not request.serializable
    return method not in _LOCAL


# ---- answers ---------------------------------------------------------------------


def answer_request(store: Store, method: str, request: Any, now: float) -> Any:  # any message
    """Carry out a request.

    Raises:
        RpcError: the store refuses it.
    """
    reply = _ANSWERS[method](store, request, now)
    if not reply.header.revision:
        reply.header.revision = store.revision
    return reply


def _range(store: Store, request: pb.RangeRequest, _now: float) -> Message:
    return store.range(request)


def _put(store: Store, request: pb.PutRequest, _now: float) -> Message:
    return store.put(request)


def _delete_range(store: Store, request: pb.DeleteRangeRequest, _now: float) -> Message:
    return store.delete_range(request)


def _txn(store: Store, request: pb.TxnRequest, _now: float) -> Message:
    return store.txn(request)


def _compact(store: Store, request: pb.CompactionRequest, _now: float) -> Message:
    store.compact(request.revision)
    return pb.CompactionResponse()


def _grant(store: Store, request: pb.LeaseGrantRequest, now: float) -> Message:
    if not request.id:
        request.id = 1 + max((lease.id for lease in store.leases), default=0)
    lease = store.leases.grant(request.id, request.ttl, now)
    return pb.LeaseGrantResponse(id=lease.id, ttl=lease.ttl)


def _revoke(store: Store, request: pb.LeaseRevokeRequest, _now: float) -> Message:
    store.end_lease(request.id)
    return pb.LeaseRevokeResponse()


def _keep_alive(store: Store, request: pb.LeaseKeepAliveRequest, now: float) -> Message:
    return pb.LeaseKeepAliveResponse(id=request.id, ttl=store.leases.renew(request.id, now))


def _time_to_live(store: Store, request: pb.LeaseTimeToLiveRequest, now: float) -> Message:
    if request.id not in store.leases:
        return pb.LeaseTimeToLiveResponse(id=request.id, ttl=-1)
    lease = store.leases.find(request.id)
    left = max(0, int(lease.expiry - now))
    keys = sorted(lease.keys) if request.keys else ()
    return pb.LeaseTimeToLiveResponse(id=lease.id, ttl=left, granted_ttl=lease.ttl, keys=keys)


def _leases(store: Store, _request: pb.LeaseLeasesRequest, _now: float) -> Message:
    def order(lease: LeaseState) -> tuple[float, int]:
        return lease.expiry, lease.id

    statuses = [pb.LeaseStatus(id=lease.id) for lease in sorted(store.leases, key=order)]
    return pb.LeaseLeasesResponse(leases=statuses)


def _status(_store: Store, _request: pb.StatusRequest, _now: float) -> Message:
    return pb.StatusResponse(version=VERSION, db_size=1)


def _authenticate(_store: Store, _request: pb.AuthenticateRequest, _now: float) -> Message:
    raise rpc_error(Status.FAILED_PRECONDITION, "etcdserver: authentication is not enabled")


_ANSWERS: Final[Mapping[str, Callable[[Store, Any, float], Any]]] = {
    "KV/Range": _range,
    "KV/Put": _put,
    "KV/DeleteRange": _delete_range,
    "KV/Txn": _txn,
    "KV/Compact": _compact,
    "Lease/LeaseGrant": _grant,
    "Lease/LeaseRevoke": _revoke,
    "Lease/LeaseKeepAlive": _keep_alive,
    "Lease/LeaseTimeToLive": _time_to_live,
    "Lease/LeaseLeases": _leases,
    "Maintenance/Status": _status,
    "Auth/Authenticate": _authenticate,
}


# ---- refusals --------------------------------------------------------------------


class Refusals:
    """What is refused though it makes sense: no room, no permission, too much at once.

    Attributes:
        no_space: whether the NOSPACE alarm is on: nothing can be written, only deleted.
        no_space_for_txns: whether, then, each transaction is refused, as etcd 3.5.1 does (etcd
            issue 13429); newer ones look at what it does.
        busy: whether there is too much to do: each write is refused.
        forbidden: prefixes of keys that may be neither read nor written.
        counts: how often each method was asked for.
        listeners: called with the method of each request.
        refuse: is given the method and the request; what it returns is raised, if it is an error.
    """

    def __init__(self) -> None:
        self.no_space = False
        self.no_space_for_txns = False
        self.busy = False
        self.forbidden: set[bytes] = set()
        self.counts: Counter[str] = Counter()
        self.listeners: list[Callable[[str], None]] = []
        self.refuse: Callable[[str, Any], RpcError | None] = lambda _method, _request: None

    def count(self, method: str) -> None:
        """Note that a method was asked for."""
        self.counts[method] += 1
        for listener in self.listeners:
            listener(method)

    def check(self, method: str, request: Message) -> None:
        """Refuse a request that cannot be carried out now.

        Raises:
            RpcError: in etcd's words.
        """
        if (error := self.refuse(method, request)) is not None:
            raise error
        if method in _WRITES and request.ByteSize() > _MAX_REQUEST:
            raise rpc_error(Status.INVALID_ARGUMENT, "etcdserver: request is too large")
        if self.busy and method in _WRITES and _proposes(request):
            raise rpc_error(Status.RESOURCE_EXHAUSTED, "etcdserver: too many requests")
        is_txn = self.no_space_for_txns and isinstance(request, pb.TxnRequest)
        if self.no_space and (is_txn or _grows(request)):
            words = "etcdserver: mvcc: database space exceeded"
            raise rpc_error(Status.RESOURCE_EXHAUSTED, words)
        if self.forbidden and any(self._is_forbidden(*each) for each in _ranges(request)):
            raise rpc_error(Status.PERMISSION_DENIED, "etcdserver: permission denied")

    def of_watch(self, request: pb.WatchCreateRequest) -> str:
        """Return why a watch may not be; empty if it may."""
        if self.forbidden and self._is_forbidden(request.key, request.range_end):
            return "rpc error: code = PermissionDenied desc = etcdserver: permission denied"
        if request.start_revision < 0:
            return "etcdserver: mvcc: required revision has been compacted"
        if request.range_end not in {b"", b"\0"} and request.range_end <= request.key:
            return "mvcc: watcher range is empty"
        return ""

    def _is_forbidden(self, start: bytes, end: bytes) -> bool:
        """Return whether a range has a key in common with what is forbidden."""
        for prefix in self.forbidden:
            behind = prefix[:-1] + bytes([prefix[-1] + 1])
            if not end:
                if start.startswith(prefix):
                    return True
            elif start < behind and (end == b"\0" or end > prefix):
                return True
        return False


def _proposes(request: Message) -> bool:
    """Return whether a request goes through raft: a transaction that only reads does not."""
    if isinstance(request, pb.TxnRequest):
        return any(_proposes(each) for each in _operations(request))
    return not isinstance(request, pb.RangeRequest)


def _grows(request: Message) -> bool:
    """Return whether a request writes something."""
    if isinstance(request, (pb.PutRequest, pb.LeaseGrantRequest)):
        return True
    if isinstance(request, pb.TxnRequest):
        return any(_grows(each) for each in _operations(request))
    return False


def _operations(request: pb.TxnRequest) -> Iterable[Any]:
    for operation in (*request.success, *request.failure):
        yield getattr(operation, operation.WhichOneof("request") or "request_range")


def _ranges(request: Message) -> Iterable[tuple[bytes, bytes]]:
    """Return the ranges that a request touches."""
    if isinstance(request, (pb.RangeRequest, pb.DeleteRangeRequest)):
        yield request.key, request.range_end
    elif isinstance(request, pb.PutRequest):
        yield request.key, b""
    elif isinstance(request, pb.TxnRequest):
        for compare in request.compare:
            yield compare.key, compare.range_end
        for operation in _operations(request):
            yield from _ranges(operation)
