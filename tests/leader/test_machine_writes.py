"""The leader's core: One write at a time, fences and foreign writes."""

from __future__ import annotations

import pytest

from tests.leader.machine_helpers import (
    FENCE,
    GONE,
    ME,
    NOTHING,
    Counting,
    chosen,
    core_in,
    echo,
    fight,
    foreign,
    host,
    lead,
    make,
    only,
    record,
    snapshot,
    stored_at,
    timer_in,
    warnings_in,
    write_in,
)
from trio_sched.leader.machine import (
    DecisionChanged,
    Elected,
    Event,
    HostJoined,
    HostLeft,
    LoadSnapshot,
    Snapshot,
    StartTimer,
    State,
    TimerFired,
    WriteDecision,
    WriteDone,
    WriteLost,
    WriteRefused,
)
from trio_sched.model.stored_decision import StoredDecision

# One write at a time


def test_during_a_write_events_accumulate_and_are_evaluated_after_it() -> None:
    strategy = Counting()
    core = make(2, strategy)
    core.handle(Elected(FENCE))
    core.handle(snapshot("a"))
    assert core.handle(HostJoined(host("b", 11), 11)) == []
    assert core.handle(HostJoined(host("c", 12), 12)) == []
    assert len(strategy.asked) == 1
    write = write_in(core.handle(WriteDone(20)))
    assert write.expected_revision == 20
    assert list(write.record.hosts) == ["a", "b"]
    assert len(strategy.asked) == 2
    assert core.handle(WriteDone(21)) == []
    assert len(strategy.asked) == 2


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("names", [("a", "b"), ()])
def test_our_own_echo_is_no_foreign_write(first: bool, names: tuple[str, ...]) -> None:
    strategy = Counting()
    core = make(2, strategy)
    core.handle(Elected(FENCE))
    write = write_in(core.handle(snapshot(*names, stored=StoredDecision(("z",), 8, 10))))
    events: list[Event] = [echo(write, 20), WriteDone(20)]
    for event in events if first else events[::-1]:
        assert core.handle(event) == []
    assert core.state is State.LEADING
    assert core.stored is not None
    assert core.stored.record == write.record
    assert len(strategy.asked) == 1
    assert core.handle(echo(write, 20)) == []  # a third time


def test_a_change_of_scheduled_only_is_still_our_own_write() -> None:
    """A driver whose watch cuts a transaction in two shows the first half without record."""
    core = make(2)
    core.handle(Elected(FENCE))
    core.handle(snapshot("a"))
    half = DecisionChanged(StoredDecision(("a",), 20, 20))
    assert core.handle(half) == []
    assert core.handle(WriteDone(20)) == []
    assert core.handle(half) == []
    assert core.state is State.LEADING


def test_a_late_event_about_an_older_decision_is_ignored() -> None:
    core = lead(make(2), "a")
    assert core.handle(DecisionChanged(StoredDecision(("z",), 8, 19))) == []
    assert (
        core.handle(DecisionChanged(StoredDecision(("z",), 8, 33))) == []
    )  # read late, written early
    assert core.state is State.LEADING


def test_a_late_event_is_ignored_also_after_we_deleted_scheduled() -> None:
    core = make(2)
    core.handle(Elected(FENCE))
    core.handle(snapshot(stored=StoredDecision(("z",), 8, 10)))
    core.handle(WriteDone(20))
    assert core.handle(DecisionChanged(StoredDecision(("z",), 8, 33))) == []
    assert core.state is State.LEADING


def test_f17_a_lost_write_is_read_back_not_repeated() -> None:
    core = make(2)
    core.handle(Elected(FENCE))
    write = write_in(core.handle(snapshot("a", "b")))
    assert core.handle(WriteLost()) == [LoadSnapshot(FENCE)]
    stored = echo(write, 20).stored
    assert core.handle(snapshot("a", "b", revision=25, stored=stored)) == []
    assert core.state is State.LEADING
    assert core.stored == stored


def test_f17_a_lost_write_that_was_not_applied_is_made_again() -> None:
    core = make(2)
    core.handle(Elected(FENCE))
    first = write_in(core.handle(snapshot("a", "b")))
    core.handle(WriteLost())
    assert core.handle(snapshot("a", "b")) == [first]  # still at the same revision


def test_f17_a_lost_write_that_lands_later_is_ours() -> None:
    core = make(2)
    core.handle(Elected(FENCE))
    first = write_in(core.handle(snapshot("a", "b")))
    core.handle(WriteLost())
    second = write_in(
        core.handle(snapshot("a", "b", revision=15, stored=StoredDecision((), 0, 15)))
    )
    assert second.expected_revision == 0
    refused = WriteRefused(fenced=False, stored=echo(first, 16).stored)
    assert core.handle(refused) == []  # it is what we want; no fight
    assert core.state is State.LEADING
    assert chosen(core.handle(HostLeft("a", 17))) == ["b"]


