"""What the leader tells people: the reasons of decisions, and warnings.

Pure, and apart from `trio_sched.core` because no decision depends on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_sched._core_events import Stored, Warn

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from trio_sched.model import DecisionRecord, Host

__all__ = ["foreign_write", "options_difference", "why_written"]

_NAMES_SHOWN = 3  # in a reason or a warning
_LETTERS_SHOWN = 60  # of a foreign option in a warning


def why_written(
    last: DecisionRecord, decided: int, wanted: Mapping[str, int], pool: Mapping[str, Host]
) -> str:
    """Return one short clause on what makes `wanted` differ from the last decision.

    Args:
        last: the last decision, ours.
        decided: revision of the store at which it was written.
        wanted: the new choice, each host with its lease.
        pool: the hosts that live.
    """
    gone = [name for name in last.hosts if name not in pool]
    again = [name for name, lease in wanted.items() if last.hosts.get(name, lease) != lease]
    # Who takes the place of one that left may have been waiting for long.
    joined = [
        name
        for name in wanted
        if name not in last.hosts and (not gone or pool[name].joined_revision > decided)
    ]
    told = ((gone, "left"), (again, "rejoined"), (joined, "joined"))
    clauses = [f"{_listed(names)} {verb}" for names, verb in told if names]
    return ", ".join(clauses) or "the strategy chose anew"


def foreign_write(path: str, foreign: Stored) -> Warn:
    """Return the warning that somebody else has changed the stored decision."""
    did = f"wrote {_listed(foreign.hosts) or 'no host'} to" if foreign.mod_revision else "deleted"
    record = foreign.record
    return Warn(
        "foreign-write",
        f"somebody else {did} 'scheduled' under {path!r}; it is taken back with growing delays",
        {
            "path": path,
            "hosts": foreign.hosts,
            "mod_revision": foreign.mod_revision,
            "lease": foreign.lease,
            "leader": None if record is None else record.leader,
            "fence": None if record is None else record.fence,
        },
    )


def options_difference(path: str, host: Host, options: Mapping[str, object]) -> Warn | None:
    """Return the warning that a host was started with other options; None if not so.

    The message does not name the host, so it is the same for the same difference.

    Args:
        path: the path that the hosts share.
        host: the host, with the options that it published.
        options: the leader's own, as they are published.
    """
    ours = {key: options[key] for key in ("max_count", "strategy")}
    theirs = {key: host.options[key] for key in ours if key in host.options}
    if all(ours[key] == value for key, value in theirs.items()):
        return None
    return Warn(
        "options-differ",
        f"hosts under {path!r} were started with different options: "
        f"{_told(theirs)}, where the leader has {_told(ours)}; the leader's hold",
        {"path": path, "host": host.name, "theirs": theirs, "ours": ours},
    )


def _told(options: Mapping[str, object]) -> str:
    return " ".join(f"{key}={_clipped(value)}" for key, value in options.items())


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(list(names)[:_NAMES_SHOWN])
    more = len(names) - _NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def _clipped(value: object) -> str:
    # Read from etcd, so it may be anything, also too deep for repr().
    if not isinstance(value, str | int):
        return f"({type(value).__name__})"
    text = repr(value)
    return text if len(text) <= _LETTERS_SHOWN else text[:_LETTERS_SHOWN] + "..."
