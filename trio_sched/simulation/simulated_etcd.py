"""What a simulation takes place in: time that is only counted, and a tiny etcd.

Pure: no Trio, no clock, no I/O. Whatever happens is noted in a running digest, so
two runs that differ in anything differ in their digests.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from trio_sched.leader.machine import (
    ControlChanged,
    Event,
    HostJoined,
    HostLeft,
    Snapshot,
    WriteDecision,
    WriteDone,
    WriteLost,
    WriteRefused,
)
from trio_sched.model.control_state import ControlState
from trio_sched.model.records import Host, decode_scheduled, encode_scheduled
from trio_sched.model.stored_decision import StoredDecision

__all__ = ["Candidate", "Commit", "Score", "SimulatedEtcd", "Timeline"]


class Timeline:
    """A queue of what is still to happen; of two things at one time, the older goes first.

    Attributes:
        now: simulated seconds since the beginning.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._hash = hashlib.blake2b(digest_size=16)

    def after(self, delay: float, action: Callable[[], None]) -> None:
        """Do something in `delay` seconds."""
        self.at(self.now + delay, action)

    def at(self, time: float, action: Callable[[], None]) -> None:
        """Do something at `time`."""
        self._number += 1
        heapq.heappush(self._queue, (time, self._number, action))

    def run(self, until: float) -> bool:
        """Let happen what is due up to a time; True if nothing is left to happen."""
        while self._queue and self._queue[0][0] <= until:
            self.now, _, action = heapq.heappop(self._queue)
            action()
        return not self._queue

    def note(self, *words: object) -> None:
        """Add to the digest what has happened just now. `words` must have stable reprs."""
        self._hash.update(f"{self.now!r} {words!r}\n".encode())

    @property
    def digest(self) -> str:
        """The digest of all that was noted, in hex."""
        return self._hash.hexdigest()


@dataclass(frozen=True, slots=True)
class Candidate:
    """A key below ``election/``."""

    name: str
    lease: int
    fence: int


@dataclass(frozen=True, slots=True)
class Version:
    """One half of a decision, as it is stored."""

    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    lease: int


@dataclass(frozen=True, slots=True)
class Commit:
    """What one revision changed, as watches deliver it."""

    revision: int
    pool: list[HostJoined | HostLeft] = field(default_factory=list)
    stored: StoredDecision | None = None
    control: ControlChanged | None = None


