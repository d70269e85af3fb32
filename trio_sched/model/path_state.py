"""All that lies below a path, at one revision: what `observe` gives with ``pool=True``. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Self

from trio_sched.model.control_state import ControlState
from trio_sched.model.records import DecisionRecord, Host, Hosts
from trio_sched.model.stored_decision import StoredDecision, StoredKey

if TYPE_CHECKING:
    from trio_sched.model.keys import PathKeys

__all__ = ["Candidate", "HeldSlot", "PathState", "control_of", "host_of"]


def host_of(keys: PathKeys, kv: StoredKey) -> Host:
    """Return the host that a key below ``exchange/`` stands for."""
    return Host.decode(
        keys.hostname(kv.key), kv.value, lease=kv.lease, joined_revision=kv.create_revision
    )


def control_of(kv: StoredKey | None) -> ControlState:
    """Return what operators want, by the ``control`` key; None if it is not there."""
    return ControlState() if kv is None else ControlState.decode(kv.value, kv.mod_revision)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A host that wants to lead.

    Attributes:
        name: of the host.
        lease: of its session.
        fence: create_revision of its key; the lowest leads.
    """

    name: str
    lease: int
    fence: int


@dataclass(frozen=True, slots=True)
class HeldSlot:
    """A slot that is taken.

    Attributes:
        index: its number.
        name: of the host that holds it.
        token: create_revision of its key.
        lease: of that host's session.
    """

    index: int
    name: str
    token: int
    lease: int


@dataclass(frozen=True, slots=True)
class PathState:
    """All that lies below a path.

    Attributes:
        path: the path.
        revision: the store's revision at which it was so.
        hosts: the decision.
        record: who decided, and why; None if the leader that decided writes none.
        pool: the hosts that have joined, by name.
        candidates: hosts that want to lead; the first one does.
        slots: slots that are taken, by number.
        control: what operators want.
    """

    path: str
    revision: int
    hosts: Hosts
    record: DecisionRecord | None
    pool: Mapping[str, Host]
    candidates: tuple[Candidate, ...]
    slots: Mapping[int, HeldSlot]
    control: ControlState

    @property
    def leader(self) -> Candidate | None:
        """The host that leads."""
        return self.candidates[0] if self.candidates else None

    @classmethod
    def decode(cls, keys: PathKeys, stored: Iterable[StoredKey], revision: int) -> Self:
        """Return the state that these keys make. What is not understood is left out."""
        found = {kv.key: kv for kv in stored}
        scheduled, record = found.get(keys.scheduled), found.get(keys.record)
        decision = StoredDecision.pair(scheduled, record, revision)
        newest = scheduled or record
        return cls(
            keys.path,
            revision,
            decision.for_readers(0 if newest is None else newest.mod_revision),
            decision.record,
            MappingProxyType({host.name: host for host in _pool(found, keys)}),
            tuple(_candidates(found, keys)),
            MappingProxyType({slot.index: slot for slot in _slots(found, keys)}),
            control_of(found.get(keys.control)),
        )


def _pool(found: Mapping[bytes, StoredKey], keys: PathKeys) -> Iterable[Host]:
    for key in sorted(found):
        if key.startswith(keys.exchange):
            yield host_of(keys, found[key])


def _candidates(found: Mapping[bytes, StoredKey], keys: PathKeys) -> Iterable[Candidate]:
    ours = (kv for key, kv in found.items() if key.startswith(keys.election))
    for kv in sorted(ours, key=lambda kv: kv.create_revision):
        yield Candidate(_text(kv.value), kv.lease, kv.create_revision)


def _slots(found: Mapping[bytes, StoredKey], keys: PathKeys) -> Iterable[HeldSlot]:
    held = []
    for key, kv in found.items():
        number = keys.slot_number(key)
        if number is not None:
            held.append(HeldSlot(number, _text(kv.value), kv.create_revision, kv.lease))
    return sorted(held, key=lambda slot: slot.index)


def _text(value: bytes) -> str:
    return value.decode(errors="surrogateescape")
