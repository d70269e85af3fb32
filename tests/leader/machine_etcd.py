"""The etcd in memory, in the words of the leaders' cores: a thin vocabulary over its `Store`."""

from __future__ import annotations

import re

from trio_sched.etcd_shim._pb import messages_pb2 as pb
from trio_sched.etcd_shim.kv import Compare, Delete, Get, Put, Txn, TxnResult
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
from trio_sched.model.keys import KeyRange, PathKeys
from trio_sched.model.records import DecisionRecord, Host, encode_scheduled
from trio_sched.model.stored_decision import StoredDecision
from trio_sched.simulation.memory_leases import Leases
from trio_sched.simulation.memory_store import Commit, Store

HOSTS = ("a", "b", "c", "d", "e")
EVICTED = re.compile(r"((?:\b[a-e], )*\b[a-e]) evicted")
KEYS = PathKeys("/p")
TTL = 10


class Etcd:
    """A store, one guarded transaction, and a log of what a watch says."""

    def __init__(self, *, compares_fence: bool) -> None:
        self.compares_fence = compares_fence
        self.store = Store(self._see, Leases())
        self.log: list[Event] = []
        self.lives: set[tuple[str, int]] = set()  # every (host, lease) that ever lived
        self.control = ControlState()
        self.controls: dict[int, ControlState] = {}  # by revision
        self.evicted: list[tuple[str, int]] = []  # (host, revision) of evictions carried out

    @property
    def revision(self) -> int:
        return self.store.revision

    # What is there

    def find(self, key: bytes) -> pb.KeyValue | None:
        found = self.store.range(pb.RangeRequest(key=key)).kvs
        return found[0] if found else None

    def within(self, prefix: bytes) -> list[pb.KeyValue]:
        keys = KeyRange.below(prefix)
        return [*self.store.range(pb.RangeRequest(key=keys.first, range_end=keys.end)).kvs]

    def has_host(self, name: str) -> bool:
        return self.find(KEYS.host(name)) is not None

    def host(self, name: str) -> Host:
        kv = self.find(KEYS.host(name))
        assert kv is not None
        return host_of(kv)

    def hosts(self) -> dict[str, Host]:
        return {host.name: host for host in map(host_of, self.within(KEYS.exchange))}

    def stored(self) -> StoredDecision:
        return StoredDecision.pair(self.find(KEYS.scheduled), self.find(KEYS.record), self.revision)

    def leader(self) -> tuple[str, int] | None:
        """The oldest candidate, with its fence."""
        found = min(self.within(KEYS.election), key=lambda kv: kv.create_revision, default=None)
        return None if found is None else (found.value.decode(), found.create_revision)

    # What is done to it

    def put(self, key: bytes, value: bytes, lease: int = 0) -> None:
        self.grant(lease)
        self.store.put(pb.PutRequest(key=key, value=value, lease=lease))

    def delete(self, key: bytes) -> None:
        self.store.delete_range(pb.DeleteRangeRequest(key=key))

    def grant(self, lease: int) -> None:
        if lease and lease not in self.store.leases:
            self.store.leases.grant(lease, TTL, 0.0)

    def put_host(self, name: str, value: bytes) -> None:
        old = self.find(KEYS.host(name))
        self.put(KEYS.host(name), value, self.revision + 1 if old is None else old.lease)

    def delete_host(self, name: str) -> None:
        if self.has_host(name):
            self.store.end_lease(self.host(name).lease)

    def put_candidate(self, name: str) -> None:
        if self.find(KEYS.election + name.encode()) is None:
            self.put(KEYS.election + name.encode(), name.encode())

    def delete_candidate(self, name: str) -> None:
        self.delete(KEYS.election + name.encode())

    def put_scheduled(self, names: tuple[str, ...]) -> None:
        """Write as the Go package, or an operator, would: no guard, no record."""
        if names:
            self.put(KEYS.scheduled, encode_scheduled(names))
        else:
            self.delete(KEYS.scheduled)

    def put_control(self, control: ControlState) -> None:
        """Write as an operator does who has read the key at the newest revision."""
        self.put(KEYS.control, control.encode())

    def write(self, write: WriteDecision, candidate: str) -> Event:
        """Write a decision, by the transaction that a leader sends."""
        key, names = KEYS.election + candidate.encode(), write.record.hosts
        leading = Compare.create_revision(key, "==", write.fence)
        unchanged = Compare.mod_revision(KEYS.scheduled, "==", write.expected_revision)
        self.grant(write.fence)
        answer = self.txn(
            Txn(
                [leading, unchanged] if self.compares_fence else [unchanged],
                [
                    Get(key),
                    Put(KEYS.scheduled, encode_scheduled(names), write.fence)
                    if names
                    else Delete(KEYS.scheduled),
                    Put(KEYS.record, write.record.encode(), write.fence),
                ],
                [Get(key), Get(KEYS.scheduled), Get(KEYS.record)],
            )
        )
        ours = answer.get(0).kv
        fenced = ours is None or ours.create_revision != write.fence
        if not answer.succeeded:
            stored = StoredDecision.pair(answer.get(1).kv, answer.get(2).kv, answer.revision)
            fenced = fenced and self.compares_fence
            return WriteRefused(fenced=fenced, stored=stored, fence=write.fence)
        assert not fenced, "a write by an ex-leader has landed"
        self.note_evictions(write.record)
        return WriteDone(answer.revision, write.fence)

    def txn(self, txn: Txn) -> TxnResult:
        return TxnResult.decode(self.store.txn(txn.encode()))

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

    # What a watch says of it

    def _see(self, commit: Commit) -> None:
        revision, changes = commit
        for change in changes:
            kv = change.kv
            if kv.key.startswith(KEYS.exchange):
                self.log.append(self._host_changed(change, revision))
            elif kv.key == KEYS.control:
                self.control = ControlState.decode(kv.value, revision)
                self.controls[revision] = self.control
                self.log.append(ControlChanged(self.control, revision))
        if any(change.kv.key in KEYS.decision for change in changes):
            self.log.append(DecisionChanged(self.stored()))

    def _host_changed(self, change: pb.Event, revision: int) -> HostJoined | HostLeft:
        if change.type == pb.Event.DELETE:
            return HostLeft(KEYS.hostname(change.kv.key), revision)
        host = host_of(change.kv)
        self.lives.add((host.name, host.lease))
        return HostJoined(host, revision)


def host_of(kv: pb.KeyValue) -> Host:
    name, created = KEYS.hostname(kv.key), kv.create_revision
    return Host.decode(name, kv.value, lease=kv.lease, joined_revision=created)
