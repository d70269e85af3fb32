"""The pictures of the pages, drawn by code: ``python -m tests.docs.pictures`` writes them.

They are narrow, so that nothing is too small to be read on a phone. Colours are those of the charts
of `trio_sched.simulation`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Final

from tests.places import DOCS
from trio_sched import schedule
from trio_sched.etcd_shim._keep import margin_of

__all__ = ["FOLDER", "PICTURES"]

FOLDER: Final = DOCS / "pictures"
_WIDTH: Final = 520
_INK, _GREY, _LINE = "#1c2733", "#5b6b7b", "#cdd6df"
_GREEN, _BLUE, _RED, _PALE = "#2f9e63", "#2b6cb0", "#d64545", "#e6ebf0"
_FONT: Final = "ui-sans-serif, system-ui, 'DejaVu Sans', Helvetica, Arial, sans-serif"


def _text(
    x: float, y: float, words: str, *, colour: str = _INK, anchor: str = "start", size: int = 14
) -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" fill="{colour}" font-size="{size}" '
        f'text-anchor="{anchor}">{escape(words)}</text>'
    )


def _box(x: float, y: float, width: float, height: float, colour: str) -> str:
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="3" fill="{colour}"/>'
    )


def _line(x: float, y: float, to_x: float, to_y: float, colour: str = _LINE) -> str:
    return f'<path d="M{x:g} {y:g}L{to_x:g} {to_y:g}" stroke="{colour}" stroke-width="1.5"/>'


def _arrow(x: float, to_x: float, y: float, colour: str) -> str:
    back = -7 if to_x > x else 7
    return _line(x, y, to_x, y, colour) + (
        f'<path d="M{to_x:g} {y:g}l{back} -4v8z" fill="{colour}"/>'
    )


def _picture(title: str, height: float, body: Iterator[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:g}" '
        f'width="{_WIDTH}" height="{height:g}" font-family="{_FONT}" role="img">'
    )
    ground = f'<rect width="{_WIDTH}" height="{height:g}" fill="#ffffff"/>'
    return "\n".join([head, f"<title>{escape(title)}</title>", ground, *body, "</svg>\n"])


# The hosts and etcd, and where their lines are.
_PLACES: Final = {"b joins": 60, "etcd": 190, "a leads": 330, "c": 460}
# From whom to whom, and what; to itself if there is one name alone.
_TRAVEL: Final[Sequence[tuple[Sequence[str], str, str]]] = (
    (("b joins", "etcd"), "1  its key, and its candidate key: one transaction", _BLUE),
    (("etcd", "a leads"), "2  an event: b is there", _GREY),
    (("a leads",), "3  the strategy chooses", _GREEN),
    (("a leads", "etcd"), "4  the decision, if a still leads and nothing came between", _BLUE),
    (("etcd", "b joins"), "5  an event, the same for all: same order, same revision", _GREY),
    (("etcd", "a leads"), "", _GREY),
    (("etcd", "c"), "", _GREY),
    (("b joins",), "6  each reader gets the newest", _GREEN),
    (("a leads",), "", _GREEN),
    (("c",), "", _GREEN),
)


def decision() -> str:
    """The travel of a decision, from a host that joins to all readers."""
    return _picture("How a decision travels", 372, _decision())


def _decision() -> Iterator[str]:
    for name, x in _PLACES.items():
        colour = _GREY if name == "etcd" else _INK
        yield _line(x, 40, x, 356)
        yield _text(x, 28, name, colour=colour, anchor="middle", size=15)
    y = 40.0
    for places, words, colour in _TRAVEL:
        if words:
            y += 52 if len(places) > 1 else 44
            yield _box(12, y - 24, 500, 20, "#ffffff")
            yield _text(16, y - 9, words, colour=colour)
        start, *end = (_PLACES[name] for name in places)
        if end:
            yield _arrow(start, end[0], y, colour)
        else:
            yield f'<circle cx="{start}" cy="{y:g}" r="6" fill="{colour}"/>'


# What happens, and then for each host, and for the slot: from, to, colour, words.
_Bars = Sequence[tuple[str, Sequence[tuple[float, float, str, str]]]]
_HANDOVERS: Final[Sequence[tuple[str, _Bars, str]]] = (
    (
        "a is drained, or leaves",
        (
            ("a", ((0, 4.2, _GREEN, "works"), (4.2, 5.4, _BLUE, "ends"))),
            ("slot", ((0, 5.4, _LINE, "a's"), (5.7, 10, _LINE, "b's"))),
            ("b", ((5.7, 10, _GREEN, "works"),)),
        ),
        "some milliseconds after a's work has ended",
    ),
    (
        "a is killed, and has a reaper",
        (
            ("a", ((0, 4.2, _GREEN, "works"),)),
            ("slot", ((0, 4.9, _LINE, "a's"), (5.2, 10, _LINE, "b's"))),
            ("b", ((5.2, 10, _GREEN, "works"),)),
        ),
        "about 0.1 s: the reaper ends what is left, and revokes",
    ),
    (
        "a is killed, or its machine is gone",
        (
            ("a", ((0, 2.2, _GREEN, "works"),)),
            ("slot", ((0, 5.9, _LINE, "a's, until the lease has lapsed"), (7, 10, _LINE, "b's"))),
            ("b", ((5.9, 7, _PALE, "pause"), (7, 10, _GREEN, "works"))),
        ),
        "a TTL, and takeover_pause",
    ),
    (
        "a is cut off from etcd",
        (
            ("a", ((0, 4.2, _GREEN, "works"), (4.2, 5.4, _BLUE, "ends"))),
            ("slot", ((0, 5.9, _LINE, "a's, until the lease has lapsed"), (7, 10, _LINE, "b's"))),
            ("b", ((5.9, 7, _PALE, "pause"), (7, 10, _GREEN, "works"))),
        ),
        "a's work has ended by its deadline, before the lease can lapse",
    ),
)


def handover() -> str:
    """Hand-overs on a time line: how work moves from one host to another."""
    return _picture("A hand-over on a time line", 40 + 128 * len(_HANDOVERS), _handover())


def _handover() -> Iterator[str]:
    left, scale = 56, 45
    y = 26.0
    for title, rows, words in _HANDOVERS:
        yield _text(12, y, title, size=15)
        for number, (name, bars) in enumerate(rows):
            top = y + 12 + 24 * number
            yield _text(12, top + 15, name, colour=_GREY)
            for start, end, colour, label in bars:
                x = left + start * scale
                yield _box(x, top, (end - start) * scale - 2, 20, colour)
                ink = "#ffffff" if colour in {_GREEN, _BLUE} else _INK
                yield _text(x + 6, top + 15, label, colour=ink, size=13)
        yield _text(left, y + 100, words, colour=_GREY, size=13)
        y += 128
    yield _text(12, y, "Time goes to the right; not to scale.", colour=_GREY, size=13)


def deadline(ttl: float = 10) -> str:
    """The sum of which a deadline is made."""
    margin = margin_of(ttl)
    pause = inspect.signature(schedule).parameters["takeover_pause"].default
    return _picture("The sum of a deadline", 318, _deadline(ttl, margin, pause))


def _deadline(ttl: float, margin: float, pause: float) -> Iterator[str]:
    left, scale = 24, 40
    sent, handled = left, left + 0.6 * scale
    until, lapses = left + (ttl - margin) * scale, handled + ttl * scale
    taken = lapses + pause * scale
    yield _text(12, 26, f"A TTL of {ttl:g} s, by the host's own clock", size=15)
    yield _text(sent, 62, "the renewal is sent", colour=_BLUE)
    yield _text(until, 62, f"D = {ttl:g} - {margin:g} s", colour=_RED, anchor="end")
    for x, colour in ((sent, _BLUE), (until, _RED)):
        yield _line(x, 68, x, 104, colour)
    yield _box(sent, 76, until - sent - 30, 22, _GREEN)
    yield _text(sent + 8, 92, "work may run", colour="#ffffff")
    yield _box(until - 28, 76, 28, 22, _BLUE)
    yield _box(until + 2, 76, margin * scale - 2, 22, "#f6d5d5")
    yield _text(until - 30, 122, "grace: it is cancelled, and ends", colour=_BLUE, anchor="end")
    yield _text(until + 34, 122, "margin", colour=_RED, anchor="middle")
    yield _text(12, 162, "The same, as etcd counts", size=15)
    yield _text(handled, 190, "it is handled: later than it was sent", colour=_GREY)
    yield _text(lapses, 244, "the lease lapses", colour=_GREY, anchor="end")
    yield _box(handled, 198, lapses - handled, 22, _LINE)
    yield _box(lapses, 198, taken - lapses, 22, _PALE)
    yield _text(taken, 262, f"another may begin, {pause:g} s later", anchor="end")
    for x in (handled, lapses, taken):
        yield _line(x, 194, x, 226, _GREY)
    words = "The margin holds what the clock loses, the longest freeze that you"
    yield _text(12, 290, words, size=13)
    yield _text(12, 308, "want to survive, and what it takes to end the work.", size=13)


PICTURES: Final[dict[str, Callable[[], str]]] = {
    "decision.svg": decision,
    "handover.svg": handover,
    "deadline.svg": deadline,
}


def main(folder: Path = FOLDER) -> None:
    """Write them all."""
    folder.mkdir(exist_ok=True)
    for name, draw in PICTURES.items():
        (folder / name).write_text(draw())


if __name__ == "__main__":
    main()
