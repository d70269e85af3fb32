"""Text for people: ages, names as a terminal can take them, what operators want. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from trio_sched.model.control_state import ControlState, Note

__all__ = ["age_of", "ago", "as_data", "control_lines", "eviction_line", "known_ago"]

_UNITS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))


def age_of(since: str, now: datetime) -> str:
    """Return for how long something has been, as its own clock had it; ``?`` if unknown."""
    try:
        seconds = int((now - datetime.fromisoformat(since).astimezone(UTC)).total_seconds())
    except (ValueError, OverflowError):
        return "?"
    if seconds < 0:
        return "0s" if seconds > -2 else "clock ahead"
    at = next((at for at, (_, size) in enumerate(_UNITS) if seconds >= size), len(_UNITS) - 1)
    text = ""
    for unit, size in _UNITS[at : at + 2]:  # two units are exact enough
        count, seconds = divmod(seconds, size)
        text += f"{count}{unit}" if count or not text else ""
    return text


def ago(when: str, now: datetime) -> str:
    """Return when something was, in words; nothing if that is not known."""
    age = age_of(when, now)
    if age == "?":
        return ""
    return f"{age} ago" if age[0].isdigit() else f"at {when}"


def known_ago(seconds: float) -> str:
    """Say how old what is shown is."""
    return f"as of {seconds:.0f} s ago"


def as_data(data: Mapping[str, object]) -> str:
    """Return free-form data on one line."""
    return json.dumps(dict(data), ensure_ascii=False) if data else ""


def control_lines(control: ControlState, now: datetime) -> Iterator[str]:
    """Describe what operators want, a line for each."""
    if control.paused:
        yield "paused" + _noted(control.note("paused"), now)
    if control.max_count is not None:
        yield f"max_count set to {control.max_count}" + _noted(control.note("max_count"), now)
    for name in sorted(control.drained):
        yield f"{name} drained" + _noted(control.note(f"drained/{name}"), now)


def _noted(note: Note | None, now: datetime) -> str:
    if note is None:
        return ""
    parts = [f"by {note.by}" if note.by else "", ago(note.when, now)]
    said = " ".join(part for part in parts if part)
    return (f" {said}" if said else "") + (f": {note.why}" if note.why else "")


def eviction_line(control: ControlState, name: str, now: datetime) -> str:
    """Say that a host is to be evicted."""
    return f"{name} evicted" + _noted(control.note(f"evict/{name}"), now)
