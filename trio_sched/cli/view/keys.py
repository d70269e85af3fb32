"""What is typed on a terminal, as keys. Pure."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["KeyParser"]

# What terminals send for keys that are no letters, after ESC; in both modes of cursor keys.
_NAMES: Final = {
    "[A": "up", "OA": "up", "[B": "down", "OB": "down",
    "[5~": "page up", "[6~": "page down",
    "[H": "home", "OH": "home", "[1~": "home", "[7~": "home",
    "[F": "end", "OF": "end", "[4~": "end", "[8~": "end",
}  # fmt: skip
_SEQUENCE: Final = re.compile(r"\[[0-?]*[ -/]*[@-~]|O[@-~]")  # ECMA-48's CSI, and SS3
_BEGUN: Final = re.compile(r"\[[0-?]*[ -/]*|O|")  # the begin of one
_MAX_SEQUENCE: Final = 32  # letters; what is longer is none


class KeyParser:
    """Makes keys of what a terminal sends, in pieces of any size."""

    def __init__(self) -> None:
        self._rest = ""

    def feed(self, data: bytes) -> list[str]:
        """Return the keys that are complete: letters, and names such as ``page up``.

        An unknown sequence is no key, and an ESC alone is none either.
        """
        text = self._rest + data.decode("ascii", "replace")
        self._rest = ""
        keys: list[str] = []
        at = 0
        while at < len(text):
            if text[at] != "\x1b":
                keys.append(text[at])
                at += 1
                continue
            at += 1
            found = _SEQUENCE.match(text, at)
            if found is not None:
                at = found.end()
                keys += [_NAMES[found[0]]] if found[0] in _NAMES else []
            elif len(text) - at < _MAX_SEQUENCE and _BEGUN.fullmatch(text, at):
                self._rest = text[at - 1 :]
                break
        return keys
