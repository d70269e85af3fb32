"""One host's life on a path.

Theory of operation
-------------------
`Membership.run` is a service task: it does not die with the body of the
``schedule()`` block. When the block is left, by whatever way, it is told to stop,
and the block waits until it has revoked its keys, or until the time for that is
up. Nothing else ever touches the host's keys.

A life is a series of *sessions*. Each has a lease, joins under it, and runs
sibling tasks in one nursery: renewals, the watch on our own key, the watches on
the decision, and campaign, leadership and strategy evaluation. Losing the
session means that one of them raised: the nursery cancels the others, readers
are told at once that nothing is decided for this host, and the next session
begins after a backoff. What cannot heal ends the life, and leaves the block.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from typing import Final, TypeVar

import trio

from trio_sched._support.tasks import open_plain_nursery
from trio_sched.etcd_shim import Client, EtcdError, EventType, Get, KeyValue
from trio_sched.etcd_shim._backoff import TRANSIENT, Backoff, persist
from trio_sched.etcd_shim._keep import margin_of
from trio_sched.etcd_shim.errors import (
    Compacted,
    LeaseNotFound,
    WatchCanceled,
    WatchOverflow,
)
from trio_sched.exceptions import SessionLost
from trio_sched.host.election import wait_elected
from trio_sched.host.following import DecisionFollower
from trio_sched.host.joining import Joined, clear_if_last, join, resume
from trio_sched.host.leading import DECISION_TTLS, Leading, Place
from trio_sched.host.publishing import HealthCheck, Offering
from trio_sched.host.result import Result
from trio_sched.host.session import Session, grant_session, revoke_quietly, revoke_surely
from trio_sched.host.slots import Slot, SlotKeys
from trio_sched.host.work import Worker, check_grace
from trio_sched.leader.machine import LeaderCore, StoredChanged
from trio_sched.model.decision_view import DecisionView
from trio_sched.model.keys import PathKeys
from trio_sched.model.records import HostData, Hosts, Options
from trio_sched.reaper.owner import Reaper
from trio_sched.strategies import Strategy

__all__ = ["Membership", "Settings"]

T = TypeVar("T")

_HEALABLE: Final = (*TRANSIENT, SessionLost, WatchCanceled, WatchOverflow)

_RECONCILES_PER_TTL: Final = 3  # reads that prove the decision to be the newest

# Leases that were left to lapse, for the next life of the same host in this process.
_kept_leases: dict[tuple[str, str], int] = {}


@dataclass(frozen=True, slots=True)
class Settings:
    """The arguments of `schedule`, checked."""

    path: str
    hostname: str
    options: Options
    data: HostData
    strategy: Strategy
    healthy: HealthCheck | None
    every: float
    session_ttl: int
    reuse_lease: bool
    shutdown_timeout: float
    logger: logging.Logger
    debug: bool
    reaper: Reaper | None = None


class Membership:
    """One host's life on a path. See the head of the module.

    Attributes:
        joined: set once the host has joined for the first time.
        result: what the user of the block holds.
    """

    def __init__(self, client: Client, settings: Settings) -> None:
        self._client = client
        self._settings = settings
        self._keys = PathKeys(settings.path)
        self._session: Session | None = None
        self._leading: Leading | None = None
        self._follower: DecisionFollower | None = None
        self._backoff = Backoff(first=0.1, cap=10.0)
        self._unrevoked: set[int] = set()
        self.joined = trio.Event()
        self._sessions = 0
        self._healed = 0
        self.result = Result(settings.path, settings.hostname, self)
        self.offering = Offering(settings.options, settings.data, settings.healthy, settings.every)
        slots = SlotKeys(client, self._keys, settings.hostname)
        self._worker = Worker(self, slots, settings.shutdown_timeout)

    # ---- what the result asks for ------------------------------------------------

    def statistics(self) -> tuple[int, bool, int]:
        """Return the numbers of sessions, whether we lead, and what was healed."""
        healed = self._follower.healed if self._follower is not None else 0
        return self._sessions, self._leading is not None, self._healed + healed

    def believe(self) -> float:
        """Return until when, by trio's clock, a decision for our name may be acted on.

        That is, one for our present session, of which we know that it is the newest.
        """
        session, follower = self._session, self._follower
        if session is None or follower is None or session.why_lost is not None:
            return -inf
        if not self._is_ours(session, follower.view):
            return -inf
        return min(session.deadline, _believable_until(session, follower))

    async def run_work(
        self, work: Callable[[Slot], Awaitable[T]], grace: float | None, *, restart: bool
    ) -> T:
        """Run work while this host is scheduled. See `Result.run_while_scheduled`."""
        grace = check_grace(grace, self._settings.session_ttl)
        return await self._worker.run(work, grace, restart=restart)

    # ---- what the worker asks for ------------------------------------------------

    @property
    def session(self) -> Session | None:
        """The present session."""
        return self._session

    @property
    def newest(self) -> Hosts | None:
        """The newest decision."""
        return self.result.newest

    @property
    def deadline(self) -> float:
        """Until when this host is scheduled."""
        return self.result.deadline

    @property
    def max_count(self) -> int:
        """How many hosts the newest decision may name; our own word if it does not say."""
        record = self._follower.view.stored.record if self._follower is not None else None
        said = record.options.get("max_count") if record is not None else None
        return said if type(said) is int and said > 0 else self._settings.options.max_count

    async def wait_changed(self) -> None:
        """Wait until the decision or what we may believe of it has changed."""
        await self.result._changed.park()  # noqa: SLF001

    async def wait_scheduled(self) -> Hosts:
        """Wait until this host is scheduled."""
        return await self.result.wait_scheduled()

    # ---- words -------------------------------------------------------------------

    def _is_ours(self, session: Session, view: DecisionView) -> bool:
        """Tell whether the decision, if it names us, means this session."""
        record = view.stored.record
        if record is None:
            return True  # a Go leader's, bound to names only
        return record.hosts.get(self._settings.hostname) == session.lease

    def _log(self, level: int, message: str, **extra: object) -> None:
        settings = self._settings
        told = {"path": settings.path, "host": settings.hostname, **extra}
        words = ", ".join(f"{key}={value}" for key, value in extra.items())
        settings.logger.log(
            level,
            "%s %s: %s%s",
            settings.path,
            settings.hostname,
            message,
            f" ({words})" if words else "",
            extra=told,
        )

    def _debug(self, message: str, **extra: object) -> None:
        if self._settings.debug:
            self._log(logging.DEBUG, message, **extra)

    # ---- the life ----------------------------------------------------------------

    async def run(self) -> None:
        """Live until told to stop, or until something cannot heal."""
        try:
            async with open_plain_nursery() as nursery:
                with self.result._life:  # noqa: SLF001 # made for this; see result.py
                    if self._settings.healthy is not None:
                        nursery.start_soon(self.offering.check_health)
                    await self._live()
                nursery.cancel_scope.cancel()
        finally:
            self.offering.end()
            self.result._end()  # noqa: SLF001

    async def _live(self) -> None:
        while True:
            try:
                await self._live_a_session()
            except _HEALABLE as exc:
                if not self.joined.is_set():
                    raise
                self._debug("no session", reason=str(exc))
            await trio.sleep(self._backoff.next())

    async def _live_a_session(self) -> None:
        """Live until the session is lost, and raise why."""
        session, already = await self._open_session()
        self._session = session
        self._sessions += 1
        if self._follower is not None:
            self._healed += self._follower.healed
        follower = DecisionFollower(
            self._client, self._keys, self._pass_on, session.ttl / _RECONCILES_PER_TTL
        )
        self._follower = follower
        lost = False
        try:
            async with open_plain_nursery() as nursery:
                nursery.start_soon(session.keep)
                joined = await persist(self._join, session) if already is None else already
                follower.learn(joined.scheduled, joined.decision, joined.revision, joined.asked_at)
                self._note_joined(session)
                nursery.start_soon(self._demand_proof, session, follower)
                host_key = self._keys.host(self._settings.hostname)
                nursery.start_soon(self.offering.publish, self._client, host_key, session)
                if joined.snapshot is None:
                    nursery.start_soon(self._guard_host_key, session, joined.revision)
                    nursery.start_soon(self._check_candidate, session, joined.fence)
                    nursery.start_soon(follower.follow)
                else:  # the leader's watch covers all of that
                    nursery.start_soon(follower.keep_fresh)
                nursery.start_soon(self._campaign, session, follower, joined)
        except _HEALABLE as exc:
            lost = True
            self._note_loss(session, exc)
            raise
        finally:
            session.lose("the block was left")
            self.result._changed.unpark_all()  # noqa: SLF001 # work that goes on has to end
            keep = self._settings.reuse_lease and not lost
            await self._leave(session, keep=keep)  # noqa: ASYNC102 # shields and bounds itself

    def _note_joined(self, session: Session) -> None:
        self._backoff.reset()
        self.joined.set()
        self._log(logging.INFO, "joined", lease=f"{session.lease:x}", ttl=session.ttl)

    def _note_loss(self, session: Session, exc: BaseException) -> None:
        session.lose(str(exc))
        self.result._lose()  # noqa: SLF001
        self._log(logging.WARNING, "session lost, will join again", reason=str(exc))

    # ---- joining -------------------------------------------------------------------

    async def _open_session(self) -> tuple[Session, Joined | None]:
        """Return a new session; or one on a kept lease, which has joined already."""
        settings = self._settings
        for lease in tuple(self._unrevoked):
            if await revoke_quietly(self._client, lease):
                self._note_revoked(lease)
        kept = _kept_leases.get((settings.path, settings.hostname))
        if kept is not None:
            found = await self._take_over(kept)
            _kept_leases.pop((settings.path, settings.hostname), None)
            if found is not None:
                return found
        session = await grant_session(
            self._client, settings.session_ttl, settings.shutdown_timeout, settings.reaper
        )
        return session, None

    def _note_revoked(self, lease: int) -> None:
        self._unrevoked.discard(lease)
        if self._settings.reaper is not None:
            self._settings.reaper.release(lease)

    async def _take_over(self, lease: int) -> tuple[Session, Joined] | None:
        """Go on with a lease from a life before, if it and its keys still live."""
        settings = self._settings
        value, version = self.offering.value()
        sent = trio.current_time()
        try:
            ttl = await self._client.lease_renew(lease)
            session = Session(self._client, lease, ttl, sent)
            joined = await resume(self._client, self._keys, settings.hostname, value, session)
        except LeaseNotFound:
            return None
        except SessionLost:
            await revoke_quietly(self._client, lease)
            return None
        self.offering.note_told(version)
        if settings.reaper is not None:
            settings.reaper.hold(lease, ttl)
        return session, joined

    async def _join(self, session: Session) -> Joined:
        settings = self._settings
        self.offering.begin()
        value, version = self.offering.value()
        joined = await join(self._client, self._keys, settings.hostname, value, session)
        self.offering.note_told(version)
        return joined

    async def _guard_host_key(self, session: Session, revision: int) -> None:
        """Watch the key that makes us known; its loss is the session's.

        Raises:
            SessionLost: it was deleted, or put by somebody else.
        """
        key = self._keys.host(self._settings.hostname)
        while True:
            with suppress(Compacted, WatchOverflow):  # what was missed is in the read below
                await self._watch_for_loss(key, session, revision)
            found = await persist(self._client.read, Get(key))
            if found.kv is None or found.kv.lease != session.lease:
                raise session.lose(f"its key {key.decode()} is gone")
            revision = found.revision

    async def _watch_for_loss(self, key: bytes, session: Session, revision: int) -> None:
        async with self._client.watch(key, start_revision=revision + 1) as events:
            async for event in events:
                if event.type is EventType.DELETE or event.kv.lease != session.lease:
                    raise session.lose(f"somebody touched its key {key.decode()}")

    async def _check_candidate(self, session: Session, fence: int) -> None:
        """Look once in a TTL whether our candidate key is there: nobody needs it sooner.

        Raises:
            SessionLost: it is gone.
        """
        key = self._keys.candidate(session.lease)
        while True:
            await trio.sleep(session.ttl)
            kv = (await persist(self._client.read, Get(key))).kv
            if kv is None or kv.create_revision != fence:
                raise session.lose(f"its key {key.decode()} is gone")

    # ---- the decision ----------------------------------------------------------------

    async def _demand_proof(self, session: Session, follower: DecisionFollower) -> None:
        """Lose the session when for a TTL nothing proved the decision to be the newest."""
        until = _believable_until(session, follower)
        while until > trio.current_time():
            await trio.sleep_until(until)
            until = _believable_until(session, follower)
        raise session.lose("for a TTL there was no proof that the decision is the newest")

    def _pass_on(self) -> None:
        """Tell readers, and the core if we lead, what the decision is now."""
        session, follower = self._session, self._follower
        if session is None or follower is None:
            return
        view = follower.view
        self._debug("decision", revision=view.hosts.revision, hosts=",".join(view.hosts))
        if view.known:
            self.result._publish(view.hosts, ours=self._is_ours(session, view))  # noqa: SLF001
        if self._leading is not None:
            self._leading.tell(StoredChanged(view.stored))

    # ---- leading ------------------------------------------------------------------------

    async def _campaign(self, session: Session, follower: DecisionFollower, joined: Joined) -> None:
        """Wait until we are elected, and lead."""
        settings, fence = self._settings, joined.fence

        def leads(candidate: KeyValue) -> bool:
            record = follower.view.stored.record
            return record is not None and record.fence == candidate.create_revision

        snapshot = await wait_elected(
            self._client, self._keys, fence, joined.predecessor, joined.revision, leads
        )
        self._log(logging.INFO, "elected", fence=fence)
        core = LeaderCore(
            hostname=settings.hostname,
            path=settings.path,
            options=settings.options,
            strategy=settings.strategy,
        )
        place = Place(self._client, self._keys, settings.hostname, session, settings.logger)
        leading = Leading(place, follower, core, fence, settings.shutdown_timeout)
        self._leading = leading
        await leading.run(snapshot or joined.snapshot)

    # ---- leaving -------------------------------------------------------------------------

    async def _leave(self, session: Session, *, keep: bool) -> None:
        """Give everything back, shielded and bounded."""
        leading, self._leading = self._leading, None
        settings = self._settings
        if not await self._worker.wait_ended(session):
            self._log(logging.ERROR, "work goes on beyond its deadline; the lease lapses by itself")
            return
        self._unrevoked.add(session.lease)
        if keep:
            if settings.reaper is not None:
                settings.reaper.release(session.lease)
            _kept_leases[settings.path, settings.hostname] = session.lease
            self._log(logging.INFO, "left, lease kept", lease=f"{session.lease:x}")
            return
        decision_leases = leading.decision_leases if leading is not None else set()
        unfinished = f"lease {session.lease:x} (within {session.ttl} s)"
        with trio.move_on_after(settings.shutdown_timeout, shield=True):
            try:
                await revoke_surely(self._client, session.lease)
                self._note_revoked(session.lease)
                unfinished = f"the decision (within {session.ttl * DECISION_TTLS} s)"
                await persist(clear_if_last, self._client, self._keys, decision_leases)
                unfinished = ""
            except EtcdError as exc:
                self._log(logging.WARNING, "etcd refused to clean up", reason=str(exc))
        if unfinished:
            self._log(logging.WARNING, "etcd did not confirm all; it lapses", what=unfinished)
        else:
            self._log(logging.INFO, "left")


def _believable_until(session: Session, follower: DecisionFollower) -> float:
    """Return when what is known of the decision becomes too old to be acted on."""
    return follower.fresh_at + session.ttl - margin_of(session.ttl)
