"""One read of all that a leader needs, at one revision.

In etcd's order the keys of a path are ``control``, ``decision``, ``election/…``,
``exchange/…``, ``scheduled`` and then ``slots/…``. So one range covers all that a
leader reads and watches, and one watch of it tells in the order of revisions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from trio_sched.etcd_shim import Get, GetResult, KeyValue
from trio_sched.model.control_state import ControlState
from trio_sched.model.decision_view import Version
from trio_sched.model.keys import PathKeys
from trio_sched.model.path_state import control_of, host_of
from trio_sched.model.records import Host

__all__ = ["PathSnapshot", "whole_range"]


def whole_range(keys: PathKeys) -> tuple[bytes, bytes]:
    """Return the range of all that a leader reads and watches."""
    return keys.control, keys.scheduled + b"\0"


@dataclass(frozen=True, slots=True)
class PathSnapshot:
    """What a path was like at one revision.

    Attributes:
        revision: the store's revision at which it was read.
        asked_at: by trio's clock, when the read was sent.
        hosts: those that have joined.
        candidates: the keys below ``election/``, by name.
        scheduled: the key of that name.
        decision: the key of that name.
        control: what operators want.
    """

    revision: int
    asked_at: float
    hosts: tuple[Host, ...]
    candidates: dict[bytes, KeyValue]
    scheduled: Version
    decision: Version
    control: ControlState

    @staticmethod
    def request(keys: PathKeys) -> Get:
        """Return the read that `decode` understands."""
        return Get(*whole_range(keys))

    @classmethod
    def decode(cls, keys: PathKeys, found: GetResult, asked_at: float) -> Self:
        """Return what a read of `request` tells that was sent at `asked_at`."""
        versions = {kv.key: Version(kv.value, kv.mod_revision, kv.lease) for kv in found.kvs}
        return cls(
            found.revision,
            asked_at,
            tuple(host_of(keys, kv) for kv in found.kvs if kv.key.startswith(keys.exchange)),
            {kv.key: kv for kv in found.kvs if kv.key.startswith(keys.election)},
            versions.get(keys.scheduled, Version()),
            versions.get(keys.decision, Version()),
            control_of(next((kv for kv in found.kvs if kv.key == keys.control), None)),
        )

    def predecessor_of(self, fence: int) -> KeyValue | None:
        """Return the candidate directly before that of `fence`; None if that one leads."""
        before = [kv for kv in self.candidates.values() if kv.create_revision < fence]
        return max(before, key=lambda kv: kv.create_revision, default=None)
