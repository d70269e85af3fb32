"""The leader's pool: who may be chosen, and a strategy that is given only what changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import given, strategies as st

from tests.leader.machine_helpers import Counting, host
from trio_sched import StrategyError, StrategyOptions, StrategyTracker
from trio_sched.leader.pool import Pool
from trio_sched.model.control_state import ControlState
from trio_sched.model.records import Host, Options
from trio_sched.strategies import Strategy, choose, get_strategy
from trio_sched.strategies.built_in import BUILT_IN, Alpha, RoundRobin

MANY = 100


def large(strategy: Strategy, **options: Any) -> Pool:
    """Return a pool that is large enough to be tracked."""
    pool = Pool(strategy, Options(2, **options), "/p")
    for at in range(MANY):
        pool.put(host(f"n{at:03}", at + 1))
    return pool


class Tracked(Counting):
    """Is asked by `schedule` and by a tracker; remembers how."""

    def __init__(self, inner: str = "alpha") -> None:
        super().__init__(inner)
        self.trackers: list[Recording] = []
        self.error: Exception | None = None

    def track(self, path: str) -> StrategyTracker:
        assert path == "/p"
        self.trackers.append(Recording(self, self.inner))
        return self.trackers[-1]


class Recording(StrategyTracker):
    def __init__(self, owner: Tracked, inner: Strategy) -> None:
        tracker = inner.track("/p")
        assert tracker is not None
        self.owner, self.inner = owner, tracker
        self.seen: list[str] = []

    def put(self, host: Host) -> None:
        self.seen.append(f"+{host.name}")
        self.inner.put(host)

    def remove(self, name: str) -> None:
        self.seen.append(f"-{name}")
        self.inner.remove(name)

    def schedule(self, options: StrategyOptions) -> Sequence[str]:
        if self.owner.error is not None:
            raise self.owner.error
        return self.inner.schedule(options)

    def taken(self) -> list[str]:
        seen, self.seen = self.seen, []
        return seen


def test_a_small_pool_is_not_tracked() -> None:
    strategy = Tracked()
    pool = Pool(strategy, Options(2), "/p")
    for at in range(MANY - 1):
        pool.put(host(f"n{at:03}"))
    assert pool.choose(2, ()) == ("n000", "n001")
    assert not strategy.trackers
    pool.put(host("n999"))
    assert pool.choose(2, ()) == ("n000", "n001")
    assert len(strategy.trackers) == len(strategy.asked) == 1


def test_only_what_has_changed_is_given_to_it() -> None:
    strategy = Tracked()
    pool = large(strategy)
    pool.choose(2, ())
    (tracker,) = strategy.trackers
    assert sorted(tracker.taken()) == sorted(f"+{name}" for name in pool.hosts)
    pool.choose(2, ())
    assert tracker.taken() == []
    pool.put(host("new"))
    pool.remove("new")  # it has come and gone unseen
    pool.remove("n000")
    pool.put(host("n001", 500))  # it has joined again
    pool.put(replace(host("n002"), available=False))
    pool.put(replace(host("bad"), available=False))
    assert pool.choose(2, ()) == ("n001", "n003")
    assert sorted(tracker.taken()) == ["+n001", "-n000", "-n002"]


def test_operators_are_heeded_in_a_large_pool() -> None:
    strategy = Tracked()
    pool = large(strategy, hosts_filter=frozenset(f"n{at:03}" for at in range(1, 200)))
    pool.put(host("n150"))
    assert pool.choose(2, ()) == ("n001", "n002")
    strategy.trackers[0].taken()
    pool.steer(ControlState(drained=frozenset({"n001", "elsewhere"})))
    assert pool.choose(2, ()) == ("n002", "n003")
    pool.steer(ControlState(drained=frozenset({"n002"})))
    assert pool.choose(2, ()) == ("n001", "n003")
    assert sorted(strategy.trackers[0].taken()) == ["+n001", "-n001", "-n002"]
    assert pool.offered.keys() == pool.hosts.keys() - {"n000", "n002"}


def test_who_is_not_offered_once_is_offered_again() -> None:
    strategy = Tracked()
    pool = large(strategy)
    pool.choose(2, ())
    strategy.trackers[0].taken()
    pool.put(host("a"))  # known to be there, and not asked about yet
    assert pool.choose(2, (), ("n000", "a")) == ("n001", "n002")
    assert strategy.trackers[0].taken() == ["-n000"]
    assert pool.choose(2, (), ("n001",)) == ("a", "n000")
    assert pool.choose(2, ()) == ("a", "n000")
    assert sorted(strategy.trackers[0].taken()) == ["+a", "+n000", "+n001", "-n001"]
    assert len(strategy.trackers) == 1


def test_f23_after_a_failure_it_tracks_anew() -> None:
    strategy = Tracked()
    pool = large(strategy)
    pool.choose(2, ())
    strategy.error = ValueError("of mine")
    pool.remove("n000")
    with pytest.raises(StrategyError, match="ValueError: of mine") as caught:
        pool.choose(2, ())
    assert caught.value.__cause__ is strategy.error
    strategy.error = None
    pool.remove("n001")
    pool.put(host("a"))
    pool.put(host("z"))
    assert pool.choose(2, ()) == ("a", "n002")
    assert len(strategy.trackers) == 2
    assert len(strategy.trackers[1].seen) == len(pool.hosts) == MANY


class Broken(Alpha):
    def __init__(self, answer: object) -> None:
        self.answer = answer

    def track(self, path: str) -> StrategyTracker:  # noqa: ARG002 # as `Strategy` has it
        if isinstance(self.answer, Exception):
            raise self.answer
        return cast(StrategyTracker, self.answer)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Alpha(), "'track' returned an object of type Alpha, not a StrategyTracker"),
        (KeyError("x"), "raised KeyError: 'x'"),
    ],
)
def test_f23_what_does_not_track_is_a_strategy_error(answer: object, reason: str) -> None:
    with pytest.raises(StrategyError) as caught:
        large(Broken(answer)).choose(2, ())
    assert caught.value.reason == reason


def test_a_strategy_may_say_that_it_tracks_nothing() -> None:
    assert large(Broken(None)).choose(2, ()) == ("n000", "n001")


class Last(RoundRobin):
    """Has a `schedule` of its own, and inherits a `track`."""

    def schedule(self, hosts: Mapping[str, Host], options: StrategyOptions) -> Sequence[str]:
        return sorted(hosts)[-options.max_count :]


class LastOfAll(Last):
    """Inherits both."""


def test_a_subclass_with_a_schedule_of_its_own_is_asked_by_that() -> None:
    for strategy in (Last(), LastOfAll()):
        assert large(strategy).choose(2, ()) == ("n098", "n099")
    patched = Alpha()
    vars(patched)["schedule"] = Last().schedule
    assert large(patched).choose(2, ()) == ("n098", "n099")


# What it chooses by a tracker is what it chooses without.

NAMES = st.sampled_from([f"h{at}" for at in range(30)] + ["日", "\udcff", "a b"])
HOSTS = st.builds(
    Host,
    NAMES,
    lease=st.integers(1, 3),
    joined_revision=st.integers(1, 9),
    weight=st.sampled_from([0.5, 1.0, 3.0]),
    zone=st.sampled_from([None, "x", "y", "z"]),
    priority=st.integers(-1, 1),
    available=st.booleans(),
)
STEPS = st.one_of(
    st.tuples(st.just("put"), HOSTS),
    st.tuples(st.just("remove"), NAMES),
    st.tuples(st.just("replace"), st.lists(HOSTS, max_size=12)),
    st.tuples(st.just("drain"), st.frozensets(NAMES, max_size=4)),
    st.tuples(st.just("choose"), st.integers(1, 9), st.frozensets(NAMES, max_size=2)),
)


@pytest.mark.parametrize("name", BUILT_IN)
@given(st.lists(HOSTS, max_size=30), st.lists(STEPS, max_size=40))
def test_a_large_pool_is_chosen_from_as_a_small_one(
    name: str, first: list[Host], steps: list[tuple[Any, ...]]
) -> None:
    strategy = get_strategy(name)
    fillers = [host(f"zz{at:03}", at + 20) for at in range(MANY)]
    pool = Pool(strategy, Options(), "/p")
    everything = {one.name: one for one in (*first, *fillers)}
    pool.replace(everything)
    last: tuple[str, ...] = ()
    for kind, *arguments in (*steps, ("choose", 3, frozenset())):
        match kind, *arguments:
            case "put", Host() as new:
                pool.put(new)
            case "remove", gone:
                if gone in pool.hosts:
                    pool.remove(gone)
            case "replace", some:
                pool.replace({one.name: one for one in (*some, *fillers)})
            case "drain", drained:
                pool.steer(ControlState(drained=drained))
            case "choose", int() as count, without:
                out = without & pool.offered.keys()
                offered = {name: pool.hosts[name] for name in pool.offered if name not in out}
                expected = choose(strategy, offered, StrategyOptions(count, last, "/p"))
                assert pool.choose(count, last, out) == expected
                last = (*expected[::-1], *last[:3])
    assert (pool._tracker is not None) == (name not in {"random", "weighted"})
