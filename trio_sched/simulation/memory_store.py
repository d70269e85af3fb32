"""The keys of an etcd in memory: MVCC, ranges and transactions, as etcd's applier has them.

Theory of operation
-------------------
Sans-I/O: requests are protobuf messages, and so are answers; time comes in as a number.
Each key has its versions, the oldest first; a deletion is a version without a value. A
*commit* is one revision: a put, a deletion, a transaction, or a lease that ends. Its
events go into the log, from which watches that begin in the past are served, and to the
listener, at once.

A transaction is first looked through as a whole, compares of nested ones included, against
the state at its beginning. Only then is anything changed, so a transaction that is refused
leaves no trace. (etcd: `server/etcdserver/apply.go`, `server/etcdserver/api/v3rpc/key.go`.)

A message, once stored, is never changed: what hands it out hands out copies.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from operator import attrgetter, eq, gt, lt, ne
from typing import Final, TypeAlias

from grpclib.const import Status

from trio_sched.etcd_shim._pb import messages_pb2 as pb
from trio_sched.etcd_shim.errors import RpcError, rpc_error
from trio_sched.simulation.memory_checks import check_put, check_range, check_txn
from trio_sched.simulation.memory_leases import Leases

__all__ = ["Commit", "Snapshot", "Store", "in_range"]

Commit: TypeAlias = tuple[int, tuple[pb.Event, ...]]
"""A revision, and what it changed; each event with the key as it was before."""

_FIRST_REVISION: Final = 1
_NOT_COMPACTED: Final = -1
_NO_KV: Final = pb.KeyValue()
_TARGETS: Final = {
    pb.Compare.VERSION: ("version", attrgetter("version")),
    pb.Compare.CREATE: ("create_revision", attrgetter("create_revision")),
    pb.Compare.MOD: ("mod_revision", attrgetter("mod_revision")),
    pb.Compare.VALUE: ("value", attrgetter("value")),
    pb.Compare.LEASE: ("lease", attrgetter("lease")),
}
_RELATIONS: Final = {
    pb.Compare.EQUAL: eq,
    pb.Compare.GREATER: gt,
    pb.Compare.LESS: lt,
    pb.Compare.NOT_EQUAL: ne,
}
_SORT_KEYS: Final = {
    pb.RangeRequest.KEY: attrgetter("key"),
    pb.RangeRequest.VERSION: attrgetter("version"),
    pb.RangeRequest.CREATE: attrgetter("create_revision"),
    pb.RangeRequest.MOD: attrgetter("mod_revision"),
    pb.RangeRequest.VALUE: attrgetter("value"),
}


def in_range(key: bytes, start: bytes, end: bytes) -> bool:
    """Return whether a key lies in the range of a request: one key, up to `end`, or all above."""
    if not end:
        return key == start
    return key >= start and (end == b"\0" or key < end)


def compacted() -> RpcError:
    """Return the error about history that is gone."""
    return rpc_error(Status.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted")


def future() -> RpcError:
    """Return the error about a revision that is not there yet."""
    return rpc_error(
        Status.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision"
    )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a store holds at a moment."""

    revision: int
    compacted_revision: int
    versions: Mapping[bytes, Sequence[pb.KeyValue]]
    log: Sequence[Commit]
    leases: Leases


