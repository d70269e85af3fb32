"""Which slots of a path were held at a revision: what refuses late requests outside of etcd. Pure.

A token alone does not say whether its slot is still held. The newest token of a slot's number
does not either: when fewer may run than before, no host takes the higher numbers any more. A
roster says it of all slots at once, whatever their numbers: a token that is not newer than the
roster, and not in it, is of a slot that is gone, and it never comes back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from trio_sched._support.arguments import check_instance, check_int, check_text, shown

__all__ = ["Roster"]


@dataclass(frozen=True, slots=True)
class Roster:
    """The slots of a path that were held at one revision. Given by `Slot.read_roster`.

    ``str()`` gives it as text, as ``trio-sched run`` has it in ``TRIO_SCHED_ROSTER``: the revision
    and then the tokens, with spaces in between; `parse` reads that.

    Attributes:
        revision: of the store, at which it was so.
        tokens: of the slots that were held then.
    """

    revision: int = 0
    tokens: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        check_int("revision", self.revision, 0)
        for token in check_instance("tokens", self.tokens, frozenset, "a frozenset of numbers"):
            check_int("each of tokens", token, 0)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the roster that ``str()`` has made a text of.

        Raises:
            ValueError: it is no such text.
        """
        words = check_text("text", text).split(" ")
        if not all(word.isascii() and word.isdigit() for word in words):
            raise ValueError(f"a roster is a revision and tokens, in digits, not {shown(text)}")
        revision, *tokens = map(int, words)
        return cls(revision, frozenset(tokens))

    def __str__(self) -> str:
        return " ".join(map(str, (self.revision, *sorted(self.tokens))))

    def admits(self, token: int) -> bool:
        """Return whether a slot may be held still: it was, or it has been taken since."""
        return check_int("token", token) > self.revision or token in self.tokens
