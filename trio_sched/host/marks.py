"""Marks: which slots went with their lease, and when they may be taken.

Theory of operation
-------------------
A slot's key hangs on the session of its holder. When that lease ends, the key is gone, but the
holder may not have ended its work yet: etcd may have taken the lease away early (etcd issue
15247), or an operator did. So each slot that is taken has a *mark*, a second key, which does
not hang on the session but on the lease of the decision. The holder or its reaper deletes it with
the slot, when the work has ended. A mark without a slot is a slot that went with its lease and
was not released. It counts as held until a host has seen it so for its
``takeover_pause``; a holder that is connected has ended its work by then, and has deleted the
mark long before.

The value of a mark is made for one take and for no other. So a release is guarded by it, and
a mark may be put again, under another lease, without a change of what it means.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf

from trio_sched._support.chance import chance
from trio_sched.model.keys import PathKeys
from trio_sched.model.stored_decision import StoredKey

__all__ = ["Marks", "is_of_lease", "new_mark"]


def new_mark(hostname: str, lease: int) -> bytes:
    """Return the value of the mark of a slot that is about to be taken."""
    return f"{lease:x}.{chance().getrandbits(64):x} {hostname}".encode()


def is_of_lease(mark: bytes, lease: int) -> bool:
    """Return whether a mark was made under this session."""
    return mark.startswith(b"%x." % lease)


class Marks:
    """What one host knows of the marks of a path.

    Args:
        keys: of the path.
        pause: seconds for which a slot that was not released counts as held.

    Attributes:
        pause: as given.
    """

    def __init__(self, keys: PathKeys, pause: float) -> None:
        self._keys = keys
        self.pause: float = pause
        self._seen_at: dict[bytes, float] = {}  # by trio's clock; by the mark's value

    def update(self, found: Iterable[StoredKey], held: Iterable[int], now: float) -> None:
        """Take in a read of all slots and marks, at `now` by trio's clock."""
        marks = self.by_number(found)
        alone = {kv.value for number, kv in marks.items() if number not in set(held)}
        self._seen_at = {value: self._seen_at.get(value, now) for value in alone}

    def by_number(self, found: Iterable[StoredKey]) -> Mapping[int, StoredKey]:
        """Return the marks among these keys, by the number of their slots."""
        numbered = ((self._keys.mark_number(kv.key), kv) for kv in found)
        return {number: kv for number, kv in numbered if number is not None}

    def over_at(self, mark: bytes) -> float:
        """Return when a slot's pause is over, by trio's clock; minus infinity if it is held."""
        return self._seen_at.get(mark, -inf) + self.pause
