"""Take turns: keys that stand in a row, by etcd's own recipe, for locks and elections alike.

Theory of operation
-------------------
Each client puts one key, ``PREFIX/LEASEHEX`` (the id of a lease of its own, in lower-case hex
without leading zeros), if it is not there yet. It is the turn of the key with the lowest
create_revision. Each waits for the key directly before its own only, so the end of a turn wakes
one client and not all. That is what clientv3's ``concurrency``, ``etcdctl lock``, ``etcdctl
elect`` and etcd's own services ``v3lockpb.Lock`` and ``v3electionpb.Election`` do on the wire, so
all of them take turns with each other.

A turn costs a constant number of requests, however many wait: grant, put, a read of our key and
the one before it, two watches, a read when that one is gone, and a revoke.

Why this holds whatever happens
-------------------------------
The lease's id is random and ours. So the put can be made again when its answer is lost, and what
ends the block, a cancellation at any point included, revokes the lease, and the key with it,
without knowing how far it had come. A key that another client deletes by hand is noticed by a
watch of our own key; a lease that is gone by `KeptLease`. What is waited for is read again when
the watch began too late, when history was compacted, and once in a TTL.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, TypeVar

from trio_sched._support.tasks import open_service_nursery
from trio_sched.etcd_shim._backoff import retry_transient
from trio_sched.etcd_shim.concurrency.errors import KeyDeleted, Locked
from trio_sched.etcd_shim.concurrency.following import follow, found_one, is_there, wait_gone
from trio_sched.etcd_shim.errors import EtcdError, LeaseNotFound
from trio_sched.etcd_shim.kv import (
    Compare,
    Get,
    GetResult,
    Key,
    KeyValue,
    Put,
    prefix_range,
    to_bytes,
)

if TYPE_CHECKING:
    from trio_sched.etcd_shim._keep import KeptLease
    from trio_sched.etcd_shim.client import Client

__all__ = [
    "DEFAULT_TTL",
    "OwnKey",
    "check_name",
    "first_of",
    "lose",
    "open_turn",
    "put_own_key",
    "watched_over",
]

DEFAULT_TTL: Final = 10
"""Seconds; that of ``etcdctl lock``."""


def check_name(name: Key) -> bytes:
    """Return the name of a lock and the like as bytes; it must not be empty."""
    encoded = to_bytes(name)
    if not encoded:
        raise ValueError("a name must not be empty")
    return encoded


def first_of(prefix: bytes) -> Get:
    """Return the read that finds the oldest key that starts with `prefix`."""
    start, end = prefix_range(prefix)
    return Get(start, end, limit=1, sort_order="ascending", sort_target="create_revision")


class OwnKey:
    """A key of ours, on a lease of its own.

    Attributes:
        key: its name.
        lease: id of its lease.
        create_revision: the store's revision at which it was created. Of two holders the later
            one has the higher number, so it is a fencing token.
    """

    def __init__(self, client: Client, kept: KeptLease, kv: KeyValue) -> None:
        self._client = client
        self._kept = kept
        self._loss: KeyDeleted | None = None
        self._mod_revision = kv.mod_revision
        self.key: bytes = kv.key
        self.lease: int = kept.id
        self.create_revision: int = kv.create_revision

    @property
    def guard(self) -> Compare:
        """The condition that the key is still there. Have it in each transaction that needs it.

        ``await client.txn([held.guard], [Put(...)])`` writes nothing once another has its turn.
        """
        return Compare.create_revision(self.key, "==", self.create_revision)

    @property
    def alive(self) -> bool:
        """True as long as the key is certain to be there, as far as we know. Asks the clock."""
        return self._loss is None and self._kept.alive

    def _lose(self) -> KeyDeleted:
        """Note that another client deleted the key; return the error that says so."""
        if self._loss is None:
            self._loss = KeyDeleted(self.key)
        return self._loss

    async def _wait_deleted(self, kv: KeyValue, revision: int) -> None:
        """Raise when the key is deleted."""
        first = found_one(kv, revision)
        async with follow(self._client, Get(kv.key), first, self._kept.ttl) as follower:
            while is_there(follower, kv):
                await follower.receive()
        raise self._lose()

    async def _overwrite(self, value: bytes) -> int:
        """Put a value in place of the one before; return the store's revision that it made.

        Raises:
            LeaseLost: the key is gone with its lease.
            KeyDeleted: another client deleted it.
        """
        while True:
            known = Compare.mod_revision(self.key, "==", self._mod_revision)
            put = Put(self.key, value, lease=self.lease)
            # Each attempt is bound to what it overwrites: one that is late overwrites nothing.
            done = await retry_transient(
                self._client.txn, [self.guard, known], [put], [Get(self.key)]
            )
            if done.succeeded:
                self._mod_revision = done.revision
                return done.revision
            now = done.get(0).kv
            if now is None or now.create_revision != self.create_revision:
                raise await self._explain(self._lose())
            self._mod_revision = now.mod_revision
            if now.value == value:
                return now.mod_revision  # by an attempt whose answer was lost

    async def _explain(self, loss: KeyDeleted) -> Exception:
        """Return what to raise for a key that is gone: maybe its lease was revoked."""
        try:
            await self._client.lease_time_to_live(self.lease)
        except LeaseNotFound:
            return self._kept.mark_lost("the lease was revoked or has lapsed", gone=True)
        except EtcdError:
            pass  # it is not known; that the key is gone is
        return loss


def lose(own: OwnKey) -> KeyDeleted:
    """Note that our key was found to be gone; return what to raise below `watched_over`."""
    return own._lose()


T = TypeVar("T", bound=OwnKey)


@asynccontextmanager
async def watched_over(own: OwnKey, kv: KeyValue, revision: int) -> AsyncIterator[None]:
    """Cancel the block when our key is deleted, and raise why it is gone.

    Args:
        own: the key.
        kv: as it was put.
        revision: the store's revision at which it was there.
    """
    try:
        async with open_service_nursery() as services:
            services.start_soon(own._wait_deleted, kv, revision)
            yield
    except KeyDeleted as exc:
        if exc is not own._loss:
            raise
        raise await own._explain(exc) from None


async def put_own_key(
    client: Client, kept: KeptLease, key: bytes, value: bytes
) -> tuple[KeyValue, int]:
    """Put a key on a lease of ours, if it is not there; return it, and the store's revision.

    The key's name is ours alone. So if it is there, that was a first attempt with no answer.

    Raises:
        LeaseLost: the lease is gone.
        EtcdError: etcd refused.
    """
    absent = Compare.create_revision(key, "==", 0)
    put = Put(key, value, lease=kept.id)
    try:
        done = await retry_transient(client.txn, [absent], [put], [Get(key)])
    except LeaseNotFound as exc:
        raise kept.mark_lost("the lease was revoked or has lapsed", gone=True) from exc
    if done.succeeded:
        return KeyValue(key, value, done.revision, done.revision, 1, kept.id), done.revision
    (kv,) = done.get(0)
    return kv, done.revision


async def _before(client: Client, prefix: bytes, own: OwnKey) -> GetResult:
    """Read our key, and the one before it if there is one; at one revision.

    Raises:
        KeyDeleted: ours is gone.
    """
    start, end = prefix_range(prefix)
    request = Get(
        start,
        end,
        limit=2,
        sort_order="descending",
        sort_target="create_revision",
        max_create_revision=own.create_revision,
        keys_only=True,
    )
    found = await retry_transient(client.read, request)
    if found.kv is None or found.kv.key != own.key:
        raise lose(own)
    return found


async def _wait_turn(client: Client, prefix: bytes, own: OwnKey, ttl: int, *, wait: bool) -> None:
    """Wait until no key is left before ours.

    Raises:
        Locked: there is one, and we are not to wait.
    """
    while len(found := await _before(client, prefix, own)) > 1:
        predecessor = found.kvs[1]
        if not wait:
            raise Locked(predecessor)
        await wait_gone(client, predecessor, found.revision, ttl)


@asynccontextmanager
async def open_turn(
    client: Client, prefix: bytes, value: bytes, ttl: int, kind: type[T], *, wait: bool = True
) -> AsyncIterator[T]:
    """Wait for a turn, have it for a block, and end it.

    Args:
        client: to ask with.
        prefix: what the keys of all that take turns start with.
        value: that of our key.
        ttl: that of its lease, in seconds.
        kind: what the block is given.
        wait: whether to wait, or else raise `Locked`.

    Raises:
        LeaseLost: the lease is lost.
        KeyDeleted: another client deleted our key.
        Locked: there is another, and we are not to wait.
    """
    async with client.open_lease(ttl) as kept:
        kv, revision = await put_own_key(client, kept, b"%s%x" % (prefix, kept.id), value)
        own = kind(client, kept, kv)
        async with watched_over(own, kv, revision):
            await _wait_turn(client, prefix, own, kept.ttl, wait=wait)
            yield own
