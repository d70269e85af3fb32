"""What is expected of keys in etcd, if a view of a path is the newest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from trio_sched.etcd_shim import Compare, Get, GetResult, KeyValue
from trio_sched.model.keys import KeyRange
from trio_sched.model.path_view import PathView
from trio_sched.model.stored_decision import StoredKey

__all__ = ["Expectation", "Leftovers", "expected", "expected_to_lead", "mod_revision"]

_FEW: Final = 12  # keys that a leader has to know, so that each is expected by itself


@dataclass(frozen=True, slots=True)
class Expectation:
    """What is expected of a key: that it is as it was, or does not hang on a lease.

    Or, of all keys from it to an end, that none was put after a revision.

    Attributes:
        mod_revision: what it has; 0 if it is not there.
        not_on: id of the lease that it must not hang on; if given, all else may be as it is.
        end: the first key behind the range; empty if it is about one key.
        newest: the revision after which none was put.
    """

    mod_revision: int = 0
    not_on: int = 0
    end: bytes = b""
    newest: int = 0

    def compare(self, key: bytes) -> Compare:
        """Return the condition for it."""
        if self.end:
            newer = Compare.mod_revision(key, "<", self.newest + 1)
            return newer.over(self.end)
        if self.not_on:
            return Compare.lease(key, "!=", self.not_on)
        return Compare.mod_revision(key, "==", self.mod_revision)

    def look(self, key: bytes) -> Get:
        """Return the read that shows whether it is met."""
        if self.end:
            newer = self.newest + 1
            return Get(key, self.end, limit=1, keys_only=True, min_mod_revision=newer)
        return Get(key, keys_only=True)

    def is_shown(self, found: GetResult) -> bool:
        """Return whether that read shows that it is met."""
        return not found.kvs if self.end else self.is_met(found.kv)

    def is_met(self, kv: KeyValue | None) -> bool:
        """Return whether a key, None if it is not there, is as expected."""
        if self.not_on:
            return kv is None or kv.lease != self.not_on
        return self.mod_revision == (0 if kv is None else kv.mod_revision)


class Leftovers(Protocol):
    """Keys of ours that we have deleted, and that a store that was restored may hold again."""

    def keys(self) -> Mapping[bytes, int]:
        """Return the keys, each with the lease that it hung on."""

    def note_found(self, kv: KeyValue) -> None:
        """Note that one of them is there, on that lease."""


def expected(
    view: PathView, proven: Iterable[bytes], leftovers: Leftovers | None
) -> dict[bytes, Expectation]:
    """Return the keys to be proven: as they are in the view, or not to hang on our lease.

    Args:
        view: is to be shown to be the newest.
        proven: keys that are to be proven wherever they are covered.
        leftovers: what must not be there; None for nothing.
    """
    single = [each.first for each in view.covered if each == KeyRange.of(each.first)]
    keys = [key for key in dict.fromkeys((*proven, *single)) if view.covers(key)]
    known = {key: Expectation(mod_revision(view.get(key))) for key in keys}
    left = leftovers.keys() if leftovers is not None else {}
    return {key: Expectation(not_on=lease) for key, lease in left.items()} | known


def expected_to_lead(
    view: PathView, proven: Iterable[bytes], read_at: int
) -> dict[bytes, Expectation]:
    """Return what shows, besides, that all that a leader has to know is the newest.

    It is the other hosts' keys, each as it was, and that none was put since all was read. Nothing,
    where there are many of them, or where some was put since: then they are read now and then. That
    events came since which say more proves nothing: the watch may have missed one before them.

    Args:
        view: is to be shown to be the newest.
        proven: keys that are proven besides.
        read_at: the revision of the last read of all of it.
    """
    keys = view.keys
    if keys.leading not in view.covered:
        return {}
    there = view.within(keys.leading)
    prefixes = [KeyRange.below(each) for each in (keys.exchange, keys.election)]
    if len(there) > _FEW or any(
        kv.mod_revision > read_at for kv in there if any(kv.key in each for each in prefixes)
    ):
        return {}
    skipped = {*proven}
    others = {kv.key: Expectation(kv.mod_revision) for kv in there if kv.key not in skipped}
    others.setdefault(keys.control, Expectation())
    for prefix in prefixes:
        others[prefix.first] = Expectation(end=prefix.end, newest=read_at)
    return others


def mod_revision(kv: StoredKey | None) -> int:
    """Return when a key was put last; 0 if it is not there."""
    return 0 if kv is None else kv.mod_revision
