"""What is known of one host's life on a path: the one place from which its parts read.

It has no task of its own. The membership writes it; `Result`, the worker and the leader's
driver read from it, and wait at `decisions.changed`.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import trio

from trio_sched._support.suspension import suspended
from trio_sched.etcd_shim._keep import margin_of
from trio_sched.host.counts import HostCounts
from trio_sched.host.newest import DecisionFeed, end_of
from trio_sched.host.patience import Patience

if TYPE_CHECKING:
    from trio_sched.host.following import PathFollower
    from trio_sched.host.session import Session
    from trio_sched.model.path_view import PathView
    from trio_sched.model.records import Hosts

__all__ = ["HostState"]


class HostState:
    """One host's life on a path.

    Args:
        path: that the hosts share.
        hostname: the name of this host.
        max_count: how many may be chosen, as far as this host was started with it.
        patience: what is waited out.

    Attributes:
        decisions: what readers are given.
        session: the present session; None before the first.
        follower: what keeps the view of the path; a new one for each session.
        sessions: how many sessions were begun.
        leads: whether this host leads.
        counts: what its life has come to.
        life: the scope of all that is done for this host; cancelled, it leaves.
        left: set when it has left.
    """

    def __init__(
        self, path: str, hostname: str, max_count: int, patience: Patience | None = None
    ) -> None:
        self.patience: Patience = patience or Patience()
        self.path = path
        self.hostname = hostname
        self.decisions: DecisionFeed = DecisionFeed(path)
        self.session: Session | None = None
        self.follower: PathFollower | None = None
        self.sessions: int = 0
        self.leads = False
        self.counts: HostCounts = HostCounts()
        self.life: trio.CancelScope = trio.CancelScope()
        self.left: trio.Event = trio.Event()
        self._max_count = max_count
        self._available = True
        self._was_ours = False
        self._healed = 0
        self._highest = 0  # revision of the store

    # ---- what the membership writes -----------------------------------------------------

    def begin_session(self, session: Session, follower: PathFollower) -> None:
        """A new session has begun; nothing is known of the path yet."""
        if self.follower is not None:
            self._healed += self.follower.healed
            self._highest = max(self._highest, self.follower.view.revision)
        if self.session is not None:
            self.counts.renewals += self.session.renewals
        self.session, self.follower = session, follower
        self._was_ours = False
        self.sessions += 1

    def note_joined(self, revision: int) -> None:
        """The host has joined at this revision of the store, and what it read is in the view.

        The store is another one, whose decisions count from elsewhere, if its revision went
        back; or if it has caught up since, but the decision in it is older than one before.
        """
        newest = self.decisions.newest
        is_older = newest is not None and 0 < self._decided_at < newest.revision
        if revision < self._highest or is_older:
            self.decisions.begin_anew()
            self._highest = revision

    @property
    def _decided_at(self) -> int:
        """Revision of the decision that the view shows; 0 if it covers none."""
        return self.follower.view.hosts.revision if self.follower is not None else 0

    def note_available(self, available: bool) -> None:  # noqa: FBT001 # it is about one
        """This host may be chosen, or not, as far as it knows; leaders of ours learn it, too."""
        self._available = available
        self.publish()

    def publish(self) -> None:
        """Give readers the decision that the view shows now, if it covers it."""
        view = self.follower.view if self.follower is not None else None
        if view is None or not view.known or not view.covers(view.keys.scheduled):
            return
        ours = self.is_ours
        is_named = view.decision.is_foreign and self.hostname in view.decision.hosts
        if is_named and not ours and self._available and not view.covers(view.keys.control):
            return  # it is known soon whether it is ours
        self._was_ours = ours
        self.decisions.publish(view.hosts, ours=ours)

    def end(self, failure: Exception | None = None) -> None:
        """The host has left; or its life has failed."""
        self.decisions.end(failure)
        self.left.set()

    # ---- what the others read -----------------------------------------------------------

    @property
    def is_ours(self) -> bool:
        """True if the decision names us, and means our present session."""
        session, follower = self.session, self.follower
        if session is None or follower is None:
            return False
        decision = follower.view.decision
        if self.hostname not in decision.hosts:
            return False
        if decision.record is None:  # a Go leader's, of names only
            return self._available and self._is_wanted(follower.view)
        return decision.record.hosts.get(self.hostname) == session.lease

    def _is_wanted(self, view: PathView) -> bool:
        """Return whether operators let this host run, as a Go leader does not ask them.

        Until they were asked, what goes on goes on, and nothing begins.
        """
        if not view.covers(view.keys.control):
            return self._was_ours
        return self.hostname not in view.control.drained

    @property
    def provable_until(self) -> float:
        """By trio's clock, when what is known of the decision becomes too old to act on."""
        if self.session is None or self.follower is None:
            return -inf
        fresh_at = self.follower.fresh_at - suspended()
        return fresh_at + self.session.ttl - margin_of(self.session.ttl)

    @property
    def deadline(self) -> float:
        """By trio's clock, until when this host is scheduled; minus infinity if it is not."""
        session = self._chosen_session
        return -inf if session is None else min(session.deadline, self.provable_until)

    @property
    def valid_until(self) -> float:
        """By trio's clock, until when its session lives for certain and its decision is the newest.

        Whatever that says; minus infinity if one of them does not hold.
        """
        session = self.session
        if self.decisions.ended or session is None or session.lost_reason is not None:
            return -inf
        return min(session.deadline, self.provable_until)

    @property
    def _chosen_session(self) -> Session | None:
        """The session that the decision means, if it is alive but for its deadline, and ours."""
        newest, session = self.decisions.newest, self.session
        if self.decisions.ended or newest is None or self.hostname not in newest:
            return None
        if session is None or session.lost_reason is not None or not self.is_ours:
            return None
        return session

    @property
    def scheduled(self) -> bool:
        """True while this host is scheduled. Asks the clock each time."""
        return trio.current_time() < self.deadline

    @property
    def max_count(self) -> int:
        """How many hosts the newest decision may name; our own option if it does not say."""
        record = self.follower.view.decision.record if self.follower is not None else None
        recorded = record.options.get("max_count") if record is not None else None
        return recorded if type(recorded) is int and recorded > 0 else self._max_count

    @property
    def healed(self) -> int:
        """How often a read showed what no watch had brought."""
        return self._healed + (self.follower.healed if self.follower is not None else 0)

    async def wait_scheduled(self) -> Hosts:
        """Wait until this host is scheduled; return the decision that says so. A checkpoint.

        Raises:
            EndOfResults: it has left. If something failed, that is raised instead.
        """
        await trio.lowlevel.checkpoint()
        while not self.scheduled:
            if self.decisions.ended:
                raise end_of(self.decisions.failure, f"{self.hostname!r} has left {self.path!r}")
            if (session := self._chosen_session) is not None:
                # Only time speaks against it: the machine was suspended, so that no timer was due
                # and a renewal, or a proof, may come before one is.
                is_lapsed = trio.current_time() >= session.deadline
                lose = session.mark_lost if is_lapsed else session.give_up
                lose("its deadline has passed")
            await self.wait_changed()
        newest = self.decisions.newest
        assert newest is not None
        return newest

    async def wait_changed(self) -> None:
        """Wait until some of that may have changed, other than by a renewal."""
        await self.decisions.changed.park()
