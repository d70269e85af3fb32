"""Text that has to fit on one line: what is cut ends in an ellipsis, and what room is shared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import ConsoleOptions
from rich.text import Text

__all__ = ["Names", "clip", "mark_of", "share"]

_MIN_NAME: Final = 8  # cells at which a part of a name says something


def mark_of(options: ConsoleOptions) -> str:
    """Return what stands for what is cut, in letters that the terminal has."""
    return "…" if options.encoding.startswith("utf") else "..."


def clip(text: Text, width: int, mark: str) -> Text:
    """Return the text, or as much of it as fits, with the mark; `width` is in cells."""
    if text.cell_len <= width:
        return text
    cut = text.copy()
    cut.truncate(max(width - len(mark), 0))
    cut.append(mark[: max(width, 0)])
    return cut


def share(wanted: Sequence[int], room: int) -> list[int]:
    """Return how many cells of the room each gets: as many as it wants, or an equal part."""
    given = [0] * len(wanted)
    for done, at in enumerate(sorted(range(len(wanted)), key=wanted.__getitem__)):
        given[at] = max(min(wanted[at], room // (len(wanted) - done)), 0)
        room -= given[at]
    return given


@dataclass(frozen=True, slots=True)
class Names:
    """Names with a comma between them, and what is said after them.

    Attributes:
        names: as a terminal can take them.
        after: what follows; it is never cut.
        style: of the names.
    """

    names: Sequence[str]
    after: str = ""
    style: str = ""

    def all(self) -> Text:
        """Return all of it."""
        return self._text(", ".join(self.names) or "none", "")

    def fit(self, width: int, mark: str) -> Text:
        """Return as many names as fit on a line of `width` cells, and how many more there are."""
        whole = self.all()
        if whole.cell_len <= width:
            return whole
        shown, length = 0, 0
        for name in self.names:
            length += Text(name).cell_len + 2
            rest = self._rest(shown + 1, mark)
            if length + len(rest) + len(self.after) > width:
                break
            shown += 1
        found = [*self.names[:shown]]
        if not found and len(self._rest(1, mark)) + len(self.after) + _MIN_NAME + 2 <= width:
            shown, left = 1, width - len(self._rest(1, mark)) - len(self.after) - 2
            found = [clip(Text(self.names[0]), left, mark).plain]
        text = self._text("".join(f"{name}, " for name in found), self._rest(shown, mark))
        return clip(text, width, mark)

    def _rest(self, shown: int, mark: str) -> str:
        return f"{mark} and {len(self.names) - shown} more"

    def _text(self, names: str, rest: str) -> Text:
        return Text.assemble((names, self.style), rest, self.after)
