"""What keys make of a view that is higher than its terminal. Pure."""

from __future__ import annotations

from typing import Final

from trio_sched.cli.view.selection import MATTERS, SHOWN, SORTS, Selection

__all__ = ["HELP", "Scroll"]

HELP: Final = (
    ("up, k", "a line up"),
    ("down, j", "a line down"),
    ("PgUp, b", "a page up"),
    ("PgDn, space", "a page down"),
    ("Home, g", "to the begin"),
    ("End, G", "to the end"),
    ("s", f"sort hosts by something else: {', '.join([MATTERS, *SORTS])}"),
    ("w", "all columns and whole texts, and back"),
    ("?", "this help, and back"),
    ("q", "leave"),
)
"""Keys, and what they do."""

_ORDER: Final = (MATTERS, *SORTS)
_LETTERS: Final = {
    "k": "up", "j": "down", "b": "page up", " ": "page down", "g": "home", "G": "end",
}  # fmt: skip


class Scroll:
    """Which part of a view is shown, and how.

    Attributes:
        wide: whether all columns are shown.
        helping: whether the help is shown instead.
        left: whether it is to end.
    """

    def __init__(self) -> None:
        self.wide: bool = False
        self.helping: bool = False
        self.left: bool = False
        self._sort: str | None = None
        self._top = self._total = 0
        self._room = 1

    def sort(self, hosts: int) -> str:
        """Return how so many hosts are sorted: as `status` does, unless `s` was pressed."""
        return self._sort or (MATTERS if hosts > SHOWN else "name")

    def selection(self, hosts: int) -> Selection:
        """Return which of so many hosts are shown: all can be reached."""
        return Selection(sort=self.sort(hosts), everything=True)

    def press(self, key: str, hosts: int) -> None:
        """A key was pressed, while there are so many hosts."""
        if key == "q":
            self.left = True
        elif self.helping or key == "?":
            self.helping = not self.helping
        elif key == "s":
            self._sort = _ORDER[(_ORDER.index(self.sort(hosts)) + 1) % len(_ORDER)]
        elif key == "w":
            self.wide = not self.wide
        else:
            page = max(self._room - 1, 1)  # one line stays, to read on from
            steps = {"up": -1, "down": 1, "page up": -page, "page down": page}
            steps |= {"home": -self._total, "end": self._total}
            self._move(steps.get(_LETTERS.get(key, key), 0))

    def window(self, total: int, room: int) -> slice:
        """Return which of so many lines are shown, where there is room for so many."""
        self._total, self._room = total, max(room, 1)
        self._move(0)
        return slice(self._top, min(self._top + self._room, total))

    def _move(self, lines: int) -> None:
        self._top = max(min(self._top + lines, self._total - self._room), 0)
