"""Keys below a prefix: requests get it, and answers lose it.

It is done to messages, so that whatever a client does with keys has it. A request is copied
first: a call may be made again, and the messages of a caller are the caller's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar

from trio_sched.etcd_shim._pb import messages_pb2 as pb
from trio_sched.etcd_shim.kv import ALL_KEYS, prefix_range

if TYPE_CHECKING:
    from trio_sched.etcd_shim._pb.services_grpc import KVStub

__all__ = ["KV", "NamespacedKV", "range_within"]

_Headers: TypeAlias = Mapping[str, str] | None
_Ranged = TypeVar("_Ranged", pb.RangeRequest, pb.DeleteRangeRequest)


class KV(Protocol):
    """The calls about keys, as the stub has them."""

    async def Range(  # noqa: N802 # the stub's name, as of the others
        self, message: pb.RangeRequest, *, metadata: _Headers = None
    ) -> pb.RangeResponse:
        """Read."""

    async def Put(self, message: pb.PutRequest) -> pb.PutResponse:  # noqa: N802
        """Write."""

    async def DeleteRange(self, message: pb.DeleteRangeRequest) -> pb.DeleteRangeResponse:  # noqa: N802
        """Delete."""

    async def Txn(  # noqa: N802
        self, message: pb.TxnRequest, *, metadata: _Headers = None
    ) -> pb.TxnResponse:
        """Carry out a transaction."""

    async def Compact(self, message: pb.CompactionRequest) -> pb.CompactionResponse:  # noqa: N802
        """Forget history."""


class NamespacedKV:
    """The calls about keys, for those that start with a prefix.

    Args:
        stub: makes the calls.
        prefix: what each key starts with, in etcd.
    """

    def __init__(self, stub: KVStub, prefix: bytes) -> None:
        self._stub = stub
        self._prefix = prefix

    async def Range(  # noqa: N802 # the stub's names
        self, message: pb.RangeRequest, *, metadata: _Headers = None
    ) -> pb.RangeResponse:
        """Read."""
        answer = await self._stub.Range(self._within(message), metadata=metadata)
        self._strip(answer.kvs)
        return answer

    async def Put(self, message: pb.PutRequest) -> pb.PutResponse:  # noqa: N802
        """Write."""
        request = pb.PutRequest()
        request.CopyFrom(message)
        request.key = self._prefix + request.key
        answer = await self._stub.Put(request)
        self._strip_put(answer)
        return answer

    async def DeleteRange(self, message: pb.DeleteRangeRequest) -> pb.DeleteRangeResponse:  # noqa: N802
        """Delete."""
        answer = await self._stub.DeleteRange(self._within(message))
        self._strip(answer.prev_kvs)
        return answer

    async def Txn(  # noqa: N802
        self, message: pb.TxnRequest, *, metadata: _Headers = None
    ) -> pb.TxnResponse:
        """Carry out a transaction."""
        request = pb.TxnRequest()
        request.CopyFrom(message)
        self._move_txn(request)
        answer = await self._stub.Txn(request, metadata=metadata)
        self._strip_txn(answer)
        return answer

    async def Compact(self, message: pb.CompactionRequest) -> pb.CompactionResponse:  # noqa: N802
        """Forget history: of the whole store, as there is but one."""
        return await self._stub.Compact(message)

    def _within(self, message: _Ranged) -> _Ranged:
        request = type(message)()
        request.CopyFrom(message)
        self._move(request)
        return request

    def _move(self, request: pb.RangeRequest | pb.DeleteRangeRequest | pb.Compare) -> None:
        request.key, request.range_end = range_within(self._prefix, request.key, request.range_end)

    def _move_txn(self, request: pb.TxnRequest) -> None:
        for condition in request.compare:
            self._move(condition)
        for operation in (*request.success, *request.failure):
            match operation.WhichOneof("request"):
                case "request_range":
                    self._move(operation.request_range)
                case "request_put":
                    operation.request_put.key = self._prefix + operation.request_put.key
                case "request_delete_range":
                    self._move(operation.request_delete_range)
                case "request_txn":
                    self._move_txn(operation.request_txn)

    def _strip(self, kvs: Iterable[pb.KeyValue]) -> None:
        for kv in kvs:
            kv.key = kv.key[len(self._prefix) :]

    def _strip_put(self, answer: pb.PutResponse) -> None:
        if answer.HasField("prev_kv"):
            self._strip([answer.prev_kv])

    def _strip_txn(self, answer: pb.TxnResponse) -> None:
        for response in answer.responses:
            match response.WhichOneof("response"):
                case "response_range":
                    self._strip(response.response_range.kvs)
                case "response_put":
                    self._strip_put(response.response_put)
                case "response_delete_range":
                    self._strip(response.response_delete_range.prev_kvs)
                case "response_txn":
                    self._strip_txn(response.response_txn)


def range_within(prefix: bytes, key: bytes, range_end: bytes) -> tuple[bytes, bytes]:
    """Return the first key of a range, and the first behind it, as they are below a prefix."""
    if range_end == ALL_KEYS:
        return prefix + key, prefix_range(prefix)[1]
    return prefix + key, range_end and prefix + range_end
