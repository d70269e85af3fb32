"""What ``trio-sched run`` says on standard error for people: a line for each event. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from trio_sched._support.text import list_names, plain

__all__ = ["line_of"]

_Fields: TypeAlias = Mapping[str, Any]
_MAX_NAMES: Final = 5


def _names(fields: _Fields) -> str:
    return list_names(fields["hosts"], _MAX_NAMES) or "no host"


def _started(fields: _Fields) -> str:
    return f"started, pid {fields['pid']}, slot {fields['slot']}, token {fields['token']}"


def _lost(fields: _Fields) -> str:
    if fields["why"] == "handed_over":
        return f"handed over to {_names(fields)}; the command gets {fields['signal']}"
    why = {
        "slot_lost": "its slot is gone; the command is killed",
        "session_lost": f"its session is over; the command gets {fields['signal']}",
    }
    late = f"etcd has not answered in time; the command gets {fields['signal']}"
    return f"lost the right to run: {why.get(fields['why'], late)}"


def _ended(fields: _Fields) -> str:
    killed = ", after SIGKILL" if fields["killed"] else ""
    return f"ended with {fields['code']}{killed}"


def _signal(fields: _Fields) -> str:
    return f"{fields['signal']}, {'passed on' if fields['passed_on'] else 'which ends us'}"


# By event: from which verbosity on it is said, and how.
_LINES: Final[Mapping[str, tuple[int, Callable[[_Fields], str]]]] = {
    "started": (0, _started),
    "lost": (0, _lost),
    "ended": (0, _ended),
    "serving": (1, lambda fields: f"serves {fields['what']} at {fields['address']}"),
    "joined": (1, lambda _: "joined"),
    "decision": (1, lambda fields: f"{_names(fields)} chosen, revision {fields['revision']}"),
    "signal": (1, _signal),
    "stopped": (1, lambda fields: f"the command was stopped by {fields['signal']}"),
    "exit": (1, lambda fields: f"exit code {fields['code']}"),
}


def line_of(event: str, fields: _Fields, verbosity: int) -> str | None:
    """Return the line that says so, as a terminal can take it; None if it is not said.

    Args:
        event: its kind.
        fields: what belongs to it.
        verbosity: -1 for errors and warnings only, 0, or 1 for everything.
    """
    least, words = _LINES.get(event, (2, str))
    return plain(words(fields)) if verbosity >= least else None
