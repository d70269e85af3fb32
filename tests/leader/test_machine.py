"""The leader's machine: every state, every event, and elections."""

from __future__ import annotations

import copy
from typing import get_args

import pytest

from tests.leader.machine_helpers import (
    EVENTS,
    FENCE,
    GONE,
    ME,
    chosen,
    core_in,
    echo,
    foreign,
    host,
    lead,
    make,
    options_of,
    record,
    snapshot,
    write_in,
)
from trio_sched.leader.machine import (
    Deposed,
    Elected,
    Event,
    HostJoined,
    LeaderMachine,
    LoadSnapshot,
    Snapshot,
    State,
    TimerFired,
    WriteDone,
    WriteLost,
    WriteRefused,
)
from trio_sched.model.records import DecisionRecord
from trio_sched.model.stored_decision import StoredDecision

# Every state, every event


LATE = None
# Written down anew, not taken from the code: what the state is after the event.
F, L, D, W, Y, X = State  # following, loading, leading, writing, yielding, failed
AFTER: dict[str, tuple[State | None, ...]] = {
    # in state                    F     L     D     W     Y     X
    "Elected":                   (L,    L,    L,    L,    L,    L),
    "Deposed":                   (LATE, F,    F,    F,    F,    F),
    "Snapshot":                  (LATE, W,    Y,    W,    Y,    LATE),
    "HostJoined":                  (LATE, L,    D,    W,    Y,    LATE),
    "HostLeft":                  (LATE, L,    D,    W,    Y,    LATE),
    "DecisionChanged":             (LATE, L,    Y,    W,    Y,    LATE),
    "ControlChanged":            (LATE, L,    W,    W,    Y,    LATE),
    "WriteDone":                 (LATE, LATE, LATE, D,    LATE, LATE),
    "WriteRefused":              (LATE, LATE, LATE, Y,    LATE, LATE),
    "WriteRefused by the fence": (LATE, LATE, LATE, F,    LATE, LATE),
    "WriteLost":                 (LATE, LATE, LATE, L,    LATE, LATE),
    "TimerFired":                (LATE, LATE, LATE, LATE, W,    LATE),
}  # fmt: skip


def test_every_event_is_tried() -> None:
    assert {type(event) for event in EVENTS.values()} == set(get_args(Event))


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("name", EVENTS)
def test_every_state_with_every_event(state: State, name: str) -> None:
    core = core_in(state)
    before = _memory(core)
    expected = AFTER[name][list(State).index(state)]
    intents = core.handle(EVENTS[name])
    if expected is LATE:
        assert intents == []
        assert _memory(core) == before
    else:
        assert core.state is expected
        assert _memory(core) != before


def _memory(core: LeaderMachine) -> dict[str, object]:
    """Return all that it holds; what lies in its containers is immutable."""
    of_pool = {f"pool's {name}": value for name, value in vars(core._pool).items()}
    held = vars(core) | of_pool
    left_out = {"_pool", "_strategy", "pool's _strategy"}
    return {name: copy.copy(held[name]) for name in held.keys() - left_out}


def test_the_table_has_a_cell_for_every_state_and_event() -> None:
    table = LeaderMachine._TABLE
    assert {(s, e) for s, row in table.items() for e in row} == {
        (s, e) for s in State for e in get_args(Event)
    }


def test_what_is_no_event_is_refused_and_changes_nothing() -> None:
    core = core_in(State.LEADING)
    before = _memory(core)
    with pytest.raises(TypeError, match="not an event"):
        core.handle(Deposed(), "HostLeft")  # type: ignore[arg-type]
    assert _memory(core) == before


def test_no_events_no_intents() -> None:
    for state in State:
        assert core_in(state).handle() == []


# Election


def test_a_new_leader_loads_then_writes() -> None:
    core = make()
    assert (core.fence, core.stored, dict(core.pool)) == (None, None, {})
    assert core.handle(Elected(FENCE)) == [LoadSnapshot(FENCE)]
    assert core.fence == FENCE
    write = write_in(core.handle(snapshot("b", "a", "c")))
    assert (write.fence, write.expected_revision) == (FENCE, 0)
    assert list(write.record.hosts.items()) == [("b", 1001), ("a", 1002)]  # as they joined
    assert (write.record.leader, write.record.fence) == (ME, FENCE)
    assert write.record.reason == "elected"
    assert write.record.options == {"max_count": 2, "strategy": "rr"}


