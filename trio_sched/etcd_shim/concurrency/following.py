"""Wait for changes of a few keys, whatever happens to the watch or on the way to etcd."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

import trio

from trio_sched.etcd_shim._about import TRANSIENT
from trio_sched.etcd_shim._backoff import Backoff
from trio_sched.etcd_shim._following import Follower, open_follower
from trio_sched.etcd_shim.errors import ConnectionFailed
from trio_sched.etcd_shim.kv import Get, GetResult, KeyValue
from trio_sched.etcd_shim.watch import Watcher

if TYPE_CHECKING:
    from trio_sched.etcd_shim.client import Client

__all__ = ["RECONCILE", "follow", "found_one", "is_there", "retry_lost", "wait_gone"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

RECONCILE = 30.0
"""Seconds without an event after which a key is read anew, in case that etcd has lost one."""


def follow(
    client: Client,
    request: Get,
    first: GetResult,
    reconcile: float = RECONCILE,
    *,
    puts: bool = True,
    deletes: bool = True,
) -> AbstractAsyncContextManager[Follower]:
    """Follow on from what a read has found. It goes on over compactions and restarts.

    Args:
        client: to ask with.
        request: the read.
        first: what it has found.
        reconcile: seconds without an event after which to read again.
        puts: whether to watch for puts.
        deletes: whether to watch for deletions.
    """

    def watch(revision: int) -> AbstractAsyncContextManager[Watcher]:
        return client.watch(
            request.key,
            range_end=request.range_end,
            start_revision=revision,
            puts=puts,
            deletes=deletes,
        )

    return open_follower(partial(client.read, request), watch, reconcile, first, patient=True)


def found_one(kv: KeyValue, revision: int) -> GetResult:
    """Return the result of a read that has found one key, at a revision."""
    return GetResult((kv,), revision, 1, more=False)


def is_there(follower: Follower, kv: KeyValue) -> bool:
    """Return whether a key is there that was not deleted since, nor created anew."""
    now = follower.state.get(kv.key)
    return now is not None and now.create_revision == kv.create_revision


async def wait_gone(client: Client, kv: KeyValue, revision: int, reconcile: float) -> None:
    """Wait until a key that was there at a revision is gone. Cancelled, it leaves nothing behind.

    Args:
        client: to ask with.
        kv: the key.
        revision: the store's revision at which it was there.
        reconcile: as for `follow`.
    """
    first = found_one(kv, revision)
    async with follow(client, Get(kv.key), first, reconcile, puts=False) as follower:
        while is_there(follower, kv):
            await follower.receive()


async def retry_lost(fn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
    """Call ``fn(*args)`` again as long as its answer is lost. For what may be done twice.

    Unlike `retry_transient`, it does not wait for an etcd that cannot be reached.

    Raises:
        ConnectionFailed: no endpoint lets us in.
        EtcdError: etcd refused.
    """
    backoff = Backoff()
    while True:
        try:
            return await fn(*args)
        except ConnectionFailed:
            raise
        except TRANSIENT:
            await trio.sleep(backoff.next())