class Store:
    """Keys, their history, and leases.

    Args:
        listener: called with each commit, at once.
        leases: that keys hang on.

    Attributes:
        revision: of the last commit.
        compacted_revision: below which history is gone; -1 at first.
        leases: as given.
    """

    def __init__(self, listener: Callable[[Commit], None], leases: Leases) -> None:
        self._listener = listener
        self.leases: Leases = leases
        self.revision: int = _FIRST_REVISION
        self.compacted_revision: int = _NOT_COMPACTED
        self._now: dict[bytes, pb.KeyValue] = {}  # in the order in which they were created
        self._keys: list[bytes] = []  # those of `_now`, sorted
        self._versions: dict[bytes, list[pb.KeyValue]] = {}
        self._log: list[Commit] = []
        self._changes: list[pb.Event] = []  # of the commit under way

    def snapshot(self) -> Snapshot:
        """Return all of it, as it is now."""
        versions = {key: tuple(versions) for key, versions in self._versions.items()}
        log = tuple(self._log)
        return Snapshot(self.revision, self.compacted_revision, versions, log, self.leases.copied())

    def restore(self, snapshot: Snapshot) -> None:
        """Become what a snapshot holds; its revision may be lower than ours."""
        self.revision = snapshot.revision
        self.compacted_revision = snapshot.compacted_revision
        self._versions = {key: [*versions] for key, versions in snapshot.versions.items()}
        newest = {key: versions[-1] for key, versions in self._versions.items()}
        there = sorted(newest.items(), key=lambda item: item[1].create_revision)
        self._now = {key: kv for key, kv in there if kv.version}
        self._keys = sorted(self._now)
        self._log = [*snapshot.log]
        self.leases = snapshot.leases.copied()

    def kvs(self) -> Sequence[pb.KeyValue]:
        """Return what there is, by key."""
        return tuple(self._now[key] for key in self._keys)

    # ---- reading ---------------------------------------------------------------

    def range(self, request: pb.RangeRequest) -> pb.RangeResponse:
        """Answer a read."""
        check_range(request)
        self._check_revision(request)
        return self._range(request)

    def _check_revision(self, request: pb.RangeRequest) -> None:
        if request.revision > self._reading:
            raise future()
        if 0 < request.revision < self.compacted_revision:
            raise compacted()

    @property
    def _reading(self) -> int:
        """The revision that is read now: within a transaction, its own."""
        return self.revision + bool(self._changes)

    def _range(self, request: pb.RangeRequest) -> pb.RangeResponse:
        answer = pb.RangeResponse()
        answer.header.revision = self._reading
        if _is_of_the_newest(request):
            first, last = self._span(request.key, request.range_end)
            answer.count = last - first
            found: Sequence[pb.KeyValue] = self._newest(request)
        else:
            found = self._find(request.key, request.range_end, request.revision)
            answer.count = len(found)
            if request.count_only:
                return answer
            if 0 < request.limit < len(found) and _is_plain(request):
                found = found[: request.limit + 1]  # before it is sorted, as etcd has it
            found = _in_order(_within(found, request), request)
        if 0 < request.limit < len(found):
            found = found[: request.limit]
            answer.more = True
        answer.kvs.extend(found)
        if request.keys_only:
            for kv in answer.kvs:
                kv.ClearField("value")
        return answer

    def _newest(self, request: pb.RangeRequest) -> list[pb.KeyValue]:
        """Return one more than a limit asks for of the keys that were created last.

        Of keys that one transaction has created, the first is first, as a stable sort has it.
        """
        start, end, most = request.key, request.range_end, request.max_create_revision or inf
        found: list[pb.KeyValue] = []
        for kv in reversed(self._now.values()):
            if kv.create_revision <= most and in_range(kv.key, start, end):
                if len(found) > request.limit and kv.create_revision < found[-1].create_revision:
                    break
                found.append(kv)
        found.sort(key=lambda kv: (-kv.create_revision, kv.key))
        return found

    def _find(self, start: bytes, end: bytes, revision: int = 0) -> Sequence[pb.KeyValue]:
        """Return what is, or at a revision was, in a range, by key."""
        if 0 < revision < self._reading:
            keys = sorted(key for key in self._versions if in_range(key, start, end))
            return [kv for key in keys if (kv := self._at(key, revision)) is not None]
        if not end:
            one = self._now.get(start)
            return [] if one is None else [one]
        first, last = self._span(start, end)
        return [self._now[key] for key in self._keys[first:last]]

    def _span(self, start: bytes, end: bytes) -> tuple[int, int]:
        """Return where the keys of a range that has an end begin and end among all."""
        first = bisect_left(self._keys, start)
        return first, len(self._keys) if end == b"\0" else bisect_left(self._keys, end, first)

    def _at(self, key: bytes, revision: int) -> pb.KeyValue | None:
        """Return a key as it was at a revision; None if it was not."""
        versions = self._versions.get(key, [])
        index = bisect_right(versions, revision, key=attrgetter("mod_revision"))
        kv = versions[index - 1] if index else None
        return kv if kv is not None and kv.version else None

    def commits_from(self, revision: int) -> Iterator[Commit]:
        """Return what the log holds from a revision on, the oldest first.

        Raises:
            RevisionCompacted: that is gone.
        """
        if revision < self.compacted_revision:
            raise compacted()
        index = bisect_left(self._log, revision, key=lambda commit: commit[0])
        for commit in self._log[index:]:
            oldest = commit[0] == self.compacted_revision
            yield _what_is_left(commit) if oldest else commit

    # ---- writing ---------------------------------------------------------------

    def put(self, request: pb.PutRequest) -> pb.PutResponse:
        """Write a key."""
        check_put(request)
        self._check_lease(request)
        self._check_kept(request)
        answer = self._put(request)
        self._commit()
        return answer

    def delete_range(self, request: pb.DeleteRangeRequest) -> pb.DeleteRangeResponse:
        """Delete keys."""
        check_range(request)
        answer = self._delete_range(request)
        self._commit()
        return answer

    def txn(self, request: pb.TxnRequest, *, max_operations: int = 128) -> pb.TxnResponse:
        """Carry out a transaction."""
        check_txn(request, max_operations)
        path = list(self._paths(request))
        self._check_puts(request, iter(path))
        self._check_reads(request, iter(path))
        answer = self._carry_out(request, iter(path))
        answer.header.revision = self._reading
        self._commit()
        return answer

    def _check_kept(self, request: pb.PutRequest) -> None:
        if (request.ignore_value or request.ignore_lease) and request.key not in self._now:
            raise rpc_error(Status.INVALID_ARGUMENT, "etcdserver: key not found")

    def _check_lease(self, request: pb.PutRequest) -> None:
        if request.lease:
            self.leases.find(request.lease)

    def _put(self, request: pb.PutRequest) -> pb.PutResponse:
        key, revision = request.key, self.revision + 1
        before = self._now.get(key)
        answer = pb.PutResponse()
        answer.header.revision = revision
        kv = pb.KeyValue(
            key=key, value=request.value, lease=request.lease, mod_revision=revision, version=1
        )
        kv.create_revision = revision
        if before is None:
            insort(self._keys, key)
        else:
            kv.create_revision, kv.version = before.create_revision, before.version + 1
            if request.ignore_value:
                kv.value = before.value
            if request.ignore_lease:
                kv.lease = before.lease
            if request.prev_kv:
                answer.prev_kv.CopyFrom(before)
            self.leases.detach(before.lease, key)
        self.leases.attach(kv.lease, key)
        self._now[key] = kv
        self._versions.setdefault(key, []).append(kv)
        self._change(pb.Event.PUT, kv)
        return answer

    def _delete_range(self, request: pb.DeleteRangeRequest) -> pb.DeleteRangeResponse:
        gone = self._find(request.key, request.range_end)
        for kv in gone:
            self._delete(kv)
        answer = pb.DeleteRangeResponse(deleted=len(gone))
        answer.header.revision = self._reading
        if request.prev_kv:
            answer.prev_kvs.extend(gone)
        return answer

    def _delete(self, kv: pb.KeyValue) -> None:
        key = kv.key
        tombstone = pb.KeyValue(key=key, mod_revision=self.revision + 1)
        del self._now[key], self._keys[bisect_left(self._keys, key)]
        self.leases.detach(kv.lease, key)
        self._versions[key].append(tombstone)
        self._change(pb.Event.DELETE, tombstone)

    def _change(self, kind: pb.Event.EventType, kv: pb.KeyValue) -> None:
        """Note an event, with the key as it was before the commit; nothing, if it is created."""
        created = kv.create_revision == kv.mod_revision
        before = None if created else self._at(kv.key, self.revision)
        self._changes.append(pb.Event(type=kind, kv=kv, prev_kv=before))

    def _commit(self) -> None:
        if self._changes:
            self.revision += 1
            commit = (self.revision, tuple(self._changes))
            self._changes = []
            self._log.append(commit)
            self._listener(commit)

    # ---- transactions ----------------------------------------------------------

    def _paths(self, request: pb.TxnRequest) -> Iterator[bool]:
        """Judge a transaction, and the nested ones that follow from it, depth first."""
        holds = all(self._holds(compare) for compare in request.compare)
        yield holds
        for operation in request.success if holds else request.failure:
            if operation.HasField("request_txn"):
                yield from self._paths(operation.request_txn)

    def _holds(self, compare: pb.Compare) -> bool:
        found = self._find(compare.key, compare.range_end)
        if not found:
            return compare.target != pb.Compare.VALUE and _compare(compare, _NO_KV)
        return all(_compare(compare, kv) for kv in found)

    def _check_puts(self, request: pb.TxnRequest, path: Iterator[bool]) -> None:
        for operation in request.success if next(path) else request.failure:
            if operation.HasField("request_put"):
                self._check_kept(operation.request_put)
                self._check_lease(operation.request_put)
            elif operation.HasField("request_txn"):
                self._check_puts(operation.request_txn, path)

    def _check_reads(self, request: pb.TxnRequest, path: Iterator[bool]) -> None:
        for operation in request.success if next(path) else request.failure:
            if operation.HasField("request_range"):
                self._check_read(operation.request_range)
            elif operation.HasField("request_txn"):
                self._check_reads(operation.request_txn, path)

    def _check_read(self, request: pb.RangeRequest) -> None:
        # Other than outside of a transaction, a revision below 0 is not the newest one.
        if request.revision < min(0, self.compacted_revision):
            raise compacted()
        self._check_revision(request)

    def _carry_out(self, request: pb.TxnRequest, path: Iterator[bool]) -> pb.TxnResponse:
        answer = pb.TxnResponse(succeeded=next(path))
        answer.header.SetInParent()
        for operation in request.success if answer.succeeded else request.failure:
            one = answer.responses.add()
            match operation.WhichOneof("request"):
                case "request_put":
                    one.response_put.CopyFrom(self._put(operation.request_put))
                case "request_range":
                    one.response_range.CopyFrom(self._range(operation.request_range))
                case "request_delete_range":
                    deleted = self._delete_range(operation.request_delete_range)
                    one.response_delete_range.CopyFrom(deleted)
                case "request_txn":
                    one.response_txn.CopyFrom(self._carry_out(operation.request_txn, path))
        return answer

    # ---- leases and history ----------------------------------------------------

    def end_lease(self, lease: int) -> None:
        """Take a lease away, and in one revision all keys that hang on it."""
        for key in sorted(self.leases.remove(lease)):
            self._delete(self._now[key])
        self._commit()

    def compact(self, revision: int) -> None:
        """Forget history below a revision.

        Raises:
            RevisionCompacted: it is forgotten already.
            FutureRevision: it is not there yet.
        """
        if revision <= self.compacted_revision:
            raise compacted()
        if revision > self.revision:
            raise future()
        self.compacted_revision = revision
        del self._log[: bisect_left(self._log, revision, key=lambda commit: commit[0])]
        for key, versions in [*self._versions.items()]:
            kept = _kept(versions, revision)
            if kept:
                self._versions[key] = kept
            else:
                del self._versions[key]


