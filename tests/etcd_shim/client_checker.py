"""Judges what a client said of its writes and watches, by the history of the store. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from typing import NamedTuple

__all__ = ["Change", "Fate", "Lapse", "Write", "judge_lapses", "judge_watch", "judge_writes"]


class Fate(Enum):
    """What a client said of a write."""

    ACKNOWLEDGED = "acknowledged"
    NOT_DONE = "not processed"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Write:
    """A write, as its client saw it.

    Attributes:
        number: what it wrote, to each of its keys; no other write has it.
        keys: which it put, in one revision.
        fate: what the client said.
        revision: of an acknowledged one.
    """

    number: int
    keys: tuple[bytes, ...]
    fate: Fate
    revision: int = 0


class Change(NamedTuple):
    """A change of one key.

    Attributes:
        revision: of the store.
        key: which.
        number: of the write; None for a deletion.
    """

    revision: int
    key: bytes
    number: int | None


@dataclass(frozen=True)
class Lapse:
    """The store was seen to be without a key of a lease that its owner keeps.

    Attributes:
        key: it.
        at: when, by any clock.
        alive: whether the client said, after that, that the lease lives.
    """

    key: str
    at: float
    alive: bool


def judge_writes(writes: Iterable[Write], history: Iterable[Change]) -> list[str]:
    """Check that each write is there once, not, or at most once, as its client said.

    Args:
        writes: those that may be in this part of the history.
        history: a part of it.
    """
    found: dict[int, list[tuple[int, bytes]]] = {}
    for change in history:
        if change.number is not None:
            found.setdefault(change.number, []).append((change.revision, change.key))
    violations: list[str] = []
    for write in writes:
        violations += _judge_write(write, found.pop(write.number, []))
    return violations + [f"write {number} is of no client, or came before" for number in found]


def _judge_write(write: Write, found: list[tuple[int, bytes]]) -> list[str]:
    revisions = sorted({revision for revision, _ in found})
    words = f"write {write.number}, {write.fate.value}"
    if len(revisions) > 1:
        return [f"{words}: there {len(revisions)} times, at {revisions}"]
    if write.fate is Fate.NOT_DONE and found:
        return [f"{words}: there, at {revisions[0]}"]
    if write.fate is Fate.ACKNOWLEDGED and not found:
        return [f"{words} at {write.revision}: lost"]
    if write.fate is Fate.ACKNOWLEDGED and revisions != [write.revision]:
        return [f"{words} at {write.revision}: there at {revisions[0]}"]
    if found and sorted(key for _, key in found) != sorted(write.keys):
        return [f"{words}: of its keys there are {[key for _, key in found]}"]
    return []


def judge_watch(name: str, expected: Sequence[Change], seen: Sequence[Change]) -> list[str]:
    """Check that a watch brought each change once, in order, and nothing else.

    Args:
        name: of the watch.
        expected: what the store changed in its range while it watched.
        seen: what it brought.
    """
    if list(expected) == list(seen):
        return []
    missing = sorted(set(expected) - set(seen), key=_at)
    strange = sorted(set(seen) - set(expected), key=_at)
    return [
        *(f"{name}: {change} came {seen.count(change)} times" for change in _repeated(seen)),
        *(f"{name}: {change} did not come" for change in missing),
        *(f"{name}: {change} was not to come" for change in strange),
        *(f"{name}: {late} came before {early}" for early, late in _disordered(seen)),
    ]


def _at(change: Change) -> tuple[int, bytes]:
    return change.revision, change.key


def _repeated(seen: Sequence[Change]) -> list[Change]:
    return [change for change, times in Counter(seen).items() if times > 1]


def _disordered(seen: Sequence[Change]) -> list[tuple[Change, Change]]:
    pairs = pairwise(dict.fromkeys(seen))
    return [(after, before) for before, after in pairs if after.revision < before.revision]


def judge_lapses(
    lapses: Iterable[Lapse], risky: Sequence[tuple[float, float]] = ()
) -> tuple[list[str], list[str]]:
    """Find leases that a client said to live though they did not.

    Args:
        lapses: what was seen.
        risky: times in which etcd is known to take leases away that were renewed (etcd#15247).

    Returns:
        Those that must not be, and those that are predicted.
    """
    wrong = [lapse for lapse in lapses if lapse.alive]
    words = {lapse: f"{lapse.key} is gone, and its client said that it lives" for lapse in wrong}
    predicted = [
        lapse for lapse in wrong if any(first <= lapse.at <= last for first, last in risky)
    ]
    return [words[lapse] for lapse in wrong if lapse not in predicted], [
        words[lapse] for lapse in predicted
    ]
