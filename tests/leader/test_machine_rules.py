"""The leader's core: Strategies that fail, options that differ, reasons, and cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import pytest

from tests.leader.machine_helpers import (
    EVENTS,
    FENCE,
    NOTHING,
    Counting,
    chosen,
    host,
    lead,
    make,
    only,
    snapshot,
    warnings_in,
    write_in,
)
from trio_sched.exceptions import StrategyError
from trio_sched.leader import machine
from trio_sched.leader.machine import (
    Elected,
    Event,
    Fail,
    HostJoined,
    HostLeft,
    Intent,
    LeaderMachine,
    LoadSnapshot,
    Snapshot,
    State,
    WriteDone,
)
from trio_sched.model.records import Host
from trio_sched.strategies import get_strategy

# Strategies that fail


@pytest.mark.parametrize(
    "answer",
    [RuntimeError("boom"), ["unknown"], ["a", "a"], ["a", "b", "c"], "a", [1], b"a"],
)
def test_f23_a_strategy_that_breaks_the_rules_fails_and_writes_nothing_more(
    answer: Sequence[str] | BaseException,
) -> None:
    strategy = Counting()
    core = lead(make(2, strategy), "a", "b", "c")
    stored = core.stored
    strategy.answer = answer
    intents = core.handle(HostLeft("b", 21))
    assert isinstance(only(intents), Fail)
    error = intents[0]
    assert isinstance(error, Fail)
    assert isinstance(error.error, StrategyError)
    assert error.error.__cause__ is (answer if isinstance(answer, Exception) else None)
    assert core.state is State.FAILED
    assert core.stored == stored
    strategy.answer = None
    late = [event for name, event in EVENTS.items() if name not in {"Elected", "Deposed"}]
    assert core.handle(*late) == []
    assert core.handle(Elected(FENCE)) == []  # known already
    assert core.handle(Elected(50)) == [LoadSnapshot(50)]
    write_in(core.handle(snapshot("a", revision=51)))


def test_f23_a_base_exception_passes_and_the_evaluation_is_not_forgotten() -> None:
    strategy = Counting()
    core = lead(make(1, strategy), "a", "b")
    strategy.answer = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        core.handle(HostLeft("a", 21))
    strategy.answer = None
    assert chosen(core.handle()) == ["b"]


# Options that differ


def test_f24_one_warning_for_each_distinct_difference_showing_both() -> None:
    core = make(2)
    core.handle(Elected(FENCE))
    hosts = (
        host("same", max_count=2, strategy="rr"),
        host("silent"),
        host("x", max_count=3, strategy="rr"),
        host("y", max_count=3, strategy="rr"),
        host("z", max_count=2, strategy="alpha"),
    )
    warned = warnings_in(core.handle(Snapshot(10, hosts, NOTHING)), "options-differ")
    assert len(warned) == 2
    assert "max_count=3" in warned[0].message
    assert "max_count=2" in warned[0].message
    assert warned[0].extra["theirs"] == {"max_count": 3, "strategy": "rr"}
    assert warned[0].extra["ours"] == {"max_count": 2, "strategy": "rr"}
    assert warned[0].extra["host"] == "x"
    assert "'alpha'" in warned[1].message
    late = core.handle(
        HostJoined(host("w", max_count=3, strategy="rr"), 11),
        HostJoined(host("v", max_count=4), 12),
    )
    assert [w.extra["host"] for w in warnings_in(late, "options-differ")] == ["v"]


def test_f24_the_leaders_options_hold() -> None:
    core = make(1)
    core.handle(Elected(FENCE))
    hosts = (host("a", 1, max_count=3), host("b", 2, max_count=3))
    assert chosen(core.handle(Snapshot(10, hosts, NOTHING))) == ["a"]


def test_f24_junk_in_published_options_is_warned_of_in_few_and_short_words() -> None:
    core = lead(make(1), "a")
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    intents = core.handle(
        HostJoined(host("deep", max_count=deep), 30),
        HostJoined(host("long", strategy="x" * 9999), 31),
    )
    warned = warnings_in(intents, "options-differ")
    assert len(warned) == 2
    assert all(len(warning.message) < 300 for warning in warned)
    crowd: list[Event] = [HostJoined(host("h", max_count=at), at) for at in range(100, 300)]
    many = core.handle(*crowd)
    assert len(warned) + len(warnings_in(many, "options-differ")) == 32
    while deep:  # or the interpreter's own recursion takes it apart
        deep = deep.pop()  # type: ignore[assignment]


# Reasons


@pytest.mark.parametrize(
    ("max_count", "events", "reason"),
    [
        (3, [HostJoined(host("c", 21), 21)], "c joined"),
        (2, [HostLeft("a", 21)], "a left"),
        (2, [HostLeft("a", 21), HostJoined(host("c", 22), 22)], "a left, c joined"),
        (1, [HostLeft("a", 21)], "a left"),  # b had been waiting
        (2, [HostLeft("a", 21), HostLeft("b", 22)], "a, b left"),
        (
            9,
            [HostJoined(host(f"n{at}", at), at) for at in range(21, 28)],
            "n21, n22, n23 and 4 more joined",
        ),
    ],
)
def test_reasons_are_short_clauses(max_count: int, events: list[Event], reason: str) -> None:
    core = lead(make(max_count), "a", "b")
    assert write_in(core.handle(*events)).record.reason == reason


def test_the_public_names_are_those_of_all() -> None:
    exported = set(machine.__all__)
    assert {kind.__name__ for kind in (*get_args(Event), *get_args(Intent))} <= exported
    assert all(hasattr(machine, name) for name in exported)


# Cost


class Untouchable(dict[str, Host]):
    """Answers about one host at a time."""

    def __iter__(self) -> None:  # type: ignore[override]
        raise AssertionError("the pool was gone through")

    values = items = keys = __iter__  # type: ignore[assignment]


@pytest.mark.parametrize("strategy", ["rr", "alpha", "priority", "spread", "rendezvous"])
def test_an_event_costs_the_same_in_a_large_pool(strategy: str) -> None:
    """Of 5,000 hosts none is looked at but those that change, and those that are chosen."""
    core = lead(make(2, get_strategy(strategy)), *[f"n{at}" for at in range(5000)])
    pool = core._pool
    pool._hosts, pool._offered = Untouchable(pool._hosts), Untouchable(pool._offered)
    asked: list[frozenset[str]] = []
    for at in range(30, 60, 3):
        first = chosen_by(core)
        gone = next(iter(first))
        assert core.handle(HostJoined(host(f"a{at}", at), at), HostLeft(gone, at + 1))
        core.handle(WriteDone(at + 2))
        now = chosen_by(core)
        assert gone not in now
        assert len(now) == 2
        asked.append(now)
    assert len(set(asked)) == 10
    assert len(core.pool) == 5000


def chosen_by(core: LeaderMachine) -> frozenset[str]:
    assert core.stored is not None
    return frozenset(core.stored.hosts)
