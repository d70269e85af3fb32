"""What the leader wants: who may be chosen, what the strategy says, what operators say.

Pure, and apart from `trio_sched.leader.machine`, which knows when to ask; here is only what comes
out. What operators want, in the order in which it holds:

- Paused: the choice stands as it is. A host that died, or whose lease changed, loses
  its place, and no other host takes it; nothing else changes, not the count either.
- Drained hosts, and those that say that they are unavailable, are not offered to the
  strategy, and `max_count` is the operators' if they gave one.
- An evicted host is not offered this once, as long as the others are enough to fill the
  places that are held. `trio_sched.model.control_state` says how that
  happens only once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from trio_sched.model.stored_decision import StoredDecision

if TYPE_CHECKING:
    from trio_sched.leader.pool import Pool
    from trio_sched.model.control_state import ControlState
    from trio_sched.model.records import DecisionRecord, Host, Options

__all__ = ["Choice", "CurrentDecision", "decide", "order_of"]


@dataclass(frozen=True, slots=True)
class CurrentDecision:
    """The decision that stands, from which the next one starts.

    Attributes:
        hosts: the chosen hosts, in the strategy's order as far as that is known, each
            with the lease that it was chosen under; None where that is not known.
        options: that it was made with, as recorded.
        evicted: evictions up to this revision were known when it was made.
    """

    hosts: Mapping[str, int | None]
    options: Mapping[str, object]
    evicted: int

    @classmethod
    def of(cls, own: DecisionRecord | None, stored: StoredDecision) -> Self:
        """Return a decision of our own if there is one, else what is stored."""
        return cls.of_stored(stored) if own is None else cls.of_record(own)

    @classmethod
    def of_record(cls, record: DecisionRecord) -> Self:
        """Return the decision of a record."""
        return cls(record.hosts, record.options, _evicted(record))

    @classmethod
    def of_stored(cls, stored: StoredDecision) -> Self:
        """Return the decision that is stored, by any leader."""
        record = stored.record
        if record is None:  # of a leader that does not know `control`
            return cls(dict.fromkeys(stored.hosts), {}, stored.mod_revision)
        if record.hosts.keys() == set(stored.hosts):
            return cls.of_record(record)
        hosts = {name: record.hosts.get(name) for name in stored.hosts}
        return cls(hosts, record.options, _evicted(record))


def order_of(stored: StoredDecision) -> tuple[str, ...]:
    """Return the stored hosts, in the strategy's order if that is known."""
    return tuple(CurrentDecision.of_stored(stored).hosts)


@dataclass(frozen=True, slots=True)
class Choice:
    """What is to be stored.

    Attributes:
        hosts: which to choose, in order, each with its lease.
        options: what that was made with, as it is to be recorded.
        evicted: hosts that lost their place by an eviction.
        stuck: hosts that were to be evicted and stay, as no host can take their place.
    """

    hosts: Mapping[str, int]
    options: Mapping[str, object]
    evicted: tuple[str, ...] = ()
    stuck: tuple[str, ...] = ()


def decide(pool: Pool, current: CurrentDecision) -> Choice:
    """Return what is wanted now.

    Args:
        pool: the hosts that are registered, and what operators want. Its strategy is asked not at
            all if decisions are paused, else once, and once more if an eviction left it with
            too few.
        current: the decision that stands.

    Raises:
        StrategyError: the strategy raised, or broke its rules.
    """
    leader_options, control, hosts = pool.leader_options, pool.control, pool.offered
    if control.paused:
        return _frozen(pool.hosts, leader_options, control, current)
    max_count = control.max_count or leader_options.max_count
    held = min(max_count, sum(name in hosts for name in current.hosts))
    out, stuck = _evict(hosts, held, control, current)
    last = tuple(current.hosts)
    chosen = pool.choose(max_count, last, out)
    if out and len(chosen) < held:
        out, stuck = (), (*out, *stuck)
        chosen = pool.choose(max_count, last)
    return Choice(
        {name: hosts[name].lease for name in chosen},
        _shown(leader_options, max_count, control, _newest_eviction(control)),
        out,
        stuck,
    )


def _frozen(
    pool: Mapping[str, Host],
    leader_options: Options,
    control: ControlState,
    current: CurrentDecision,
) -> Choice:
    hosts = {
        name: pool[name].lease
        for name, lease in current.hosts.items()
        if name in pool and lease in {None, pool[name].lease}
    }
    recorded = current.options.get("max_count")
    max_count = recorded if type(recorded) is int else control.max_count or leader_options.max_count
    evicted = current.evicted if control.evictions else 0
    return Choice(hosts, _shown(leader_options, max(max_count, len(hosts), 1), control, evicted))


def _evict(
    hosts: Mapping[str, Host], held: int, control: ControlState, current: CurrentDecision
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return who is to lose a place now, and who should but cannot."""
    due = [
        (eviction.revision, name)
        for name, eviction in control.evictions.items()
        if name in current.hosts
        and name in hosts
        and eviction.lease in {0, hosts[name].lease}
        and current.evicted < eviction.revision <= _newest_eviction(control)
    ]
    names = [name for _, name in sorted(due)]
    room = max(0, len(hosts) - held)
    return tuple(names[:room]), tuple(names[room:])


def _newest_eviction(control: ControlState) -> int:
    """Return the revision of the newest eviction; 0 if there is none.

    One that claims to be as new as the key, or newer, was made up by hand. It is none, and
    must not count those as done that are still to come.
    """
    newest = max((each.revision for each in control.evictions.values()), default=0)
    return min(newest, control.revision - 1) if control.revision else newest


def _shown(
    leader_options: Options, max_count: int, control: ControlState, evicted: int
) -> Mapping[str, object]:
    wanted: dict[str, object] = {
        "revision": control.revision,
        "paused": control.paused,
        "drained": sorted(control.drained),
        "max_count": control.max_count,
        "evicted": evicted,
    }
    wanted = {name: value for name, value in wanted.items() if value}
    shown = leader_options.as_json() | {"max_count": max_count}
    return {**shown, "control": wanted} if wanted else shown


def _evicted(record: DecisionRecord) -> int:
    control = record.options.get("control")
    evicted = control.get("evicted") if isinstance(control, Mapping) else None
    return evicted if type(evicted) is int else 0
