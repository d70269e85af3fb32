"""What the leader's state machine handles, and what it wants done.

Plain values, apart from `trio_sched.leader.machine` only to keep that file short; import
them from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_sched.exceptions import StrategyError
    from trio_sched.model.control_state import ControlState
    from trio_sched.model.records import DecisionRecord, Host
    from trio_sched.model.stored_decision import StoredDecision

__all__ = [
    "ControlChanged",
    "DecisionChanged",
    "Deposed",
    "Elected",
    "Event",
    "Fail",
    "HostJoined",
    "HostLeft",
    "Intent",
    "LoadSnapshot",
    "Snapshot",
    "StartTimer",
    "TimerFired",
    "Warn",
    "WriteDecision",
    "WriteDone",
    "WriteLost",
    "WriteRefused",
]


@dataclass(frozen=True, slots=True)
class Elected:
    """We lead now. `fence` is the create_revision of our election key."""

    fence: int


@dataclass(frozen=True, slots=True)
class Deposed:
    """We lead no more."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All hosts, the stored decision and what operators want, read at one `revision`.

    Attributes:
        revision: the store's revision.
        hosts: all that are registered.
        stored: the stored decision.
        control: what operators want; None if it was not read, and what is known of it
            stays.
    """

    revision: int
    hosts: tuple[Host, ...]
    stored: StoredDecision
    control: ControlState | None = None


@dataclass(frozen=True, slots=True)
class HostJoined:
    """A host's key was put at `revision`: a new host, or new data of a known one."""

    host: Host
    revision: int


@dataclass(frozen=True, slots=True)
class HostLeft:
    """The key of host `name` was deleted at `revision`, by whatever means."""

    name: str
    revision: int


@dataclass(frozen=True, slots=True)
class DecisionChanged:
    """The stored decision changed; `stored` is what it is now."""

    stored: StoredDecision


@dataclass(frozen=True, slots=True)
class ControlChanged:
    """The ``control`` key was put, or deleted, at `revision`; `control` is what it says now."""

    control: ControlState
    revision: int


@dataclass(frozen=True, slots=True)
class WriteDone:
    """The write landed at `revision`.

    Attributes:
        revision: the store's revision that the write made.
        fence: of the `WriteDecision` that this answers; None if not known.
    """

    revision: int
    fence: int | None = None


@dataclass(frozen=True, slots=True)
class WriteRefused:
    """The write's guard did not hold; nothing was written.

    Attributes:
        fenced: our election key is gone, so we are deposed; else `scheduled` had
            moved.
        stored: what is stored instead, read by the same transaction.
        fence: of the `WriteDecision` that this answers; None if not known.
    """

    fenced: bool
    stored: StoredDecision
    fence: int | None = None


@dataclass(frozen=True, slots=True)
class WriteLost:
    """It is not known whether the write was applied.

    Attributes:
        fence: of the `WriteDecision` that this answers; None if not known.
    """

    fence: int | None = None


@dataclass(frozen=True, slots=True)
class TimerFired:
    """The time of the newest `StartTimer` is up."""


Event: TypeAlias = (
    Elected
    | Deposed
    | Snapshot
    | HostJoined
    | HostLeft
    | DecisionChanged
    | ControlChanged
    | WriteDone
    | WriteRefused
    | WriteLost
    | TimerFired
)


@dataclass(frozen=True, slots=True)
class LoadSnapshot:
    """Read the pool and the stored decision at one revision; answer `Snapshot`."""

    fence: int


@dataclass(frozen=True, slots=True)
class WriteDecision:
    """Write `scheduled` and `decision` in one guarded transaction.

    Attributes:
        fence: create_revision that our election key must still have.
        expected_revision: mod_revision that `scheduled` must still have; 0 if it
            must be absent.
        record: what to write. Without hosts, `scheduled` is deleted instead of put,
            and the record put all the same.
    """

    fence: int
    expected_revision: int
    record: DecisionRecord


@dataclass(frozen=True, slots=True)
class StartTimer:
    """Send `TimerFired` after `delay` seconds; replaces a timer that still runs."""

    delay: float


@dataclass(frozen=True, slots=True)
class Warn:
    """Warn people.

    Attributes:
        kind: ``foreign-write`` or ``options-differ``.
        message: one sentence in plain words.
        extra: the same, for machines.
    """

    kind: str
    message: str
    extra: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Fail:
    """The strategy is broken: leave the block with this error."""

    error: StrategyError


Intent: TypeAlias = LoadSnapshot | WriteDecision | StartTimer | Warn | Fail
