"""Keys and values: the values that go in and come out, and how they are encoded.

Requests are small frozen values (`Get`, `Put`, `Delete`, `Txn`, `Compare`), used
alone or inside a transaction. Answers are frozen values with revisions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, Self, TypeAlias

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


# ---- what comes out --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KeyValue:
    """A key as it is stored.

    Attributes:
        key: its name.
        value: its value.
        create_revision: the store's revision at which it was created.
        mod_revision: the revision at which it was put last.
        version: how often it was put since it was created.
        lease: id of the lease that it hangs on; 0 if on none.
    """

    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int

    @classmethod
    def decode(cls, kv: pb.KeyValue) -> Self:
        """Return the value for a message."""
        new: Any = _OpenKeyValue()
        new.key, new.value = kv.key, kv.value
        new.create_revision, new.mod_revision = kv.create_revision, kv.mod_revision
        new.version, new.lease = kv.version, kv.lease
        new.__class__ = cls
        return new  # type: ignore[no-any-return] # it is one now


class _OpenKeyValue:
    """A `KeyValue` as long as it is not made: to fill a frozen one costs three times as much."""

    __slots__ = KeyValue.__slots__


@dataclass(frozen=True, slots=True)
class GetResult:
    """What a read found.

    Attributes:
        kvs: the keys, in the order asked for.
        revision: the store's revision at which they were read. A watch that
            starts at ``revision + 1`` misses nothing and repeats nothing.
        count: how many keys the range holds, whatever the limit.
        more: True if the limit left some out.
    """

    kvs: tuple[KeyValue, ...]
    revision: int
    count: int
    more: bool

    @classmethod
    def decode(cls, answer: pb.RangeResponse, revision: int = 0) -> Self:
        """Return the value for a message."""
        return cls(
            tuple(KeyValue.decode(kv) for kv in answer.kvs),
            answer.header.revision or revision,
            answer.count,
            answer.more,
        )

    @property
    def kv(self) -> KeyValue | None:
        """The first key found, or None."""
        return self.kvs[0] if self.kvs else None

    @property
    def value(self) -> bytes | None:
        """The first key's value, or None."""
        return self.kvs[0].value if self.kvs else None

    def __iter__(self) -> Iterator[KeyValue]:
        return iter(self.kvs)

    def __len__(self) -> int:
        return len(self.kvs)


@dataclass(frozen=True, slots=True)
class PutResult:
    """What a put did.

    Attributes:
        revision: the store's revision that it made.
        prev_kv: the key as it was before, if that was asked for and it existed.
    """

    revision: int
    prev_kv: KeyValue | None

    @classmethod
    def decode(cls, answer: pb.PutResponse, revision: int = 0) -> Self:
        """Return the value for a message."""
        prev = KeyValue.decode(answer.prev_kv) if answer.HasField("prev_kv") else None
        return cls(answer.header.revision or revision, prev)


@dataclass(frozen=True, slots=True)
class DeleteResult:
    """What a delete did.

    Attributes:
        revision: the store's revision afterwards.
        deleted: how many keys there were to delete.
        prev_kvs: the keys as they were before, if that was asked for.
    """

    revision: int
    deleted: int
    prev_kvs: tuple[KeyValue, ...]

    @classmethod
    def decode(cls, answer: pb.DeleteRangeResponse, revision: int = 0) -> Self:
        """Return the value for a message."""
        return cls(
            answer.header.revision or revision,
            answer.deleted,
            tuple(KeyValue.decode(kv) for kv in answer.prev_kvs),
        )


@dataclass(frozen=True, slots=True)
class TxnResult:
    """What a transaction did.

    Attributes:
        succeeded: True if all compares held, so that `success` was carried out.
        responses: the answers to the operations carried out, in their order.
        revision: the store's revision afterwards.
    """

    succeeded: bool
    responses: tuple[OperationResult, ...]
    revision: int

    @classmethod
    def decode(cls, answer: pb.TxnResponse, revision: int = 0) -> Self:
        """Return the value for a message."""
        revision = answer.header.revision or revision
        responses = tuple(_decode_response(op, revision) for op in answer.responses)
        return cls(answer.succeeded, responses, revision)

    def get(self, index: int) -> GetResult:
        """Return the answer at `index`, which must be that of a `Get`."""
        found = self.responses[index]
        if not isinstance(found, GetResult):
            raise TypeError(f"response {index} is a {type(found).__name__}")
        return found


OperationResult: TypeAlias = GetResult | PutResult | DeleteResult | TxnResult


def _decode_response(op: pb.ResponseOp, revision: int) -> OperationResult:
    match op.WhichOneof("response"):
        case "response_range":
            return GetResult.decode(op.response_range, revision)
        case "response_put":
            return PutResult.decode(op.response_put, revision)
        case "response_delete_range":
            return DeleteResult.decode(op.response_delete_range, revision)
        case _:
            return TxnResult.decode(op.response_txn, revision)


# ---- what goes in ----------------------------------------------------------------


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
        prev_kv: tell how it was before.
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
        message = pb.PutRequest(key=_check_key(self.key), value=to_bytes(self.value))
        if self.lease or self.prev_kv or self.ignore_value or self.ignore_lease:
            message.lease = self.lease
            message.prev_kv = self.prev_kv
            message.ignore_value = self.ignore_value
            message.ignore_lease = self.ignore_lease
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
