"""What etcd answers about keys: frozen values, and how they are decoded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Self, TypeAlias

from trio_sched.etcd_shim._pb import messages_pb2 as pb

__all__ = [
    "DeleteResult",
    "GetResult",
    "KeyValue",
    "OperationResult",
    "PutResult",
    "ResponseHeader",
    "TxnResult",
]


class ResponseHeader(NamedTuple):
    """Where an answer comes from.

    Attributes:
        cluster_id: of the cluster.
        member_id: of the member that answered.
        revision: the store's, when it did.
        raft_term: of the member's raft leader; 0 if it knows none.
    """

    cluster_id: int
    member_id: int
    revision: int
    raft_term: int


class _Answered:
    """An answer with a header."""

    __slots__ = ()

    revision: int
    _header: pb.ResponseHeader | None

    @property
    def header(self) -> ResponseHeader:
        """Where it comes from. In the answers within a transaction only the revision is known."""
        header = self._header
        if header is None:
            return ResponseHeader(0, 0, self.revision, 0)
        ids = header.cluster_id, header.member_id
        return ResponseHeader(*ids, header.revision, header.raft_term)


class KeyValue(NamedTuple):
    """A key as it is stored.

    A tuple, as is `Event`: a watch makes thousands in a second, and a frozen dataclass takes four
    times as long to be made.

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
        fields = (kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease)
        return tuple.__new__(cls, fields)  # half of the time that its own `__new__` takes


@dataclass(frozen=True, slots=True)
class GetResult(_Answered):
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
    _header: pb.ResponseHeader | None = field(default=None, repr=False, compare=False)

    @classmethod
    def decode(cls, answer: pb.RangeResponse, revision: int = 0) -> Self:
        """Return the value for a message."""
        header = answer.header
        kvs = tuple([KeyValue.decode(kv) for kv in answer.kvs])
        if revision:  # within a transaction
            return cls(kvs, revision, answer.count, answer.more)
        return cls(kvs, header.revision, answer.count, answer.more, header)

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
class PutResult(_Answered):
    """What a put did.

    Attributes:
        revision: the store's revision that it made.
        prev_kv: the key as it was before, if that was asked for and it existed.
    """

    revision: int
    prev_kv: KeyValue | None
    _header: pb.ResponseHeader | None = field(default=None, repr=False, compare=False)

    @classmethod
    def decode(cls, answer: pb.PutResponse, revision: int = 0) -> Self:
        """Return the value for a message."""
        prev_kv = KeyValue.decode(answer.prev_kv) if answer.HasField("prev_kv") else None
        if revision:  # within a transaction
            return cls(revision, prev_kv)
        header = answer.header
        return cls(header.revision, prev_kv, header)


@dataclass(frozen=True, slots=True)
class DeleteResult(_Answered):
    """What a delete did.

    Attributes:
        revision: the store's revision afterwards.
        deleted: how many keys there were to delete.
        prev_kvs: the keys as they were before, if that was asked for.
    """

    revision: int
    deleted: int
    prev_kvs: tuple[KeyValue, ...]
    _header: pb.ResponseHeader | None = field(default=None, repr=False, compare=False)

    @classmethod
    def decode(cls, answer: pb.DeleteRangeResponse, revision: int = 0) -> Self:
        """Return the value for a message."""
        prev_kvs = tuple([KeyValue.decode(kv) for kv in answer.prev_kvs])
        if revision:  # within a transaction
            return cls(revision, answer.deleted, prev_kvs)
        header = answer.header
        return cls(header.revision, answer.deleted, prev_kvs, header)


@dataclass(frozen=True, slots=True)
class TxnResult(_Answered):
    """What a transaction did.

    Attributes:
        succeeded: True if all compares held, so that `success` was carried out.
        responses: the answers to the operations carried out, in their order.
        revision: the store's revision afterwards.
    """

    succeeded: bool
    responses: tuple[OperationResult, ...]
    revision: int
    _header: pb.ResponseHeader | None = field(default=None, repr=False, compare=False)

    @classmethod
    def decode(cls, answer: pb.TxnResponse, revision: int = 0) -> Self:
        """Return the value for a message."""
        header = None if revision else answer.header
        revision = revision or answer.header.revision
        responses = tuple([_decode_response(op, revision) for op in answer.responses])
        return cls(answer.succeeded, responses, revision, header)

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