def test_f17_a_lost_write_lands_late_and_is_not_what_we_want_any_more() -> None:
    core = make(1)
    core.handle(Elected(FENCE))
    first = write_in(core.handle(snapshot("a", "b")))
    core.handle(WriteLost())
    core.handle(Snapshot(15, (host("b"),), StoredDecision((), 0, 15)))
    refused = WriteRefused(fenced=False, stored=echo(first, 16).stored)
    write = write_in(core.handle(refused))
    assert write.expected_revision == 16
    assert list(write.record.hosts) == ["b"]


def test_a_foreign_write_behind_a_lost_one_is_yielded_to() -> None:
    core = lead(make(1), "a", "b")
    core.handle(HostLeft("a", 21))
    core.handle(WriteLost())
    intents = core.handle(Snapshot(30, (host("b"),), StoredDecision(("x",), 29, 30)))
    assert timer_in(intents) == pytest.approx(0.1)
    assert core.state is State.YIELDING


# The fence


def test_f5_refused_by_the_fence_is_deposed_without_intents() -> None:
    core = core_in(State.WRITING)
    assert core.handle(HostJoined(host("z", 30), 30), WriteRefused(fenced=True, stored=GONE)) == []
    assert (core.state, core.fence) == (State.FOLLOWING, None)
    assert core.handle(WriteDone(31), TimerFired(), HostLeft("a", 32)) == []


def test_f5_every_write_carries_the_fence_and_the_expected_revision() -> None:
    core = lead(make(1), "a", "b")
    write = write_in(core.handle(HostLeft("a", 21)))
    assert (write.fence, write.expected_revision) == (FENCE, 20)
    core.handle(WriteDone(22))
    core.handle(foreign("x", revision=23))
    write = write_in(core.handle(TimerFired()))
    assert (write.fence, write.expected_revision) == (FENCE, 23)


# Foreign writes


def test_f33_delays_double_up_to_a_limit() -> None:
    core = lead(make(), "a", "b")
    delays = [fight(core, 30 + 2 * at, "x") for at in range(10)]
    assert delays == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10, 10])


def test_f33_one_warning_for_each_fight_and_quiet_ends_it() -> None:
    core = lead(make(), "a", "b")
    (warning,) = warnings_in(core.handle(foreign("x", revision=30)), "foreign-write")
    assert "x" in warning.message
    assert "/p" in warning.message
    assert warning.extra["hosts"] == ("x",)
    write = write_in(core.handle(TimerFired()))
    assert write.record.reason == "re-asserted"
    assert core.handle(WriteDone(31)) == [StartTimer(10.0)]
    again = core.handle(foreign("x", revision=32))
    assert again == [StartTimer(0.2)]  # no second warning
    core.handle(TimerFired())
    core.handle(WriteDone(33))
    assert core.handle(TimerFired()) == []  # quiet
    intents = core.handle(foreign("x", revision=34))
    assert timer_in(intents) == pytest.approx(0.1)
    assert len(warnings_in(intents, "foreign-write")) == 1


def test_f33_a_normal_write_does_not_cut_the_quiet_short() -> None:
    core = lead(make(1), "a", "b")
    fight(core, 30, "x")
    assert len(core.handle(HostLeft("a", 32))) == 1
    assert core.handle(WriteDone(33)) == []  # the timer of quiet still runs
    assert core.handle(foreign("x", revision=34)) == [StartTimer(0.2)]


def test_f33_quiet_may_end_during_a_write() -> None:
    core = lead(make(1), "a", "b")
    fight(core, 30, "x")
    core.handle(HostLeft("a", 32))
    assert core.handle(TimerFired()) == []
    core.handle(WriteDone(33))
    assert timer_in(core.handle(foreign("x", revision=34))) == pytest.approx(0.1)


def test_f33_foreign_writes_while_we_yield_restart_nothing() -> None:
    core = lead(make(), "a", "b")
    core.handle(foreign("x", revision=30))
    for revision in range(31, 60):
        assert core.handle(foreign("x", revision=revision)) == []
    assert write_in(core.handle(TimerFired())).expected_revision == 59


@pytest.mark.parametrize("more", [1, 2, 3])
def test_f33_a_flood_cannot_put_the_reassertion_off(more: int) -> None:
    core = lead(make(), "a", "b")
    core.handle(foreign("x", revision=30))
    flood = [foreign("y", revision=30 + at) for at in range(1, more + 1)]
    intents = core.handle(TimerFired(), *flood)
    assert isinstance(only(intents), WriteDecision)
    assert write_in(intents).expected_revision == 30 + more


def test_f33_a_timer_that_fires_in_the_batch_that_starts_the_fight_is_an_old_one() -> None:
    core = lead(make(), "a", "b")
    fight(core, 30, "x")  # so the timer of quiet runs
    assert core.handle(foreign("x", revision=32), TimerFired()) == [StartTimer(0.2)]
    assert core.state is State.YIELDING


def test_f33_pool_events_wait_while_we_yield() -> None:
    core = lead(make(1), "a", "b")
    core.handle(foreign("x", revision=30))
    assert core.handle(HostLeft("a", 31)) == []
    assert chosen(core.handle(TimerFired())) == ["b"]


