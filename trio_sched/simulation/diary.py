"""What is written down in a world: what the store did, and what each host thought and did.

The checkers read nothing else.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf

from trio_sched.etcd_shim._pb import messages_pb2 as pb

__all__ = ["Change", "Diary", "Entry", "Reading", "Work"]


@dataclass(frozen=True, slots=True)
class Change:
    """A key changed.

    Attributes:
        key: which.
        value: that it has now; None if it was deleted.
        created: its create_revision; 0 if it was deleted.
        lease: that it hangs on.
    """

    key: bytes
    value: bytes | None
    created: int
    lease: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A commit; or all that was there after the store was restored.

    Attributes:
        at: when, in seconds.
        revision: of it.
        changes: what changed.
        restored: True if the store became what `changes` holds, and nothing else.
    """

    at: float
    revision: int
    changes: Sequence[Change]
    restored: bool = False


@dataclass(frozen=True, slots=True)
class Reading:
    """A host read a decision.

    Attributes:
        at: when, in seconds.
        revision: of the decision.
        hosts: that are chosen.
    """

    at: float
    revision: int
    hosts: frozenset[str]


@dataclass(slots=True)
class Work:
    """A host worked.

    Attributes:
        host: its name.
        slot: the key of its slot.
        token: of its slot.
        begin: when it began.
        end: when it ended; infinity if it goes on.
        frozen: whether its host stood still while it went on.
        tick: the name of the tick that it was for; empty if it was for none.
        returned: whether it came to its end by itself.
    """

    host: str
    slot: bytes
    token: int
    begin: float
    end: float = inf
    frozen: bool = False
    tick: str = ""
    returned: bool = False


@dataclass(slots=True)
class Diary:
    """What is written down.

    Attributes:
        entries: of the store.
        readings: of each life of a host, by its label.
        lives: when each life joined, and when it ended; infinity if it goes on.
        works: all work.
        failures: what ended a host's block, which nothing was meant to end.
        refusals: what kept a host from joining; it tried again.
        log_lines: how many lines of its log each life wrote.
        requests: how many etcd was asked for, by the whole second in which it was.
    """

    entries: list[Entry] = field(default_factory=list)
    readings: dict[str, list[Reading]] = field(default_factory=dict)
    lives: dict[str, tuple[float, float]] = field(default_factory=dict)
    works: list[Work] = field(default_factory=list)
    failures: list[tuple[float, str, str]] = field(default_factory=list)
    refusals: list[tuple[float, str, str]] = field(default_factory=list)
    log_lines: dict[str, int] = field(default_factory=dict)
    requests: Counter[int] = field(default_factory=Counter)

    def see_commit(self, at: float, revision: int, events: Sequence[pb.Event]) -> None:
        """Write a commit down."""
        changes = tuple(
            Change(event.kv.key, None, 0, 0)
            if event.type == pb.Event.DELETE
            else Change(event.kv.key, event.kv.value, event.kv.create_revision, event.kv.lease)
            for event in events
        )
        self.entries.append(Entry(at, revision, changes))

    def see_restore(self, at: float, revision: int, kvs: Sequence[pb.KeyValue]) -> None:
        """Write down that the store is another one."""
        changes = tuple(Change(kv.key, kv.value, kv.create_revision, kv.lease) for kv in kvs)
        self.entries.append(Entry(at, revision, changes, restored=True))

    @property
    def digest(self) -> str:
        """A digest of all that is written down, in hex."""
        whole = hashlib.blake2b(digest_size=16)
        for entry in self.entries:
            whole.update(repr(entry).encode())
        for label, readings in self.readings.items():
            seen = [(reading.at, reading.revision, sorted(reading.hosts)) for reading in readings]
            whole.update(f"{label}{seen}".encode())
        whole.update(f"{self.works}{self.failures}{self.refusals}{self.log_lines}".encode())
        whole.update(f"{sorted(self.requests.items())}".encode())
        return whole.hexdigest()
