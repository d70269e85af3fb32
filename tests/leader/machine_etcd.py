"""A tiny model of etcd, for the leaders' cores: it keeps what matters to them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from trio_sched.leader.machine import (
    ControlChanged,
    DecisionChanged,
    Event,
    HostJoined,
    HostLeft,
    WriteDecision,
    WriteDone,
    WriteRefused,
)
from trio_sched.model.control_state import ControlState
from trio_sched.model.records import DecisionRecord, Host, decode_scheduled, encode_scheduled
from trio_sched.model.stored_decision import StoredDecision

HOSTS = ("a", "b", "c", "d", "e")
EVICTED = re.compile(r"((?:\b[a-e], )*\b[a-e]) evicted")


@dataclass(slots=True)
class Key:
    value: bytes
    lease: int
    created: int
    modified: int


class Etcd:
    """Keys with revisions, one guarded transaction, and a log of what a watch says."""

    def __init__(self, *, compares_fence: bool) -> None:
        self.compares_fence = compares_fence
        self.revision = 1
        self.keys: dict[str, Key] = {}
        self.log: list[Event] = []
        self.lives: set[tuple[str, int]] = set()  # every (host, lease) that ever lived
        self.control = ControlState()
        self.controls: dict[int, ControlState] = {}  # by revision
        self.evicted: list[tuple[str, int]] = []  # (host, revision) of evictions carried out

    def put(self, name: str, value: bytes, lease: int = 0) -> None:
        old = self.keys.get(name)
        created = self.revision if old is None else old.created
        self.keys[name] = Key(value, lease, created, self.revision)

    def host(self, name: str) -> Host:
        key = self.keys["exchange/" + name]
        return Host.decode(name, key.value, lease=key.lease, joined_revision=key.created)

    def hosts(self) -> dict[str, Host]:
        names = [name.removeprefix("exchange/") for name in self.keys if "exchange/" in name]
        return {name: self.host(name) for name in names}

    def put_host(self, name: str, value: bytes) -> None:
        self.revision += 1
        old = self.keys.get("exchange/" + name)
        self.put("exchange/" + name, value, self.revision if old is None else old.lease)
        self.lives.add((name, self.host(name).lease))
        self.log.append(HostJoined(self.host(name), self.revision))

    def delete_host(self, name: str) -> None:
        if self.keys.pop("exchange/" + name, None) is not None:
            self.revision += 1
            self.log.append(HostLeft(name, self.revision))

    def stored(self) -> StoredDecision:
        scheduled, decision = self.keys.get("scheduled"), self.keys.get("decision")
        record = None if decision is None else DecisionRecord.decode(decision.value)
        if scheduled is None:
            return StoredDecision(
                (), 0, self.revision, 0, None if record is None or record.hosts else record
            )
        if decision is None or decision.modified != scheduled.modified:
            record = None
        names = decode_scheduled(scheduled.value)
        return StoredDecision(names, scheduled.modified, self.revision, scheduled.lease, record)

    def put_scheduled(self, names: tuple[str, ...]) -> None:
        """Write as the Go package, or an operator, would: no guard, no record."""
        if not names and "scheduled" not in self.keys:
            return
        self.revision += 1
        if names:
            self.put("scheduled", encode_scheduled(names))
        else:
            del self.keys["scheduled"]
        self.log.append(DecisionChanged(self.stored()))

    def put_control(self, control: ControlState) -> None:
        """Write as an operator does who has read the key at the newest revision."""
        self.revision += 1
        self.control = ControlState.decode(control.encode(), self.revision)
        self.controls[self.revision] = self.control
        self.log.append(ControlChanged(self.control, self.revision))

    def note_evictions(self, record: DecisionRecord) -> None:
        """Keep which evictions a decision that has landed says that it carried out."""
        found = EVICTED.search(record.reason)
        if found is not None:
            wishes = record.options["control"]
            assert isinstance(wishes, dict)
            evictions = self.controls[wishes["revision"]].evictions
            for name in found[1].split(", "):
                self.evicted.append((name, evictions[name].revision))
                assert name not in record.hosts

    def write(self, write: WriteDecision, candidate: str) -> Event:
        key = self.keys.get("election/" + candidate)
        fenced = key is None or key.created != write.fence
        if fenced and self.compares_fence:
            return WriteRefused(True, self.stored(), write.fence)  # noqa: FBT003
        scheduled = self.keys.get("scheduled")
        if (0 if scheduled is None else scheduled.modified) != write.expected_revision:
            return WriteRefused(False, self.stored(), write.fence)  # noqa: FBT003
        assert not fenced, "a write by an ex-leader has landed"
        self.revision += 1
        if write.record.hosts:
            self.put("scheduled", encode_scheduled(write.record.hosts), write.fence)
        else:
            self.keys.pop("scheduled", None)
        self.put("decision", write.record.encode(), write.fence)
        self.note_evictions(write.record)
        self.log.append(DecisionChanged(self.stored()))
        return WriteDone(self.revision, write.fence)
