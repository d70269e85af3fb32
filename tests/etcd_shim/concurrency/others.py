"""Others that take turns: etcdctl, and etcd's own services for locks and elections."""

from __future__ import annotations

import subprocess
from functools import partial
from typing import TYPE_CHECKING, Any, Self, cast

import trio
from grpclib.client import UnaryUnaryMethod

from trio_sched.etcd_shim import Client
from trio_sched.testing import find_etcdctl

if TYPE_CHECKING:
    import grpclib.client

__all__ = ["campaign_by_service", "lock_by_service", "start_etcdctl"]


async def start_etcdctl(nursery: trio.Nursery, endpoint: str, *arguments: str) -> trio.Process:
    """Start an etcdctl, and have the nursery wait for its end. SIGINT ends it; stdout is a pipe."""
    command = [str(find_etcdctl()), f"--endpoints={endpoint}", *arguments]
    environment = {"ETCDCTL_API": "3"}
    run = partial(trio.run_process, command, stdout=subprocess.PIPE, check=False, env=environment)
    process: trio.Process = await nursery.start(run)
    return process


class _Message:
    """A message as it is on the wire; stands where a class made by protoc would."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def SerializeToString(self) -> bytes:  # noqa: N802 # protobuf's name
        return self._data

    @classmethod
    def FromString(cls, data: bytes) -> Self:  # noqa: N802 # likewise
        return cls(data)


def _varint(number: int) -> bytes:
    data = b""
    while number > 127:
        data += bytes([number & 127 | 128])
        number >>= 7
    return data + bytes([number])


def _bytes_field(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value


async def _call(client: Client, method: str, *fields: bytes) -> None:
    channel = cast("grpclib.client.Channel", client._channel)
    kinds = cast("Any", _Message)
    await UnaryUnaryMethod(channel, method, kinds, kinds)(_Message(b"".join(fields)))


async def lock_by_service(client: Client, name: str, lease: int) -> None:
    """Have etcd take a lock for a lease: ``v3lockpb.Lock/Lock``."""
    fields = _bytes_field(1, name.encode()), _varint(2 << 3) + _varint(lease)
    await _call(client, "/v3lockpb.Lock/Lock", *fields)


async def campaign_by_service(client: Client, name: str, lease: int, value: str) -> None:
    """Have etcd campaign for a lease: ``v3electionpb.Election/Campaign``."""
    fields = _bytes_field(1, name.encode()), _varint(2 << 3) + _varint(lease)
    await _call(client, "/v3electionpb.Election/Campaign", *fields, _bytes_field(3, value.encode()))
