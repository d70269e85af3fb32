"""The stored decision: what ``scheduled`` and the record beside it say together. Pure.

Both keys are written in one transaction and lie side by side, so one read or one watch
brings them together. The Go package writes ``scheduled`` alone: then the record is one of a
decision before, and does not count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self

from trio_sched.model.records import DecisionRecord, Hosts, decode_scheduled

__all__ = ["StoredDecision", "StoredKey"]


class StoredKey(Protocol):
    """A key with its value, as etcd has it."""

    @property
    def key(self) -> bytes:
        """Its name."""

    @property
    def value(self) -> bytes:
        """Its value."""

    @property
    def create_revision(self) -> int:
        """The revision at which it was created."""

    @property
    def mod_revision(self) -> int:
        """The revision at which it was put last."""

    @property
    def lease(self) -> int:
        """Id of the lease that it hangs on; 0 if on none."""


@dataclass(frozen=True, slots=True)
class StoredDecision:
    """The stored decision, as it was at one revision of etcd's store.

    Attributes:
        hosts: names in `scheduled`; empty if the key is absent.
        mod_revision: mod_revision of `scheduled`; 0 if the key is absent.
        revision: the store's revision at which this was so.
        lease: id of the lease that `scheduled` hangs on; 0 if none, or unknown.
        record: the record beside it; None if there is none or it does not belong
            to this `scheduled`, that is, was not put by the same transaction.
    """

    hosts: tuple[str, ...]
    mod_revision: int
    revision: int
    lease: int = 0
    record: DecisionRecord | None = None

    @property
    def is_foreign(self) -> bool:
        """True if it names hosts and says nothing more, as a leader of another kind writes it."""
        return bool(self.hosts) and self.record is None

    @classmethod
    def pair(cls, scheduled: StoredKey | None, record: StoredKey | None, revision: int) -> Self:
        """Return what the two keys say together, as of one revision.

        Args:
            scheduled: the key of that name; None if it is absent.
            record: the key ``scheduled.record``; None if it is absent.
            revision: the store's revision at which both were so.
        """
        decoded = None if record is None else DecisionRecord.decode(record.value)
        if scheduled is None:  # an empty decision is a record alone
            return cls((), 0, revision, 0, None if decoded and decoded.hosts else decoded)
        if record is None or record.mod_revision != scheduled.mod_revision:
            decoded = None
        names = decode_scheduled(scheduled.value)
        return cls(names, scheduled.mod_revision, revision, scheduled.lease, decoded)

    def for_readers(self, revision: int) -> Hosts:
        """Return the decision as readers get it.

        Args:
            revision: at which it came to be so.
        """
        if self.record is None:
            return Hosts(self.hosts, revision=revision)
        leader, fence = self.record.leader, self.record.fence
        return Hosts(self.hosts, revision=revision, leader=leader, fence=fence)
