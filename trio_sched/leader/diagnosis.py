"""What is odd about a path, in the words of `trio-sched status`. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from trio_sched._support.text import list_names
from trio_sched.leader.choice import CurrentDecision
from trio_sched.leader.reasons import options_difference
from trio_sched.model.path_state import PathState
from trio_sched.model.records import Host

__all__ = [
    "Finding",
    "diagnose",
    "differing_options",
    "is_known_to_leader",
    "is_pending",
    "leader_ignores_control",
]

Level: TypeAlias = Literal["warning", "note"]

_MAX_NAMES = 5  # in a message; the finding itself names all


def _names(names: Iterable[str]) -> str:
    return list_names(names, _MAX_NAMES)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that an operator should know.

    Attributes:
        kind: what it is, for programs.
        level: ``warning`` for what should not be; ``note`` for what may be meant, or
            goes away by itself.
        message: what it is, for people.
        hosts: the hosts that it is about.
    """

    kind: str
    level: Level
    message: str
    hosts: tuple[str, ...] = ()


def diagnose(state: PathState) -> tuple[Finding, ...]:
    """Return all that is odd, the most important first."""
    found = [
        *_about_leader(state),
        *_about_decision(state),
        *_about_control(state),
        *_about_slots(state),
        *_about_hosts(state),
    ]
    return tuple(sorted(found, key=lambda finding: finding.level != "warning"))


def leader_ignores_control(state: PathState) -> bool:
    """Return whether the leader is one that knows nothing of operators.

    A host of ours publishes its options; one of the Go package does not.
    """
    host = _leading_host(state)
    return host is not None and not host.options


def is_known_to_leader(state: PathState, revision: int) -> bool:
    """Return whether the stored decision was made with what operators wrote at a revision."""
    control = state.record.options.get("control") if state.record is not None else None
    known = control.get("revision") if isinstance(control, Mapping) else None
    return type(known) is int and known >= revision


def is_pending(state: PathState, name: str) -> bool:
    """Return whether an eviction of a host has not been seen to yet."""
    eviction = state.control.evictions[name]
    host = state.pool.get(name)
    if host is None or (eviction.lease and eviction.lease != host.lease):
        return False
    seen = CurrentDecision.of_record(state.record).evicted if state.record else state.hosts.revision
    return eviction.revision > seen


def differing_options(state: PathState) -> Mapping[str, Mapping[str, object]]:
    """Return hosts that were started with other options than the leader, each with its own."""
    leader = _leading_host(state)
    if leader is None or not {"max_count", "strategy"} <= leader.options.keys():
        return {}
    return {
        host.name: {key: host.options[key] for key in _COMPARED if key in host.options}
        for host in state.pool.values()
        if options_difference(state.path, host, leader.options) is not None
    }


_COMPARED = ("strategy", "max_count")


def _text(options: Mapping[str, object]) -> str:
    return ", ".join(f"{key} {options[key]!s:.60}" for key in _COMPARED if key in options)


def _leading_host(state: PathState) -> Host | None:
    leader = state.leader
    host = None if leader is None else state.pool.get(leader.name)
    return host if host is not None and leader is not None and host.lease == leader.lease else None


def _about_leader(state: PathState) -> Iterator[Finding]:
    leader = state.leader
    if leader is None:
        if state.pool:
            text = "there is no leader, so nothing is decided; etcd may just have lost it"
            yield Finding("no-leader", "warning", text)
        return
    if leader_ignores_control(state):
        text = (
            f"{leader.name} leads and publishes no options, as a host of the Go package does: "
            "it takes no notice of control, and gives no reasons"
        )
        yield Finding("foreign-leader", "warning", text, (leader.name,))
    elif _leading_host(state) is None:
        text = f"{leader.name} leads, but has not joined by the lease that it leads with"
        yield Finding("leader-not-in-pool", "warning", text, (leader.name,))
    differing, leading = differing_options(state), _leading_host(state)
    if differing and leading is not None:
        theirs = _names(f"{name} ({_text(own)})" for name, own in differing.items())
        ours = _text(leading.options)
        text = f"started with other options than the leader ({ours}): {theirs}; the leader's hold"
        yield Finding("options-differ", "warning", text, tuple(differing))


