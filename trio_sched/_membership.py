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
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import trio

from trio_sched._joining import Joined, clear_if_last, join, resume, version_of
from trio_sched._leading import DECISION_TTLS, Leading, Place
from trio_sched._tasks import Doorbell, open_plain_nursery
from trio_sched._view import DecisionView, Version
from trio_sched.core import LeaderCore, StoredChanged
from trio_sched.election import wait_elected
from trio_sched.etcd_shim import Client, EtcdError, Event, EventType, Get
from trio_sched.etcd_shim._backoff import TRANSIENT, Backoff, persist
from trio_sched.etcd_shim.errors import (
    Compacted,
    LeaseNotFound,
    WatchCanceled,
    WatchOverflow,
)
from trio_sched.exceptions import SessionLost
from trio_sched.keys import PathKeys
from trio_sched.model import Options, encode_host
from trio_sched.result import Result
from trio_sched.session import Session, grant_session, revoke_quietly, revoke_surely
from trio_sched.strategies import Strategy

__all__ = ["Membership", "Settings"]

_HEALABLE: Final = (*TRANSIENT, SessionLost, WatchCanceled, WatchOverflow)

# Seconds after which the other half of a decision is read, no longer awaited.
_HALF_DECISION_PATIENCE: Final = 0.25

# Leases that were left to lapse, for the next life of the same host in this process.
_kept_leases: dict[tuple[str, str], int] = {}


