"""Keys and values: what is asked of etcd, and how it is encoded.

Requests are small frozen values (`Get`, `Put`, `Delete`, `Txn`, `Compare`), used
alone or inside a transaction. Answers are frozen values with revisions, of ``_answers``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, Self, TypeAlias

from trio_sched.etcd_shim._answers import (
    DeleteResult,
    GetResult,
    KeyValue,
    OperationResult,
    PutResult,
    TxnResult,
)
from trio_sched.etcd_shim._pb import messages_pb2 as pb

__all__ = [
    "ALL_KEYS",
    "Compare",
    "Delete",
    "DeleteResult",
    "Get",
    "GetResult",
    "Key",
    "KeyValue",
    "Operation",
    "OperationResult",
    "Put",
    "PutResult",
    "Txn",
    "TxnResult",
    "prefix_range",
]

Key: TypeAlias = bytes | str
SortOrder: TypeAlias = Literal["ascending", "descending"]
SortTarget: TypeAlias = Literal["key", "version", "create_revision", "mod_revision", "value"]
Relation: TypeAlias = Literal["==", "!=", "<", ">"]

ALL_KEYS: Final = b"\0"
"""As a `range_end`: everything from the key on."""

_SORT_ORDERS = {
    "ascending": pb.RangeRequest.ASCEND,
    "descending": pb.RangeRequest.DESCEND,
}
_SORT_TARGETS = {
    "key": pb.RangeRequest.KEY,
    "version": pb.RangeRequest.VERSION,
    "create_revision": pb.RangeRequest.CREATE,
    "mod_revision": pb.RangeRequest.MOD,
    "value": pb.RangeRequest.VALUE,
}
_RELATIONS = {
    "==": pb.Compare.EQUAL,
    "!=": pb.Compare.NOT_EQUAL,
    "<": pb.Compare.LESS,
    ">": pb.Compare.GREATER,
}


def to_bytes(key: Key) -> bytes:
    """Return a key or value as bytes; text is encoded as UTF-8."""
    if isinstance(key, str):
        return key.encode()
    if not isinstance(key, bytes):
        raise TypeError(f"keys and values are bytes or str, not {type(key).__name__}")
    return key


def _check_key(key: Key) -> bytes:
    encoded = to_bytes(key)
    if not encoded:
        raise ValueError("a key must not be empty")
    return encoded


def prefix_range(prefix: Key) -> tuple[bytes, bytes]:
    """Return key and range_end that cover every key starting with `prefix`."""
    start = to_bytes(prefix)
    stem = start.rstrip(b"\xff")
    if not stem:
        return start or b"\0", ALL_KEYS
    return start, stem[:-1] + bytes([stem[-1] + 1])


@dataclass(frozen=True, slots=True)
class Get:
    """A read of one key, or of a range.

    Args:
        key: the key, or the first of the range.
        range_end: the first key behind the range; `ALL_KEYS` for no end. See
            `Get.prefix`.
        limit: how many keys at most; 0 for all.
        revision: read the store as it was then; 0 for now.
        sort_order: how to sort; None for by key, ascending.
        sort_target: by what to sort.
        serializable: let one member answer from what it knows, which may be old.
        keys_only: leave the values out.
        count_only: leave the keys out.
        min_mod_revision: leave out keys put last before; likewise the other
            three. 0 for no bound.
    """

    key: Key
    range_end: Key = b""
    limit: int = 0
    revision: int = 0
    sort_order: SortOrder | None = None
    sort_target: SortTarget = "key"
    serializable: bool = False
    keys_only: bool = False
    count_only: bool = False
    min_mod_revision: int = 0
    max_mod_revision: int = 0
    min_create_revision: int = 0
    max_create_revision: int = 0

    @classmethod
    def prefix(cls, prefix: Key) -> Self:
        """Return a read of all keys that start with `prefix`."""
        key, range_end = prefix_range(prefix)
        return cls(key, range_end)

    def __post_init__(self) -> None:
        if self.sort_order is not None and self.sort_order not in _SORT_ORDERS:
            raise ValueError(f"sort_order is one of {list(_SORT_ORDERS)}, not {self.sort_order!r}")
        if self.sort_target not in _SORT_TARGETS:
            raise ValueError(
                f"sort_target is one of {list(_SORT_TARGETS)}, not {self.sort_target!r}"
            )
        if self.limit < 0 or self.revision < 0:
            raise ValueError("limit and revision are 0 or more")

    def encode(self) -> pb.RangeRequest:
        """Return the message for it."""
        return pb.RangeRequest(
            key=_check_key(self.key),
            range_end=to_bytes(self.range_end),
            limit=self.limit,
            revision=self.revision,
            sort_order=_SORT_ORDERS[self.sort_order] if self.sort_order else pb.RangeRequest.NONE,
            sort_target=_SORT_TARGETS[self.sort_target],
            serializable=self.serializable,
            keys_only=self.keys_only,
            count_only=self.count_only,
            min_mod_revision=self.min_mod_revision,
            max_mod_revision=self.max_mod_revision,
            min_create_revision=self.min_create_revision,
            max_create_revision=self.max_create_revision,
        )


@dataclass(frozen=True, slots=True)
class Put:
    """A write of one key.

    Args:
        key: the key.
        value: its new value.
        lease: id of the lease to hang it on; 0 for none.
        prev_kv: return how it was before.
        ignore_value: keep its value; it must exist, and `value` be empty.
        ignore_lease: keep its lease; it must exist, and `lease` be 0.
    """

    key: Key
    value: Key = b""
    lease: int = 0
    prev_kv: bool = False
    ignore_value: bool = False
    ignore_lease: bool = False

    def encode(self) -> pb.PutRequest:
        """Return the message for it."""
        message = put_request(self.key, self.value, self.lease, prev_kv=self.prev_kv)
        if self.ignore_value or self.ignore_lease:
            message.ignore_value = self.ignore_value
            message.ignore_lease = self.ignore_lease
        return message


def put_request(key: Key, value: Key, lease: int, *, prev_kv: bool) -> pb.PutRequest:
    """Return the message for a `Put` with these arguments."""
    message = pb.PutRequest(key=_check_key(key), value=to_bytes(value))
    if lease or prev_kv:
        message.lease = lease
        message.prev_kv = prev_kv
    return message


@dataclass(frozen=True, slots=True)
class Delete:
    """A deletion of one key, or of a range. Arguments as for `Get`."""

    key: Key
    range_end: Key = b""
    prev_kv: bool = False

    @classmethod
    def prefix(cls, prefix: Key) -> Self:
        """Return a deletion of all keys that start with `prefix`."""
        key, range_end = prefix_range(prefix)
        return cls(key, range_end)

    def encode(self) -> pb.DeleteRangeRequest:
        """Return the message for it."""
        return pb.DeleteRangeRequest(
            key=_check_key(self.key), range_end=to_bytes(self.range_end), prev_kv=self.prev_kv
        )


@dataclass(frozen=True, slots=True)
class Compare:
    """A condition of a transaction, made by one of the class methods.

    ``Compare.create_revision("/key", "==", 0)`` holds if the key does not exist.
    With `over`, it must hold for every key from `key` to that range's end. On an
    empty range, ``create_revision == 0`` and ``lease == 0`` hold, and a compare
    of values never does.
    """

    key: bytes
    target: Literal["version", "create_revision", "mod_revision", "value", "lease"]
    relation: Relation
    operand: int | bytes
    range_end: bytes = b""

    def __post_init__(self) -> None:
        if self.relation not in _RELATIONS:
            raise ValueError(f"relation must be one of {list(_RELATIONS)}, not {self.relation!r}")

    @classmethod
    def version(cls, key: Key, relation: Relation, version: int) -> Self:
        """Compare how often the key was put since it was created."""
        return cls(_check_key(key), "version", relation, version)

    @classmethod
    def create_revision(cls, key: Key, relation: Relation, revision: int) -> Self:
        """Compare the revision at which the key was created; 0 if it is not there."""
        return cls(_check_key(key), "create_revision", relation, revision)

    @classmethod
    def mod_revision(cls, key: Key, relation: Relation, revision: int) -> Self:
        """Compare the revision at which the key was put last; 0 if it is not there."""
        return cls(_check_key(key), "mod_revision", relation, revision)

    @classmethod
    def value(cls, key: Key, relation: Relation, value: Key) -> Self:
        """Compare the key's value, bytewise; never true if it is not there."""
        return cls(_check_key(key), "value", relation, to_bytes(value))

    @classmethod
    def lease(cls, key: Key, relation: Relation, lease: int) -> Self:
        """Compare the id of the lease that the key hangs on; 0 for none."""
        return cls(_check_key(key), "lease", relation, lease)

    def over(self, range_end: Key) -> Self:
        """Return the same condition for every key up to `range_end`."""
        return replace(self, range_end=to_bytes(range_end))

    def over_prefix(self) -> Self:
        """Return the same condition for every key that starts with `key`."""
        return replace(self, range_end=prefix_range(self.key)[1])

    def encode(self) -> pb.Compare:
        """Return the message for it."""
        message = pb.Compare(key=self.key, range_end=self.range_end)
        message.result = _RELATIONS[self.relation]
        match self.target:
            case "version":
                message.target = pb.Compare.VERSION
                message.version = int(self.operand)
            case "create_revision":
                message.target = pb.Compare.CREATE
                message.create_revision = int(self.operand)
            case "mod_revision":
                message.target = pb.Compare.MOD
                message.mod_revision = int(self.operand)
            case "lease":
                message.target = pb.Compare.LEASE
                message.lease = int(self.operand)
            case "value":
                message.target = pb.Compare.VALUE
                message.value = bytes(self.operand)
        return message