def _about_decision(state: PathState) -> Iterator[Finding]:
    hosts, record, leader = state.hosts, state.record, state.leader
    if hosts and record is None and not leader_ignores_control(state):
        text = "a client other than the leader wrote the decision; it will be overwritten"
        yield Finding("foreign-decision", "warning", text)
    if record is not None and leader is not None and record.fence != leader.fence:
        old = f"the decision is that of {record.leader}, which leads no more"
        text = f"{old}; {leader.name} takes over"
        yield Finding("old-decision", "note", text, (record.leader,))
    gone = [name for name in hosts if name not in state.pool]
    if gone:
        text = f"chosen, but not there: {_names(gone)}"
        # A leader sees to it at once; without hosts, the decision lapses by itself.
        yield Finding("chosen-gone", "warning" if leader else "note", text, tuple(gone))
    again = [name for name in hosts if _has_joined_again(state, name)]
    if again:
        text = f"joined again since they were chosen, and so must be chosen again: {_names(again)}"
        yield Finding("joined-again", "note", text, tuple(again))
    if state.pool and leader is not None and not hosts:
        if record is None:
            yield Finding("undecided", "note", "nothing is decided yet")
        else:
            yield Finding("nobody-chosen", "warning", "hosts are there, and none is chosen")


def _has_joined_again(state: PathState, name: str) -> bool:
    host, record = state.pool.get(name), state.record
    return host is not None and record is not None and record.hosts.get(name) != host.lease


def _about_control(state: PathState) -> Iterator[Finding]:
    control = state.control
    wanted = bool(control.paused or control.drained or control.max_count or control.evictions)
    known = is_known_to_leader(state, control.revision)
    if wanted and state.pool and not known and not leader_ignores_control(state):
        text = f"the decision does not know yet of control as of revision {control.revision}"
        yield Finding("control-not-known", "warning", text)
    if control.paused:
        yield Finding(
            "paused", "note", "decisions are paused: no host takes the place of one that dies"
        )
    drained = [name for name in state.hosts if name in control.drained]
    if drained and control.paused and known:
        text = f"drained, and chosen until decisions are resumed: {_names(drained)}"
        yield Finding("drained-chosen", "note", text, tuple(drained))
    elif drained:
        text = f"drained, and chosen all the same: {_names(drained)}"
        yield Finding("drained-chosen", "warning", text, tuple(drained))
    absent = sorted(control.drained - state.pool.keys())
    if absent and state.pool:
        text = f"drained, and not there: {_names(absent)}"
        yield Finding("drained-absent", "note", text, tuple(absent))


def _about_slots(state: PathState) -> Iterator[Finding]:
    holders = {slot.name for slot in state.slots.values()}
    without = [name for name in state.hosts if name in state.pool and name not in holders]
    if without:
        text = f"chosen, and no slot held: {_names(without)}; nothing runs there in a slot"
        yield Finding("no-slot", "note", text, tuple(without))
    unchosen = sorted(holders - set(state.hosts))
    if unchosen:
        text = f"not chosen, and a slot still held: {_names(unchosen)}; its work is ending"
        yield Finding("slot-not-chosen", "warning", text, tuple(unchosen))
    stale = sorted({slot.name for slot in state.slots.values() if _is_stale(state, slot.name)})
    if stale:
        text = f"a slot is held by a session that is over: {_names(stale)}; it lapses by itself"
        yield Finding("slot-of-old-session", "note", text, tuple(stale))


def _is_stale(state: PathState, name: str) -> bool:
    host = state.pool.get(name)
    leases = {slot.lease for slot in state.slots.values() if slot.name == name}
    return host is None or leases != {host.lease}


def _about_hosts(state: PathState) -> Iterator[Finding]:
    ill = [name for name in state.hosts if name in state.pool and not state.pool[name].available]
    if ill and not state.control.paused:
        text = f"unavailable, and chosen all the same: {_names(ill)}"
        yield Finding("unavailable-chosen", "warning", text, tuple(ill))
    for name, host in state.pool.items():
        if host.trouble:
            yield Finding("host-in-trouble", "warning", f"{name}: {host.trouble}", (name,))
    strangers = [name for name, host in state.pool.items() if not host.options]
    if strangers:
        text = (
            f"publish nothing, as hosts of the Go package do: {_names(strangers)}; "
            "they hold no slots, so their work is not counted"
        )
        yield Finding("foreign-hosts", "note", text, tuple(strangers))
