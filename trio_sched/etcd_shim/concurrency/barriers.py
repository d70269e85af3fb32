"""Barriers, as the recipes of Go's clientv3 have them.

A barrier is a key: while it is there, all wait. A double barrier has a key
``NAME/waiters/UNIQUE`` for each that has entered, and ``NAME/ready``, which is put when the last
one has.

Theory of the double barrier
----------------------------
Each puts a key on a lease of its own, here named by that lease, and reads how many there are. The
one that completes the number puts ``ready``; the others follow that key alone, and go on when it
was put after their own key was. To leave, all but the oldest delete their keys, and wait for the
oldest one's to go; the oldest waits for the others, for one after the other, and deletes ``ready``
with its own key. So each wait is for one key. The key of one that dies goes with its lease, so it
holds up no other.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from trio_sched._support.arguments import check_int
from trio_sched.etcd_shim._backoff import retry_transient
from trio_sched.etcd_shim.client import Client, check_client
from trio_sched.etcd_shim.concurrency.errors import BarrierFull, BarrierHeld
from trio_sched.etcd_shim.concurrency.following import RECONCILE, follow, retry_lost, wait_gone
from trio_sched.etcd_shim.concurrency.turns import (
    DEFAULT_TTL,
    OwnKey,
    check_name,
    lose,
    put_own_key,
    watched_over,
)
from trio_sched.etcd_shim.kv import (
    Compare,
    Delete,
    Get,
    GetResult,
    Key,
    KeyValue,
    Put,
    prefix_range,
)
from trio_sched.etcd_shim.lease import check_ttl, new_lease_id

__all__ = ["Barrier", "DoubleBarrier"]


class Barrier:
    """A barrier: while one client holds it, others wait.

    Args:
        client: an open client.
        name: of the barrier; its key.
    """

    def __init__(self, client: Client, name: Key) -> None:
        self._client = check_client(client)
        self._key = check_name(name)

    async def hold(self, *, lease: int = 0) -> None:
        """Create the barrier. It stays until it is released, by any client.

        Cancelled, it may have been created or not.

        Args:
            lease: id of a lease that it goes with; 0 for none.

        Raises:
            BarrierHeld: it is held already.
            LeaseNotFound: there is no such lease.
            EtcdError: etcd cannot be reached, or refuses.
        """
        check_int("lease", lease)
        # The value makes it known as ours if the answer is lost; others read the key alone.
        value = b"%x" % new_lease_id()
        absent = Compare.create_revision(self._key, "==", 0)
        put = Put(self._key, value, lease)
        done = await retry_lost(self._client.txn, [absent], [put], [Get(self._key)])
        if not done.succeeded and done.get(0).value != value:
            raise BarrierHeld(self._key)

    async def release(self) -> None:
        """Delete the barrier, if it is there: all that wait go on.

        Cancelled, it may have been deleted or not.

        Raises:
            EtcdError: etcd cannot be reached, or refuses.
        """
        await retry_lost(self._client.delete, self._key)

    async def wait(self) -> None:
        """Wait until the barrier is released; not at all if it is not held.

        Raises:
            EtcdError: etcd cannot be reached, or refuses. Once it waits, it waits while etcd is
                away, too.
        """
        found = await self._client.get(self._key)
        if found.kv is not None:
            await wait_gone(self._client, found.kv, found.revision, RECONCILE)


class DoubleBarrier:
    """A barrier that a number of clients enter together, and leave together.

    One round at a time: those that enter while others still leave are counted with these.

    Args:
        client: an open client.
        name: of the barrier.
        count: how many enter.
    """

    def __init__(self, client: Client, name: Key, count: int) -> None:
        self._client = check_client(client)
        self._key = check_name(name)
        self._count = check_int("count", count, 1)

    def enter(self, *, ttl: int = DEFAULT_TTL) -> AbstractAsyncContextManager[None]:
        """Enter for a block: ``async with barrier.enter():``.

        Entering waits until `count` clients have entered. Leaving waits until all of them have
        left, or died. A body that ends with an exception leaves without waiting.

        Cancellation: at any point, our key is deleted, shielded; it ends once etcd has answered, or
        after a TTL, as the key has then lapsed. The others then do not wait for us when they
        leave; if they are still waiting for enough to enter, they wait for another.

        Args:
            ttl: seconds after which the others no longer wait for us if we die; etcd gives at
                least 2.

        Raises:
            BarrierFull: `count` others have entered before us.
            LeaseLost: our lease was not renewed in time, or another client revoked it.
            KeyDeleted: another client deleted our key.
            EtcdError: when the block is entered: etcd cannot be reached, or refuses.
        """
        return _entered(self._client, self._key, self._count, check_ttl(ttl))


class _Round:
    """One client's part in a round of a double barrier."""

    def __init__(self, client: Client, name: bytes, own: OwnKey) -> None:
        self._client = client
        self._own = own
        self._name = name
        self._ready = name + b"/ready"

    async def _waiters(self) -> GetResult:
        """Read who has entered and not left, the oldest first."""
        start, end = prefix_range(self._name + b"/waiters/")
        request = Get(
            start, end, sort_order="ascending", sort_target="create_revision", keys_only=True
        )
        return await retry_transient(self._client.read, request)

    async def enter(self, count: int) -> None:
        """Wait until enough have entered.

        Raises:
            BarrierFull: too many have.
        """
        entered = [kv.key for kv in await self._waiters()]
        if self._own.key in entered[count:]:
            raise BarrierFull(self._name, count)
        if len(entered) >= count:
            await self._let_in()
            return
        request = Get(self._ready)
        found = await retry_transient(self._client.read, request)
        async with follow(self._client, request, found) as follower:
            while not self._is_ready(follower.state.get(self._ready)):
                await follower.receive()

    async def _let_in(self) -> None:
        """Put ``ready``, unless our own key is gone: it would let in those of a later round."""
        put = Put(self._ready)
        if not (await retry_transient(self._client.txn, [self._own.guard], [put])).succeeded:
            raise lose(self._own)

    def _is_ready(self, ready: KeyValue | None) -> bool:
        return ready is not None and ready.mod_revision > self._own.create_revision

    async def leave(self) -> None:
        """Delete our key, and wait until all have left."""
        while len(waiters := await self._waiters()):
            oldest, newest = waiters.kvs[0], waiters.kvs[-1]
            if oldest.key == newest.key == self._own.key:
                await self._delete(Delete(self._ready))
            elif oldest.key == self._own.key:
                await wait_gone(self._client, newest, waiters.revision, RECONCILE)
            else:
                await self._delete()
                await wait_gone(self._client, oldest, waiters.revision, RECONCILE)

    async def _delete(self, *others: Delete) -> None:
        """Delete our key if it is there, and others with it."""
        await retry_transient(self._client.txn, [self._own.guard], [Delete(self._own.key), *others])


@asynccontextmanager
async def _entered(client: Client, name: bytes, count: int, ttl: int) -> AsyncIterator[None]:
    async with client.open_lease(ttl) as kept:
        kv, revision = await put_own_key(client, kept, b"%s/waiters/%x" % (name, kept.id), b"")
        own = OwnKey(client, kept, kv)
        ours = _Round(client, name, own)
        async with watched_over(own, kv, revision):
            await ours.enter(count)
            yield
        await ours.leave()
