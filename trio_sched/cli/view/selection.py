"""Which hosts of a path are shown, and in which order: what matters comes first. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

from trio_sched.model.path_state import PathState
from trio_sched.model.records import Host

__all__ = ["MATTERS", "SHOWN", "SORTS", "STATES", "Selection", "select", "states_of"]

STATES: Final = ("leads", "scheduled", "trouble", "unavailable", "drained", "waiting")
"""What a host may be, what matters most first."""
SHOWN: Final = 40
"""Hosts that are shown unless all are asked for."""

SORTS: Final[dict[str, Callable[[Host], Any]]] = {
    "name": lambda host: host.name,
    "age": lambda host: (host.joined_revision, host.name),
    "zone": lambda host: (host.zone or "", host.name),
    "weight": lambda host: (-host.weight, host.name),
    "priority": lambda host: (-host.priority, host.name),
}
"""By what hosts can be sorted."""
MATTERS: Final = "matters"
"""Sorts by `STATES`, what matters most first."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which hosts are to be shown.

    Attributes:
        states: those in one of these states; empty for any.
        pattern: those whose name or zone fits, as a shell has it; None for any.
        sort: by which of `SORTS`, or by what `MATTERS`; None for as they are in etcd, by name; or,
            if some are left out, by what matters.
        everything: leave none out.
    """

    states: frozenset[str] = frozenset()
    pattern: str | None = None
    sort: str | None = None
    everything: bool = False

    @property
    def is_narrow(self) -> bool:
        """Whether it asks for some hosts only."""
        return bool(self.states) or self.pattern is not None


def states_of(state: PathState, host: Host) -> list[str]:
    """Return what a host is, in words of `STATES`."""
    leader = state.leader
    words = {
        "leads": leader is not None and (leader.name, leader.lease) == (host.name, host.lease),
        "scheduled": host.name in state.hosts,
        "unavailable": not host.available,
        "drained": host.name in state.control.drained,
    }
    found = [word for word, is_so in words.items() if is_so]
    return found if found and found != ["leads"] else ["waiting", *found]


def select(state: PathState, selection: Selection) -> tuple[list[Host], int]:
    """Return the hosts to show, in order, and how many that fit are left out."""
    pattern = selection.pattern
    found = [
        host
        for host in state.pool.values()
        if (not selection.states or selection.states & _words(state, host))
        and (pattern is None or _fits(pattern, host))
    ]
    left_out = 0
    if not (selection.everything or selection.is_narrow):
        left_out = max(len(found) - SHOWN, 0)
    sort = selection.sort or (MATTERS if left_out else None)
    if sort == MATTERS:
        found.sort(key=lambda host: min(map(STATES.index, _words(state, host))))
    elif sort is not None:
        found.sort(key=SORTS[sort])
    return found[: len(found) - left_out], left_out


def _words(state: PathState, host: Host) -> set[str]:
    return {*states_of(state, host), *(["trouble"] if host.trouble else [])}


def _fits(pattern: str, host: Host) -> bool:
    return fnmatchcase(host.name, pattern) or fnmatchcase(host.zone or "", pattern)
