"""One host's life on a path.

Theory of operation
-------------------
`Membership.run` is a service task: it does not die with the body of the
``schedule()`` block. When the block is left, by whatever way, it is asked to stop,
and the block waits until it has revoked its keys, or until the time for that is
up. Nothing else ever touches the host's keys.

A life is a series of *sessions*. Each has a lease, joins under it, and runs
sibling tasks in one nursery: renewals, the follower of the path and its proofs, the
guard of our own keys, and campaign, leadership and strategy evaluation. Losing the
session means that one of them raised: the nursery cancels the others, readers
learn at once that nothing is decided for this host, and the next session
begins after a backoff. What cannot heal ends the life, and leaves the block.

Data goes one way: events change the view, the leader's machine reads from the view, its
guarded write comes back as an event, and what the view then shows is published.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Final

import trio

from trio_sched._support.tasks import open_plain_nursery
from trio_sched._support.tracing import span
from trio_sched.etcd_shim import Client, Compare, Delete, EtcdError, Put
from trio_sched.etcd_shim._backoff import Backoff
from trio_sched.etcd_shim._keep import margin_of
from trio_sched.etcd_shim.errors import LeaseNotFound, RevisionWentBack
from trio_sched.exceptions import SessionLost
from trio_sched.host.election import wait_elected
from trio_sched.host.following import PathFollower
from trio_sched.host.health import NOT_YET, HealthCheck, HealthWatch
from trio_sched.host.joining import Joined, JoiningReads, join, resume
from trio_sched.host.leading import LeaderContext, Leading
from trio_sched.host.pacing import Turn, turns_of
from trio_sched.host.patience import Patience, Wait
from trio_sched.host.policy import Then, Where, outcome
from trio_sched.host.proofs import proof_interval
from trio_sched.host.publishing import HostPublisher
from trio_sched.host.reads import found_keys
from trio_sched.host.result import Result
from trio_sched.host.session import Session
from trio_sched.host.sessions import Departure, OwnSessions, Sessions
from trio_sched.host.slots import SlotKeys
from trio_sched.host.state import HostState
from trio_sched.host.work import Worker
from trio_sched.leader.machine import LeaderMachine
from trio_sched.model.keys import KeyRange, PathKeys
from trio_sched.model.records import HostData, Options
from trio_sched.reaper.owner import Reaper
from trio_sched.strategies import Strategy

__all__ = ["Membership", "Settings"]

_WATCH_TIMEOUT: Final = 1.0  # seconds; without its watches a host joins late rather than never


@dataclass(frozen=True, slots=True)
class Settings:
    """The arguments of `schedule`, checked."""

    path: str
    hostname: str
    options: Options
    data: HostData
    strategy: Strategy
    health_check: HealthCheck | None
    health_interval: float
    session_ttl: int
    reuse_lease: bool
    shutdown_timeout: float
    logger: logging.Logger
    debug: bool
    strict: bool = False
    takeover_pause: float = 0.5
    reaper: Reaper | None = None


class Membership:
    """One host's life on a path. See the head of the module.

    Args:
        client: to ask with.
        settings: the arguments of `schedule`.
        sessions: that it shares with other paths; None for those of its own.

    Attributes:
        joined: set once the host has joined for the first time, or has left before that.
        result: what the user of the block holds.
        publisher: publishes what this host says of itself.
    """

    def __init__(
        self, client: Client, settings: Settings, sessions: Sessions | None = None
    ) -> None:
        self._client = client
        self._settings = settings
        self._keys = PathKeys(settings.path)
        self._leading: Leading | None = None
        self._backoff = Backoff(first=0.1, cap=max(1.0, settings.session_ttl / 2))
        self._joined_at = inf  # by trio's clock; of the present session, or the last
        self._joined_under: Session | None = None  # the session that has joined
        self._fence = 0  # create_revision of our candidate key; 0 while we stand again
        self._created_at = 0  # create_revision of our own key; 0 while it is not known
        self._sessions = self._own_sessions() if sessions is None else sessions
        self.joined: trio.Event = trio.Event()
        self._turns = turns_of(client)
        self._turn = Turn(self._turns)  # to join; taken before each session
        self._patience = Patience(partial(self._log, logging.WARNING), Where.ENTRY)
        self._between = Wait(self._patience)  # between two sessions
        options = settings.options
        state = HostState(settings.path, settings.hostname, options.max_count, self._patience)
        self._state = state
        self.publisher: HostPublisher = HostPublisher(
            options,
            settings.data,
            None if settings.health_check is None else NOT_YET,
            state.note_available,
        )
        slots = SlotKeys(
            *(client, self._keys, settings.hostname, state),
            pause=settings.takeover_pause,
            reaper=settings.reaper,
        )
        self._slots = slots
        self._worker = Worker(state, slots, settings.session_ttl, settings.shutdown_timeout)
        self.result: Result = Result(state, self.publisher, self._worker)

    def _own_sessions(self) -> OwnSessions:
        settings = self._settings
        return OwnSessions(
            *(self._client, settings.path, settings.hostname),
            *(settings.session_ttl, settings.shutdown_timeout),
            reuse=settings.reuse_lease,
            reaper=settings.reaper,
        )

    def _log(self, level: int, message: str, **extra: object) -> None:
        settings = self._settings
        fields = {"path": settings.path, "host": settings.hostname, **extra}
        words = ", ".join(f"{key}={value}" for key, value in extra.items())
        settings.logger.log(
            level,
            "%s %s: %s%s",
            settings.path,
            settings.hostname,
            message,
            f" ({words})" if words else "",
            extra=fields,
        )

    def _debug(self, message: str, **extra: object) -> None:
        if self._settings.debug:
            self._log(logging.DEBUG, message, **extra)

    def leave(self) -> None:
        """Begin to leave the path, whatever the block is doing."""
        self._state.life.cancel()

    @property
    def has_left(self) -> bool:
        """True once it has left."""
        return self._state.left.is_set()

    async def wait_left(self) -> None:
        """Wait until it has left."""
        await self._state.left.wait()

    # ---- the life ----------------------------------------------------------------

    async def run(self) -> None:
        """Live until asked to stop, or until something cannot heal."""
        failure: Exception | None = None
        try:
            async with open_plain_nursery() as nursery:
                with self._state.life:
                    if (check := self._settings.health_check) is not None:
                        interval, note = self._settings.health_interval, self.publisher.note_health
                        nursery.start_soon(HealthWatch(check, interval, note).run)
                    await self._live()
                nursery.cancel_scope.cancel()
        except Exception as exc:
            failure = exc
            raise
        finally:
            self.publisher.end(failure)
            self._state.end(failure)
        self.joined.set()  # or never will

    async def _live(self) -> None:
        while True:
            refusal: EtcdError | None = None
            try:
                await self._live_a_session()
            except (EtcdError, SessionLost) as exc:
                then = outcome(exc, self._patience.where)
                if then is Then.WAIT and isinstance(exc, EtcdError):
                    refusal = exc
                elif then is not Then.LOSE:
                    raise
                self._debug("no session", reason=str(exc))
            if refusal is not None:
                await self._between.out(refusal)
            await trio.sleep(self._backoff.next())

    async def _live_a_session(self) -> None:
        """Live until the session is lost, and raise why."""
        await self._sessions.wait_ready()
        self._turn = await self._turns.take()
        try:
            await self._live_in_turn()
        finally:
            self._turn.end()

    async def _live_in_turn(self) -> None:
        session, already = await self._sessions.begin()
        own = (self._keys.host(self._settings.hostname), self._keys.candidate(session.lease))
        interval = proof_interval(session.ttl)
        follower = PathFollower(self._client, self._keys, interval, own, self._patience)
        follower.leftovers = self._slots
        self._state.begin_session(session, follower)
        self._created_at = self._fence = 0
        lost = False
        try:
            if self._patience.where is Where.ENTRY:
                self._patience.where = Where.JOINING
            async with open_plain_nursery() as nursery:
                self._sessions.keep(session, nursery)
                release = partial(nursery.start_soon, self._slots.keep_releasing)
                self._slots.begin_releasing(release)
                await self._take_part(session, follower, already, nursery)
        except (EtcdError, SessionLost) as exc:
            lost = outcome(exc, self._patience.where) is not Then.END
            if lost:
                self._note_loss(session, exc)
            raise
        finally:
            self.publisher.stop_publishing()
            self._slots.stop_releasing()
            session.end("the block was left")
            self._state.decisions.changed.unpark_all()  # work that goes on has to end
            await self._leave(session, lost=lost)  # noqa: ASYNC102 # shields and bounds itself

    def _note_joined(self, session: Session, joined: Joined) -> None:
        self._turn.end()
        self._joined_at = trio.current_time()
        self._between.worked()
        self._state.note_joined(joined.revision)
        self.joined.set()
        self._patience.where = Where.JOINED
        self._joined_under = session
        self._log(logging.INFO, "joined", lease=f"{session.lease:x}", ttl=session.ttl)

    def _note_loss(self, session: Session, exc: BaseException) -> None:
        if isinstance(exc, (LeaseNotFound, RevisionWentBack)):
            session.mark_lost(str(exc), gone=isinstance(exc, RevisionWentBack))
        else:  # it is marked already, or about this path
            session.give_up(str(exc))
        self._state.counts.note_loss(session.lost_reason or "", exc)
        if trio.current_time() - self._joined_at >= session.ttl:
            self._backoff.reset()
        self._state.decisions.lose()
        self._log(logging.WARNING, "session lost, will join again", reason=str(exc))

    # ---- joining -------------------------------------------------------------------

    async def _join(self, session: Session) -> Joined:
        settings = self._settings
        self.publisher.begin()
        value, version = self.publisher.value()
        name, before = settings.hostname, self._sessions.former
        grace = self._sessions.answer_grace
        arguments = (self._client, self._keys, name, value, session, before, self._turn.end)
        with span("trio_sched.join", path=settings.path, host=name):
            joined = await join(*arguments, grace=grace)
        if joined.own[0].value == value:  # else it is published later
            self.publisher.note_published(version)
        return joined

    # ---- following the path ----------------------------------------------------------

    async def _take_part(
        self,
        session: Session,
        follower: PathFollower,
        already: Joined | None,
        nursery: trio.Nursery,
    ) -> None:
        """Join, and stand for election again each time that we have led and resigned."""
        while True:
            await self._take_a_turn(session, follower, already, nursery)
            already = await self._stand_again(session)

    async def _take_a_turn(
        self,
        session: Session,
        follower: PathFollower,
        already: Joined | None,
        nursery: trio.Nursery,
    ) -> None:
        """Join unless we have, follow the path until we are elected, and lead until we resign.

        What is followed is watched already while we join: so nothing that happens after the
        joining transaction comes by etcd's slow path.
        """
        joining = JoiningReads()
        own = KeyRange.of(self._keys.host(self._settings.hostname))
        async with open_plain_nursery() as following:
            for covered, read in (
                (self._keys.decision, joining.read_decision),
                (own, joining.read_own),
            ):
                following.start_soon(joining.follow, follower, covered, read)
            with trio.move_on_after(_WATCH_TIMEOUT):
                await joining.wait_watched()
            joined = (
                await self._patience.insist(self._join, session) if already is None else already
            )
            self._cover(follower, joined)
            if self._joined_under is not session:
                self._note_joined(session, joined)
                self._start_tasks(session, follower, joined, nursery)
            self._created_at, self._fence = joined.own[0].create_revision, joined.fence
            joining.end(joined)
            everything = joined.everything
            if everything is None:
                everything = await wait_elected(
                    self._client, follower, joined.own[1], joined.predecessor, joined.revision
                )
            leading = self._begin_to_lead(session, follower, joined.fence)
            leading.take_over(everything)
            following.cancel_scope.cancel()
        await leading.run(everything)

    async def _stand_again(self, session: Session) -> Joined:
        """Go to the end of the line of candidates, under the same session."""
        self._log(logging.INFO, "resigned")
        self._leading, self._state.leads = None, False
        fence, self._fence = self._fence, 0  # the guard of our keys leaves the candidate alone
        name, candidate = self._settings.hostname, self._keys.candidate(session.lease)
        insist, txn = self._patience.insist, self._client.txn
        await insist(txn, [Compare.create_revision(candidate, "==", fence)], [Delete(candidate)])
        await insist(
            txn,
            [
                Compare.create_revision(candidate, "==", 0),
                Compare.lease(self._keys.host(name), "==", session.lease),
            ],
            [Put(candidate, name, session.lease)],
        )
        return await insist(resume, self._client, self._keys, name, session)

    def _cover(self, follower: PathFollower, joined: Joined) -> None:
        """Load what the joining transaction read: a leader's range, or a follower's three."""
        follower.check_cluster(joined.cluster, joined.revision)
        if joined.everything is not None:
            follower.cover(self._keys.leading, joined.everything, joined.asked_at)
            return
        follower.cover(self._keys.decision, joined.decision, joined.asked_at)
        for kv in joined.own:  # the candidate key is proven, not watched: no other host acts on it
            follower.cover(KeyRange.of(kv.key), found_keys(joined.revision, kv))

    def _start_tasks(
        self, session: Session, follower: PathFollower, joined: Joined, nursery: trio.Nursery
    ) -> None:
        """Start what goes on as long as the session lives, and react to each change of the view.

        What is not always needed, such as publishing, is a task only when there is something to do.
        """
        own = joined.own[0]
        publish = partial(self.publisher.publish, self._client, own.key, session, self._patience)
        self.publisher.begin_publishing(own.mod_revision, partial(nursery.start_soon, publish))
        follower.longest = session.ttl - margin_of(session.ttl)
        follower.on_change = partial(self._note_change, session, follower)
        nursery.start_soon(self._keep_proven, session, follower)
        follower.note_change()

    def _begin_to_lead(self, session: Session, follower: PathFollower, fence: int) -> Leading:
        settings = self._settings
        self._log(logging.INFO, "elected", fence=fence)
        machine = LeaderMachine(
            hostname=settings.hostname,
            path=settings.path,
            options=settings.options,
            strategy=settings.strategy,
        )
        host_key = self._keys.host(settings.hostname)
        context = LeaderContext(
            self._client,
            follower,
            session,
            host_key,
            settings.logger,
            self.publisher.note_trouble,
            settings.strict,
            self._state.counts,
        )
        lease = self._sessions.decision_lease(session, fence, self._patience)
        self._leading = Leading(context, machine, fence, lease)
        self._state.leads = True
        return self._leading

    def _note_change(self, session: Session, follower: PathFollower) -> None:
        """Give readers the decision that the view shows; see that our own keys are as we put them.

        If not, as one was deleted, or put by another client, the session is lost.
        """
        view = follower.view
        self._debug("view", revision=view.revision, hosts=",".join(view.hosts))
        self._state.publish()
        host = self._keys.host(self._settings.hostname)
        ours = view.get(host)
        if view.covers(host) and (ours is None or ours.lease != session.lease):
            session.give_up(f"its key {host.decode()} was deleted, or put by another")
        candidate, fence = self._keys.candidate(session.lease), self._fence
        ours = view.get(candidate)
        known = fence and view.covers(candidate)
        if known and (ours is None or ours.create_revision != fence):
            session.give_up(f"its key {candidate.decode()} was deleted")

    async def _keep_proven(self, session: Session, follower: PathFollower) -> None:
        """Prove the decision again and again; lose the session when that fails for a TTL."""
        await follower.keep_fresh()
        raise session.give_up("for a TTL there was no proof that the decision is the newest")

    # ---- leaving -------------------------------------------------------------------------

    async def _leave(self, session: Session, *, lost: bool) -> None:
        """Give everything back, shielded and bounded."""
        lease = None if self._leading is None else self._leading.lease
        self._leading, self._state.leads = None, False
        await self._sessions.end(
            Departure(
                keys=self._keys,
                hostname=self._settings.hostname,
                session=session,
                lost=lost,
                worker=self._worker,
                slots=self._slots,
                log=self._log,
                known=(self._created_at, self._fence),
                decision_leases=frozenset() if lease is None else lease.to_revoke,
            )
        )
