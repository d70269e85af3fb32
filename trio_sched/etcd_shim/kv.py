"""Keys and values: what is asked of etcd, and how it is encoded.

Requests are small frozen values (`Get`, `Put`, `Delete`, `Txn`, `Compare`), used
alone or inside a transaction. Answers are frozen values with revisions, of ``_answers``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, Final, Literal, Self, TypeAlias, TypedDict, cast

from trio_sched._support.arguments import (
    check_bools,
    check_choice,
    check_int,
    check_tuple,
    shown,
)
from trio_sched.etcd_shim._answers import (
    DeleteResult,
    GetResult,
    KeyValue,
    OperationResult,
    PutResult,
    ResponseHeader,
    TxnResult,
)
from trio_sched.etcd_shim._pb import messages_pb2 as pb

__all__ = [
    "ALL_KEYS",
    "Compare",
    "Delete",
    "DeleteResult",
    "Get",
    "GetOptions",
    "GetResult",
    "Key",
    "KeyValue",
    "Operation",
    "OperationResult",
    "PrefixOptions",
    "Put",
    "PutResult",
    "ResponseHeader",
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
_MAX_TXN_DEPTH: Final = 32  # protobuf has 100 levels of messages, and each takes two
_GET_NUMBERS = (
    "limit",
    "revision",
    "min_mod_revision",
    "max_mod_revision",
    "min_create_revision",
    "max_create_revision",
)
_GET_FLAGS = ("serializable", "keys_only", "count_only")
_GET_OPTIONS = (*_GET_NUMBERS, *_GET_FLAGS)
_numbers, _flags = attrgetter(*_GET_NUMBERS), attrgetter(*_GET_FLAGS)
_options = attrgetter(*_GET_OPTIONS)
_COMPARED = ("version", "create_revision", "mod_revision", "value", "lease")
_RELATIONS = {
    "==": pb.Compare.EQUAL,
    "!=": pb.Compare.NOT_EQUAL,
    "<": pb.Compare.LESS,
    ">": pb.Compare.GREATER,
}


def to_bytes(key: Key) -> bytes:
    """Return a key or value as bytes; text is encoded as UTF-8."""
    if isinstance(key, str):
        try:
            return key.encode()
        except UnicodeEncodeError:
            words = "cannot be encoded as UTF-8: it has half of a surrogate pair"
            raise ValueError(f"a key or value {words}: {shown(key)}") from None
    if not isinstance(key, bytes):
        raise TypeError(f"keys and values are bytes or str, not {type(key).__name__}")
    return key


def _check_key(key: Key) -> bytes:
    """Return a key as bytes; it must not be empty."""
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


class PrefixOptions(TypedDict, total=False):
    """Options of a read of a prefix; as for `Get`."""

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


class GetOptions(PrefixOptions, total=False):
    """Options of a read; as for `Get`."""

    range_end: Key


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
        if self.sort_order is not None:
            check_choice("sort_order", self.sort_order, _SORT_ORDERS)
        if self.sort_target != "key":
            check_choice("sort_target", self.sort_target, _SORT_TARGETS)
        for number in _numbers(self):
            if number or type(number) is not int:  # hardly any read has one
                for name in _GET_NUMBERS:
                    check_int(name, getattr(self, name), 0)
                break
        for flag in _flags(self):
            if flag is not False and flag is not True:
                check_bools(**{name: getattr(self, name) for name in _GET_FLAGS})

    def encode(self) -> pb.RangeRequest:
        """Return the message for it."""
        message = pb.RangeRequest(key=_check_key(self.key), range_end=to_bytes(self.range_end))
        for name, value in zip(_GET_OPTIONS, _options(self), strict=True):
            if value:  # else it is as it is in the message
                setattr(message, name, value)
        if self.sort_order is not None:
            message.sort_order = _SORT_ORDERS[self.sort_order]
        if self.sort_target != "key":
            message.sort_target = _SORT_TARGETS[self.sort_target]
        return message


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
        if not (self.ignore_value is self.ignore_lease is False):
            check_bools(ignore_value=self.ignore_value, ignore_lease=self.ignore_lease)
            message.ignore_value = self.ignore_value
            message.ignore_lease = self.ignore_lease
        return message


def put_request(key: Key, value: Key, lease: int, *, prev_kv: bool) -> pb.PutRequest:
    """Return the message for a `Put` with these arguments."""
    message = pb.PutRequest(key=_check_key(key), value=to_bytes(value))
    if lease != 0 or type(lease) is not int:
        message.lease = check_int("lease", lease)
    if prev_kv is not False:
        check_bools(prev_kv=prev_kv)
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
        check_bools(prev_kv=self.prev_kv)
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
        check_choice("relation", self.relation, _RELATIONS)
        check_choice("target", self.target, _COMPARED)
        if not self.key or type(self.key) is not bytes:
            _check_key(self.key)
        if type(self.range_end) is not bytes:
            to_bytes(self.range_end)
        operand: Any = self.operand
        if self.target == "value":
            to_bytes(operand)
        else:
            check_int(self.target, operand)

    @classmethod
    def version(cls, key: Key, relation: Relation, version: int) -> Self:
        """Compare how often the key was put since it was created."""
        return cls(to_bytes(key), "version", relation, version)

    @classmethod
    def create_revision(cls, key: Key, relation: Relation, revision: int) -> Self:
        """Compare the revision at which the key was created; 0 if it is not there."""
        return cls(to_bytes(key), "create_revision", relation, revision)

    @classmethod
    def mod_revision(cls, key: Key, relation: Relation, revision: int) -> Self:
        """Compare the revision at which the key was put last; 0 if it is not there."""
        return cls(to_bytes(key), "mod_revision", relation, revision)

    @classmethod
    def value(cls, key: Key, relation: Relation, value: Key) -> Self:
        """Compare the key's value, bytewise; never true if it is not there."""
        return cls(to_bytes(key), "value", relation, to_bytes(value))

    @classmethod
    def lease(cls, key: Key, relation: Relation, lease: int) -> Self:
        """Compare the id of the lease that the key hangs on; 0 for none."""
        return cls(to_bytes(key), "lease", relation, lease)

    def over(self, range_end: Key) -> Self:
        """Return the same condition for every key up to `range_end`."""
        return replace(self, range_end=to_bytes(range_end))

    def over_prefix(self) -> Self:
        """Return the same condition for every key that starts with `key`."""
        return replace(self, range_end=prefix_range(self.key)[1])

    def encode(self) -> pb.Compare:
        """Return the message for it."""
        message = pb.Compare(key=to_bytes(self.key), range_end=to_bytes(self.range_end))
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
                message.value = to_bytes(cast("Key", self.operand))
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

    def encode(self, depth: int = 1) -> pb.TxnRequest:
        """Return the message for it. `depth` is 1, and for one within it more."""
        if depth > _MAX_TXN_DEPTH:
            raise ValueError(f"transactions may be nested {_MAX_TXN_DEPTH} levels deep, not more")
        compare, success, failure = self.compare, self.success, self.failure
        check_tuple("compare", compare, Compare, "conditions, each a Compare,")
        check_tuple("success", success, _OPERATIONS, _OPERATION_WORDS)
        check_tuple("failure", failure, _OPERATIONS, _OPERATION_WORDS)
        return pb.TxnRequest(
            compare=[condition.encode() for condition in compare],
            success=[_encode_operation(operation, depth) for operation in success],
            failure=[_encode_operation(operation, depth) for operation in failure],
        )


Operation: TypeAlias = Get | Put | Delete | Txn

_OPERATIONS: Final = (Get, Put, Delete, Txn)
_OPERATION_WORDS: Final = "operations, each a Get, Put, Delete or Txn,"


def _encode_operation(operation: Operation, depth: int) -> pb.RequestOp:
    match operation:
        case Get():
            return pb.RequestOp(request_range=operation.encode())
        case Put():
            return pb.RequestOp(request_put=operation.encode())
        case Delete():
            return pb.RequestOp(request_delete_range=operation.encode())
        case Txn():
            return pb.RequestOp(request_txn=operation.encode(depth + 1))
