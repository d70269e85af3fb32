"""What would be decided about a path, and why. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from trio_sched.leader.choice import Choice, CurrentDecision, decide
from trio_sched.leader.diagnosis import leader_ignores_control
from trio_sched.leader.pool import Pool
from trio_sched.leader.reasons import why_asserted, why_written
from trio_sched.model.path_state import PathState
from trio_sched.model.records import Host, Options
from trio_sched.model.stored_decision import StoredDecision
from trio_sched.strategies import get_strategy

__all__ = ["Preview", "Verdict", "preview"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a host would be chosen, and why.

    Attributes:
        name: of the host.
        chosen: whether it would be.
        was: whether it is now.
        why: in a few words.
    """

    name: str
    chosen: bool
    was: bool
    why: str


@dataclass(frozen=True, slots=True)
class Preview:
    """What would be decided.

    Attributes:
        hosts: the chosen ones, in the strategy's order.
        strategy: by which it is.
        max_count: how many may be chosen.
        changes: whether that is another decision than the present one.
        reason: what the leader would record.
        verdicts: one for each host, those that would be chosen first.
        notes: what else there is to say.
    """

    hosts: tuple[str, ...]
    strategy: str
    max_count: int
    changes: bool
    reason: str
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...]


def preview(state: PathState, strategy: str | None, max_count: int | None) -> Preview:
    """Return what a leader would decide now.

    Args:
        state: what it would find.
        strategy: of the leader; None for that of the present one.
        max_count: overrides that of the leader and operators; None to leave it.

    Raises:
        ValueError: there is no such strategy here.
        StrategyError: it raised, or broke its rules.
    """
    options = leader_options(state)
    control = state.control
    if max_count is not None:
        options, control = replace(options, max_count=max_count), replace(control, max_count=None)
    if strategy is not None:
        options = replace(options, strategy=strategy)
    mod_revision = state.hosts.revision if state.hosts else 0
    stored = StoredDecision(tuple(state.hosts), mod_revision, state.revision, record=state.record)
    current = CurrentDecision.of_stored(stored)
    pool = Pool(get_strategy(options.strategy), options, state.path)
    pool.steer(control)
    pool.replace(state.pool)
    choice = decide(pool, current)
    chosen = tuple(choice.hosts)
    count: Any = choice.options["max_count"]
    return Preview(
        chosen,
        options.strategy,
        count,
        set(chosen) != set(state.hosts),
        _reason(state, choice),
        tuple(_verdicts(state, options, choice)),
        tuple(_notes(state, strategy, max_count)),
    )


def leader_options(state: PathState) -> Options:
    """Return the options of the leader, as it published them; or the defaults."""
    leader = state.leader
    host = state.pool.get(leader.name) if leader is not None else None
    options: Mapping[str, object] = host.options if host is not None else {}
    if not options and state.record is not None:
        options = state.record.options  # by a host that has left since, or from a file
    strategy, count = options.get("strategy"), options.get("max_count")
    allowed = options.get("hosts_filter")
    return Options(
        count if type(count) is int and count > 0 else 1,
        strategy if isinstance(strategy, str) and strategy else "rr",
        frozenset(map(str, allowed)) if isinstance(allowed, list) else None,
    )


def _reason(state: PathState, choice: Choice) -> str:
    record = state.record
    if record is None:
        return why_asserted(choice, again=False)
    return why_written(record, state.hosts.revision, choice, state.pool)


def _verdicts(state: PathState, options: Options, choice: Choice) -> Iterator[Verdict]:
    was = set(state.hosts)
    for name in choice.hosts:
        yield Verdict(name, chosen=True, was=name in was, why=_why(state, name, choice))
    for name, host in state.pool.items():
        if name not in choice.hosts:
            why = _why_not(state, host, options, choice)
            yield Verdict(name, chosen=False, was=name in was, why=why)
    for name in state.hosts:
        if name not in state.pool:
            yield Verdict(name, chosen=False, was=True, why="it is gone")


def _why(state: PathState, name: str, choice: Choice) -> str:
    if state.control.paused:
        return "decisions are paused, so it stays"
    if name in choice.stuck:
        return "to be evicted, and no host is there to take its place"
    return "it stays" if name in state.hosts else "it is next"


def _why_not(state: PathState, host: Host, options: Options, choice: Choice) -> str:
    control = state.control
    if control.paused:
        stands = host.name in state.hosts
        return "it joined again while decisions are paused" if stands else "decisions are paused"
    if host.name in control.drained:
        note = control.note(f"drained/{host.name}")
        return "drained" + (f": {note.why}" if note is not None and note.why else "")
    if not host.available:
        return "unavailable" + (f": {host.reason}" if host.reason else "")
    if host.name in choice.evicted:
        return "evicted"
    return _why_others(host, options, choice)


def _why_others(host: Host, options: Options, choice: Choice) -> str:
    if options.hosts_filter is not None and host.name not in options.hosts_filter:
        return "not in the leader's hosts_filter"
    if not host.name or "," in host.name:
        return "a decision cannot name it"
    count: Any = choice.options["max_count"]
    full = len(choice.hosts) >= count
    return (
        f"{options.strategy} prefers others" if full else f"{options.strategy} does not choose it"
    )


def _notes(state: PathState, strategy: str | None, max_count: int | None) -> Iterator[str]:
    if state.control.paused and (strategy is not None or max_count is not None):
        yield "decisions are paused: neither strategy nor max_count matters until they are resumed"
    if leader_ignores_control(state):
        assert state.leader is not None
        yield (
            f"{state.leader.name} leads, and is a host of the Go package: it decides by options "
            "that are not known. This is what a host of ours would decide"
        )
    elif state.leader is None and state.pool:
        yield "there is no leader; this is what one would decide"
    if max_count is not None and state.control.max_count is not None:
        yield f"operators have set max_count to {state.control.max_count}, which is left out here"