class SimulatedEtcd:
    """The keys of one path, with revisions and leases, and the transactions made on them.

    Leases do not lapse by themselves: the caller that counts the time calls `revoke`.

    Args:
        listener: called with each revision, at once.
        compares_fence: whether a write is guarded by its leader's key.
    """

    def __init__(self, listener: Callable[[Commit], None], *, compares_fence: bool) -> None:
        self._listener = listener
        self._compares_fence = compares_fence
        self._last_lease = 0
        self.revision = 1
        self.leases: dict[int, str] = {}  # who was granted it
        self.hosts: dict[str, Host] = {}
        self.candidates: dict[int, Candidate] = {}  # by lease, the oldest first
        self.scheduled: Version | None = None
        self.record: Version | None = None
        self.control = ControlState()

    @property
    def leader(self) -> Candidate | None:
        """The oldest candidate."""
        return next(iter(self.candidates.values()), None)

    @property
    def stored(self) -> StoredDecision:
        """The stored decision, as read now."""
        return StoredDecision.pair(self.scheduled, self.record, self.revision)

    @property
    def names(self) -> tuple[str, ...]:
        """The names in ``scheduled``."""
        return () if self.scheduled is None else decode_scheduled(self.scheduled.value)

    def snapshot(self) -> Snapshot:
        """Read all that a leader has to know, at one revision."""
        return Snapshot(self.revision, tuple(self.hosts.values()), self.stored, self.control)

    def leads(self, session: int, fence: int) -> bool:
        """Return whether the candidate of this session is there, with this fence."""
        candidate = self.candidates.get(session)
        return candidate is not None and candidate.fence == fence

    def grant(self, owner: str) -> int:
        """Grant a lease."""
        self._last_lease += 1
        self.leases[self._last_lease] = owner
        return self._last_lease

    def join(self, name: str, value: bytes) -> int | None:
        """Register a host and its candidacy under a new lease; None if its name is taken."""
        if name in self.hosts:
            return None
        lease, revision = self.grant(name), self.revision + 1
        host = Host.decode(name, value, lease=lease, joined_revision=revision)
        self.hosts[name] = host
        self.candidates[lease] = Candidate(name, lease, revision)
        commit = Commit(revision, [HostJoined(host, revision)])
        self._commit(commit, self.scheduled, self.record)
        return lease

    def update(self, name: str, value: bytes) -> None:
        """Let a host that is registered publish something else."""
        old, revision = self.hosts[name], self.revision + 1
        host = Host.decode(name, value, lease=old.lease, joined_revision=old.joined_revision)
        self.hosts[name] = host
        commit = Commit(revision, [HostJoined(host, revision)])
        self._commit(commit, self.scheduled, self.record)

    def put_control(self, control: ControlState) -> None:
        """Write what operators want."""
        revision = self.revision + 1
        self.control = ControlState.decode(control.encode(), revision)
        commit = Commit(revision, control=ControlChanged(self.control, revision))
        self._commit(commit, self.scheduled, self.record)

    def revoke(self, lease: int) -> bool:
        """Take a lease away, and in one revision all that hangs on it; False if it is gone."""
        name = self.leases.pop(lease, None)
        if name is None:
            return False
        commit = Commit(self.revision + 1)
        if self.candidates.pop(lease, None) is not None:
            del self.hosts[name]
            commit.pool.append(HostLeft(name, commit.revision))
        scheduled, record = (
            None if half is not None and half.lease == lease else half
            for half in (self.scheduled, self.record)
        )
        self._commit(commit, scheduled, record)
        return True

    def write(self, write: WriteDecision, session: int, lease: int) -> Event:
        """Write a decision as a leader does, if its guards hold, and return what is answered."""
        if self._compares_fence and not self.leads(session, write.fence):
            return WriteRefused(fenced=True, stored=self.stored, fence=write.fence)
        present = 0 if self.scheduled is None else self.scheduled.mod_revision
        if present != write.expected_revision:
            return WriteRefused(fenced=False, stored=self.stored, fence=write.fence)
        if lease not in self.leases:
            return WriteLost(write.fence)
        commit, hosts = Commit(self.revision + 1), write.record.hosts
        scheduled = self._put(b"scheduled", encode_scheduled(hosts), lease) if hosts else None
        self._commit(commit, scheduled, self._put(b"record", write.record.encode(), lease))
        return WriteDone(commit.revision, write.fence)

    def _put(self, key: bytes, value: bytes, lease: int) -> Version:
        return Version(key, value, self.revision + 1, self.revision + 1, lease)

    def put_foreign(self, names: tuple[str, ...]) -> None:
        """Write ``scheduled`` as a client that knows no guard, no record and no lease."""
        scheduled = self._put(b"scheduled", encode_scheduled(names), 0) if names else None
        if scheduled is not None or self.scheduled is not None:
            self._commit(Commit(self.revision + 1), scheduled, self.record)

    def clear_if_last(self) -> bool:
        """Take the decision away if no host is there; True if so."""
        if self.hosts:
            return False
        self._commit(Commit(self.revision + 1), None, None)
        return True

    def _commit(self, commit: Commit, scheduled: Version | None, record: Version | None) -> None:
        decides = (scheduled, record) != (self.scheduled, self.record)
        if not (commit.pool or decides or commit.control):
            return
        self.revision = commit.revision
        self.scheduled, self.record = scheduled, record
        if decides:
            commit = replace(commit, stored=self.stored)
        self._listener(commit)


@dataclass(slots=True)
class Score:
    """What is counted and judged while it happens."""

    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(
            ("decisions", "writes", "refused", "fenced", "landed_late", "foreign"), 0
        )
    )
    churn: int = 0
    most_chosen: int = 0
    longest_gap: float = 0.0
    gap_since: float | None = None
    chosen: Mapping[str, int] = field(default_factory=dict)  # by the last leader's decision

    def judge(self, now: float, *, valid: bool) -> None:
        """Take down whether what is stored is valid from now on."""
        if not valid:
            self.gap_since = now if self.gap_since is None else self.gap_since
        elif self.gap_since is not None:
            self.longest_gap = max(self.longest_gap, now - self.gap_since)
            self.gap_since = None

    def decided(
        self, before: tuple[str, ...], hosts: Mapping[str, int], pool: Mapping[str, Host], most: int
    ) -> None:
        """Take down a leader's decision, stored where `before` was, while `pool` lived."""
        kept = [
            name
            for name, lease in self.chosen.items()
            if name in before and name in pool and pool[name].lease == lease
        ]
        too_many = max(0, sum(name in pool for name in before) - most)
        self.churn += max(0, sum(name not in hosts for name in kept) - too_many)
        self.most_chosen = max(self.most_chosen, len(hosts))
        self.chosen = hosts
        self.counts["decisions"] += 1