def _is_of_the_newest(request: pb.RangeRequest) -> bool:
    """Return whether a read asks for some keys that were created last: they need no sort."""
    return bool(
        request.limit > 0
        and request.range_end
        and request.sort_target == pb.RangeRequest.CREATE
        and request.sort_order == pb.RangeRequest.DESCEND
        and not (
            request.revision
            or request.count_only
            or request.min_mod_revision
            or request.max_mod_revision
            or request.min_create_revision
        )
    )


def _what_is_left(commit: Commit) -> Commit:
    """Return the commit of the compacted revision: the last event of each key, and none before."""
    revision, events = commit
    last = {event.kv.key: event for event in events}
    kept = (event for event in events if last[event.kv.key] is event)
    return revision, tuple(pb.Event(type=event.type, kv=event.kv) for event in kept)


def _kept(versions: list[pb.KeyValue], revision: int) -> list[pb.KeyValue]:
    """Return the versions of a key that a compaction leaves."""
    index = max(0, bisect_right(versions, revision, key=attrgetter("mod_revision")) - 1)
    first = versions[index]
    if not first.version and first.mod_revision < revision:
        index += 1
    return versions[index:]


def _compare(compare: pb.Compare, kv: pb.KeyValue) -> bool:
    name, actual = _TARGETS[compare.target]
    return bool(_RELATIONS[compare.result](actual(kv), getattr(compare, name)))


def _is_plain(request: pb.RangeRequest) -> bool:
    """Return whether a read names neither an order nor a bound."""
    return not (
        request.sort_order
        or request.min_mod_revision
        or request.max_mod_revision
        or request.min_create_revision
        or request.max_create_revision
    )


def _within(found: Sequence[pb.KeyValue], request: pb.RangeRequest) -> Sequence[pb.KeyValue]:
    """Leave out what the bounds of a request leave out; 0 is no bound."""
    bounds = (
        (lt, request.min_mod_revision, "mod_revision"),
        (gt, request.max_mod_revision, "mod_revision"),
        (lt, request.min_create_revision, "create_revision"),
        (gt, request.max_create_revision, "create_revision"),
    )
    for outside, bound, name in bounds:
        if bound:
            found = [kv for kv in found if not outside(getattr(kv, name), bound)]
    return found


def _in_order(found: Sequence[pb.KeyValue], request: pb.RangeRequest) -> Sequence[pb.KeyValue]:
    order, target = request.sort_order, request.sort_target
    if target == pb.RangeRequest.KEY and order != pb.RangeRequest.DESCEND:
        return found
    return sorted(found, key=_SORT_KEYS[target], reverse=order == pb.RangeRequest.DESCEND)
