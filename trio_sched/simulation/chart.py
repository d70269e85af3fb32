"""A replay as a picture: hosts down, time across, who was scheduled. Text, or SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

from trio_sched._support.arguments import check_bool, check_instance, check_int, check_tuple
from trio_sched._support.text import clip
from trio_sched.simulation.replay import Replay, Span, SpanState

__all__ = ["svg_chart", "text_chart"]

_MAX_NAME: Final = 24  # characters
_STEPS: Final = (1, 2, 5)


def text_chart(
    replay: Replay,
    *,
    width: int = 80,
    ascii_only: bool = False,
    titles: Sequence[str] | None = None,
) -> str:
    """Draw a replay for a terminal.

    Each row is a host, and each character what it did for most of a moment.

    Args:
        replay: what to draw.
        width: columns that may be used; 40 or more.
        ascii_only: for terminals that have nothing else.
        titles: the lines above it; None for what a replay adds up to.

    Returns:
        Lines without colour; the last one ends with a newline, too.

    Raises:
        ValueError: `width` is too small.
    """
    check_instance("replay", replay, Replay, "a Replay")
    check_int("width", width, 40)
    check_bool("ascii_only", ascii_only)
    if titles is not None:
        check_tuple("titles", titles, str, "lines, each a str,")
    signs = {state: look.ascii if ascii_only else look.sign for state, look in _LOOKS.items()}
    names = {name: clip(name, _MAX_NAME) for name in replay.hosts}
    if ascii_only:
        names = {name: text.encode("ascii", "replace").decode() for name, text in names.items()}
    margin = max(map(len, names.values()), default=0) + 1
    columns = width - margin
    lines = list(_titles(replay) if titles is None else titles)
    for name in replay.hosts:
        cells = _cells([span for span in replay.spans if span.host == name], replay, columns)
        row = "".join(" " if state is None else signs[state] for state in cells)
        lines.append(f"{names[name]:{margin}}{row}".rstrip())
    lines += [" " * margin + line for line in _axis(replay.seconds, columns, ascii_only=ascii_only)]
    seen = {span.state for span in replay.spans}
    lines.append("  ".join(f"{sign} {state}" for state, sign in signs.items() if state in seen))
    return "\n".join(lines) + "\n"


def _titles(replay: Replay) -> Iterator[str]:
    yield (
        f"{replay.strategy}, max_count {replay.max_count}, {len(replay.hosts)} hosts, "
        f"{replay.seconds:g} s: {len(replay.decisions)} decisions"
    )
    yield (
        f"{replay.placements} places given, {replay.churn} taken from hosts that could stay, "
        f"balance {replay.balance:.2f}"
    )
    yield (
        f"{replay.unscheduled:.1f} s with no host, "
        f"{replay.unfilled:.1f} place-seconds without a living host"
    )


def _cells(spans: list[Span], replay: Replay, columns: int) -> list[SpanState | None]:
    """Return the state that took most of each cell; None for a host that was not there."""
    size = replay.seconds / columns
    times: list[dict[SpanState, float]] = [{} for _ in range(columns)]
    for span in spans:
        first, last = int(span.start / size), min(columns - 1, math.ceil(span.end / size) - 1)
        for at in range(first, last + 1):
            overlap = min(span.end, (at + 1) * size) - max(span.start, at * size)
            times[at][span.state] = times[at].get(span.state, 0.0) + overlap
    cells: list[SpanState | None] = []
    for found in times:
        absent = size - sum(found.values())
        state = max(found, key=lambda each: found[each], default=None)
        cells.append(None if state is None or found[state] < absent else state)
    return cells


def _axis(seconds: float, columns: int, *, ascii_only: bool) -> tuple[str, str]:
    line, numbers = ["-" if ascii_only else "─"] * columns, [" "] * (columns + 8)
    free = 0
    for tick in _ticks(seconds, columns // 12):
        at, text = min(columns - 1, round(tick / seconds * columns)), f"{tick:g}"
        line[at] = "+" if ascii_only else "┬"
        start = min(at, columns - len(text))
        if start >= free:
            numbers[start : start + len(text)] = text
            free = start + len(text) + 1
    return "".join(line), "".join(numbers).rstrip() + " s"


def _ticks(seconds: float, most: int) -> list[float]:
    """Return round times from 0 on, about as many as asked for."""
    rough = seconds / max(1, most)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((each * power for each in _STEPS if each * power >= rough), 10 * power)
    return [round(at * step, 9) for at in range(int(seconds / step + 1e-9) + 1)]


# SVG


@dataclass(frozen=True, slots=True)
class _Look:
    """How a state is drawn: as signs, and as a bar of some height in pixels."""

    sign: str
    ascii: str
    height: float
    fill: str


_LOOKS: Final[dict[SpanState, _Look]] = {
    "scheduled": _Look("█", "#", 14, "#2463c4"),
    "waiting": _Look("─", "-", 4, "#b6c2cf"),
    "unavailable": _Look("░", "~", 4, "#e8a33d"),
    "dead": _Look("x", "x", 4, "#d64545"),
    "dead and scheduled": _Look("X", "X", 14, "url(#gone)"),
}
_TOP, _BOTTOM, _LEFT, _RIGHT = 92.0, 64.0, 16.0, 24.0  # margins
_PLOT = 840.0  # width of the time axis
_LETTER = 7.2  # width of a letter of a name, about
_ROW, _MIN_ROW, _ALL_ROWS = 24.0, 5.0, 1600.0  # heights
_INK, _FAINT, _GRID = "#1c2733", "#5b6b7b", "#e6ebf0"
_FONT: Final = "ui-sans-serif, system-ui, 'DejaVu Sans', Helvetica, Arial, sans-serif"


def svg_chart(replay: Replay, *, titles: Sequence[str] | None = None) -> str:
    """Draw a replay as an SVG that needs nothing else; what is pointed at shows more.

    Args:
        replay: what to draw. With many hosts the rows get lower, and lose their names.
        titles: three lines to stand above it; None for what a replay adds up to.
    """
    check_instance("replay", replay, Replay, "a Replay")
    if titles is not None:
        check_tuple("titles", titles, str, "lines, each a str,")
    titles = (*_titles(replay),) if titles is None else titles
    row = min(_ROW, max(_MIN_ROW, _ALL_ROWS / max(1, len(replay.hosts))))
    names = [clip(name, _MAX_NAME) for name in replay.hosts] if row >= 11 else []
    left = _LEFT + _LETTER * max(map(len, names), default=0) + 10
    bottom = _TOP + row * len(replay.hosts)
    width, height = left + _PLOT + _RIGHT, bottom + _BOTTOM
    body = [
        *_frame(titles, width, height),
        *_grid(replay, left, bottom),
        *_rows(replay, names, left, row),
        *_marks(replay, left),
        *_legend(replay, left, bottom + 44),
    ]
    return "\n".join(body) + "\n</svg>\n"


def _frame(titles: Sequence[str], width: float, height: float) -> Iterator[str]:
    title, *lines = titles
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width:g}" height="{height:g}" font-family="{_FONT}" font-size="12" role="img">'
    )
    yield f"<title>{_xml(title)}</title>"
    yield (
        '<defs><pattern id="gone" width="6" height="6" patternUnits="userSpaceOnUse">'
        '<rect width="6" height="6" fill="#f6d5d5"/>'
        '<path d="M-1 1l2 -2M0 6l6 -6M5 7l2 -2" stroke="#d64545" stroke-width="1.6"/>'
        "</pattern></defs>"
    )
    yield f'<rect width="{width:g}" height="{height:g}" fill="#ffffff"/>'
    yield _text(_LEFT, 26, title, size=15, weight=600)
    for at, line in enumerate(lines):
        yield _text(_LEFT, 45 + 17 * at, line, fill=_FAINT)


def _grid(replay: Replay, left: float, bottom: float) -> Iterator[str]:
    for tick in _ticks(replay.seconds, 10):
        x = left + tick / replay.seconds * _PLOT
        yield f'<path d="M{x:.1f} {_TOP - 6:g}V{bottom + 4:g}" stroke="{_GRID}"/>'
        yield _text(x, bottom + 19, f"{tick:g} s", fill=_FAINT, anchor="middle", size=11)


def _rows(replay: Replay, names: list[str], left: float, row: float) -> Iterator[str]:
    places = {name: _TOP + row * (at + 0.5) for at, name in enumerate(replay.hosts)}
    for name, y in zip(names, places.values(), strict=False):
        yield _text(left - 10, y + 4, name, fill=_INK, anchor="end")
    scale = row / _ROW
    for span in replay.spans:
        look = _LOOKS[span.state]
        x, end = (left + at / replay.seconds * _PLOT for at in (span.start, span.end))
        if end - x < 0.5:
            continue  # the time that a few messages take
        height = max(1.5, look.height * scale)
        title = f"{span.host}: {span.state}, {span.start:.1f} to {span.end:.1f} s"
        yield (
            f'<rect x="{x:.1f}" y="{places[span.host] - height / 2:.1f}" width="{end - x:.1f}" '
            f'height="{height:.1f}" rx="{min(2.0, height / 2):.1f}" fill="{look.fill}">'
            f"<title>{_xml(title)}</title></rect>"
        )


def _marks(replay: Replay, left: float) -> Iterator[str]:
    """Mark each decision above the rows."""
    for decision in replay.decisions:
        x = left + decision.at / replay.seconds * _PLOT
        title = f"{decision.at:.1f} s, {decision.leader}: {decision.reason}"
        yield (
            f'<path d="M{x - 4:.1f} {_TOP - 15:g}h8l-4 7z" fill="{_INK}">'
            f"<title>{_xml(title)}</title></path>"
        )


def _legend(replay: Replay, left: float, y: float) -> Iterator[str]:
    x = left
    seen = {span.state for span in replay.spans}
    for state, look in _LOOKS.items():
        if state in seen:
            yield (
                f'<rect x="{x:.1f}" y="{y - look.height / 2:.1f}" width="26" '
                f'height="{look.height:g}" rx="2" fill="{look.fill}"/>'
            )
            yield _text(x + 33, y + 4, state, fill=_FAINT)
            x += 33 + _LETTER * len(state) + 22
    if replay.decisions:
        yield f'<path d="M{x:.1f} {y - 4:g}h8l-4 7z" fill="{_INK}"/>'
        yield _text(x + 14, y + 4, "decision", fill=_FAINT)


def _text(
    x: float,
    y: float,
    text: str,
    *,
    fill: str = _INK,
    size: int = 12,
    weight: int = 400,
    anchor: str = "start",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{fill}" font-size="{size}" '
        f'font-weight="{weight}" text-anchor="{anchor}">{_xml(text)}</text>'
    )


def _xml(text: str) -> str:
    """Return text as XML can hold it: that has no place for control characters."""
    return escape("".join(_allowed(text.encode(errors="replace").decode())))


def _allowed(text: str) -> Iterable[str]:
    return (letter if letter >= " " and letter not in "\ufffe\uffff" else "?" for letter in text)
