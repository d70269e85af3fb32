"""Where the sessions of a host on a path come from, and what becomes of them.

`OwnSessions` is for `schedule`: each session has a lease of its own, which is revoked at the end.
That of many paths in one is in ``sharing.py``.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Container, Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from trio_sched._support.suspension import lease_time
from trio_sched.etcd_shim import Client, EtcdError
from trio_sched.etcd_shim._keep import KeptLease
from trio_sched.etcd_shim.client import prefix_of
from trio_sched.etcd_shim.errors import LeaseNotFound
from trio_sched.exceptions import SessionLost
from trio_sched.host.decision_leases import DECISION_TTLS, DecisionLease, OwnDecisionLease
from trio_sched.host.joining import Joined, clear_if_last, resume
from trio_sched.host.patience import Patience
from trio_sched.host.policy import Where
from trio_sched.host.session import (
    FormerLeases,
    Session,
    grant_session,
    revoke_quietly,
    revoke_surely,
)
from trio_sched.host.slots import SlotKeys
from trio_sched.host.work import Worker
from trio_sched.model.keys import PathKeys
from trio_sched.reaper.owner import Reaper

__all__ = ["OVERRUN", "Departure", "OwnSessions", "Sessions"]

OVERRUN: Final = "work goes on beyond its deadline; the lease lapses by itself"

_REJOIN_TIMEOUT: Final = 1.0  # seconds for the old lease; it is revoked while we join, too

# Leases that were left to lapse, for the next life of the same host in this process: by the
# members' URLs, as each cluster has leases of its own, by path and by host.
_kept_leases: dict[tuple[tuple[str, ...], bytes, str], int] = {}


@dataclass(frozen=True, slots=True, eq=False)
class Departure:
    """What a host has on a path when it leaves it, or loses its session.

    Attributes:
        keys: of the path.
        hostname: of the host.
        session: that is over.
        lost: whether it was lost, and the host joins again.
        worker: what runs the host's work.
        slots: its slots.
        log: takes a level and a message, with fields.
        known: create_revisions of its own key and of its candidate's, as far as they are known.
        decision_leases: what it has to see to as the leader.
    """

    keys: PathKeys
    hostname: str
    session: Session
    lost: bool
    worker: Worker
    slots: SlotKeys
    log: Callable[..., None]
    known: tuple[int, int] = (0, 0)
    decision_leases: AbstractSet[int] = frozenset()

    @property
    def own_keys(self) -> tuple[bytes, bytes]:
        """Its own key, and its candidate's."""
        return self.keys.host(self.hostname), self.keys.candidate(self.session.lease)


class Sessions(Protocol):
    """Gives a host its sessions on a path.

    Attributes:
        answer_grace: seconds for which the answer to a join is awaited though the block is being
            left, as it must be known what became of it; None if that does not matter.
    """

    answer_grace: float | None

    @property
    def former(self) -> Container[int]:
        """Leases of sessions that it gave before."""

    async def wait_ready(self) -> None:
        """Wait until a session may begin."""

    async def begin(self) -> tuple[Session, Joined | None]:
        """Return a new session, and what is known if it has joined already.

        Raises:
            EtcdError: etcd refuses.
        """

    def keep(self, session: Session, nursery: trio.Nursery) -> None:
        """Start what keeps a session, and raises SessionLost when it is lost."""

    def decision_lease(self, session: Session, fence: int, patience: Patience) -> DecisionLease:
        """Return the lease for the decisions of a host that begins to lead.

        Args:
            session: of the host.
            fence: create_revision of its candidate.
            patience: what is waited out.
        """

    async def end(self, departure: Departure) -> None:
        """Give back all that hangs on a session. Shields and bounds itself."""


