"""What the leader reports to people: the reasons of decisions, and warnings.

Pure, and apart from `trio_sched.leader.machine` because no decision depends on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from trio_sched._support.text import list_names
from trio_sched.leader.events import Warn
from trio_sched.model.stored_decision import StoredDecision

if TYPE_CHECKING:
    from trio_sched.leader.choice import Choice
    from trio_sched.model.records import DecisionRecord, Host

__all__ = ["foreign_write", "options_difference", "why_asserted", "why_written"]

_MAX_NAMES = 3  # in a reason or a warning
_MAX_LETTERS = 60  # of a foreign option in a warning


def why_asserted(choice: Choice, *, again: bool) -> str:
    """Return the reason of a decision that starts from another leader's, or from none.

    Args:
        choice: what is to be stored.
        again: whether it takes back what a foreigner wrote.
    """
    control = _control_of(choice.options)
    said = [
        "re-asserted" if again else "elected",
        *_evictions(choice),
        *_steering({}, control),
    ]
    return ", ".join(said)


def why_written(
    last: DecisionRecord, decided: int, choice: Choice, pool: Mapping[str, Host]
) -> str:
    """Return one short clause on what makes a choice differ from the last decision.

    Args:
        last: the last decision, ours.
        decided: revision of the store at which it was written.
        choice: what is to be stored.
        pool: the hosts that live.
    """
    wanted = choice.hosts
    gone = [name for name in last.hosts if name not in pool]
    again = [name for name, lease in wanted.items() if last.hosts.get(name, lease) != lease]
    unavailable = [
        name
        for name in last.hosts
        if name in pool and name not in wanted and not pool[name].available
    ]
    steered = [
        *_evictions(choice),
        *_steering(_control_of(last.options), _control_of(choice.options)),
    ]
    # Who takes the place of one that left may have been waiting for long.
    waited = bool(gone or unavailable or steered)
    joined = [
        name
        for name in wanted
        if name not in last.hosts and (not waited or pool[name].joined_revision > decided)
    ]
    changes = (
        (gone, "left"),
        (unavailable, "unavailable"),
        (again, "rejoined"),
        (joined, "joined"),
    )
    clauses = [f"{list_names(names, _MAX_NAMES)} {verb}" for names, verb in changes if names]
    if not clauses and not steered:
        same = list(last.hosts.items()) == list(wanted.items())
        knows = _control_of(last.options) != _control_of(choice.options)
        return "control read" if same and knows else "the strategy chose anew"
    return ", ".join([*clauses, *steered])


def _evictions(choice: Choice) -> list[str]:
    found = ((choice.evicted, "evicted"), (choice.stuck, "not evicted for want of others"))
    return [f"{list_names(names, _MAX_NAMES)} {verb}" for names, verb in found if names]


def _control_of(options: Mapping[str, object]) -> Mapping[str, object]:
    control = options.get("control")
    return control if isinstance(control, Mapping) else {}


def _steering(before: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """Say what operators want, where they want it anew; and always that it is paused."""
    drained, drained_before = _names(now), _names(before)
    changes = ((drained - drained_before, "drained"), (drained_before - drained, "undrained"))
    clauses = [
        f"{list_names(sorted(names), _MAX_NAMES)} {verb}" for names, verb in changes if names
    ]
    max_count = now.get("max_count")
    if max_count != before.get("max_count"):
        clauses.append("max_count unset" if max_count is None else f"max_count set to {max_count}")
    if now.get("paused"):
        clauses.append("paused")
    elif before.get("paused"):
        clauses.append("resumed")
    return clauses


def _names(control: Mapping[str, object]) -> frozenset[str]:
    drained = control.get("drained")
    names = drained if isinstance(drained, list) else []
    return frozenset(name for name in names if isinstance(name, str))


def foreign_write(path: str, foreign: StoredDecision) -> Warn:
    """Return the warning that another client has changed the stored decision."""
    did = (
        f"wrote {list_names(foreign.hosts, _MAX_NAMES) or 'no host'} to"
        if foreign.mod_revision
        else "deleted"
    )
    record = foreign.record
    return Warn(
        "foreign-write",
        f"another client {did} 'scheduled' under {path!r}; it is taken back with growing delays",
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
        f"{_option_words(theirs)}, where the leader has {_option_words(ours)}; the leader's hold",
        {"path": path, "host": host.name, "theirs": theirs, "ours": ours},
    )


def _option_words(options: Mapping[str, object]) -> str:
    return " ".join(f"{key}={_short_repr(value)}" for key, value in options.items())


def _short_repr(value: object) -> str:
    # Read from etcd, so it may be anything, also too deep for repr().
    if not isinstance(value, str | int):
        return f"({type(value).__name__})"
    text = repr(value)
    return text if len(text) <= _MAX_LETTERS else text[:_MAX_LETTERS] + "..."
