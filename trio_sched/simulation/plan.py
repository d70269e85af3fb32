"""What is to happen in a world: hosts come and go, faults, operators; by a seed, or as given.

A plan is a list, so a part of it can be left out and the rest played again: that is how one that
went wrong is made small.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from random import Random
from typing import Any, Final, Self, TypeVar

from trio_sched._support.arguments import (
    check_choice,
    check_instance,
    check_int,
    check_number,
    check_seconds,
    check_tuple,
    shown,
)
from trio_sched.model.records import check_max_count
from trio_sched.model.ticks import MAX_PERIOD

__all__ = ["BREAKS_ASSUMPTIONS", "EARLY_OF_WORK", "KINDS", "Action", "Plan"]

T = TypeVar("T")

_HOST_KINDS: Final = {
    "leave": 3.0,  # in good order; it joins again later
    "die": 3.0,  # killed, with its connections; a new life begins later
    "silence": 3.0,  # nothing arrives, one way or both, from or to all members
    "cut": 2.0,  # its connections are reset
    "refuse": 1.0,  # its connections are reset, and new ones are refused
    "update": 1.0,  # it publishes other data
    "sick": 1.0,  # its health check fails
    "hand": 1.0,  # an operator deletes its key, or its candidate's key
    "freeze": 1.0,  # its network stands still, and its work does not notice
}
_MEMBER_KINDS: Final = {
    "stop": 1.5,  # a member's process ends, and is started again
    "isolate": 1.5,  # it does not reach the others
    "pause": 1.0,  # its process is stopped, and goes on
    "move": 1.0,  # it becomes the raft leader
    "stall": 1.0,  # nothing is written for a while
    "compact": 1.0,  # history goes
    "miss": 3.0,  # the watches of a member miss a commit
    "late": 0.5,  # leases that have lapsed live on for a while
    "early": 2.0,  # a lease goes that was renewed
    "full": 1.0,  # there is no room: what grows is refused for a while
    "busy": 1.0,  # each write is refused for a while
    "forbid": 1.0,  # the path can be neither read nor written for a while
    "restore": 2.0,  # the store is what it was a while ago
}
_OPERATOR_KINDS: Final = {
    "pause-path": 0.7,
    "drain": 1.0,
    "count": 1.0,
    "evict": 1.0,
    "foreign": 0.7,  # another writer puts `scheduled`
    "go": 0.7,  # a host of the Go kind is there for a while
    "poison": 0.7,  # a host is there for a while with data that no strategy here can bear
    "crowd": 0.5,  # a neighbour puts its keys below the path, between ours
}
KINDS: Final = _HOST_KINDS | _MEMBER_KINDS | _OPERATOR_KINDS
"""What can happen, each with how often, next to the others."""

BREAKS_ASSUMPTIONS: Final = frozenset({"freeze", "early", "restore"})
"""What makes two hosts work at once though all is right: see docs/guarantees.md."""

EARLY_OF_WORK: Final = 6
"""From this variant of "early" on, a lease goes that holds a slot."""

_LASTING: Final = frozenset(
    {"leave", "die", "silence", "refuse", "sick", "freeze", "stop", "isolate", "pause", "stall"}
    | {"full", "busy", "forbid", "late", "pause-path", "drain", "count", "go", "poison"}
)
_MEAN_GAPS: Final = (1.0, 3.0, 6.0, 10.0)  # seconds between two things that happen
_KEEPS_ASSUMPTIONS: Final = 0.6  # of the plans
# Of the plans. In them only some kinds happen, so those more often, with none to undo what they
# did: see Groce et al., "Swarm testing", ISSTA 2012.
_SWARM: Final = 0.75
# Of the plans that break an assumption, and pause for a TTL. In them leases of hosts that work go
# too early, also while they are cut off, and no two may work at once; what else breaks an
# assumption would excuse it.
_EARLY: Final = 0.5
_RESTORE_GAP: Final = 25.0  # seconds between two restores at least: each ends all sessions
_QUIET_START: Final = 3.0  # seconds in which hosts join


@dataclass(frozen=True, slots=True)
class Action:
    """Something happens.

    Attributes:
        at: when, in seconds since the beginning.
        kind: what; one of ``trio_sched.simulation.plan.KINDS``.
        target: the number of the host, or of the member, that it is about; from 0 on.
        seconds: for how long; 0 if it is done at once.
        variant: which of its forms, where there are some.
    """

    at: float
    kind: str
    target: int = 0
    seconds: float = 0.0
    variant: int = 0

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, KINDS)
        for name, value in (("at", self.at), ("seconds", self.seconds)):
            is_nan = value != value  # noqa: PLR0124
            if is_nan or not 0 <= check_number(name, value) <= sys.float_info.max:
                raise ValueError("at and seconds must be 0 or more, and finite")
        check_int("target", self.target, 0)
        check_int("variant", self.variant, 0)

    @property
    def end(self) -> float:
        """When it is over."""
        return self.at + self.seconds


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to happen.

    Attributes:
        seed: of all chance besides: who runs first, how long bytes travel, ids, jitter.
        hosts: how many hosts there are.
        members: how many members etcd has.
        max_count: how many hosts may run at once.
        ttl: of a session, in seconds.
        seconds: until which things happen; then all is left to settle.
        actions: what happens, in order.
        takeover_pause: seconds before a slot is taken that went with its lease.
        shared: how many of the hosts are on another path, too, under one session for both.
        ticks: seconds from one tick to the next, which hosts do once for all; 0 if they work all
            the time instead.
    """

    seed: int
    hosts: int = 5
    members: int = 3
    max_count: int = 2
    ttl: int = 5
    seconds: float = 120.0
    actions: Sequence[Action] = field(default=())
    takeover_pause: float = 0.5
    shared: int = 0
    ticks: int = 0

    def __post_init__(self) -> None:
        check_int("seed", self.seed)
        check_int("hosts", self.hosts, 1)
        check_int("members", self.members, 1)
        check_max_count(self.max_count)
        check_int("ttl", self.ttl, 1)
        check_seconds("seconds", self.seconds, zero=True)
        check_seconds("takeover_pause", self.takeover_pause, zero=True)
        check_int("shared", self.shared, 0, self.hosts)
        check_int("ticks", self.ticks, 0, MAX_PERIOD)
        check_tuple("actions", self.actions, Action, "things that happen, each an Action,")

    @classmethod
    def random(
        cls, seed: int, *, seconds: float | None = None, kinds: Iterable[str] = KINDS
    ) -> Self:
        """Return a plan by chance.

        Args:
            seed: of the plan, and of all chance in its world.
            seconds: for how long things happen; None for half a minute to two.
            kinds: what may.
        """
        check_int("seed", seed)
        if seconds is not None:
            check_seconds("seconds", seconds)
        kinds = [check_choice("kinds", kind, KINDS) for kind in _each(kinds)]
        chance = Random(seed)  # noqa: S311 # the same for the same seed is the point
        plan = cls(
            seed,
            hosts=chance.choice([2, 3, 3, 5, 5, 8]),
            members=chance.choice([1, 3, 3]),
            max_count=chance.choice([1, 1, 2, 3]),
            ttl=chance.choice([2, 3, 5, 10]),
            seconds=seconds or chance.choice([30.0, 60.0, 120.0]),
        )
        others = Random(f"{seed} shared")  # noqa: S311 # as above; so that the rest stays as it was
        plan = replace(plan, shared=min(plan.hosts, others.choice([0, 0, 1, 2, plan.hosts])))
        if seed % 2:
            plan = replace(plan, takeover_pause=float(plan.ttl))
        allowed = frozenset(kinds)
        if chance.random() < _KEEPS_ASSUMPTIONS and not allowed <= BREAKS_ASSUMPTIONS:
            allowed -= BREAKS_ASSUMPTIONS
        kinds = [kind for kind in KINDS if kind in allowed]
        if chance.random() < _SWARM:
            kinds = chance.sample(kinds, min(len(kinds), chance.randint(1, 6)))
        pauses = plan.takeover_pause >= plan.ttl and "early" in allowed
        early = pauses and others.random() < _EARLY
        if early:
            harmless = set(kinds) - BREAKS_ASSUMPTIONS
            kinds = [kind for kind in KINDS if kind in harmless | allowed & {"early", "silence"}]
        weights = {kind: KINDS[kind] for kind in kinds}
        gap = chance.choice(_MEAN_GAPS)
        actions = tuple(_actions(chance, plan, weights, gap))
        return replace(plan, actions=tuple(map(_of_work, actions)) if early else actions)

    @property
    def assumes(self) -> bool:
        """Whether nothing happens that makes two work at once though all is right."""
        return not any(action.kind in BREAKS_ASSUMPTIONS for action in self.actions)

    @property
    def never_too_many(self) -> bool:
        """Whether no more than may run at once do so, whatever happens.

        With a pause of a TTL that holds though leases are taken away too early: a holder
        that is cut off has ended its work by then.
        """
        broken = BREAKS_ASSUMPTIONS & {action.kind for action in self.actions}
        return not broken or (broken == {"early"} and self.takeover_pause >= self.ttl)

    @property
    def last_fault(self) -> float:
        """When the last of what happens is over."""
        return max((action.end for action in self.actions), default=0.0)

    def without(self, left_out: Iterable[int]) -> Self:
        """Return the plan without the actions of these numbers."""
        numbers = {check_int("left_out", number, 0) for number in _each(left_out)}
        kept = [action for number, action in enumerate(self.actions) if number not in numbers]
        return replace(self, actions=tuple(kept))

    def as_json(self) -> str:
        """Return the plan as a line of JSON."""
        values = asdict(self)
        values["actions"] = [
            [action.at, action.kind, action.target, action.seconds, action.variant]
            for action in self.actions
        ]
        return json.dumps(values)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the plan that `as_json` gave.

        Raises:
            ValueError: it is none.
        """
        check_instance("text", text, (str, bytes), "a text")
        values: Any = json.loads(text)
        try:
            actions = tuple(Action(*each) for each in values.pop("actions"))
            return cls(actions=actions, **values)
        except (TypeError, AttributeError, KeyError) as exc:
            raise ValueError(f"that is no plan: {exc}") from exc


def _each(values: Iterable[T]) -> Iterable[T]:
    """Return several values, which are no text."""
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise TypeError(f"several values are needed, in a list or the like, not {shown(values)}")
    return values


def _actions(chance: Random, plan: Plan, weights: dict[str, float], gap: float) -> Iterable[Action]:
    at, restored = _QUIET_START, -math.inf
    while weights:
        at += chance.expovariate(1 / gap)
        if at >= plan.seconds:
            return
        (kind,) = chance.choices([*weights], [*weights.values()])
        if kind == "restore":
            if at < restored + _RESTORE_GAP:
                continue
            restored = at
        yield _action(chance, plan, round(at, 3), kind)


def _of_work(action: Action) -> Action:
    """Return the action, about the lease of a host that works where it is about one."""
    early = action.kind == "early"
    return replace(action, variant=action.variant + EARLY_OF_WORK) if early else action


def _action(chance: Random, plan: Plan, at: float, kind: str) -> Action:
    members = kind in _MEMBER_KINDS
    target = chance.randrange(plan.members if members else plan.hosts)
    seconds = 0.0
    if kind in _LASTING:
        longest = chance.choice([0.5, 1.0, plan.ttl, 2.5 * plan.ttl])
        seconds = round(chance.uniform(0.05, longest), 3)
    return Action(at, kind, target, seconds, chance.randrange(6))
