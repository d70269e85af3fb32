"""The leader's core: What the core knows of the pool, and offers to strategies."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.leader.machine_helpers import (
    FENCE,
    ME,
    NOTHING,
    Counting,
    chosen,
    core_in,
    host,
    lead,
    make,
    options_of,
    record,
    snapshot,
    stored_at,
    timer_in,
    write_in,
)
from trio_sched.leader.machine import (
    DecisionChanged,
    Elected,
    Event,
    HostJoined,
    HostLeft,
    Snapshot,
    State,
    WriteDone,
)
from trio_sched.model.records import DecisionRecord, Host
from trio_sched.model.stored_decision import StoredDecision
from trio_sched.strategies import StrategyOptions

# The pool


def test_f20_a_batch_gives_one_evaluation_and_one_write() -> None:
    strategy = Counting()
    core = lead(make(3, strategy), "a")
    strategy.asked.clear()
    burst: list[Event] = [HostJoined(host(f"n{at}", at), at) for at in range(21, 121)]
    assert chosen(core.handle(*burst, HostLeft("a", 121))) == ["n21", "n22", "n23"]
    assert len(strategy.asked) == 1


def test_a_host_that_changes_nothing_is_evaluated_but_not_written() -> None:
    strategy = Counting()
    core = lead(make(1, strategy), "a")
    assert core.handle(HostJoined(host("b", 21), 21)) == []
    assert core.handle(HostJoined(Host("b", 1021, 21, data={"zone": "x"}), 22)) == []
    assert core.handle(HostLeft("b", 23)) == []
    assert len(strategy.asked) == 4


def test_a_host_that_has_another_trouble_is_not_evaluated() -> None:
    """Else a leader that publishes why its strategy fails would ask it again at once."""
    strategy = Counting()
    core = lead(make(1, strategy), "a")
    core.handle(HostJoined(host("b", 21), 21))
    strategy.asked.clear()
    for revision, trouble in ((22, "it fails"), (23, "it fails again"), (24, "")):
        in_trouble = replace(host("b", 21), trouble=trouble)
        assert core.handle(HostJoined(in_trouble, revision)) == []
        assert core.pool["b"].trouble == trouble
    assert not strategy.asked


def test_f20_events_at_or_below_the_snapshot_are_ignored() -> None:
    strategy = Counting()
    core = lead(make(2, strategy), "a", "b")
    strategy.asked.clear()
    assert core.handle(HostLeft("a", 9), HostLeft("b", 10), HostJoined(host("z", 10), 10)) == []
    assert set(core.pool) == {"a", "b"}
    assert strategy.asked == []


def test_f20_reordered_events_of_one_host_end_with_the_newest() -> None:
    core = lead(make(9), "a")
    came, went, back = (
        HostJoined(host("b", 21), 21),
        HostLeft("b", 22),
        HostJoined(host("b", 23), 23),
    )
    core.handle(went)
    core.handle(came)
    assert "b" not in core.pool  # a tombstone remembers
    core.handle(back, went, came, back)
    assert core.pool["b"].joined_revision == 23


def test_f20_events_that_overtake_the_snapshot_count() -> None:
    core = make(9)
    core.handle(Elected(FENCE))
    early: list[Event] = [HostJoined(host("new", 12), 12), HostLeft("a", 13), HostLeft("b", 9)]
    assert core.handle(*early) == []
    assert sorted(chosen(core.handle(snapshot("a", "b")))) == ["b", "new"]


def test_a_snapshot_heals_what_the_watch_has_swallowed() -> None:
    core = lead(make(9), "a", "b")
    core.handle(HostJoined(host("late", 35), 35))
    core.handle(WriteDone(36))
    healing = Snapshot(34, (host("b", 2), host("c", 30)), stored_at(core, 37))
    assert sorted(chosen(core.handle(healing))) == ["b", "c", "late"]


def test_an_old_snapshot_does_not_bring_back_the_dead_during_a_write_either() -> None:
    core = core_in(State.WRITING)
    core.handle(Snapshot(30, (host("a"),), NOTHING), snapshot("a", "b", "c", revision=29))
    core.handle(HostJoined(host("b", 29), 29))
    assert set(core.pool) == {"a"}


def test_a_foreign_write_that_only_a_snapshot_shows_during_a_write() -> None:
    core = core_in(State.WRITING)
    theirs = StoredDecision(("x",), 25, 30)
    assert core.handle(snapshot("a", "b", "c", revision=30, stored=theirs)) == []
    assert timer_in(core.handle(WriteDone(20))) == pytest.approx(0.1)
    assert core.stored == theirs


def test_a_snapshot_that_says_nothing_new_asks_nobody() -> None:
    strategy = Counting()
    core = lead(make(9, strategy), "a", "b")
    strategy.asked.clear()
    assert core.handle(snapshot("a", "b", revision=30, stored=stored_at(core, 30))) == []
    assert strategy.asked == []


def test_an_old_snapshot_does_not_bring_back_the_dead() -> None:
    core = lead(make(9), "a", "b")
    core.handle(snapshot("a", revision=30, stored=stored_at(core, 30)))
    core.handle(WriteDone(31))
    core.handle(snapshot("a", "b", revision=29, stored=NOTHING))
    assert set(core.pool) == {"a"}
    assert core.state is State.LEADING


def test_tombstones_are_pruned_by_each_snapshot() -> None:
    core = lead(make(1), "a")
    for at in range(21, 40):
        core.handle(HostLeft(f"gone{at}", at))
    assert len(core._revisions) == 19
    core.handle(snapshot("a", revision=38, stored=stored_at(core, 38)))
    assert list(core._revisions) == ["gone39"]


def test_the_pool_is_a_read_only_view() -> None:
    core = lead(make(), "a")
    with pytest.raises(TypeError):
        core.pool["b"] = host("b")  # type: ignore[index]


# What is offered to the strategy


def test_hosts_filter_limits_what_the_strategy_sees() -> None:
    strategy = Counting()
    core = make(9, strategy, hosts_filter=frozenset({"b", "c", "zz"}))
    core.handle(Elected(FENCE))
    write = write_in(core.handle(snapshot("a", "b", "c")))
    assert list(write.record.hosts) == ["b", "c"]
    assert write.record.options["hosts_filter"] == ["b", "c", "zz"]
    assert set(strategy.asked[0][0]) == {"b", "c"}
    assert set(core.pool) == {"a", "b", "c"}


def test_f29_hosts_whose_names_scheduled_cannot_hold_are_not_offered() -> None:
    core = make(9)
    core.handle(Elected(FENCE))
    assert chosen(core.handle(snapshot("a", "", "x,y"))) == ["a"]


def test_the_strategy_is_told_max_count_and_path() -> None:
    strategy = Counting()
    lead(make(7, strategy), "a")
    assert strategy.asked[0][1] == StrategyOptions(7, (), "/p")


@pytest.mark.parametrize(
    ("stored", "last"),
    [
        (StoredDecision(("a", "b"), 8, 10, record=record("b", "a")), ("b", "a")),
        (
            StoredDecision(("a", "b"), 8, 10, record=record("b", "c")),
            ("a", "b"),
        ),  # not of these hosts
        (StoredDecision(("a", "b"), 8, 10), ("a", "b")),
        (StoredDecision((), 0, 10), ()),
    ],
)
def test_last_is_the_records_order_if_it_belongs(
    stored: StoredDecision, last: tuple[str, ...]
) -> None:
    strategy = Counting()
    core = make(2, strategy)
    core.handle(Elected(FENCE))
    core.handle(snapshot("a", "b", stored=stored))
    assert strategy.asked[0][1].last == last


def test_f25_a_new_leader_keeps_chosen_hosts_that_live() -> None:
    theirs = StoredDecision(("c", "d", "gone"), 8, 10, record=record("d", "gone", "c"))
    core = make(3)
    core.handle(Elected(FENCE))
    assert chosen(core.handle(snapshot("a", "b", "c", "d", stored=theirs))) == ["d", "c", "a"]


def test_f25_a_new_leader_keeps_whom_a_go_leader_chose() -> None:
    core = make(2)
    core.handle(Elected(FENCE))
    intents = core.handle(snapshot("a", "b", "c", "d", stored=StoredDecision(("c", "d"), 8, 10)))
    assert chosen(intents) == ["c", "d"]


def test_f25_a_host_that_flaps_in_one_batch_stays_chosen_under_its_new_lease() -> None:
    core = lead(make(1), "a", "b")
    write = write_in(core.handle(HostLeft("a", 21), HostJoined(host("a", 22), 22)))
    assert write.record.hosts == {"a": 1022}
    assert write.record.reason == "a rejoined"


def test_f25_when_a_chosen_host_leaves_the_others_stay() -> None:
    core = lead(make(3), "a", "b", "c", "d")
    assert chosen(core.handle(HostLeft("b", 21))) == ["a", "c", "d"]


def test_f18_a_new_lease_of_a_chosen_host_is_written() -> None:
    core = lead(make(1), "a")
    assert write_in(core.handle(HostJoined(host("a", lease=9), 21))).record.hosts == {"a": 9}


def test_a_changed_order_is_written() -> None:
    strategy = Counting()
    core = lead(make(2, strategy), "a", "b")
    strategy.answer = ["b", "a"]
    write = write_in(core.handle(HostJoined(host("c", 21), 21)))
    assert list(write.record.hosts) == ["b", "a"]
    assert write.record.reason == "the strategy chose anew"


def test_records_options_that_differ_are_written() -> None:
    core = lead(make(2), "a")
    mine = DecisionRecord({"a": 1001}, ME, FENCE, "elected", options_of(3))
    assert core.handle(DecisionChanged(StoredDecision(("a",), 21, 21, record=mine))) != []
    assert core.state is State.WRITING