@dataclass(frozen=True, slots=True)
class Settings:
    """The arguments of `schedule`, checked."""

    path: str
    hostname: str
    options: Options
    strategy: Strategy
    session_ttl: int
    reuse_lease: bool
    shutdown_timeout: float
    logger: logging.Logger
    debug: bool


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
        self._view = DecisionView()
        self._half_known = Doorbell()
        self._backoff = Backoff(first=0.1, cap=10.0)
        self._unrevoked: set[int] = set()
        self.joined = trio.Event()
        self.result = Result(settings.path, settings.hostname, self._believe)

    def _believe(self) -> bool:
        """Tell whether a decision for our name is one for our present session."""
        session = self._session
        return session is not None and session.alive and self._is_ours(session)

    def _is_ours(self, session: Session) -> bool:
        """Tell whether the decision, if it names us, means this session."""
        record = self._view.stored.record
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
            with self.result._life:  # noqa: SLF001 # made for this; see result.py
                while True:
                    try:
                        await self._live_a_session()
                    except _HEALABLE as exc:
                        if not self.joined.is_set():
                            raise
                        self._debug("no session", reason=str(exc))
                    await trio.sleep(self._backoff.next())
        finally:
            self.result._end()  # noqa: SLF001

    async def _live_a_session(self) -> None:
        """Live until the session is lost, and raise why."""
        session, already = await self._open_session()
        self._session = session
        lost = False
        try:
            async with open_plain_nursery() as nursery:
                nursery.start_soon(session.keep)
                joined = await persist(self._join, session) if already is None else already
                self._note_joined(session)
                nursery.start_soon(self._guard, self._host_key, session, joined.revision)
                nursery.start_soon(self._follow_decision, joined)
                nursery.start_soon(self._campaign, session, joined)
        except _HEALABLE as exc:
            lost = True
            self._note_loss(session, exc)
            raise
        finally:
            session.lose("the block was left")
            keep = self._settings.reuse_lease and not lost
            await self._leave(session, keep=keep)  # noqa: ASYNC102 # shields and bounds itself

    @property
    def _host_key(self) -> bytes:
        return self._keys.host(self._settings.hostname)

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
                self._unrevoked.discard(lease)
        kept = _kept_leases.get((settings.path, settings.hostname))
        if kept is not None:
            found = await self._take_over(kept)
            _kept_leases.pop((settings.path, settings.hostname), None)
            if found is not None:
                return found
        session = await grant_session(self._client, settings.session_ttl, settings.shutdown_timeout)
        return session, None

    async def _take_over(self, lease: int) -> tuple[Session, Joined] | None:
        """Go on with a lease from a life before, if it and its keys still live."""
        settings = self._settings
        value = encode_host(settings.options)
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
        return session, joined

    async def _join(self, session: Session) -> Joined:
        settings = self._settings
        value = encode_host(settings.options)
        return await join(self._client, self._keys, settings.hostname, value, session)

    async def _guard(self, key: bytes, session: Session, revision: int) -> None:
        """Watch a key of ours; its loss is the session's.

        Raises:
            SessionLost: it was deleted, or put by somebody else.
        """
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

    # ---- the decision ----------------------------------------------------------------

    async def _follow_decision(self, joined: Joined) -> None:
        """Learn each decision, and tell readers, and the core if we lead."""
        self._learn(joined.scheduled, joined.decision, joined.revision)
        revision = joined.revision
        while True:
            with suppress(Compacted, WatchOverflow):  # what was missed is in the read below
                await self._follow_both(revision)
            revision = await self._read_decision()

    async def _follow_both(self, revision: int) -> None:
        keys, view = self._keys, self._view
        async with open_plain_nursery() as nursery:
            nursery.start_soon(self._follow, keys.scheduled, view.take_scheduled, revision)
            nursery.start_soon(self._follow, keys.decision, view.take_decision, revision)
            nursery.start_soon(self._complete_halves)

    async def _follow(self, key: bytes, take: Callable[[Version], None], revision: int) -> None:
        async with self._client.watch(key, start_revision=revision + 1) as watcher:
            while True:
                for event in (await watcher.receive()).events:
                    self._debug("event", key=key.decode(), type=event.type.value)
                    take(_version(event))
                self._settle()

    def _learn(self, scheduled: Version, decision: Version, revision: int) -> None:
        self._view.load(scheduled, decision, revision)
        self._settle()

    def _settle(self) -> None:
        """Pass the decision on, unless only one half of it is known."""
        view = self._view
        if not view.settled:
            self._half_known.ring()
            return
        if view.known and self._session is not None:
            ours = self._is_ours(self._session)
            self.result._publish(view.hosts, ours=ours)  # noqa: SLF001
        if self._leading is not None:
            self._leading.tell(StoredChanged(view.stored))

    async def _complete_halves(self) -> None:
        """Read a decision of which only one half has come for some time."""
        while True:
            if self._view.settled:
                await self._half_known.wait()
            await trio.sleep(_HALF_DECISION_PATIENCE)
            if not self._view.settled:
                await self._read_decision()

    async def _read_decision(self) -> int:
        keys = self._keys
        answer = await persist(self._client.txn, (), (Get(keys.scheduled), Get(keys.decision)))
        self._learn(version_of(answer.get(0)), version_of(answer.get(1)), answer.revision)
        return answer.revision

    # ---- leading ------------------------------------------------------------------------

    async def _campaign(self, session: Session, joined: Joined) -> None:
        """Wait until we are elected, and lead."""
        settings = self._settings
        await wait_elected(
            self._client, self._keys, joined.fence, joined.predecessor, joined.revision
        )
        self._log(logging.INFO, "elected", fence=joined.fence)
        core = LeaderCore(
            hostname=settings.hostname,
            path=settings.path,
            options=settings.options,
            strategy=settings.strategy,
        )
        place = Place(self._client, self._keys, settings.hostname, session, settings.logger)
        leading = self._leading = Leading(place, core, joined.fence, settings.shutdown_timeout)
        candidate = self._keys.candidate(session.lease)
        async with open_plain_nursery() as nursery:
            nursery.start_soon(self._guard, candidate, session, joined.revision)
            nursery.start_soon(leading.run)

    # ---- leaving -------------------------------------------------------------------------

    async def _leave(self, session: Session, *, keep: bool) -> None:
        """Give everything back, shielded and bounded."""
        leading, self._leading = self._leading, None
        settings = self._settings
        self._unrevoked.add(session.lease)
        if keep:
            _kept_leases[settings.path, settings.hostname] = session.lease
            self._log(logging.INFO, "left, lease kept", lease=f"{session.lease:x}")
            return
        decision_leases = leading.decision_leases if leading is not None else set()
        unfinished = f"lease {session.lease:x} (within {session.ttl} s)"
        with trio.move_on_after(settings.shutdown_timeout, shield=True):
            try:
                await revoke_surely(self._client, session.lease)
                self._unrevoked.discard(session.lease)
                unfinished = f"the decision (within {session.ttl * DECISION_TTLS} s)"
                await persist(clear_if_last, self._client, self._keys, decision_leases)
                unfinished = ""
            except EtcdError as exc:
                self._log(logging.WARNING, "etcd refused to clean up", reason=str(exc))
        if unfinished:
            self._log(logging.WARNING, "etcd did not confirm all; it lapses", what=unfinished)
        else:
            self._log(logging.INFO, "left")


def _version(event: Event) -> Version:
    kv = event.kv
    if event.type is EventType.DELETE:
        return Version(None, kv.mod_revision)
    return Version(kv.value, kv.mod_revision, kv.lease)
