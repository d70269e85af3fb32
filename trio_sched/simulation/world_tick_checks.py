"""What must hold of ticks in a world: checkers that read the diary alone, as `world_checks` does.

They parse keys and values, and work out names, by themselves.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from trio_sched.simulation.diary import Diary, Entry, Work
from trio_sched.simulation.plan import Plan

__all__ = ["check_ticks", "is_of_ticks"]

_TICKS: Final = b"/world/ticks/"
_OPEN: Final = b"/world/ticks.open/"
_EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
_LONG: Final = 15.0  # seconds after which one that was begun is done, or begun again


def is_of_ticks(key: bytes) -> bool:
    """Return whether a key says something of ticks; it may outlive the hosts."""
    return key.startswith((_TICKS, _OPEN))


@dataclass(slots=True)
class _Record:
    at: float
    state: str
    host: str
    token: int


@dataclass(slots=True)
class _Records:
    """What was recorded of each tick, in order; None where the record was gone."""

    of: dict[str, list[tuple[float, _Record | None]]] = field(default_factory=dict)

    @classmethod
    def read(cls, entries: list[Entry], until: float) -> _Records:
        records = cls()
        for entry in entries:
            if entry.at > until:
                break
            if entry.restored:
                for found in records.of.values():
                    found.append((entry.at, None))
            for change in entry.changes:
                if change.key.startswith(_TICKS):
                    name = change.key.removeprefix(_TICKS).decode()
                    record = None if change.value is None else _parsed(entry.at, change.value)
                    records.of.setdefault(name, []).append((entry.at, record))
        return records

    def newest(self) -> Mapping[str, _Record]:
        """Return what is recorded at the end."""
        last = {name: found[-1][1] for name, found in self.of.items()}
        return {name: record for name, record in last.items() if record is not None}


def _parsed(at: float, value: bytes) -> _Record:
    found: Any = json.loads(value)
    return _Record(at, found["state"], found["host"], found["token"])


def check_ticks(plan: Plan, diary: Diary, settled_at: float) -> Iterator[str]:
    """Return what must not be of ticks, one line each.

    Args:
        plan: of the world.
        diary: of it.
        settled_at: when all had settled; 0 if it never did.
    """
    if not plan.ticks:
        return
    records = _Records.read(diary.entries, float("inf"))
    works: dict[str, list[Work]] = {}
    for work in diary.works:
        works.setdefault(work.tick, []).append(work)
    for name, done in works.items():
        if plan.assumes:
            yield from _never_twice(name, done, records.of.get(name, []))
    if not any(entry.restored for entry in diary.entries):
        yield from _done_is_done(works, records)
    if settled_at:
        yield from _never_forgotten(plan, _Records.read(diary.entries, settled_at), settled_at)


def _never_twice(
    name: str, works: list[Work], records: list[tuple[float, _Record | None]]
) -> Iterator[str]:
    """Work is by a claim, not beside other work of the same tick, and not when that is done."""
    done_at = min((at for at, record in records if record and record.state == "done"), default=None)
    for work in works:
        claims = [record for at, record in records if record and at <= work.begin]
        if not any((each.host, each.token) == (work.host, work.token) for each in claims):
            yield f"{work.begin:.3f}: {work.host} does {name}, which it has not claimed"
        if done_at is not None and work.begin > done_at:
            yield f"{work.begin:.3f}: {work.host} does {name}, done at {done_at:.3f}"
        beside = [each for each in works if each.begin < work.begin < each.end]
        if beside:
            yield f"{work.begin:.3f}: {work.host} does {name} beside {beside[0].host}"


def _done_is_done(works: Mapping[str, list[Work]], records: _Records) -> Iterator[str]:
    """What is recorded as done was done, in the slot that it names."""
    for name, found in records.of.items():
        tokens = {(work.host, work.token) for work in works.get(name, []) if work.returned}
        for at, record in found:
            if record and record.state == "done" and (record.host, record.token) not in tokens:
                yield f"{at:.3f}: {name} is recorded as done by {record.host}, which did not"


def _never_forgotten(plan: Plan, records: _Records, settled_at: float) -> Iterator[str]:
    """When all has settled, what was begun is over, and what was due before that was begun."""
    newest = records.newest()
    for name, record in newest.items():
        if record.state != "done" and record.at < settled_at - _LONG:
            yield f"{settled_at:.3f}: {name} is {record.state} since {record.at:.3f}"
    quiet = max(plan.seconds, plan.last_fault)
    begin = (quiet // plan.ticks - 1) * plan.ticks  # clocks differ by less than half of one
    name = f"{_EPOCH + timedelta(seconds=begin):%Y-%m-%dT%H:%M:%SZ}"
    if begin >= 0 and max(newest, default="") < name:
        yield f"{settled_at:.3f}: {name} was never begun, nor any after it"
