"""All that lies below a path, at one revision: what `observe` tells with ``pool=True``. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, Self

from trio_sched.model.control_state import ControlState
from trio_sched.model.records import DecisionRecord, Host, Hosts, decode_scheduled

if TYPE_CHECKING:
    from trio_sched.model.keys import PathKeys

__all__ = ["Candidate", "HeldSlot", "PathState", "control_of", "host_of"]


class Stored(Protocol):
    """A key with its value, as etcd tells it."""

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


def host_of(keys: PathKeys, kv: Stored) -> Host:
    """Return the host that a key below ``exchange/`` stands for."""
    return Host.decode(
        keys.hostname(kv.key), kv.value, lease=kv.lease, joined_revision=kv.create_revision
    )


def control_of(kv: Stored | None) -> ControlState:
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
        record: who decided, and why; None if nobody who tells has.
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
    def decode(cls, keys: PathKeys, stored: Iterable[Stored], revision: int) -> Self:
        """Return the state that these keys make. What is not understood is left out."""
        found = {kv.key: kv for kv in stored}
        record = _record(found, keys)
        return cls(
            keys.path,
            revision,
            _hosts(found, keys, record),
            record,
            MappingProxyType({host.name: host for host in _pool(found, keys)}),
            tuple(_candidates(found, keys)),
            MappingProxyType({slot.index: slot for slot in _slots(found, keys)}),
            control_of(found.get(keys.control)),
        )


def _record(found: Mapping[bytes, Stored], keys: PathKeys) -> DecisionRecord | None:
    """Return the record, if it belongs to what is scheduled: both come in one transaction."""
    decision, scheduled = found.get(keys.decision), found.get(keys.scheduled)
    record = None if decision is None else DecisionRecord.decode(decision.value)
    if record is None or decision is None:
        return None
    if scheduled is None:
        return None if record.hosts else record
    return record if decision.mod_revision == scheduled.mod_revision else None


def _hosts(found: Mapping[bytes, Stored], keys: PathKeys, record: DecisionRecord | None) -> Hosts:
    scheduled = found.get(keys.scheduled) or found.get(keys.decision)
    revision = 0 if scheduled is None else scheduled.mod_revision
    kv = found.get(keys.scheduled)
    names = () if kv is None else decode_scheduled(kv.value)
    if record is None:
        return Hosts(names, revision=revision)
    return Hosts(names, revision=revision, leader=record.leader, fence=record.fence)


def _pool(found: Mapping[bytes, Stored], keys: PathKeys) -> Iterable[Host]:
    for key in sorted(found):
        if key.startswith(keys.exchange):
            yield host_of(keys, found[key])


def _candidates(found: Mapping[bytes, Stored], keys: PathKeys) -> Iterable[Candidate]:
    ours = (kv for key, kv in found.items() if key.startswith(keys.election))
    for kv in sorted(ours, key=lambda kv: kv.create_revision):
        yield Candidate(_text(kv.value), kv.lease, kv.create_revision)


def _slots(found: Mapping[bytes, Stored], keys: PathKeys) -> Iterable[HeldSlot]:
    held = []
    for key, kv in found.items():
        number = keys.slot_number(key)
        if number is not None:
            held.append(HeldSlot(number, _text(kv.value), kv.create_revision, kv.lease))
    return sorted(held, key=lambda slot: slot.index)


def _text(value: bytes) -> str:
    return value.decode(errors="surrogateescape")
