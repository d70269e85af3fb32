"""The state of a path as a JSON document, and back. Pure.

``docs/status.schema.json`` is its description for others. Within one ``format`` fields
may be added; none is taken away or means something else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias, TypeVar

from trio_sched.etcd_shim._versions import known_faults
from trio_sched.leader.diagnosis import (
    diagnose,
    differing_options,
    is_known_to_leader,
    is_pending,
    leader_ignores_control,
)
from trio_sched.model.control_state import ControlState, Eviction
from trio_sched.model.keys import check_path
from trio_sched.model.path_state import Candidate, HeldSlot, PathState
from trio_sched.model.records import DecisionRecord, Host, HostData, Hosts

__all__ = ["control_document", "document_of", "host_document", "state_of"]

Json: TypeAlias = dict[str, Any]
T = TypeVar("T")

_FORMAT = 1


def document_of(
    state: PathState,
    ttls: Mapping[int, int | None],
    *,
    age: float = 0.0,
    trouble: Sequence[str] | None = None,
    versions: Sequence[str] | None = None,
) -> Json:
    """Return the document.

    Args:
        state: the state.
        ttls: seconds until leases lapse, by their ids; None for one that is gone.
        age: seconds since etcd answered last.
        trouble: what is wrong with etcd itself; None if it was not asked.
        versions: of etcd's members; None if they were not asked.
    """
    leader = state.leader
    return {
        "format": _FORMAT,
        "path": state.path,
        "revision": state.revision,
        "age": round(age, 1),
        "trouble": None if trouble is None else [*trouble],
        **({} if versions is None else {"etcd": [_version(version) for version in versions]}),
        "leader": None
        if leader is None
        else {**_candidate(leader), "ignores_control": leader_ignores_control(state)},
        "candidates": [_candidate(candidate) for candidate in state.candidates],
        "decision": _decision(state),
        "pool": [host_document(state, host, ttls) for host in state.pool.values()],
        "slots": [
            {"slot": slot.index, "host": slot.name, "token": slot.token, "lease": f"{slot.lease:x}"}
            for slot in state.slots.values()
        ],
        "control": {
            **control_document(state.control, state),
            "known": is_known_to_leader(state, state.control.revision),
        },
        "differing_options": [
            {"host": name, "options": dict(options)}
            for name, options in differing_options(state).items()
        ],
        "warnings": [
            {
                "kind": finding.kind,
                "level": finding.level,
                "message": finding.message,
                "hosts": [*finding.hosts],
            }
            for finding in diagnose(state)
        ],
    }


def _version(version: str) -> Json:
    faults = [{"issue": fault.issue, "what": fault.what} for fault in known_faults(version)]
    return {"version": version, "known_faults": faults}


def host_document(state: PathState, host: Host, ttls: Mapping[int, int | None]) -> Json:
    """Return what is known of a host."""
    leader = state.leader
    return {
        "name": host.name,
        "scheduled": host.name in state.hosts,
        "leads": leader is not None and (leader.name, leader.lease) == (host.name, host.lease),
        "available": host.available,
        "reason": host.reason,
        "drained": host.name in state.control.drained,
        "weight": host.weight,
        "zone": host.zone,
        "priority": host.priority,
        "data": dict(host.data),
        "options": dict(host.options),
        "lease": f"{host.lease:x}",
        "ttl": ttls.get(host.lease),
        "joined_revision": host.joined_revision,
        "since": host.since or None,
        "trouble": host.trouble,
    }


def control_document(control: ControlState, state: PathState | None = None) -> Json:
    """Return what operators want; with a state, whether evictions are still to come."""
    evictions = []
    for name, eviction in control.evictions.items():
        item: Json = {"host": name, "revision": eviction.revision, "lease": f"{eviction.lease:x}"}
        if state is not None:
            item["pending"] = is_pending(state, name)
        evictions.append(item)
    notes = {what: control.note(what) for what in control.notes}
    return {
        "revision": control.revision,
        "paused": control.paused,
        "drained": sorted(control.drained),
        "max_count": control.max_count,
        "evictions": evictions,
        "notes": {what: note.as_json() for what, note in notes.items() if note is not None},
    }


def _candidate(candidate: Candidate) -> Json:
    return {
        "name": candidate.name,
        "lease": f"{candidate.lease:x}",
        "fence": candidate.fence,
    }


def _decision(state: PathState) -> Json | None:
    if not state.hosts.revision:
        return None
    record = state.record
    return {
        "hosts": [*state.hosts],
        "revision": state.hosts.revision,
        "record": None
        if record is None
        else {
            "leader": record.leader,
            "fence": record.fence,
            "reason": record.reason,
            "when": record.when or None,
            "options": dict(record.options),
            "hosts": [
                {"name": name, "lease": f"{lease:x}"} for name, lease in record.hosts.items()
            ],
        },
    }


# And back


def state_of(document: object) -> PathState:
    """Return the state that a document describes; only ``pool`` has to be there.

    Raises:
        ValueError: it is not such a document; the message says where.
    """
    reader = _Reader(document, "the document")
    form = reader.get("format", int, _FORMAT)
    if form != _FORMAT:
        raise ValueError(f"format must be {_FORMAT}, not {form}")
    if "pool" not in reader.raw:
        raise ValueError("the document must have a pool: that of `status -o json` has one")
    hosts = [_host(item) for item in reader.items("pool")]
    decision = reader.inner("decision")
    record = _record(decision.inner("record"))
    names = [_checked(name, str, "a host in decision.hosts") for name in decision.list("hosts")]
    leader = (record.leader, record.fence) if record is not None else (None, None)
    path = reader.get("path", str, "/dry/run")
    check_path(path)
    return PathState(
        path,
        reader.get("revision", int, 0),
        Hosts(names, revision=decision.get("revision", int, 0), leader=leader[0], fence=leader[1]),
        record,
        MappingProxyType({host.name: host for host in hosts}),
        tuple(
            Candidate(item.get("name", str), item.lease(), item.get("fence", int, 0))
            for item in reader.items("candidates")
        ),
        MappingProxyType(
            {slot.index: slot for slot in (_slot(item) for item in reader.items("slots"))}
        ),
        _control(reader.inner("control")),
    )


def _host(reader: _Reader) -> Host:
    name = reader.get("name", str)
    try:
        data = HostData(
            reader.get("weight", float, 1.0),
            reader.get("zone", str, None),
            reader.get("priority", int, 0),
            reader.inner("data").raw,
            reader.get("available", bool, True),
            reader.get("reason", str, ""),
        )
    except (TypeError, ValueError) as exc:
        raise ValueError(f"host {name!r}: {exc}") from None
    return Host(
        name,
        reader.lease(),
        reader.get("joined_revision", int, 0),
        data.data,
        MappingProxyType(reader.inner("options").raw),
        data.weight,
        data.zone,
        data.priority,
        data.available,
        data.reason,
        reader.get("since", str, None) or "",
        reader.get("trouble", str, ""),
    )


def _record(reader: _Reader) -> DecisionRecord | None:
    if not reader.raw:
        return None
    return DecisionRecord(
        {item.get("name", str): item.lease() for item in reader.items("hosts")},
        reader.get("leader", str),
        reader.get("fence", int, 0),
        reader.get("reason", str, ""),
        MappingProxyType(reader.inner("options").raw),
        reader.get("when", str, None) or "",
    )


def _slot(reader: _Reader) -> HeldSlot:
    return HeldSlot(
        reader.get("slot", int),
        reader.get("host", str),
        reader.get("token", int, 0),
        reader.lease(),
    )


def _control(reader: _Reader) -> ControlState:
    max_count = reader.get("max_count", int, None)
    ControlState().set_count(max_count)  # checks it
    return ControlState(
        reader.get("paused", bool, False),
        frozenset(
            _checked(name, str, "a host in control.drained") for name in reader.list("drained")
        ),
        max_count,
        MappingProxyType(
            {
                item.get("host", str): Eviction(item.get("revision", int), item.lease())
                for item in reader.items("evictions")
            }
        ),
        MappingProxyType(
            {
                what: MappingProxyType(_checked(note, dict, f"control.notes[{what!r}]"))
                for what, note in reader.inner("notes").raw.items()
            }
        ),
        revision=reader.get("revision", int, 0),
    )


_NEEDED: Any = object()
_WORDS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}


class _Reader:
    """Reads an object out of JSON, and says what is wrong with it."""

    def __init__(self, raw: object, where: str) -> None:
        self.raw: Json = _checked(raw, dict, where)
        self._where = where

    def get(self, key: str, kind: type[T], default: Any = _NEEDED) -> Any:
        """Return a field; null stands for a field that is not there."""
        value = self.raw.get(key)
        if value is not None:
            return _checked(value, kind, f"{key} of {self._where}")
        if default is _NEEDED:
            raise ValueError(f"{self._where} needs {key}")
        return default

    def list(self, key: str) -> list[Any]:
        found: list[Any] = self.get(key, list, ())
        return found

    def items(self, key: str) -> Iterator[_Reader]:
        for at, item in enumerate(self.list(key)):
            yield _Reader(item, f"{key}[{at}]")

    def inner(self, key: str) -> _Reader:
        return _Reader(self.get(key, dict, {}), key)

    def lease(self) -> int:
        text = self.get("lease", str, "0")
        try:
            return int(text, 16)
        except ValueError:
            raise ValueError(f"lease of {self._where} must be hexadecimal, not {text!r}") from None


def _checked(value: object, kind: type[T], where: str) -> Any:
    kinds: Any = (int, float) if kind is float else kind
    if not isinstance(value, kinds) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{where} must be {_WORDS[kind]}, not {value!r:.40}")
    return value
