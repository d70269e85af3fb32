"""What etcd refuses whatever its keys are: requests that make no sense, in its words."""

from __future__ import annotations

from collections.abc import Iterable

from grpclib.const import Status

from trio_sched.etcd_shim._pb import messages_pb2 as pb
from trio_sched.etcd_shim.errors import RpcError, rpc_error

__all__ = ["check_put", "check_range", "check_txn"]


def _invalid(words: str) -> RpcError:
    return rpc_error(Status.INVALID_ARGUMENT, f"etcdserver: {words}")


def check_range(request: pb.RangeRequest | pb.DeleteRangeRequest) -> None:
    """Check a read, or a deletion."""
    if not request.key:
        raise _invalid("key is not provided")


def check_put(request: pb.PutRequest) -> None:
    """Check a write."""
    if not request.key:
        raise _invalid("key is not provided")
    if request.ignore_value and request.value:
        raise _invalid("value is provided")
    if request.ignore_lease and request.lease:
        raise _invalid("lease is provided")


def check_txn(request: pb.TxnRequest, max_operations: int) -> None:
    """Check a transaction, and those that are nested in it."""
    _check_operations(request, max_operations)
    for branch in (request.success, request.failure):
        _Writes().collect(branch)


def _check_operations(request: pb.TxnRequest, room: int) -> None:
    most = max(len(request.compare), len(request.success), len(request.failure))
    if most > room:
        raise _invalid("too many operations in txn request")
    if not all(compare.key for compare in request.compare):
        raise _invalid("key is not provided")
    for operation in (*request.success, *request.failure):
        match operation.WhichOneof("request"):
            case "request_put":
                check_put(operation.request_put)
            case "request_range":
                check_range(operation.request_range)
            case "request_delete_range":
                check_range(operation.request_delete_range)
            case "request_txn":
                _check_operations(operation.request_txn, room - most)
            case _:
                raise _invalid("key not found")


class _Writes:
    """The keys that a branch puts, and the ranges that it deletes, which may not overlap."""

    def __init__(self) -> None:
        self.puts: set[bytes] = set()
        self.deletes: list[tuple[bytes, bytes]] = []

    def collect(self, branch: Iterable[pb.RequestOp]) -> None:
        """Take in a branch; as etcd does, deletions first, nested ones second, puts last."""
        operations = [*branch]
        for operation in operations:
            if operation.HasField("request_delete_range"):
                one = operation.request_delete_range
                self.deletes.append((one.key, one.range_end))
        for operation in operations:
            if operation.HasField("request_txn"):
                self._nest(operation.request_txn)
        for operation in operations:
            if operation.HasField("request_put"):
                self._put(operation.request_put.key)

    def _nest(self, request: pb.TxnRequest) -> None:
        then, other = _Writes(), _Writes()
        then.collect(request.success)
        other.collect(request.failure)
        for key in sorted(then.puts):
            self._put(key)
        for key in sorted(other.puts - then.puts):  # only one of the two is carried out
            self._put(key)
        self.deletes += then.deletes + other.deletes

    def _put(self, key: bytes) -> None:
        if key in self.puts or any(_deletes(start, end, key) for start, end in self.deletes):
            raise _invalid("duplicate key given in txn request")
        self.puts.add(key)


def _deletes(start: bytes, end: bytes, key: bytes) -> bool:
    if not end:
        return key == start
    return start <= key < end
