"""The leader's machine: what operators want, and what hosts say that they cannot do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import pytest

from tests.leader.machine_helpers import (
    FENCE,
    ME,
    NOTHING,
    Counting,
    chosen,
    echo,
    fight,
    foreign,
    host,
    lead,
    make,
    record,
    snapshot,
    stored_at,
    write_in,
)
from trio_sched.leader.machine import (
    ControlChanged,
    DecisionChanged,
    Deposed,
    Elected,
    HostJoined,
    HostLeft,
    LeaderMachine,
    Snapshot,
    State,
    TimerFired,
    WriteDecision,
    WriteDone,
    WriteLost,
)
from trio_sched.leader.pool import barred
from trio_sched.model.control_state import ControlState
from trio_sched.model.records import DecisionRecord, Options
from trio_sched.model.stored_decision import StoredDecision
from trio_sched.strategies import get_strategy


def says(control: ControlState, revision: int) -> ControlChanged:
    """Return what the watch says when an operator has written the key at this revision."""
    return ControlChanged(ControlState.decode(control.encode(), revision), revision)


def steered(core: LeaderMachine, control: ControlState, revision: int) -> WriteDecision:
    """Let the machine know what is wanted, and its write land one revision later."""
    write = write_in(core.handle(says(control, revision)))
    assert core.handle(WriteDone(revision + 1)) == []
    return write


def recorded(write: WriteDecision) -> Mapping[str, object]:
    return cast("Mapping[str, object]", write.record.options["control"])


# Unavailable hosts


def test_an_unavailable_host_loses_its_place_and_is_offered_again_later() -> None:
    strategy = Counting()
    core = lead(make(2, strategy), "a", "b", "c")
    sick = replace(host("a"), available=False, reason="disk full")
    write = write_in(core.handle(HostJoined(sick, 21)))
    assert list(write.record.hosts) == ["b", "c"]
    assert write.record.reason == "a unavailable"
    assert set(strategy.asked[-1][0]) == {"b", "c"}
    core.handle(WriteDone(22))
    assert core.handle(HostJoined(host("a"), 23)) == []
    assert set(strategy.asked[-1][0]) == {"a", "b", "c"}


def test_hosts_that_are_all_unavailable_leave_nobody() -> None:
    core = lead(make(2), "a")
    sick = replace(host("a"), available=False)
    assert chosen(core.handle(HostJoined(sick, 21))) == []


def test_why_a_host_may_not_be_chosen() -> None:
    options, control = Options(1, "rr", frozenset("abc")), ControlState(drained=frozenset("b"))
    assert barred(host("a"), options, control) is None
    assert barred(host("b"), options, control) == "drained"
    assert barred(host("d"), options, control) == "not in hosts_filter"
    sick = replace(host("a"), available=False)
    assert barred(sick, options, control) == "unavailable"
    assert barred(replace(sick, reason="disk full"), options, control) == "unavailable: disk full"
    for name in ("", "x,y"):
        assert barred(host(name), Options(), control) == "its name does not fit into 'scheduled'"


# Draining and the count


def test_a_drained_host_moves_and_stays_away() -> None:
    core = lead(make(2), "a", "b", "c")
    write = steered(core, ControlState().drain("a"), 21)
    assert list(write.record.hosts) == ["b", "c"]
    assert write.record.reason == "a drained"
    assert recorded(write) == {"revision": 21, "drained": ["a"]}
    assert chosen(core.handle(HostLeft("b", 23))) == ["c"]  # not even now
    core.handle(WriteDone(24))
    back = steered(core, ControlState(), 25)
    assert list(back.record.hosts) == ["c", "a"]
    assert back.record.reason == "a undrained"
    assert recorded(back) == {"revision": 25}


def test_a_wish_that_changes_no_choice_is_written_so_that_operators_know() -> None:
    core = lead(make(1), "a", "b")
    write = steered(core, ControlState().drain("b"), 21)
    assert (list(write.record.hosts), write.record.reason) == (["a"], "b drained")
    same = steered(core, ControlState(drained=frozenset("b"), extra={"new": 1}), 23)
    assert (same.record.reason, recorded(same)["revision"]) == ("control read", 23)


def test_nothing_is_recorded_of_a_control_that_is_not_there() -> None:
    core = lead(make(1), "a")
    assert core.handle(ControlChanged(ControlState(), 21)) == []
    gone = steered(core, ControlState().pause(), 22)
    assert "control" in gone.record.options
    write = write_in(core.handle(ControlChanged(ControlState(), 24)))  # the key was deleted
    assert "control" not in write.record.options
    assert write.record.reason == "resumed"


def test_max_count_holds_over_the_leaders_option_both_ways() -> None:
    strategy = Counting()
    core = lead(make(2, strategy), "a", "b", "c")
    more = steered(core, ControlState().set_count(3), 21)
    assert list(more.record.hosts) == ["a", "b", "c"]
    assert more.record.reason == "max_count set to 3"
    assert more.record.options["max_count"] == 3
    assert recorded(more) == {"revision": 21, "max_count": 3}
    fewer = steered(core, ControlState().set_count(1), 23)
    assert list(fewer.record.hosts) == ["a"]
    assert strategy.asked[-1][1].max_count == 1
    unset = steered(core, ControlState(), 25)
    assert list(unset.record.hosts) == ["a", "b"]
    assert unset.record.reason == "max_count unset"
    assert unset.record.options["max_count"] == 2


def test_hosts_are_still_warned_of_the_leaders_own_options_only() -> None:
    core = lead(make(2), "a")
    steered(core, ControlState().set_count(3), 21)
    assert core.handle(HostJoined(host("a", max_count=2, strategy="rr"), 23)) == []


# Pausing


def test_while_paused_the_choice_stands_but_the_dead_lose_their_places() -> None:
    strategy = Counting()
    core = lead(make(2, strategy), "a", "b", "c")
    strategy.asked.clear()
    write = steered(core, ControlState().pause(), 21)
    assert (list(write.record.hosts), write.record.reason) == (["a", "b"], "paused")
    assert recorded(write) == {"revision": 21, "paused": True}
    assert core.handle(HostJoined(host("d", 23), 23)) == []
    left = write_in(core.handle(HostLeft("a", 24)))
    assert (list(left.record.hosts), left.record.reason) == (["b"], "a left, paused")
    core.handle(WriteDone(25))
    assert core.handle(HostJoined(host("a", 26), 26)) == []  # it is too late for it
    assert strategy.asked == []
    resumed = steered(core, ControlState(), 27)
    assert (list(resumed.record.hosts), resumed.record.reason) == (["b", "c"], "resumed")


def test_while_paused_a_host_that_comes_back_under_another_lease_has_lost_its_place() -> None:
    core = lead(make(2), "a", "b", "c")
    steered(core, ControlState().pause(), 21)
    write = write_in(core.handle(HostLeft("a", 23), HostJoined(host("a", 24), 24)))
    assert list(write.record.hosts) == ["b"]


@pytest.mark.parametrize(
    "more",
    [
        lambda control: control.drain("a"),
        lambda control: control.set_count(1),
        lambda control: control.set_count(3),
        lambda control: control.evict("a", revision=20),
    ],
)
def test_while_paused_other_wishes_wait(more: object) -> None:
    assert callable(more)
    core = lead(make(2), "a", "b", "c")
    paused = ControlState().pause()
    steered(core, paused, 21)
    write = steered(core, more(paused), 23)
    assert list(write.record.hosts) == ["a", "b"]
    assert write.record.options["max_count"] == 2  # what the choice was made with
    resumed = steered(core, more(paused).resume(), 25)
    assert list(resumed.record.hosts) != ["a", "b"]


def test_while_paused_an_unavailable_host_stays() -> None:
    core = lead(make(1), "a", "b")
    steered(core, ControlState().pause(), 21)
    assert core.handle(HostJoined(replace(host("a"), available=False), 23)) == []


def test_a_new_leader_of_a_paused_path_keeps_what_is_stored() -> None:
    old = DecisionRecord({"c": 1003, "a": 999}, "host-old", 2, "", {"max_count": 5})
    core = make(1)
    core.handle(Elected(FENCE))
    control = ControlState.decode(ControlState().pause().encode(), 9)
    stored = StoredDecision(("a", "c"), 8, 10, 3, old)
    (write,) = core.handle(replace(snapshot("a", "b", "c", stored=stored), control=control))
    assert isinstance(write, WriteDecision)
    assert dict(write.record.hosts) == {"c": 1003}  # `a` has another lease than it was chosen under
    assert write.record.reason == "elected, paused"
    assert write.record.options["max_count"] == 5


def test_a_new_leader_of_a_paused_path_keeps_what_a_go_leader_chose() -> None:
    core = make(1)
    core.handle(Elected(FENCE))
    control = ControlState(paused=True, revision=9)
    stored = StoredDecision(("b", "c", "z"), 8, 10)
    (write,) = core.handle(replace(snapshot("a", "b", "c", stored=stored), control=control))
    assert isinstance(write, WriteDecision)
    assert dict(write.record.hosts) == {"b": 1002, "c": 1003}
    assert write.record.options["max_count"] == 2


def test_a_path_that_was_paused_before_anybody_decided_has_nobody() -> None:
    core = make(1)
    core.handle(Elected(FENCE))
    paused = ControlState(paused=True, revision=9)
    assert chosen(core.handle(replace(snapshot("a"), control=paused))) == []


def test_while_paused_a_foreign_write_is_taken_back() -> None:
    core = lead(make(2), "a", "b", "c")
    steered(core, ControlState().pause(), 21)
    core.handle(foreign("c", revision=23))
    assert chosen(core.handle(TimerFired())) == ["a", "b"]


# Evicting


def test_an_evicted_host_moves_once() -> None:
    core = lead(make(2), "a", "b", "c")
    control = ControlState().evict("a", revision=20, lease=1001)
    write = steered(core, control, 21)
    assert list(write.record.hosts) == ["b", "c"]
    assert write.record.reason == "a evicted"
    assert recorded(write) == {"revision": 21, "evicted": 20}
    assert chosen(core.handle(HostLeft("b", 23))) == ["c", "a"]  # it may be chosen again
    core.handle(WriteDone(24))
    assert core.handle(HostJoined(host("d", 25), 25)) == []
    paused = steered(core, control.pause(), 26)
    assert recorded(paused) == {"revision": 26, "paused": True, "evicted": 20}
    resumed = steered(core, control, 28)
    assert (list(resumed.record.hosts), resumed.record.reason) == (["c", "a"], "resumed")


def test_an_eviction_that_a_decision_has_seen_is_done_for_the_next_leader_too() -> None:
    core = lead(make(1), "a", "b")
    control = ControlState().evict("a", revision=20, lease=1001)
    moved = steered(core, control, 21)
    core.handle(Deposed())
    back = DecisionRecord({"a": 1001}, ME, 5, "b left", moved.record.options)  # since chosen again
    core.handle(Elected(30))
    stored = StoredDecision(("a",), 25, 31, 3, back)
    hosts = (host("a"), host("b", 2))
    loaded = Snapshot(31, hosts, stored, ControlState.decode(control.encode(), 21))
    assert chosen(core.handle(loaded)) == ["a"]
    core.handle(WriteDone(32))
    again = control.evict("a", revision=33, lease=1001)
    assert list(steered(core, again, 34).record.hosts) == ["b"]


@pytest.mark.parametrize(("revision", "expected"), [(20, ["a"]), (26, ["b"])])
def test_an_eviction_older_than_a_go_leaders_decision_counts_as_done(
    revision: int, expected: list[str]
) -> None:
    core = make(1)
    core.handle(Elected(30))
    control = ControlState.decode(ControlState().evict("a", revision=revision).encode(), 27)
    loaded = Snapshot(31, (host("a"), host("b", 2)), StoredDecision(("a",), 25, 31), control)
    assert chosen(core.handle(loaded)) == expected


def test_an_eviction_whose_decision_was_lost_is_carried_out_by_the_next() -> None:
    core = lead(make(1), "a", "b")
    first = write_in(core.handle(says(ControlState().evict("a", revision=20), 21)))
    core.handle(WriteLost())
    again = write_in(
        core.handle(replace(snapshot("a", "b"), revision=22, stored=stored_at(core, 22)))
    )
    assert again.record == first.record
    assert list(again.record.hosts) == ["b"]


def test_an_eviction_of_another_life_is_none() -> None:
    core = lead(make(1), "a", "b")
    write = steered(core, ControlState().evict("a", revision=20, lease=999), 21)
    assert (list(write.record.hosts), write.record.reason) == (["a"], "control read")


def test_an_eviction_of_who_has_no_place_moves_nobody_and_does_not_wait_for_it() -> None:
    core = lead(make(1), "a", "b")
    write = steered(core, ControlState().evict("b", revision=20), 21)
    assert list(write.record.hosts) == ["a"]
    assert recorded(write)["evicted"] == 20
    assert chosen(core.handle(HostLeft("a", 23))) == ["b"]


def test_a_host_stays_if_nobody_can_take_its_place_and_that_is_final() -> None:
    core = lead(make(2), "a", "b")
    write = steered(core, ControlState().evict("b", revision=20), 21)
    assert list(write.record.hosts) == ["a", "b"]
    assert write.record.reason == "b not evicted for want of others"
    assert core.handle(HostJoined(host("c", 23), 23)) == []


def test_of_several_the_oldest_wishes_are_met_as_far_as_others_are_enough() -> None:
    core = lead(make(3), "a", "b", "c", "d")
    control = ControlState().evict("b", revision=19).evict("a", revision=20)
    write = steered(core, control, 21)
    assert list(write.record.hosts) == ["a", "c", "d"]
    assert write.record.reason == "b evicted, a not evicted for want of others"


def test_with_fewer_places_a_host_can_be_evicted_for_one_that_would_have_gone() -> None:
    core = lead(make(2), "a", "b")
    write = steered(core, ControlState().set_count(1).evict("a", revision=20), 21)
    assert list(write.record.hosts) == ["b"]
    assert write.record.reason == "a evicted, max_count set to 1"


def test_a_host_stays_if_the_strategy_would_rather_leave_its_place_empty() -> None:
    strategy = Counting()
    core = lead(make(1, strategy), "a", "b")
    strategy.inner = get_strategy(lambda hosts, _options: [name for name in hosts if name == "a"])
    write = steered(core, ControlState().evict("a", revision=20), 21)
    assert list(write.record.hosts) == ["a"]
    assert write.record.reason == "a not evicted for want of others"


def test_an_eviction_from_the_future_is_none() -> None:
    """Else a revision that a client made up would count all later evictions as done."""
    core = lead(make(1), "a", "b")
    control = ControlState().evict("a", revision=999)
    write = steered(core, control, 21)
    assert list(write.record.hosts) == ["a"]
    assert list(steered(core, control.evict("a", revision=21), 23).record.hosts) == ["b"]


# When it is known


def test_only_the_newest_word_counts() -> None:
    core = lead(make(2), "a", "b", "c")
    newest, older = says(ControlState(), 30), says(ControlState().pause(), 29)
    write = write_in(core.handle(newest, older))
    assert recorded(write) == {"revision": 30}
    core.handle(WriteDone(31))
    assert core.handle(older) == []


def test_a_snapshot_brings_what_operators_want_and_one_without_leaves_it() -> None:
    core = make(2)
    core.handle(Elected(FENCE))
    control = ControlState.decode(ControlState().drain("a").encode(), 9)
    write = write_in(core.handle(replace(snapshot("a", "b"), control=control)))
    assert list(write.record.hosts) == ["b"]
    assert write.record.reason == "elected, a drained"
    core.handle(WriteDone(20))
    again = snapshot("a", "b", revision=25, stored=stored_at(core, 25))
    assert core.handle(again) == []
    assert core.handle(replace(again, revision=26, control=control)) == []
    assert core.handle(says(ControlState(), 24)) == []  # older than that snapshot
    deleted = replace(again, revision=27, control=ControlState())
    assert chosen(core.handle(deleted)) == ["b", "a"]


def test_a_word_that_overtakes_the_snapshot_counts() -> None:
    core = make(1)
    core.handle(Elected(FENCE), says(ControlState().drain("a"), 12))
    loaded = replace(snapshot("a", "b"), control=ControlState())
    assert chosen(core.handle(loaded)) == ["b"]


def test_a_word_during_a_write_waits_for_its_end() -> None:
    core = make(1)
    core.handle(Elected(FENCE))
    core.handle(snapshot("a", "b"))
    assert core.handle(says(ControlState().drain("a"), 12)) == []
    assert chosen(core.handle(WriteDone(20))) == ["b"]


def test_after_deposed_what_operators_wanted_is_forgotten() -> None:
    core = lead(make(1), "a", "b")
    steered(core, ControlState().drain("a"), 21)
    core.handle(Deposed(), Elected(30))
    assert chosen(core.handle(snapshot("a", "b", revision=31))) == ["a"]


def test_our_own_echo_with_wishes_is_no_foreign_write() -> None:
    core = lead(make(2), "a", "b")
    control = ControlState().drain("x").set_count(1).evict("a", revision=20)
    write = write_in(core.handle(says(control, 21)))
    assert core.handle(WriteDone(22)) == []
    assert core.handle(echo(write, 22)) == []
    assert core.state is State.LEADING


def test_junk_in_a_stored_record_is_no_wish() -> None:
    junk: Mapping[str, object]
    for junk in ({"control": 3}, {"control": {"evicted": "x", "drained": 3}}, {"max_count": "x"}):
        core = make(1)
        core.handle(Elected(FENCE))
        control = ControlState.decode(ControlState().pause().evict("a", revision=7).encode(), 9)
        theirs = replace(record("a", lease=1001), options=junk)
        loaded = replace(
            snapshot("a", "b", stored=StoredDecision(("a",), 8, 10, 3, theirs)), control=control
        )
        assert chosen(core.handle(loaded)) == ["a"]
        core.handle(WriteDone(20))
        assert list(steered(core, control.resume(), 21).record.hosts) == ["b"]


# Foreign writes


def test_f33_what_a_foreigner_stored_moves_no_place_of_ours() -> None:
    strategy = Counting()
    core = lead(make(2, strategy), "c", "a", "b", "d")
    for revision in (30, 40, 50):
        fight(core, revision, "b", "d")
        assert strategy.asked[-1][1].last == ("c", "a")
    core.handle(foreign("b", "d", revision=60), HostLeft("c", 61))
    assert chosen(core.handle(TimerFired())) == ["a", "b"]
    assert strategy.asked[-1][1].last == ("c", "a")


def test_f33_before_a_decision_of_ours_is_stored_we_keep_what_is_there() -> None:
    core = make(1)
    core.handle(Elected(FENCE))
    core.handle(snapshot("a", "b", "c", stored=StoredDecision(("b",), 8, 10)))
    core.handle(WriteLost())
    loaded = snapshot("a", "b", "c", revision=25, stored=StoredDecision(("c",), 24, 25))
    core.handle(loaded)
    assert chosen(core.handle(TimerFired())) == ["c"]


def test_f33_a_lost_write_that_has_landed_is_ours_to_keep() -> None:
    core = make(1)
    core.handle(Elected(FENCE))
    write = write_in(core.handle(snapshot("b", "a", stored=NOTHING)))
    core.handle(WriteLost())
    core.handle(snapshot("b", "a", revision=25, stored=echo(write, 20).stored))
    core.handle(DecisionChanged(StoredDecision(("a",), 26, 26)))
    assert chosen(core.handle(TimerFired())) == ["b"]