class OwnSessions:
    """A lease for each session, for one path alone.

    Args:
        client: to ask with.
        path: of the host.
        hostname: of it.
        ttl: of a session, in seconds.
        grace: how long leaving may take, in seconds.
        reuse: whether a lease is kept for the next life, and is not revoked.
        reaper: sees to it, should this process be killed.
    """

    def __init__(
        self,
        client: Client,
        path: str,
        hostname: str,
        ttl: int,
        grace: float,
        *,
        reuse: bool,
        reaper: Reaper | None,
    ) -> None:
        self.answer_grace: float | None = None  # a lease that is revoked takes all with it
        self._client = client
        self._path = path
        self._hostname = hostname
        self._ttl = ttl
        self._grace = grace
        self._reuse = reuse
        self._reaper = reaper
        self._former = FormerLeases(client, reaper)
        # Of sessions, the newest last: a store that is restored may hold some again.
        self._leases: deque[int] = deque(maxlen=100)

    @property
    def former(self) -> Container[int]:
        """Leases of sessions that it gave before."""
        return self._leases

    async def wait_ready(self) -> None:
        """Return at once: each path has its own."""

    async def begin(self) -> tuple[Session, Joined | None]:
        """Return a new session; or one on a kept lease, which has joined already."""
        await self._former.revoke()
        # Taken away at once: only one block of this process may go on with it.
        kept_as = self._kept_as
        kept = _kept_leases.pop(kept_as, None)
        if kept is not None:
            try:
                found = await self._take_over(kept)
            except BaseException:
                _kept_leases.setdefault(kept_as, kept)
                raise
            if found is not None:
                return found
        session = await grant_session(self._client, self._ttl, self._grace, self._reaper)
        return session, None

    @property
    def _kept_as(self) -> tuple[tuple[str, ...], bytes, str]:
        """What a lease of this host is kept by."""
        members = tuple(sorted(self._client.endpoints))
        return members, prefix_of(self._client) + self._path.encode(), self._hostname

    async def _take_over(self, lease: int) -> tuple[Session, Joined] | None:
        """Go on with a lease from a life before, if it and its keys still live."""
        sent = lease_time()
        try:
            ttl = await self._client.lease_renew(lease)
            kept = KeptLease(self._client.lease_renew, lease, ttl, sent)
            session = Session(self._client, kept, self._reaper)
            joined = await resume(self._client, PathKeys(self._path), self._hostname, session)
        except LeaseNotFound:
            return None
        except SessionLost:
            await revoke_quietly(self._client, lease)
            return None
        if self._reaper is not None:
            self._reaper.hold(lease, ttl)
        return session, joined

    def keep(self, session: Session, nursery: trio.Nursery) -> None:
        """Renew its lease, and go on revoking those before it."""
        self._leases.append(session.lease)
        nursery.start_soon(session.keep_alive)
        nursery.start_soon(self._former.keep_revoking)

    def decision_lease(self, session: Session, _fence: int, patience: Patience) -> DecisionLease:
        """Return one for this path."""
        return OwnDecisionLease(self._client, session.ttl, self._grace, patience)

    async def end(self, departure: Departure) -> None:
        """Revoke its lease when the work has ended, and take the decision away if we were last."""
        session = departure.session
        if not await departure.worker.wait_ended(session):
            departure.log(
                logging.ERROR, "work goes on beyond its deadline; the lease lapses by itself"
            )
            return
        self._former.add(session.lease)
        timeout = min(self._grace, _REJOIN_TIMEOUT) if departure.lost else self._grace
        now = trio.current_time()
        # Half of the time, as what refuses this may let the lease be revoked: a full etcd 3.5.1.
        with trio.CancelScope(deadline=now + timeout / 2, shield=True), suppress(EtcdError):
            await departure.slots.release_owed()
        if self._reuse and not departure.lost:
            if self._reaper is not None:
                self._reaper.release(session.lease)
            _kept_leases[self._kept_as] = session.lease
            departure.log(logging.INFO, "left, lease kept", lease=f"{session.lease:x}")
            return
        await self._revoke(departure, now + timeout)

    async def _revoke(self, departure: Departure, until: float) -> None:
        session = departure.session
        unfinished = f"lease {session.lease:x} (within {session.ttl} s)"
        with trio.CancelScope(deadline=until, shield=True):
            try:
                insist = Patience(where=Where.LEAVING).insist
                await insist(revoke_surely, self._client, session.lease)
                self._former.discard(session.lease)
                unfinished = f"the decision (within {session.ttl * DECISION_TTLS} s)"
                leases = departure.decision_leases
                await insist(clear_if_last, self._client, departure.keys, leases)
                unfinished = ""
            except EtcdError as exc:
                departure.log(logging.WARNING, "etcd refused to clean up", reason=str(exc))
        if unfinished:
            departure.log(logging.WARNING, "etcd did not confirm all; it lapses", what=unfinished)
        else:
            departure.log(logging.INFO, "left")
