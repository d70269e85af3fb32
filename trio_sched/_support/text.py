"""Names and texts: how they are shortened, listed and sorted. Pure.

Host names come out of etcd as they are: bytes that are no UTF-8 are kept as surrogates.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["bytewise", "clip", "list_names", "plain"]


def bytewise(name: str) -> bytes:
    """Return a name as etcd has it; as a key for sorting, the order is etcd's.

    Raises:
        UnicodeEncodeError: a ValueError: it has half a surrogate pair.
    """
    return name.encode(errors="surrogateescape")


def clip(text: str, limit: int) -> str:
    """Return at most `limit` letters of a text, all of them fit for UTF-8.

    The last one is an ellipsis if some are left out.
    """
    text = text.encode(errors="replace").decode()
    return text if len(text) <= limit else text[: limit - 1] + "…"


def list_names(names: Iterable[str], limit: int) -> str:
    """Return the first `limit` names separated by commas, and how many more there are."""
    every = tuple(names)
    shown = ", ".join(every[:limit])
    more = len(every) - limit
    return f"{shown} and {more} more" if more > 0 else shown


def plain(text: str) -> str:
    """Return text that does nothing to a terminal: what cannot be printed, as an escape.

    Names and notes come out of etcd, where any client may have written anything.
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else _escaped(letter) for letter in text)


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape", errors="backslashreplace").decode("ascii")