def test_the_first_write_is_made_even_if_the_choice_stays() -> None:
    old = StoredDecision(
        ("a",), 8, 10, 3, DecisionRecord({"a": 1001}, "host-old", 2, "", options_of(2))
    )
    core = make()
    core.handle(Elected(FENCE))
    write = write_in(core.handle(snapshot("a", stored=old)))
    assert write.expected_revision == 8
    assert list(write.record.hosts) == ["a"]


def test_the_first_write_is_made_even_if_the_record_has_our_own_fence() -> None:
    """It may hang on a decision lease that we have no more."""
    core = lead(make(), "a")
    stored = core.stored
    assert stored is not None
    core.handle(Deposed())
    core.handle(Elected(FENCE))
    assert write_in(core.handle(snapshot("a", stored=stored))).record.reason == "elected"


def test_nothing_is_written_where_there_is_nothing_at_all() -> None:
    core = make()
    core.handle(Elected(FENCE))
    assert core.handle(snapshot()) == []
    assert core.state is State.LEADING
    assert chosen(core.handle(HostJoined(host("a", 11), 11))) == ["a"]


@pytest.mark.parametrize(
    "stored",
    [
        StoredDecision((), 0, 10, record=record()),  # no host chosen, said the one before us
        StoredDecision(("z",), 8, 10),  # the Go package's
        StoredDecision((), 8, 10),  # junk: the key is there and names no host
    ],
)
def test_an_empty_pool_is_written_if_anything_is_stored(stored: StoredDecision) -> None:
    core = make()
    core.handle(Elected(FENCE))
    write = write_in(core.handle(snapshot(stored=stored)))
    assert write.record.hosts == {}
    assert write.expected_revision == stored.mod_revision
    assert core.handle(WriteDone(20)) == []
    assert core.stored == StoredDecision((), 0, 20, record=write.record)
    assert core.handle(echo(write, 20)) == []
    assert core.state is State.LEADING


def test_a_second_notice_of_the_same_election_is_late() -> None:
    core = lead(make(), "a")
    assert core.handle(Elected(FENCE)) == []
    assert core.handle(Elected(FENCE - 1)) == []
    assert core.state is State.LEADING
    assert core.handle(Elected(30)) == [LoadSnapshot(30)]


def test_after_deposed_all_is_forgotten_and_elected_starts_afresh() -> None:
    core = lead(make(), "a", "b")
    core.handle(foreign("x", revision=21))
    core.handle(Deposed())
    assert (core.state, core.fence, core.stored) == (State.FOLLOWING, None, None)
    assert dict(core.pool) == {}
    assert core.handle(HostJoined(host("z", 22), 22), TimerFired()) == []
    core.handle(Elected(30))
    theirs = StoredDecision(("a",), 25, 31, record=record("a", fence=28))
    intents = core.handle(Snapshot(31, (host("a"),), theirs))
    assert write_in(intents).record.reason == "elected"  # not "re-asserted": no fight is left
    assert write_in(intents).fence == 30


def test_deposed_in_a_batch_takes_back_what_the_batch_wanted() -> None:
    core = make()
    assert core.handle(Elected(FENCE), snapshot("a", "b"), Deposed()) == []
    assert core.handle(Elected(7), Deposed(), Elected(9)) == [LoadSnapshot(9)]


def test_a_snapshot_of_an_earlier_election_is_late() -> None:
    core = make()
    core.handle(Elected(FENCE))
    core.handle(Deposed())
    core.handle(Elected(30))
    assert core.handle(snapshot("a", revision=29)) == []
    assert core.state is State.LOADING
    assert chosen(core.handle(snapshot("b", revision=30))) == ["b"]


@pytest.mark.parametrize(
    "answer", [WriteDone(44, 4), WriteRefused(True, GONE, 4), WriteLost(4)]  # noqa: FBT003
)  # fmt: skip
def test_an_answer_to_an_earlier_leaderships_write_is_late(answer: Event) -> None:
    core = core_in(State.WRITING)
    before = _memory(core)
    assert core.handle(answer) == []
    assert _memory(core) == before


def test_a_write_done_at_or_below_what_it_was_based_on_is_late() -> None:
    core = core_in(State.WRITING)
    assert core.handle(WriteDone(10)) == []
    assert core.state is State.WRITING