def test_f33_a_foreign_value_that_we_would_choose_too_is_taken_back() -> None:
    core = lead(make(2), "a", "b")
    intents = core.handle(foreign("a", "b", revision=30))
    assert timer_in(intents) == pytest.approx(0.1)
    assert chosen(core.handle(TimerFired())) == ["a", "b"]


def test_f33_deletion_by_an_operator_is_a_foreign_write() -> None:
    core = lead(make(2), "a", "b")
    intents = core.handle(foreign(revision=30))
    (warning,) = warnings_in(intents, "foreign-write")
    assert "deleted" in warning.message
    assert timer_in(intents) == pytest.approx(0.1)
    assert write_in(core.handle(TimerFired())).expected_revision == 0


@pytest.mark.parametrize(("leader", "fence"), [(ME, FENCE - 1), ("host-old", FENCE)])
def test_f33_a_record_is_ours_by_name_and_fence(leader: str, fence: int) -> None:
    core = lead(make(2), "a", "b")
    theirs = record("a", "b", leader=leader, fence=fence)
    intents = core.handle(DecisionChanged(StoredDecision(("a", "b"), 30, 30, record=theirs)))
    (warning,) = warnings_in(intents, "foreign-write")
    assert (warning.extra["leader"], warning.extra["fence"]) == (leader, fence)


def test_f33_our_record_taken_away_from_a_scheduled_that_stays_is_foreign_too() -> None:
    core = lead(make(2), "a", "b")
    intents = core.handle(DecisionChanged(StoredDecision(("a", "b"), 20, 30)))
    assert timer_in(intents) == pytest.approx(0.1)
    assert write_in(core.handle(TimerFired())).expected_revision == 20


def test_f33_a_refused_write_starts_the_fight() -> None:
    core = core_in(State.WRITING)
    there = StoredDecision(("x",), 15, 15)
    intents = core.handle(WriteRefused(fenced=False, stored=there))
    assert len(warnings_in(intents, "foreign-write")) == 1
    assert timer_in(intents) == pytest.approx(0.1)
    assert core.stored == there
    assert write_in(core.handle(TimerFired())).expected_revision == 15


def test_f33_a_write_that_is_refused_for_no_visible_reason_is_not_repeated_at_once() -> None:
    core = core_in(State.WRITING)
    for delay in (0.1, 0.2, 0.4):
        intents = core.handle(WriteRefused(fenced=False, stored=NOTHING))
        assert timer_in(intents) == pytest.approx(delay)
        write_in(core.handle(TimerFired()))
    core = lead(make(), "a", "b")  # and the same if what is there is our own
    core.handle(HostLeft("a", 21))
    assert timer_in(core.handle(WriteRefused(fenced=False, stored=stored_at(core, 22)))) > 0


def test_f33_a_foreign_write_on_top_of_ours_seen_before_the_answer() -> None:
    core = core_in(State.WRITING)
    assert core.handle(foreign("x", revision=21)) == []
    intents = core.handle(WriteDone(20))
    assert timer_in(intents) == pytest.approx(0.1)
    assert write_in(core.handle(TimerFired())).expected_revision == 21


def test_f33_a_foreign_write_under_ours_seen_before_the_answer_is_history() -> None:
    core = lead(make(1), "a", "b")
    core.handle(HostLeft("a", 21))
    core.handle(DecisionChanged(StoredDecision(("b",), 20, 22)))  # `decision` gone for a moment
    assert core.handle(WriteDone(23)) == []
    assert core.state is State.LEADING


def test_f33_a_foreign_write_that_overtakes_the_snapshot() -> None:
    core = make()
    core.handle(Elected(FENCE))
    core.handle(foreign("x", revision=12))
    assert timer_in(core.handle(snapshot("a", "b"))) == pytest.approx(0.1)
    assert write_in(core.handle(TimerFired())).expected_revision == 12


def test_f33_bounded_writes_against_a_go_leader_that_answers_at_once() -> None:
    """For 100 simulated seconds the other side overwrites whatever we write."""
    core = lead(make(), "a", "b")
    clock, writes, revision = 0.0, 0, 30
    delay = timer_in(core.handle(foreign("x", revision=revision)))
    while clock + delay < 100:
        clock += delay
        write_in(core.handle(TimerFired()))
        writes += 1
        core.handle(WriteDone(revision + 1))
        revision += 2
        delay = timer_in(core.handle(foreign("x", revision=revision)))
    assert 10 <= writes <= 20


def test_f33_the_fight_ends_quietly_if_the_key_is_ours_again() -> None:
    core = lead(make(1), "a", "b")
    mine = stored_at(core, 31)
    core.handle(foreign("x", revision=30))
    back = StoredDecision(mine.hosts, 31, 31, record=mine.record)  # a lost write of ours, say
    assert core.handle(DecisionChanged(back)) == []
    assert core.handle(TimerFired()) == [StartTimer(10.0)]
    assert core.state is State.LEADING
