"""One lease for the decisions of all paths that a host leads.

Theory of operation
-------------------
A path's own lease for its decisions costs a renewal in each session TTL. A host that shares a
session among a thousand paths shares this lease among them, too. Only that host renews it, as long
as it lives, and the next leader of one of the paths puts all under a lease of its own.

So one thing is different: what hangs on it does not lapse when the host has left a path, or leads
it no more, and then all others go before any of them has taken over. So of such a path it is asked,
once in a session TTL and together with others, whether anything hangs on the lease still, until
nothing does and nothing can any more, as the candidate that we led with is gone. If there are no
hosts either, the decision is deleted; and marks of slots once they would have lapsed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from typing import Final

import trio

from trio_sched.etcd_shim import Client, Compare, Delete, EtcdError, Get, KeyValue
from trio_sched.etcd_shim._keep import on_beat
from trio_sched.etcd_shim.errors import LeaseNotFound
from trio_sched.etcd_shim.kv import prefix_range
from trio_sched.host.decision_leases import DECISION_TTLS, grant_decision_lease, shared_lease_id
from trio_sched.host.patience import Patience
from trio_sched.host.session import revoke_quietly
from trio_sched.model.keys import PathKeys

__all__ = ["SharedDecisionLease"]

_CONDITIONS: Final = 4  # about one path
_PATHS_AT_ONCE: Final = 30  # etcd takes 128 conditions in a transaction, if no limit is set


@dataclass(eq=False, slots=True)
class _Use:
    """A term in which a host leads a path, or has led it.

    Attributes:
        keys: of the path.
        candidate: the key that it led with.
        fence: create_revision of that.
        on_gone: called when the lease is gone; None if the term is over.
        empty_since: by trio's clock, since when there was no host; infinity if there was one.
    """

    keys: PathKeys
    candidate: bytes
    fence: int
    on_gone: Callable[[], None] | None = None
    empty_since: float = inf

    def conditions(self, lease: int) -> list[Compare]:
        """Return what holds if nothing hangs on the lease, and nothing will."""
        keys = self.keys
        single = [Compare.lease(key, "!=", lease) for key in (keys.scheduled, keys.record)]
        marks = Compare.lease(keys.marks, "!=", lease).over_prefix()
        return [*single, marks, Compare.create_revision(self.candidate, "!=", self.fence)]

    def looks(self) -> list[Get]:
        """Return the reads that show which of them hold."""
        keys = self.keys
        single = [Get(key, keys_only=True) for key in (keys.scheduled, keys.record)]
        marks = Get(*prefix_range(keys.marks), keys_only=True)
        return [*single, marks, Get(self.candidate, keys_only=True)]


class SharedDecisionLease:
    """The lease, as long as its host lives, and what may hang on it.

    Args:
        client: to ask with.
        ttl: of a session, in seconds.
        grace: seconds for which the answer to its grant is awaited when a path is left.
        patience: what is waited out.

    Attributes:
        id: the lease's; 0 while there is none.
    """

    def __init__(self, client: Client, ttl: int, grace: float, patience: Patience) -> None:
        self._client = client
        self._ttl = ttl
        self._grace = grace
        self._patience = patience
        self._granting = trio.Lock()
        self._is_granted = False
        self._uses: dict[str, _Use] = {}  # by path, the newest
        self.id: int = 0

    def of_path(self, keys: PathKeys, session: int, fence: int) -> _PathLease:
        """Return it for one term of leadership.

        Args:
            keys: of the path.
            session: the lease of the session.
            fence: create_revision of the candidate.
        """
        return _PathLease(self, _Use(keys, keys.candidate(session), fence))

    def note_use(self, use: _Use) -> None:
        """Note that a path's decision is about to hang on it."""
        self._uses[use.keys.path] = use

    async def ensure(self) -> int:
        """Return its id when there is one.

        Raises:
            EtcdError: etcd refuses it.
        """
        if not self._is_granted:
            async with self._granting:
                while not self._is_granted:
                    # Noted before it is asked for, so that the end revokes it whatever happens.
                    self.id = lease = self.id or shared_lease_id()
                    ttl = self._ttl * DECISION_TTLS
                    grant = grant_decision_lease
                    await self._patience.insist(grant, self._client, ttl, lease, self._grace)
                    self._is_granted = self.id == lease
        return self.id

    def note_gone(self, lease: int) -> None:
        """Note that a lease turned out to be gone."""
        if self.id == lease:
            self.id, self._is_granted = 0, False

    # ---- its life ------------------------------------------------------------------------

    async def run(self) -> None:
        """Renew it once in a session TTL, and look after what hangs on it; until cancelled."""
        pause: float = self._ttl
        while True:
            await trio.sleep_until(on_beat(trio.current_time() + pause, self._ttl))
            pause = self._ttl
            if self._is_granted and not await self._renew_in_time(self.id):
                pause = self._ttl / 10  # it has two session TTLs to live
            elif self._is_granted:
                with trio.move_on_after(self._ttl / 4):
                    await self._look_back(self.id)

    async def _renew_in_time(self, lease: int) -> bool:
        """Renew it; return whether it is known what became of it."""
        with trio.move_on_after(self._ttl / 2), suppress(EtcdError):
            await self._renew(lease)
            return True
        return False

    async def _renew(self, lease: int) -> None:
        try:
            await self._patience.insist(self._client.lease_renew, lease)
        except LeaseNotFound:
            if self.id == lease:
                self.note_gone(lease)
                for use in list(self._uses.values()):
                    if use.on_gone is not None:
                        use.on_gone()

    async def end(self) -> None:
        """Revoke it, if nothing hangs on it; else it lapses. The caller bounds it."""
        if self.id:
            with suppress(EtcdError):
                if not (await self._client.lease_time_to_live(self.id, keys=True)).keys:
                    await revoke_quietly(self._client, self.id)

    # ---- what may hang on it -------------------------------------------------------------

    async def _look_back(self, lease: int) -> None:
        """Forget the paths on which nothing hangs on it any more, and clean up those without hosts.

        What etcd refuses is asked again in the next TTL, and holds up no other path.
        """
        over = [use for use in self._uses.values() if use.on_gone is None]
        for first in range(0, len(over), _PATHS_AT_ONCE):
            some = over[first : first + _PATHS_AT_ONCE]
            try:
                await self._look_at(some, lease)
            except EtcdError:  # it may be about one of them, or about their number
                for use in some:
                    with suppress(EtcdError):
                        await self._look_at([use], lease)

    async def _look_at(self, uses: Sequence[_Use], lease: int) -> None:
        answer = await self._client.txn(
            [condition for use in uses for condition in use.conditions(lease)],
            [],
            [look for use in uses for look in use.looks()],
        )
        for number, use in enumerate(uses):
            found: list[KeyValue] = []
            if not answer.succeeded:
                parts = range(_CONDITIONS * number, _CONDITIONS * (number + 1))
                found = [kv for index in parts for kv in answer.get(index)]
            led_with = (use.candidate, use.fence)
            if any(kv.lease == lease for kv in found):
                await self._clear(use, lease)
            elif all((kv.key, kv.create_revision) != led_with for kv in found):
                self._forget(use)

    def _forget(self, use: _Use) -> None:
        if self._uses.get(use.keys.path) is use and use.on_gone is None:
            del self._uses[use.keys.path]

    async def _clear(self, use: _Use, lease: int) -> None:
        """Delete the decision of a path without hosts; and its marks, once they would be gone."""
        keys = use.keys
        no_host = Compare.create_revision(keys.exchange, "==", 0).over_prefix()
        hosts = await self._client.get_prefix(keys.exchange, limit=1, keys_only=True)
        marks = await self._client.get_prefix(keys.marks)
        if hosts.kvs or use.on_gone is not None:
            use.empty_since = inf
            return
        use.empty_since = min(use.empty_since, trio.current_time())
        await self._client.txn([no_host], [Delete(keys.scheduled), Delete(keys.record)])
        if trio.current_time() - use.empty_since >= DECISION_TTLS * self._ttl:
            for mark in marks:
                if mark.lease == lease:
                    same = Compare.mod_revision(mark.key, "==", mark.mod_revision)
                    await self._client.txn([no_host, same], [Delete(mark.key)])


class _PathLease:
    """The shared lease, for one term of leadership of a path."""

    def __init__(self, shared: SharedDecisionLease, use: _Use) -> None:
        self._shared = shared
        self._use = use

    @property
    def id(self) -> int:
        """The lease's; 0 while there is none."""
        return self._shared.id

    @property
    def to_revoke(self) -> frozenset[int]:
        """None, as it is for other paths, too."""
        return frozenset()

    async def ensure(self, _inherited: int) -> int:
        """Return its id. It never goes on with the lease of another leader."""
        self._shared.note_use(self._use)
        return await self._shared.ensure()

    def note_gone(self, lease: int) -> None:
        """Note that a lease turned out to be gone."""
        self._shared.note_gone(lease)

    def begin(self, _nursery: trio.Nursery, on_gone: Callable[[], None]) -> None:
        """Have `on_gone` called when it is gone; the host renews it."""
        self._use.on_gone = on_gone

    def end(self) -> None:
        """Note that the term is over."""
        self._use.on_gone = None
