"""The laws of the built-in strategies: each by itself, and those of all."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given, strategies as st

from trio_sched.model.records import Host
from trio_sched.strategies import Strategy, StrategyOptions, choose, get_strategy

NAMES = ("alpha", "priority", "random", "rendezvous", "rr", "spread", "weighted")
ALL = [get_strategy(name) for name in NAMES]
RR, PRIORITY, SPREAD = map(get_strategy, ("rr", "priority", "spread"))
RENDEZVOUS, WEIGHTED, RANDOM = map(get_strategy, ("rendezvous", "weighted", "random"))
PATHS = [f"/jobs/{at}" for at in range(4000)]

names = st.text("abc日\udcff", min_size=1, max_size=2)
hosts_by_name = st.dictionaries(
    names,
    st.builds(
        Host,
        st.just(""),
        joined_revision=st.integers(1, 5),
        weight=st.sampled_from([1e-6, 0.5, 1.0, 3.0, 1e6]),
        zone=st.sampled_from([None, "x", "y", "z"]),
        priority=st.integers(-1, 1),
    ),
    max_size=9,
)
pools = hosts_by_name.map(
    lambda found: {name: replace(host, name=name) for name, host in found.items()}
)
lasts = st.lists(names, unique=True, max_size=6)
counts = st.integers(1, 6)
paths = st.sampled_from(PATHS[:9])
strategies = st.sampled_from(ALL)


def ask(
    strategy: Strategy,
    pool: Mapping[str, Host],
    max_count: int,
    last: list[str] | None = None,
    path: str = "/p",
) -> list[str]:
    """Ask; `choose` refuses unknown hosts, duplicates, and more than `max_count`."""
    return list(choose(strategy, pool, StrategyOptions(max_count, tuple(last or ()), path)))


def pool_of(*hosts: Host) -> dict[str, Host]:
    return {host.name: host for host in hosts}


def without(pool: Mapping[str, Host], *gone: str) -> dict[str, Host]:
    return {name: host for name, host in pool.items() if name not in gone}


# Of all


@given(strategies, pools, counts, lasts, paths, st.data())
def test_all_use_the_pool_settle_and_are_blind_to_order(
    strategy: Strategy,
    pool: dict[str, Host],
    max_count: int,
    last: list[str],
    path: str,
    data: st.DataObject,
) -> None:
    choice = ask(strategy, pool, max_count, last, path)
    assert len(choice) == min(max_count, len(pool))
    assert ask(strategy, pool, max_count, choice, path) == choice
    shuffled = {name: pool[name] for name in data.draw(st.permutations(list(pool)))}
    assert ask(strategy, shuffled, max_count, last, path) == choice
    assert ask(get_strategy(strategy.name), pool, max_count, last, path) == choice


@given(st.sampled_from([RENDEZVOUS, WEIGHTED, RANDOM]), pools, counts, lasts, paths)
def test_who_draws_lots_remembers_nothing(
    strategy: Strategy, pool: dict[str, Host], max_count: int, last: list[str], path: str
) -> None:
    assert ask(strategy, pool, max_count, last, path) == ask(strategy, pool, max_count, [], path)


def test_another_hash_seed_makes_no_difference() -> None:
    program = (
        "from trio_sched.model.records import Host\n"
        "from trio_sched.strategies import *\n"
        "pool = {f'h{at}': Host(f'h{at}', 0, at, weight=1 + at % 3, zone=f'z{at % 4}', "
        "priority=at % 2) for at in range(50)}\n"
        "for name in known_strategies():\n"
        "    print(name, choose(get_strategy(name), pool, StrategyOptions(9, ('h7',), '/p')))\n"
    )

    def printed(hash_seed: str) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
        return done.stdout

    first = printed("1")
    assert first == printed("4321")
    # What was chosen yesterday must be chosen tomorrow: the next leader may be of either version.
    for line in (
        "random ('h13', 'h34', 'h11', ",
        "rendezvous ('h49', 'h25', 'h34', 'h16', 'h43', ",
        "weighted ('h49', 'h25', 'h34', 'h16', 'h35', ",
    ):
        assert "\n" + line in first


# rr, priority and spread: what they keep


@given(st.sampled_from([RR, PRIORITY, SPREAD]), pools, counts, lasts)
def test_f25_sticky_ones_drop_nobody_for_an_equal(
    strategy: Strategy, pool: dict[str, Host], max_count: int, last: list[str]
) -> None:
    alike = {name: replace(host, zone="x", priority=0) for name, host in pool.items()}
    kept = [name for name in last if name in alike]
    choice = ask(strategy, alike, max_count, last)
    assert choice[: len(kept)] == kept[:max_count]


@given(pools, counts, lasts)
def test_priority_drops_a_host_only_for_a_higher_one(
    pool: dict[str, Host], max_count: int, last: list[str]
) -> None:
    choice = ask(PRIORITY, pool, max_count, last)
    left_out = without(pool, *choice)
    assert all(
        pool[chosen].priority >= other.priority for chosen in choice for other in left_out.values()
    )
    lowest = [name for name in choice if pool[name].priority == pool[choice[-1]].priority]
    waiting = [
        other.name for other in left_out.values() if other.priority == pool[lowest[0]].priority
    ]
    if any(name in last for name in waiting):  # then there was no newcomer to be preferred to it
        assert all(name in last for name in lowest)


def test_priority_takes_the_highest_first_and_keeps_among_equals() -> None:
    pool = pool_of(
        Host("low", 0, 1, priority=-5),
        Host("a", 0, 2, priority=7),
        Host("b", 0, 3, priority=7),
        Host("top", 0, 4, priority=9),
    )
    assert ask(PRIORITY, pool, 4) == ["top", "a", "b", "low"]
    assert ask(PRIORITY, pool, 2, ["b"]) == ["top", "b"]
    assert ask(PRIORITY, pool, 1, ["a", "b"]) == ["top"]


@given(pools, counts, lasts)
def test_spread_leaves_zones_that_differ_by_one_at_most(
    pool: dict[str, Host], max_count: int, last: list[str]
) -> None:
    choice = ask(SPREAD, pool, max_count, last)
    chosen = Counter(pool[name].zone for name in choice)
    there = Counter(host.zone for host in pool.values())
    for one in there:
        for other in there:
            assert chosen[one] <= chosen[other] + 1 or chosen[other] == there[other]


@given(pools, counts, lasts)
def test_f25_spread_keeps_as_many_as_any_even_choice_could(
    pool: dict[str, Host], max_count: int, last: list[str]
) -> None:
    small = dict(list(pool.items())[:7])
    there = Counter(host.zone for host in small.values())

    def is_even(choice: tuple[str, ...]) -> bool:
        chosen = Counter(small[name].zone for name in choice)
        return all(
            chosen[one] <= chosen[other] + 1 or chosen[other] == there[other]
            for one in there
            for other in there
        )

    choices = combinations(small, min(max_count, len(small)))
    best = max(len({*choice} & {*last}) for choice in choices if is_even(choice))
    assert len({*ask(SPREAD, small, max_count, last)} & {*last}) == best


def test_spread_fills_small_zones_and_shares_the_rest() -> None:
    zones = {"x": 1, "y": 5, "z": 9}
    pool = pool_of(
        *(Host(f"{z}{n}", 0, n, zone=z) for z, size in zones.items() for n in range(size))
    )
    chosen = Counter(name[0] for name in ask(SPREAD, pool, 8))
    assert chosen["x"] == 1
    assert sorted(chosen.values()) == [1, 3, 4]


# Lots: shares, and how little moves


def shares(
    strategy: Strategy, pool: Mapping[str, Host], max_count: int, over: list[str]
) -> dict[str, float]:
    times = Counter(name for path in over for name in ask(strategy, pool, max_count, None, path))
    return {name: times[name] / len(over) for name in pool}


@pytest.mark.parametrize("max_count", [1, 2, 5])
def test_rendezvous_spreads_many_paths_evenly(max_count: int) -> None:
    pool = pool_of(*(Host(f"h{at}", 0, at, weight=1 + 9 * (at == 3)) for at in range(8)))
    due = max_count / 8  # whatever they weigh
    bound = 5 * (due * (1 - due) / len(PATHS)) ** 0.5  # five standard deviations
    for share in shares(RENDEZVOUS, pool, max_count, PATHS).values():
        assert share == pytest.approx(due, abs=bound)


def due_shares(weights: list[float], places: int) -> list[float]:
    """Return what each is due of one place: in proportion, but never more than a whole one."""
    certain: set[int] = set()
    while True:
        rest = [at for at in range(len(weights)) if at not in certain]
        total, left = sum(weights[at] for at in rest), places - len(certain)
        more = {at for at in rest if left * weights[at] >= total}
        if not more:
            return [
                1.0 if at in certain else left * weight / total for at, weight in enumerate(weights)
            ]
        certain |= more


@pytest.mark.parametrize(
    ("weights", "max_count"),
    [
        ([1, 1, 2], 1),
        ([1, 3], 1),
        ([1, 8], 1),
        ([1, 2, 3, 4], 1),
        ([1e-6, 1, 1e6], 1),
        ([1, 1, 2], 2),
        ([1, 2, 3, 4], 2),
        ([1, 1, 1, 5, 5], 3),
        ([1, 2, 4, 8, 16], 2),
        ([1, 2, 3, 4, 5, 6, 7, 8], 3),
        ([0.5] * 10 + [3] * 5, 4),
        ([1, 100], 2),
    ],
)
def test_weighted_gives_shares_in_proportion_to_weight(
    weights: list[float], max_count: int
) -> None:
    pool = pool_of(*(Host(f"h{at}", 0, at, weight=w) for at, w in enumerate(weights)))
    got = shares(WEIGHTED, pool, max_count, PATHS)
    for share, due in zip(got.values(), due_shares(weights, max_count), strict=True):
        noise = 5 * (due * (1 - due) / len(PATHS)) ** 0.5
        # One place is drawn exactly; see the head of the strategies for more of them.
        assert share == pytest.approx(due, abs=noise + (0.02 if max_count > 1 else 0.0) + 1e-9)


@given(st.sampled_from([RENDEZVOUS, WEIGHTED]), pools, counts, paths, st.data())
def test_when_equals_come_or_go_only_the_places_of_those_that_went_move(
    strategy: Strategy, pool: dict[str, Host], max_count: int, path: str, data: st.DataObject
) -> None:
    alike = {name: replace(host, weight=1.0) for name, host in pool.items()}
    gone = data.draw(st.sets(st.sampled_from(list(alike)))) if alike else set()
    before = ask(strategy, alike, max_count, None, path)
    after = ask(strategy, without(alike, *gone), max_count, None, path)
    kept = [name for name in before if name not in gone]
    assert {*kept} <= {*after}
    if strategy is RENDEZVOUS:
        assert after[: len(kept)] == kept


@given(pools, paths, st.data())
def test_weighted_moves_one_place_only_from_or_to_the_host_that_changed(
    pool: dict[str, Host], path: str, data: st.DataObject
) -> None:
    if not pool:
        return
    changed = data.draw(st.sampled_from(list(pool)))
    other = replace(pool[changed], weight=data.draw(st.sampled_from([1e-6, 0.25, 2.0, 1e6])))
    before = ask(WEIGHTED, pool, 1, None, path)
    after = ask(WEIGHTED, {**pool, changed: other}, 1, None, path)
    if before != after and len(pool) > 1:
        assert changed in {before[0], after[0]}


def test_weighted_moves_few_places_when_many_are_drawn_by_unequal_weights() -> None:
    pool = pool_of(*(Host(f"h{at}", 0, at, weight=1 + at) for at in range(8)))
    moves = 0
    for path in PATHS[:500]:
        before = {*ask(WEIGHTED, pool, 3, None, path)}
        for gone in pool:
            after = ask(WEIGHTED, without(pool, gone), 3, None, path)
            moves += len(before - {gone, *after})
    assert 0 < moves / (500 * len(pool)) < 0.06  # beside the places of those that went


def test_random_draws_anew_when_a_host_joins_and_not_before() -> None:
    pool = pool_of(*(Host(f"h{at}", 0, at) for at in range(1, 9)))
    choice = ask(RANDOM, pool, 3)
    assert ask(RANDOM, pool, 3, choice) == choice
    left_out = next(name for name in pool if name not in choice and name != "h8")
    assert ask(RANDOM, without(pool, left_out), 3) == choice  # the newest is still there
    drawn = {
        tuple(ask(RANDOM, {**pool, "new": Host("new", 0, revision)}, 3))
        for revision in range(10, 40)
    }
    assert len(drawn) > 20


def test_random_differs_by_path_and_favours_nobody() -> None:
    pool = pool_of(*(Host(f"h{at}", 0, at) for at in range(1, 9)))
    got = shares(RANDOM, pool, 2, PATHS)
    assert all(share == pytest.approx(1 / 4, abs=0.035) for share in got.values())
