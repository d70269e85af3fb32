"""What operators want of a path: the value of its ``control`` key. Pure.

Operators write the key, each write guarded by the mod_revision that they read, so
no operator overwrites another's change; the leader only reads it. What the leader has
made of it is in its own record, in the options that the decision was made with.

How often an eviction is carried out
------------------------------------
Once, although the leader never writes ``control``, so the entry stays there. Each
eviction carries the store's revision at which its operator had read the key; they grow
from one write to the next. A leader that decides while it knows evictions up to
revision E puts ``evicted: E`` into the record, in the same transaction as the choice
that they led to. So no crash comes between the eviction and what came of it:

- The write landed: every later leader reads E beside the choice, and takes no eviction
  up to E into account again. The host may be chosen again, for another reason.
- The write did not land, or the decision was made before the eviction was known: the next
  decision, by any leader, finds the eviction above E and carries it out.
- Another client decided since, such as a Go leader, and so there is no record: then an
  eviction that is older than the stored ``scheduled`` counts as done. It may get lost
  in this way, but not happen twice.
- The host has a new lease: it is not the one whose place was meant.

While the path is paused, evictions wait. If no host can take the place, the host stays
where it is, and the eviction is done all the same: it does not lie in wait for a host
that comes in an hour. A strategy that keeps no host may give the place back with the
next decision; to keep a host away, drain it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final, Self

from trio_sched._support.arguments import check_int, shown
from trio_sched._support.text import bytewise, clip
from trio_sched.model.records import (
    DecisionRecord,
    check_max_count,
    dump_object,
    object_at,
    parse_object,
)

__all__ = ["ControlState", "Eviction", "Note"]

_MAX_NOTE: Final = 200  # characters
_MAX_EVICTIONS: Final = 100  # are kept; the older ones have been seen to
_MAX_BYTES: Final = 512 * 1024  # as JSON; etcd refuses 1.5 MiB
_FIELDS: Final = ("paused", "drained", "max_count", "evict", "notes")


@dataclass(frozen=True, slots=True)
class Note:
    """Who wanted something, when, and why; each may be empty, and is clipped when read.

    Attributes:
        by: who wanted it.
        when: the time, in ISO 8601, by the operator's clock. For people only.
        why: in the operator's words.
    """

    by: str = ""
    when: str = ""
    why: str = ""

    def as_json(self) -> dict[str, object]:
        """Return the note as it is stored: whatever is not empty."""
        fields = {"by": self.by, "when": self.when, "why": self.why}
        for name, value in fields.items():
            if not isinstance(value, str):
                raise TypeError(f"{name} of a note must be a str, not {type(value).__name__}")
        return {name: clip(value, _MAX_NOTE) for name, value in fields.items() if value}


@dataclass(frozen=True, slots=True)
class Eviction:
    """A host is to lose its place, once.

    Attributes:
        revision: the store's revision at which the operator had read ``control``.
        lease: of the host that is meant; 0 for any host of the name.
        extra: what else was found in it.
    """

    revision: int
    lease: int = 0
    extra: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class ControlState:
    """What operators want. Each method returns another state; write it with `encode`.

    Attributes:
        paused: whether decisions are frozen: a host that dies loses its place, and
            nothing else changes.
        drained: hosts that are not to be chosen.
        max_count: how many hosts may be chosen, whatever the leader's option says.
        evictions: hosts that are to lose their place once, by name.
        notes: JSON objects that say who wanted what; see `note`.
        extra: fields that this version does not know. They are kept.
        revision: mod_revision of the key that this was read from; 0 if it was absent.
            A write is to be guarded by it. It is not compared.
    """

    paused: bool = False
    drained: frozenset[str] = frozenset()
    max_count: int | None = None
    evictions: Mapping[str, Eviction] = field(default_factory=lambda: MappingProxyType({}))
    notes: Mapping[str, Mapping[str, object]] = field(default_factory=lambda: MappingProxyType({}))
    extra: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    revision: int = field(default=0, compare=False)

    # Reading and writing

    @classmethod
    def decode(cls, value: bytes | None, revision: int = 0) -> Self:
        """Return what the value of the key says; what does not parse is left out.

        Args:
            value: the value; None if the key is absent.
            revision: its mod_revision.
        """
        parsed = parse_object(value or b"")
        drained, max_count = parsed.get("drained"), parsed.get("max_count")
        return cls(
            parsed.get("paused") is True,
            frozenset(name for name in drained if name and isinstance(name, str))
            if isinstance(drained, list)
            else frozenset(),
            max_count if type(max_count) is int and max_count >= 1 else None,
            _decode_evictions(object_at(parsed, "evict")),
            MappingProxyType(
                {
                    what: MappingProxyType(note)
                    for what, note in object_at(parsed, "notes").items()
                    if isinstance(note, dict)
                }
            ),
            MappingProxyType({name: each for name, each in parsed.items() if name not in _FIELDS}),
            revision,
        )

    def encode(self) -> bytes:
        """Return the value of the key.

        Raises:
            ValueError: it is too large for etcd, or too deep for JSON.
        """
        known: dict[str, object] = {
            "paused": self.paused,
            "drained": sorted(self.drained, key=bytewise),
            "max_count": self.max_count,
            "evict": {
                name: {**eviction.extra, "revision": eviction.revision}
                | ({"lease": f"{eviction.lease:x}"} if eviction.lease else {})
                for name, eviction in self.evictions.items()
            },
            "notes": {what: dict(note) for what, note in self.notes.items()},
        }
        known = {name: value for name, value in known.items() if value}
        try:
            value = dump_object({**self.extra, **known})
        except RecursionError:
            raise ValueError("what else is in the control state is nested too deeply") from None
        if len(value) > _MAX_BYTES:
            raise ValueError(f"the control state would be {len(value)} bytes; undrain some hosts")
        return value

    def note(self, what: str) -> Note | None:
        """Return who wanted something, if that is known.

        Args:
            what: ``paused``, ``max_count``, ``drained/HOST`` or ``evict/HOST``.
        """
        found = self.notes.get(what)
        if found is None:
            return None
        by, when, why = (
            clip(text, _MAX_NOTE) if isinstance(text, str) else ""
            for text in (found.get("by"), found.get("when"), found.get("why"))
        )
        return Note(by, when, why)

    def known_to(self, record: DecisionRecord | None) -> bool:
        """Return whether a decision was made by a leader who knew this state.

        A Go leader never does: it leaves no record.

        Args:
            record: the stored decision's; None if it has none.
        """
        recorded = None if record is None else record.options.get("control")
        revision = recorded.get("revision") if isinstance(recorded, Mapping) else None
        if not self.revision:  # there is no such key
            return record is not None and revision is None
        return isinstance(revision, int) and revision >= self.revision

    # What operators do

    def pause(self, note: Note | None = None) -> Self:
        """Freeze decisions."""
        return replace(self, paused=True, notes=self._noting("paused", note))

    def resume(self) -> Self:
        """Let the leader decide again."""
        return replace(self, paused=False, notes=self._noting("paused", None))

    def drain(self, name: str, note: Note | None = None) -> Self:
        """Let a host not be chosen any more, whether it is there or not."""
        _check_name(name)
        return replace(
            self, drained=self.drained | {name}, notes=self._noting(f"drained/{name}", note)
        )

    def undrain(self, name: str) -> Self:
        """Let a host be chosen again."""
        _check_name(name)
        return replace(
            self, drained=self.drained - {name}, notes=self._noting(f"drained/{name}", None)
        )

    def set_count(self, max_count: int | None, note: Note | None = None) -> Self:
        """Say how many hosts may be chosen; None leaves it to the leader's option."""
        if max_count is None:
            return replace(self, max_count=None, notes=self._noting("max_count", None))
        if isinstance(max_count, bool) or not isinstance(max_count, int):
            raise TypeError(f"max_count must be an int or None, not {type(max_count).__name__}")
        if max_count < 1:
            words = "pause, or drain hosts"
            raise ValueError(f"max_count must be 1 or more, not {shown(max_count)}; {words}")
        check_max_count(max_count)
        return replace(self, max_count=max_count, notes=self._noting("max_count", note))

    def evict(self, name: str, *, revision: int, lease: int = 0, note: Note | None = None) -> Self:
        """Let a host's place move elsewhere, once.

        Args:
            name: of the host.
            revision: the store's revision at which this state was read, that is, that
                of the answer's header; not the key's.
            lease: of the host, so that no other host of its name is meant; 0 if unknown.
            note: who wanted it.
        """
        _check_name(name)
        check_int("revision", revision, 1)
        check_int("lease", lease)
        evictions = {**self.evictions, name: Eviction(revision, lease)}
        newest = sorted(evictions, key=lambda each: evictions[each].revision)[-_MAX_EVICTIONS:]
        notes = self._noting(f"evict/{name}", note)
        return replace(
            self,
            evictions=MappingProxyType({each: evictions[each] for each in newest}),
            notes=MappingProxyType(
                {
                    what: each
                    for what, each in notes.items()
                    if not what.startswith("evict/") or what.removeprefix("evict/") in newest
                }
            ),
        )

    def _noting(self, what: str, note: Note | None) -> Mapping[str, Mapping[str, object]]:
        notes = {name: found for name, found in self.notes.items() if name != what}
        if note is not None:
            notes[what] = note.as_json()
        return MappingProxyType(notes)


def _decode_evictions(found: Mapping[str, object]) -> Mapping[str, Eviction]:
    evictions: dict[str, Eviction] = {}
    for name, stored in found.items():
        if not name or not isinstance(stored, dict) or type(stored.get("revision")) is not int:
            continue
        try:
            lease = int(stored.get("lease", "0"), 16)
        except (TypeError, ValueError):
            continue  # it was about one host, and it is not known which
        extra = {
            field: value for field, value in stored.items() if field not in {"revision", "lease"}
        }
        evictions[name] = Eviction(stored["revision"], lease, MappingProxyType(extra))
    return MappingProxyType(evictions)


def _check_name(name: str) -> None:
    if not isinstance(name, str):
        raise TypeError(f"a host's name must be a str, not {type(name).__name__}")
    if not name:
        raise ValueError("a host's name must not be empty")
    bytewise(name)  # a UnicodeEncodeError is a ValueError
