"""What is known of a path: hosts, candidates, the decision, control and slots. Pure.

Theory of operation
-------------------
A view *covers* ranges of keys. Each is loaded by a read of all of it at one revision and then
kept up by the events after that revision, in their order; each has its own revision, up to
which it is known. Ranges that are covered at a time do not overlap. What roles differ in is
only what they cover: a follower the decision, its own key and the candidate before it; a
leader and an observer all that they need by one range.

The view holds keys as they are stored and decodes when asked. Who reads it is given what is
true now, as of the newest revision; nothing is queued. Of a view that is *tracked* the names
of changed keys are kept until they are taken, each once: so a reader that is slow finds the
newest state of each, and memory is bounded by the number of keys.

Both halves of a decision lie in one range and so are always of one revision.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from trio_sched.model.keys import KeyRange, PathKeys
from trio_sched.model.path_state import PathState, control_of
from trio_sched.model.stored_decision import StoredDecision, StoredKey

if TYPE_CHECKING:
    from trio_sched.model.control_state import ControlState
    from trio_sched.model.records import Hosts

__all__ = ["PathView"]


class PathView:
    """What is known of a path. See the head of the module.

    Attributes:
        keys: of the path.
        known: True if there was a decision at any time since the view began.
    """

    def __init__(self, keys: PathKeys) -> None:
        self.keys = keys
        self.known: bool = False
        self._scheduled, self._halves = keys.scheduled, {keys.scheduled, keys.record}
        self._covered: dict[KeyRange, int] = {}
        self._stored: dict[bytes, StoredKey] = {}
        self._highest = 0
        self._changed: dict[bytes, int] | None = None
        self._decision: StoredDecision | None = None  # None: to be made anew
        self._decided_at = 0  # revision at which the decision became what it is

    # ---- what comes in ---------------------------------------------------------------

    def load(self, covered: KeyRange, found: Iterable[StoredKey], revision: int) -> None:
        """Cover a range; `found` is all that it held at `revision`.

        What is older than what is known of the range is ignored.
        """
        if revision < self._covered.get(covered, 0):
            return
        now = {kv.key: kv for kv in found}
        for key in [key for key in self._stored if key in covered and key not in now]:
            self.delete(key, revision)
        for kv in now.values():
            if self._stored.get(kv.key) != kv:
                self.put(kv, revision)
        if self._scheduled in covered and not self._decided_at:
            self._decided_at = revision  # nothing is decided, as of this read
        self.advance(covered, revision)

    def uncover(self, covered: KeyRange) -> None:
        """Forget a range, but for what is in another one that is covered."""
        if self._covered.pop(covered, None) is not None:
            for key in [key for key in self._stored if key in covered and not self.covers(key)]:
                del self._stored[key]
            self._decision = None

    def put(self, kv: StoredKey, revision: int) -> None:
        """Take in that a key is so as of `revision`. `advance` ends the batch that it is of."""
        self._stored[kv.key] = kv
        self._touch(kv.key, revision)
        self.known |= kv.key in self._halves

    def delete(self, key: bytes, revision: int) -> None:
        """Take in that a key is absent as of `revision`."""
        self._stored.pop(key, None)
        self._touch(key, revision)

    def _touch(self, key: bytes, revision: int) -> None:
        if self._changed is not None:
            self._changed[key] = revision
        if key in self._halves:
            self._decided_at = revision
            self._decision = None

    def advance(self, covered: KeyRange, revision: int) -> None:
        """Note that a range is known up to `revision`."""
        self._covered[covered] = max(revision, self._covered.get(covered, 0))
        self._highest = max(revision, self._highest)
        if self._scheduled in covered:
            self._decision = None

    # ---- what goes out ---------------------------------------------------------------

    @property
    def revision(self) -> int:
        """The highest revision of the store that is known of."""
        return self._highest

    @property
    def covered(self) -> Mapping[KeyRange, int]:
        """The ranges that are covered, each with the revision up to which it is known."""
        return MappingProxyType(self._covered)

    def covers(self, key: bytes) -> bool:
        """Return whether a key is known, or known to be absent."""
        return any(key in covered for covered in self._covered)

    def get(self, key: bytes) -> StoredKey | None:
        """Return a key as it is stored; None if it is absent, or not covered."""
        return self._stored.get(key)

    def within(self, covered: KeyRange) -> list[StoredKey]:
        """Return the keys of a range, by name."""
        return [self._stored[key] for key in sorted(self._stored) if key in covered]

    @property
    def decision(self) -> StoredDecision:
        """The stored decision."""
        if self._decision is None:
            revision = max(
                (known for covered, known in self._covered.items() if self._scheduled in covered),
                default=0,
            )
            scheduled, record = self.get(self._scheduled), self.get(self.keys.record)
            self._decision = StoredDecision.pair(scheduled, record, revision)
        return self._decision

    @property
    def decision_lease(self) -> int:
        """Id of the lease that the record hangs on; 0 if there is none."""
        record = self.get(self.keys.record)
        return 0 if record is None else record.lease

    @property
    def hosts(self) -> Hosts:
        """The decision, for readers; its revision is that at which it came to be so."""
        decision = self.decision
        return decision.for_readers(decision.mod_revision or self._decided_at)

    @property
    def control(self) -> ControlState:
        """What operators want."""
        return control_of(self.get(self.keys.control))

    def state(self) -> PathState:
        """Return all that is covered, decoded."""
        return PathState.decode(self.keys, self._stored.values(), self._highest)

    # ---- tracking --------------------------------------------------------------------

    def track(self) -> None:
        """Keep the names of keys that change from now on, for `take_changes`."""
        self._changed = {}

    def take_changes(self) -> Mapping[bytes, int]:
        """Return the keys that changed since they were taken last, each with its revision."""
        changed = self._changed or {}
        if changed:
            self._changed = {}
        return changed