@dataclass(frozen=True, slots=True)
class Txn:
    """Operations that depend on conditions, carried out in one revision.

    Args:
        compare: conditions; all must hold.
        success: operations if they do.
        failure: operations if they do not.
    """

    compare: Sequence[Compare] = ()
    success: Sequence[Operation] = ()
    failure: Sequence[Operation] = ()

    @property
    def reads_only(self) -> bool:
        """True if it writes nothing, whatever holds."""
        return all(
            isinstance(operation, Get) or (isinstance(operation, Txn) and operation.reads_only)
            for operation in (*self.success, *self.failure)
        )

    def encode(self) -> pb.TxnRequest:
        """Return the message for it."""
        return pb.TxnRequest(
            compare=[condition.encode() for condition in self.compare],
            success=[_encode_operation(operation) for operation in self.success],
            failure=[_encode_operation(operation) for operation in self.failure],
        )


Operation: TypeAlias = Get | Put | Delete | Txn


def _encode_operation(operation: Operation) -> pb.RequestOp:
    match operation:
        case Get():
            return pb.RequestOp(request_range=operation.encode())
        case Put():
            return pb.RequestOp(request_put=operation.encode())
        case Delete():
            return pb.RequestOp(request_delete_range=operation.encode())
        case Txn():
            return pb.RequestOp(request_txn=operation.encode())
    raise TypeError(f"an operation is a Get, Put, Delete or Txn, not {type(operation).__name__}")
