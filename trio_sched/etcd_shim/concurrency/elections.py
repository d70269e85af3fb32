"""Elections, as clientv3's ``concurrency.Election`` and ``etcdctl elect`` have them.

The keys are ``NAME/LEASEHEX``, each on a lease of its own; the one with the lowest create_revision
leads, and its value is what it proclaims. `trio_sched.schedule` elects by the same recipe, below
``PATH/election``. How a turn comes, and why that holds, is at the head of ``turns``.

Theory of observation
---------------------
An observer follows one key: that of the leader. When that is gone, it reads who leads now; when no
key is there, it follows the whole prefix until one comes. So candidates that come and go while one
leads disturb no observer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Self

import trio

from trio_sched.etcd_shim._backoff import retry_transient
from trio_sched.etcd_shim._following import Follower
from trio_sched.etcd_shim.client import Client, check_client
from trio_sched.etcd_shim.concurrency.following import follow, found_one, is_there
from trio_sched.etcd_shim.concurrency.turns import (
    DEFAULT_TTL,
    OwnKey,
    check_name,
    first_of,
    open_turn,
)
from trio_sched.etcd_shim.kv import Get, Key, KeyValue, to_bytes
from trio_sched.etcd_shim.lease import check_ttl

__all__ = ["Election", "LeaderObserver", "Leadership"]


class Leadership(OwnKey):
    """What the leader of an election has. Given by `Election.campaign`.

    Attributes:
        key: our key, ``NAME/LEASEHEX``.
        lease: id of its lease.
        create_revision: of our key; see `fence`.
    """

    @property
    def fence(self) -> int:
        """The fencing token, which is higher than that of each leader before.

        A store that remembers the highest that it has seen, and refuses lower ones, cannot be
        written by a leader that was late. In etcd itself, `guard` does that.
        """
        return self.create_revision

    async def proclaim(self, value: Key) -> int:
        """Let observers know a new value, and return the store's revision that it made.

        Cancelled, the value may have been written or not. It waits while etcd is away, and of two
        that are proclaimed at the same time, one comes last.

        Args:
            value: takes the place of the one before.

        Raises:
            LeaseLost: we do not lead any more, as our lease is gone.
            KeyDeleted: we do not, as another client deleted our key.
            EtcdError: etcd refused.
        """
        return await self._overwrite(to_bytes(value))


class LeaderObserver:
    """Who leads, as it changes. Given by `Election.observe`; iterate it.

    Each item is the key of the leader: its value, and the fence as its `create_revision`.
    """

    def __init__(self, client: Client, prefix: bytes) -> None:
        self._client = client
        self._first = first_of(prefix)
        self._delivered: KeyValue | None = None
        self._following = AsyncExitStack()
        self._follower: Follower | None = None
        self._leader: KeyValue | None = None  # whose key is followed; None for all of them
        self._waiting = False  # whether a task does
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> KeyValue:
        """Wait for a leader, or a value, other than the last that was given.

        The first comes at once if there is a leader. Changes that come faster than they are read
        may be left out, but never the last of them. Cancelled, it loses none. It waits while there
        is no leader, and while etcd is away, too, once it has been there.

        Raises:
            EtcdError: etcd refuses.
            trio.BusyResourceError: another task is waiting already.
            trio.ClosedResourceError: the block was left.
        """
        await trio.lowlevel.checkpoint()
        if self._ended:
            raise trio.ClosedResourceError("the block of this observer was left")
        if self._waiting:
            raise trio.BusyResourceError("another task is waiting already")
        self._waiting = True
        try:
            return await self._next()
        finally:
            self._waiting = False

    async def _next(self) -> KeyValue:
        while True:
            if self._follower is None:
                await self._look()
            assert self._follower is not None
            if self._leader is None:
                if not self._follower.state:
                    await self._follower.receive()
                await self._look()  # cancelled here, the next call comes here again
            elif not is_there(self._follower, self._leader):
                await self._look()
            elif (now := self._follower.state[self._leader.key]) != self._delivered:
                self._delivered = now
                return now
            else:
                await self._follower.receive()

    async def _look(self) -> None:
        """Read which key leads, and follow that; or all, if there is none."""
        if self._follower is None:
            found = await self._client.read(self._first)
        else:
            found = await retry_transient(self._client.read, self._first)
        leader = found.kv
        if leader is None:
            following = follow(self._client, self._first, found, deletes=False)
        else:
            first = found_one(leader, found.revision)
            following = follow(self._client, Get(leader.key), first)
        fresh = AsyncExitStack()
        self._follower = await fresh.enter_async_context(following)
        self._leader = leader
        stale, self._following = self._following, fresh
        await stale.aclose()

    async def end(self) -> None:
        """Follow nothing more."""
        self._ended = True
        await self._following.aclose()


class Election:
    """An election among all that use its name.

    ``etcdctl elect`` and a ``concurrency.Election`` of Go take turns with us. One name must not
    lie below another: ``a`` and ``a/b`` are in each other's way, as they are in Go.

    Args:
        client: an open client.
        name: of the election.
    """

    def __init__(self, client: Client, name: Key) -> None:
        self._client = check_client(client)
        self._prefix = check_name(name) + b"/"

    def campaign(
        self, value: Key, *, ttl: int = DEFAULT_TTL
    ) -> AbstractAsyncContextManager[Leadership]:
        """Lead for a block: ``async with election.campaign("me") as leadership:``.

        Entering waits until we lead; leaving resigns. Candidates lead in the order in which they
        came. Each block is a candidate of its own, with a lease of its own.

        Cancellation: while waiting, it takes our key out of the row; while leading, it resigns.
        Both are shielded, and end once etcd has answered, or after a TTL, as the key has then
        lapsed.

        When leadership is lost, the body is cancelled and the block raises why. What the body
        started elsewhere is not undone by that: guard writes to etcd with `Leadership.guard`, and
        give `Leadership.fence` to other stores.

        Args:
            value: what observers are given: a name, an address.
            ttl: seconds after which another may lead if we can no longer renew the lease; etcd
                gives at least 2.

        Raises:
            LeaseLost: it was not renewed in time, while waiting or leading, or another client
                revoked it. That is before etcd can have let another lead, unless it was revoked.
            KeyDeleted: another client deleted our key, while waiting or leading.
            EtcdError: when the block is entered: etcd cannot be reached, or refuses.
        """
        return open_turn(self._client, self._prefix, to_bytes(value), check_ttl(ttl), Leadership)

    async def leader(self) -> KeyValue | None:
        """Return the key of the leader, with its value; None if there is none.

        Its `create_revision` is the fence. One that leads now may not do so when this is read.
        """
        return (await self._client.read(self._first)).kv

    @property
    def _first(self) -> Get:
        return first_of(self._prefix)

    def observe(self) -> AbstractAsyncContextManager[LeaderObserver]:
        """Observe who leads: ``async with election.observe() as leaders:``.

        And then ``async for leader in leaders:``. It goes on over compactions and restarts of etcd.

        Raises:
            EtcdError: out of the first iteration: etcd cannot be reached, or refuses.
        """
        return _observing(self._client, self._prefix)


@asynccontextmanager
async def _observing(client: Client, prefix: bytes) -> AsyncIterator[LeaderObserver]:
    observer = LeaderObserver(client, prefix)
    try:
        yield observer
    finally:
        await observer.end()  # noqa: ASYNC102 # leaving a watch never waits
