"""What two watches say about one thing: the stored decision.

``scheduled`` and ``decision`` are written in one transaction but watched apart
(between them in etcd's order lie all hosts and candidates, whom a follower must
not watch). So the events of one write arrive one after the other, in any order.
The view knows when it has both halves, or when there is no other half: the Go
package writes ``scheduled`` alone, and on no lease, while ours hangs on one.
"""

from __future__ import annotations

from dataclasses import dataclass

from trio_sched.leader.machine import Stored
from trio_sched.model.records import DecisionRecord, Hosts, decode_scheduled

__all__ = ["DecisionView", "Version"]


@dataclass(frozen=True, slots=True)
class Version:
    """A key's state as a read or an event tells it.

    Attributes:
        value: its value; None if it is not there.
        revision: at which it was put or deleted.
        lease: id of the lease that it hangs on; 0 if on none.
    """

    value: bytes | None = None
    revision: int = 0
    lease: int = 0


class DecisionView:
    """The stored decision, put together from two keys. Pure."""

    def __init__(self) -> None:
        self._scheduled = Version()
        self._decision = Version()
        self._record: DecisionRecord | None = None
        self._known = False
        self._read_at = 0  # up to this revision both halves are known

    def load(self, scheduled: Version, decision: Version, revision: int) -> None:
        """Take in both keys, read at one `revision`."""
        if revision < self._read_at:
            return
        self._read_at = revision
        self.take_scheduled(_at(scheduled, revision))
        self.take_decision(_at(decision, revision))

    def complete(self, revision: int) -> None:
        """Note that all events of both keys up to `revision` have been taken in."""
        self._read_at = max(self._read_at, revision)

    def take_scheduled(self, version: Version) -> None:
        """Take in an event of ``scheduled``, unless it is older than what is known."""
        self._known |= version.value is not None
        if version.revision >= self._scheduled.revision:
            self._scheduled = version

    def take_decision(self, version: Version) -> None:
        """Take in an event of ``decision``, unless it is older than what is known."""
        self._known |= version.value is not None
        if version.revision >= self._decision.revision:
            self._decision = version
            self._record = None if version.value is None else DecisionRecord.decode(version.value)

    @property
    def settled(self) -> bool:
        """True if no other half of a write is to come."""
        scheduled, decision = self._scheduled.revision, self._decision.revision
        if max(scheduled, decision) <= self._read_at or scheduled == decision:
            return True
        if decision > scheduled:
            # An empty decision deletes `scheduled`; if that was absent, without an event.
            return self._scheduled.value is None and not (self._record and self._record.hosts)
        return self._scheduled.value is None or not self._scheduled.lease

    @property
    def known(self) -> bool:
        """True if anybody has decided anything."""
        return self._known

    @property
    def decision_lease(self) -> int:
        """Id of the lease that ``decision`` hangs on; 0 if there is none."""
        return self._decision.lease if self._decision.value is not None else 0

    @property
    def stored(self) -> Stored:
        """The decision, for the leader."""
        scheduled = self._scheduled
        revision = max(scheduled.revision, self._decision.revision, self._read_at)
        if scheduled.value is None:
            return Stored((), 0, revision, 0, self._empty_record())
        record = self._record if self._decision.revision == scheduled.revision else None
        names = decode_scheduled(scheduled.value)
        return Stored(names, scheduled.revision, revision, scheduled.lease, record)

    def _empty_record(self) -> DecisionRecord | None:
        record = self._record
        return None if record is None or record.hosts else record

    @property
    def hosts(self) -> Hosts:
        """The decision, for readers."""
        stored = self.stored
        revision = stored.mod_revision or max(self._scheduled.revision, self._decision.revision)
        if stored.record is None:
            return Hosts(stored.hosts, revision=revision)
        return Hosts(
            stored.hosts, revision=revision, leader=stored.record.leader, fence=stored.record.fence
        )


def _at(version: Version, revision: int) -> Version:
    """Date the absence of a key by the read that found it missing."""
    return Version(None, revision) if version.value is None else version
