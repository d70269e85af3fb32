"""Locks, as clientv3's ``concurrency.Mutex`` and ``etcdctl lock`` have them.

The keys are ``NAME/LEASEHEX``, empty, each on a lease of its own; the one with the lowest
create_revision has the lock. How that works, and why it holds, is at the head of ``turns``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from trio_sched.etcd_shim.client import Client, check_client
from trio_sched.etcd_shim.concurrency.errors import Locked
from trio_sched.etcd_shim.concurrency.turns import (
    DEFAULT_TTL,
    OwnKey,
    check_name,
    first_of,
    open_turn,
)
from trio_sched.etcd_shim.kv import Key
from trio_sched.etcd_shim.lease import check_ttl

__all__ = ["HeldLock", "lock", "try_lock"]


class HeldLock(OwnKey):
    """A lock that is held. Given by `lock` and `try_lock`.

    Attributes:
        key: our key, ``NAME/LEASEHEX``.
        lease: id of its lease.
        create_revision: of our key; see `token`.
    """

    @property
    def token(self) -> int:
        """The fencing token, which is higher than that of each holder before.

        A store that remembers the highest token that it has seen, and refuses lower ones, cannot
        be written by a holder that was late. In etcd itself, `guard` does that.
        """
        return self.create_revision


def lock(
    client: Client, name: Key, *, ttl: int = DEFAULT_TTL
) -> AbstractAsyncContextManager[HeldLock]:
    """Hold a lock for a block.

    ``async with lock(client, "/locks/a") as held:`` waits until it is our turn; holders come in
    the order in which they began to wait. ``etcdctl lock`` and a ``concurrency.Mutex`` of Go take
    turns with us. Each block has a lease, and so a key, of its own: to lock the same name within
    the block, or in another task of this process, waits like for any other client. One name must
    not lie below another: ``a`` and ``a/b`` wait for each other, as they do in Go.

    Cancellation: while waiting, it takes our key out of the row; while holding, it frees the lock.
    Both are shielded, and end once etcd has answered, or after a TTL, as the key has then lapsed.
    For a bounded wait, put ``trio.move_on_after`` around it; `try_lock` does not wait.

    When the lock is lost, the body is cancelled and the block raises why. What the body started
    elsewhere is not undone by that: guard writes to etcd with `HeldLock.guard`, and give
    `HeldLock.token` to other stores.

    Args:
        client: an open client.
        name: of the lock.
        ttl: seconds after which the lock is free if we can no longer renew it; etcd gives at
            least 2.

    Raises:
        LeaseLost: it was not renewed in time, while waiting or holding, or another client revoked
            it. That is before etcd can have given the lock away, unless it was revoked.
        KeyDeleted: another client deleted our key, while waiting or holding.
        EtcdError: when the block is entered: etcd cannot be reached, or refuses.
    """
    check_client(client)
    return open_turn(client, check_name(name) + b"/", b"", check_ttl(ttl), HeldLock)


def try_lock(
    client: Client, name: Key, *, ttl: int = DEFAULT_TTL
) -> AbstractAsyncContextManager[HeldLock]:
    """Hold a lock for a block if it is free. As `lock`, but entering does not wait.

    If it is held, that costs one read.

    Raises:
        Locked: when the block is entered: another client has it, or waits for it.
    """
    check_client(client)
    return _try_lock(client, check_name(name) + b"/", check_ttl(ttl))


@asynccontextmanager
async def _try_lock(client: Client, prefix: bytes, ttl: int) -> AsyncIterator[HeldLock]:
    found = await client.read(first_of(prefix))
    if found.kv is not None:
        raise Locked(found.kv)
    async with open_turn(client, prefix, b"", ttl, HeldLock, wait=False) as held:
        yield held
