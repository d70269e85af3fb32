"""Queues, as the recipes of Go's clientv3 have them.

An item is a key below ``NAME/``. Of a `Queue` it is ``NAME/UNIQUE``, and items are taken in the
order of their creation. Of a `PriorityQueue` it is ``NAME/PRIORITY/NUMBER``, and items are taken in
the order of their keys: PRIORITY has five digits, the lowest goes first, and NUMBER sixteen, one
more than that of the last item there. With such an item, the key ``__NAME/PRIORITY`` is put. By
that, Go's clients notice that a number is no longer free: they do not look whether the item is
there, and would overwrite it. These keys stay.

To take an item is to delete its key, if it is still as it was read. So each item is taken once, and
one that was taken is gone: a program that may die while it works on one needs something else.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import trio

from trio_sched._support.arguments import check_int
from trio_sched.etcd_shim._about import TRANSIENT
from trio_sched.etcd_shim._backoff import Backoff, retry_transient
from trio_sched.etcd_shim.client import Client, check_client
from trio_sched.etcd_shim.concurrency.errors import DequeueUncertain
from trio_sched.etcd_shim.concurrency.following import follow
from trio_sched.etcd_shim.concurrency.turns import check_name, first_of
from trio_sched.etcd_shim.errors import ConnectionFailed, EtcdError
from trio_sched.etcd_shim.kv import Compare, Delete, Get, Key, KeyValue, Put, prefix_range, to_bytes
from trio_sched.etcd_shim.lease import new_lease_id

if TYPE_CHECKING:
    from trio_sched.etcd_shim.kv import GetResult

__all__ = ["MAX_PRIORITY", "PriorityQueue", "Queue"]

MAX_PRIORITY: Final = 65_535
"""The highest number of a priority, which is the last to be served; Go's is a ``uint16``."""

_NUMBER: Final = re.compile(rb"\d{16}")
_CLEANUP_TIMEOUT: Final = 5.0  # seconds for the answer that says whether an item was taken


class _Items:
    """What both kinds of queues are."""

    def __init__(self, client: Client, name: Key) -> None:
        self._client = check_client(client)
        self._prefix = check_name(name) + b"/"

    @property
    def _first(self) -> Get:
        raise NotImplementedError

    async def dequeue(self) -> bytes:
        """Take the first item, and return its value; wait for one if there is none.

        Each item is taken by one client. While many wait, each item that comes makes all of them
        ask for it.

        Cancellation: cancelled while it waits, it takes nothing. What it does take, it returns,
        even if cancelled meanwhile; if etcd does not say within 5 s whether it was taken, it
        raises `DequeueUncertain`.

        Raises:
            DequeueUncertain: the answer is lost that says whether we have taken an item.
            EtcdError: etcd cannot be reached, or refuses. Once it waits, it waits while etcd is
                away, too.
        """
        found = await self._client.read(self._first)
        while found.kv is None or not await self._take(found.kv):
            if found.kv is None:
                await self._wait(found)
            found = await retry_transient(self._client.read, self._first)
        return found.kv.value

    async def dequeue_nowait(self) -> bytes:
        """Take the first item, as `dequeue` does.

        Raises:
            trio.WouldBlock: there is none.
        """
        while True:
            kv = (await self._client.read(self._first)).kv
            if kv is None:
                raise trio.WouldBlock
            if await self._take(kv):
                return kv.value

    async def _wait(self, found: GetResult) -> None:
        """Wait until there may be an item, after a read that has found none."""
        async with follow(self._client, self._first, found, deletes=False) as follower:
            await follower.receive()

    async def _take(self, kv: KeyValue) -> bool:
        """Take an item; return whether that was so, and not another was faster."""
        unchanged, delete = Compare.mod_revision(kv.key, "==", kv.mod_revision), Delete(kv.key)
        lost: EtcdError | None = None
        backoff = Backoff()
        with trio.move_on_after(_CLEANUP_TIMEOUT, shield=True):
            while True:
                try:
                    done = await self._client.txn([unchanged], [delete])
                except EtcdError as exc:
                    is_transient = isinstance(exc, TRANSIENT)
                    if lost is None and (not is_transient or isinstance(exc, ConnectionFailed)):
                        raise  # nothing was sent, or it was refused
                    lost = lost or exc
                    if not is_transient:
                        raise DequeueUncertain(kv) from lost
                else:
                    if done.succeeded or lost is None:
                        return done.succeeded
                    break
                await trio.sleep(backoff.next())
        raise DequeueUncertain(kv) from lost


class Queue(_Items):
    """A queue: what comes first is served first.

    Args:
        client: an open client.
        name: of the queue.
    """

    @property
    def _first(self) -> Get:
        return first_of(self._prefix)

    async def enqueue(self, value: Key) -> None:
        """Append an item.

        Cancelled, it may have been appended or not.

        Args:
            value: of the item.

        Raises:
            EtcdError: etcd cannot be reached, or refuses. Of a `ConnectionLost` whose `processed`
                is true, it is not known whether the item was appended.
        """
        await self._client.put(b"%s%016x" % (self._prefix, new_lease_id()), to_bytes(value))


class PriorityQueue(_Items):
    """A queue in which the item with the lowest number is served first; of the same, the older.

    Args:
        client: an open client.
        name: of the queue.
    """

    @property
    def _first(self) -> Get:
        start, end = prefix_range(self._prefix)
        return Get(start, end, limit=1)

    async def enqueue(self, value: Key, priority: int) -> None:
        """Append an item. Cancelled, it may have been appended or not.

        Args:
            value: of the item.
            priority: 0 for what is served first, to 65,535.

        Raises:
            EtcdError: as for `Queue.enqueue`.
        """
        check_int("priority", priority, 0, MAX_PRIORITY)
        value = to_bytes(value)
        among = b"%s%05d/" % (self._prefix, priority)
        claimed = b"__" + among[:-1]
        while True:
            key = b"%s%016d" % (among, await self._next_number(among))
            absent = Compare.create_revision(key, "==", 0)
            if (await self._client.txn([absent], [Put(claimed), Put(key, value)])).succeeded:
                return

    async def _next_number(self, among: bytes) -> int:
        """Return the number of the next item, after the last of a priority.

        What others have put there under another kind of name does not count.
        """
        end = among + b":"  # behind all that begins with a digit
        last_of = Get(among, end, limit=1, sort_order="descending", keys_only=True)
        found = await self._client.read(last_of)
        if found.kv is not None and not _NUMBER.fullmatch(found.kv.key, len(among)):
            found = await self._client.read(Get(among, end, keys_only=True))
        numbers = [match[0] for kv in found if (match := _NUMBER.fullmatch(kv.key, len(among)))]
        return int(max(numbers, default=-1)) + 1
