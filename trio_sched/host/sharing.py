"""One session for all paths of a host.

Theory of operation
-------------------
`SharedSessions.run` is a service task of `open_host`: it grants a lease, renews it, and grants
another one when it is lost. Each path borrows the session that lives, joins under its lease, and
gives it back. What a path finds out about the lease, or about the store, holds for all: so its loss
is the loss of all, and none begins again before all have given it back, their work ended. Then the
lease is revoked. What is about a path alone, such as a key of it that was deleted, is lost there
alone: the path is left, and joined again under the same lease.

A path that is left while the session lives on must not leave anything, as nothing lapses. Its keys
are deleted by their create_revisions, its slots released, and the decision taken away if it was the
last. What etcd does not let us do in the time for leaving is *owed*: it is done as soon as that is
possible, and before this host joins the same path again. If it is not known what became of a
request that creates a key, as the connection was lost meanwhile, or the join was cancelled, it may
be carried out still: then the path is looked at again, once in a TTL, as long as the session lives.
And as a store that was restored may hold keys again on a lease that lives, the paths that were left
last are asked about together, as often. What it decided as a leader hangs on one lease for all
paths, see ``shared_decisions.py``.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Container
from contextlib import suppress
from functools import partial
from math import inf
from typing import Final

import trio

from trio_sched._support.tasks import open_plain_nursery
from trio_sched.etcd_shim import Client, Compare, EtcdError, Get
from trio_sched.etcd_shim._backoff import Backoff
from trio_sched.exceptions import SessionLost
from trio_sched.host.decision_leases import DecisionLease
from trio_sched.host.joining import Joined, clear_if_last, withdraw
from trio_sched.host.newest import end_of
from trio_sched.host.patience import Patience
from trio_sched.host.policy import Where
from trio_sched.host.session import FormerLeases, Session, grant_session, revoke_surely
from trio_sched.host.sessions import OVERRUN, Departure
from trio_sched.host.shared_decisions import SharedDecisionLease
from trio_sched.model.keys import PathKeys
from trio_sched.reaper.owner import Reaper

__all__ = ["PathSessions", "SharedSessions"]

_REJOIN_TIMEOUT: Final = 1.0  # seconds for what a lost session leaves; it lapses by itself, too
_ATTEMPT_TIME: Final = 1.0  # seconds for what is owed to one path, until it is another's turn
_MOST_UNSURE: Final = 100  # paths that are looked at again and again; more of them end the session
_MOST_LEFT: Final = 60  # paths that are asked about in one transaction, with two conditions each


class _Owed:
    """A departure that is not done, or of which it is not certain."""

    def __init__(self, departure: Departure) -> None:
        self.departure = departure
        self.lock = trio.Lock()  # who settles it
        self.is_cleared = False


class SharedSessions:
    """The sessions of a host, one after the other, each for all of its paths.

    Args:
        client: to ask with.
        ttl: of a session, in seconds.
        grace: how long leaving may take, in seconds.
        reaper: sees to it, should this process be killed.
        log: takes a level and a message, with fields.

    Attributes:
        grace: as given.
        begun: set once there has been a session.
        count: how many there were.
        leases: of sessions, the newest last.
        patience: what is waited out.
        decisions: the lease that decisions of this host hang on.
    """

    def __init__(
        self,
        client: Client,
        ttl: int,
        grace: float,
        reaper: Reaper | None,
        log: Callable[..., None],
    ) -> None:
        self._client = client
        self._ttl = ttl
        self.grace: float = grace
        self._reaper = reaper
        self._log = log
        self._former = FormerLeases(client, reaper)
        self._backoff = Backoff(first=0.1, cap=max(1.0, ttl / 2))
        self._current: Session | None = None
        self._borrowed: set[Session] = set()
        self._owed: list[_Owed] = []
        self._left: dict[str, _Owed] = {}  # by path; of this session, the newest last
        self._changed = trio.lowlevel.ParkingLot()
        self._is_over = False
        self._failure: Exception | None = None
        self.begun: trio.Event = trio.Event()
        self.count: int = 0
        self.leases: deque[int] = deque(maxlen=100)
        self.patience: Patience = Patience(lambda words: log(logging.WARNING, words), Where.ENTRY)
        self.decisions: SharedDecisionLease = SharedDecisionLease(client, ttl, grace, self.patience)

    @property
    def current(self) -> Session | None:
        """The session that lives; None while there is none."""
        session = self._current
        return session if session is not None and session.lost_reason is None else None

    @property
    def owed(self) -> int:
        """How many departures from a path are not done."""
        return len(self._owed)

    # ---- its own life ------------------------------------------------------------------

    async def run(self) -> None:
        """Live until cancelled, or until something cannot heal."""
        try:
            async with open_plain_nursery() as nursery:
                nursery.start_soon(self.decisions.run)
                while True:
                    await self._live_a_session()
                    await trio.sleep(self._backoff.next())
        except Exception as exc:
            self._failure = exc
            raise
        finally:
            self._is_over = True
            self._changed.unpark_all()

    async def _live_a_session(self) -> None:
        await self._former.revoke()
        session = await self.patience.insist(
            grant_session, self._client, self._ttl, self.grace, self._reaper
        )
        began = trio.current_time()
        lost = False
        try:
            self._begin(session)
            async with open_plain_nursery() as nursery:
                nursery.start_soon(session.keep_alive)
                nursery.start_soon(self._former.keep_revoking)
                nursery.start_soon(self._keep_settling, session)
        except SessionLost as exc:
            lost = True
            if trio.current_time() - began >= session.ttl:
                self._backoff.reset()
            self._log(logging.WARNING, "the session of all paths is lost", reason=str(exc))
        finally:
            session.mark_lost("the host's block was left")
            self._current = None
            await self._end(session, lost=lost)  # noqa: ASYNC102 # shields and bounds itself

    def _begin(self, session: Session) -> None:
        self._current = session
        self.count += 1
        self.leases.append(session.lease)
        self.patience.where = Where.JOINED
        self.begun.set()
        self._changed.unpark_all()

    async def _end(self, session: Session, *, lost: bool) -> None:
        """Revoke its lease when all paths have given it back. Each bounds that itself."""
        with trio.CancelScope(shield=True):
            while self._borrowed:
                await self._changed.park()
        owed, self._owed, self._left = self._owed, [], {}
        ended = [await each.departure.worker.wait_ended(each.departure.session) for each in owed]
        if not all(ended):
            self._log(logging.ERROR, OVERRUN)
            return
        self._former.add(session.lease)
        timeout = min(self.grace, _REJOIN_TIMEOUT) if lost else self.grace
        unfinished = True
        with trio.move_on_after(timeout, shield=True), suppress(EtcdError):
            insist = Patience(where=Where.LEAVING).insist
            await insist(revoke_surely, self._client, session.lease)
            self._former.discard(session.lease)
            for each in owed:
                await insist(self._clear, each)
            unfinished = False
            if not lost:
                await self.decisions.end()
        if unfinished:
            what = f"lease {session.lease:x} (within {session.ttl} s)"
            self._log(logging.WARNING, "etcd did not confirm all; it lapses", what=what)

    # ---- for paths -----------------------------------------------------------------------

    async def wait_ready(self) -> None:
        """Wait until there is a session. A checkpoint.

        Raises:
            EndOfResults: there will be none. If something failed, that is raised instead.
        """
        await trio.lowlevel.checkpoint()
        while self.current is None:
            if self._is_over:
                raise end_of(self._failure, "the host's block was left")
            await self._changed.park()

    async def borrow(self, path: str) -> Session:
        """Return the session that lives, when nothing is owed to a path any more.

        Raises:
            EndOfResults: as `wait_ready` does.
            EtcdError: etcd refuses what is owed.
        """
        while True:
            owed = next((one for one in self._owed if one.departure.keys.path == path), None)
            if owed is None:
                break
            await owed.departure.worker.wait_idle(owed.departure.session)
            await self._settle(owed)
            self._forget(owed)  # from now on what is carried out late is found by who joins
        self._left.pop(path, None)
        await self.wait_ready()
        assert self._current is not None
        session = self._current.share()
        self._borrowed.add(session)
        return session

    async def give_back(self, departure: Departure) -> None:
        """Leave a path: delete what is there of this host, or owe it. Shields and bounds itself."""
        session = departure.session
        owed = _Owed(departure)
        self._owed.append(owed)
        try:
            if not await departure.worker.wait_ended(session):
                departure.log(logging.ERROR, "work goes on beyond its deadline; its slot stays")
            timeout = min(self.grace, _REJOIN_TIMEOUT) if departure.lost else self.grace
            with trio.move_on_after(timeout, shield=True), suppress(EtcdError):
                await self._settle(owed)
        finally:
            self._borrowed.discard(session)
            self._changed.unpark_all()  # also who settles what is owed
        if owed in self._owed and not owed.is_cleared:
            departure.log(logging.WARNING, "etcd did not confirm all; it is owed")
        else:
            departure.log(logging.INFO, "left")

    async def _settle(self, owed: _Owed) -> None:
        """Do what is owed; forget it if that is certain. Raises what etcd refuses for good."""
        departure = owed.departure
        async with owed.lock:
            if owed not in self._owed:
                return
            insist = Patience(partial(departure.log, logging.WARNING), Where.LEAVING).insist
            lease, own = departure.session.lease, (departure.keys, departure.hostname)
            await insist(withdraw, self._client, *own, lease, departure.known)
            if departure.worker.is_working(departure.session):
                return
            await departure.slots.release_all(departure.session)
            await insist(self._clear, owed)
            if not departure.session.unanswered:
                self._forget(owed)
                self._left[departure.keys.path] = owed
                while len(self._left) > _MOST_LEFT:
                    del self._left[next(iter(self._left))]

    async def _clear(self, owed: _Owed) -> None:
        """Take a path's decision away if no host is left; once."""
        if not owed.is_cleared:
            departure = owed.departure
            await clear_if_last(self._client, departure.keys, departure.decision_leases)
            owed.is_cleared = True

    def _forget(self, owed: _Owed) -> None:
        if owed in self._owed:
            self._owed.remove(owed)

    async def _keep_settling(self, session: Session) -> None:
        """Do what is owed, again and again, as long as a session lives."""
        while True:
            for owed in list(self._owed):
                if owed.departure.session not in self._borrowed:
                    # What is refused for one path holds up no other.
                    with trio.move_on_after(_ATTEMPT_TIME), suppress(EtcdError):
                        await self._settle(owed)
            unsure = sum(owed.is_cleared for owed in self._owed)
            if unsure > _MOST_UNSURE:
                raise session.mark_lost(f"it is not certain that {unsure} paths are left")
            some = self._owed or self._left
            pause = inf if not some else session.ttl
            with trio.move_on_after(pause if unsure == len(self._owed) else pause / 10) as scope:
                await self._changed.park()
            if scope.cancelled_caught and self._left:
                with trio.move_on_after(_ATTEMPT_TIME), suppress(EtcdError):
                    await self._look_back(session.lease)

    async def _look_back(self, lease: int) -> None:
        """Ask whether there are keys of ours again on the paths that were left; they are owed."""
        left = list(self._left.values())
        keys = [key for owed in left for key in owed.departure.own_keys]
        ask, look = Compare.lease, partial(Get, keys_only=True)
        answer = await self._client.txn(
            [ask(key, "!=", lease) for key in keys], [], [look(key) for key in keys]
        )
        found = {kv.key for index in range(len(answer.responses)) for kv in answer.get(index)}
        for owed in left if not answer.succeeded else ():
            path = owed.departure.keys.path
            if not found.isdisjoint(owed.departure.own_keys) and self._left.get(path) is owed:
                del self._left[path]
                owed.is_cleared = False
                self._owed.append(owed)


class PathSessions:
    """Gives a host the sessions that it shares with other paths.

    Args:
        shared: they are.
        path: that they are given for.
    """

    def __init__(self, shared: SharedSessions, path: str) -> None:
        self.answer_grace: float | None = shared.grace
        self._shared = shared
        self._path = path

    @property
    def former(self) -> Container[int]:
        """Leases of sessions that it gave before."""
        return self._shared.leases

    async def wait_ready(self) -> None:
        """Wait until there is a session. Raises as `SharedSessions.wait_ready` does."""
        await self._shared.wait_ready()

    async def begin(self) -> tuple[Session, Joined | None]:
        """Return the session that lives."""
        return await self._shared.borrow(self._path), None

    def keep(self, session: Session, nursery: trio.Nursery) -> None:
        """Notice when it is lost; who renews it is another task."""
        nursery.start_soon(session.wait_lost)

    def decision_lease(self, session: Session, fence: int, _patience: Patience) -> DecisionLease:
        """Return the one for all paths."""
        return self._shared.decisions.of_path(PathKeys(self._path), session.lease, fence)

    async def end(self, departure: Departure) -> None:
        """Leave the path, and give the session back."""
        await self._shared.give_back(departure)
