"""The leader's state machine, rule by rule."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import get_args

import pytest

from trio_sched import core as core_module
from trio_sched.core import (
    Deposed,
    Elected,
    Event,
    Fail,
    HostCame,
    HostWent,
    Intent,
    LeaderCore,
    LoadSnapshot,
    Snapshot,
    StartTimer,
    State,
    Stored,
    StoredChanged,
    TimerFired,
    Warn,
    WriteDecision,
    WriteDone,
    WriteLost,
    WriteRefused,
)
from trio_sched.exceptions import StrategyError
from trio_sched.model import DecisionRecord, Host, Hosts, Options
from trio_sched.strategies import Strategy, StrategyOptions, get_strategy

ME = "host-me"
FENCE = 5
NOTHING = Stored((), 0, 10)


class Counting(Strategy):
    """Passes on to another strategy, and remembers how it was asked."""

    name = "counting"

    def __init__(self, inner: str = "rr") -> None:
        self.inner = get_strategy(inner)
        self.asked: list[tuple[dict[str, Host], StrategyOptions]] = []
        self.answer: Sequence[str] | BaseException | None = None

    def schedule(self, hosts: Mapping[str, Host], options: StrategyOptions) -> Sequence[str]:
        self.asked.append((dict(hosts), options))
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.inner.schedule(hosts, options) if self.answer is None else self.answer


def make(
    max_count: int = 2,
    strategy: Strategy | None = None,
    *,
    hosts_filter: frozenset[str] | None = None,
) -> LeaderCore:
    options = Options(max_count, "rr", hosts_filter)
    return LeaderCore(
        hostname=ME, path="/p", options=options, strategy=strategy or get_strategy("rr")
    )


def host(name: str, joined: int = 1, lease: int | None = None, **options: object) -> Host:
    return Host(name, joined + 1000 if lease is None else lease, joined, options=options)


def snapshot(*names: str, revision: int = 10, stored: Stored = NOTHING) -> Snapshot:
    return Snapshot(revision, tuple(host(name, at) for at, name in enumerate(names, 1)), stored)


def record(*names: str, leader: str = "host-old", fence: int = 2, lease: int = 1) -> DecisionRecord:
    return DecisionRecord(dict.fromkeys(names, lease), leader, fence, "elected", {})


def foreign(*names: str, revision: int) -> StoredChanged:
    return StoredChanged(Stored(names, revision if names else 0, revision))


def echo(write: WriteDecision, revision: int) -> StoredChanged:
    """Return what the watch says about a write of ours, as it comes back from JSON."""
    back = DecisionRecord.decode(write.record.encode())
    names = tuple(Hosts(write.record.hosts))
    return StoredChanged(Stored(names, revision if names else 0, revision, 77, back))


def only(intents: list[Intent], kind: type[Intent] | None = None) -> Intent:
    assert len(intents) == 1, intents
    assert kind is None or isinstance(intents[0], kind)
    return intents[0]


def write_in(intents: list[Intent]) -> WriteDecision:
    writes = [intent for intent in intents if isinstance(intent, WriteDecision)]
    assert len(writes) == 1, intents
    return writes[0]


def timer_in(intents: list[Intent]) -> float:
    timers = [intent.delay for intent in intents if isinstance(intent, StartTimer)]
    assert len(timers) == 1, intents
    return timers[0]


def warnings_in(intents: list[Intent], kind: str) -> list[Warn]:
    return [intent for intent in intents if isinstance(intent, Warn) and intent.kind == kind]


def chosen(intents: list[Intent]) -> list[str]:
    return list(write_in(intents).record.hosts)


def lead(core: LeaderCore, *names: str, stored: Stored = NOTHING) -> LeaderCore:
    """Bring a core to LEADING: snapshot at 10, its first write at 20."""
    assert core.handle(Elected(FENCE)) == [LoadSnapshot(FENCE)]
    intents = core.handle(snapshot(*names, stored=stored))
    assert isinstance(only(intents), WriteDecision)
    assert core.handle(WriteDone(20)) == []
    assert core.state is State.LEADING
    return core


# Every state, every event


def core_in(state: State) -> LeaderCore:
    strategy = Counting()
    core = make(strategy=strategy)
    if state is not State.FOLLOWING:
        core.handle(Elected(FENCE))
    if state in {State.LEADING, State.WRITING, State.YIELDING}:
        core.handle(snapshot("a", "b", "c"))
    if state in {State.LEADING, State.YIELDING}:
        core.handle(WriteDone(20))
    if state is State.YIELDING:
        core.handle(foreign("x", revision=21))
    if state is State.FAILED:
        strategy.answer = RuntimeError("broken")
        core.handle(snapshot("a", "b", "c"))
    assert core.state is state
    return core


GONE = Stored((), 0, 45)
EVENTS: dict[str, Event] = {
    "Elected": Elected(50),
    "Deposed": Deposed(),
    "Snapshot": Snapshot(
        40, (host("a"), host("b", 2), host("c", 3)), Stored(("a",), 39, 40, record=record("a"))
    ),
    "HostCame": HostCame(host("d", 41), 41),
    "HostWent": HostWent("c", 42),
    "StoredChanged": foreign("x", "y", revision=43),
    "WriteDone": WriteDone(44),
    "WriteRefused": WriteRefused(fenced=False, stored=GONE),
    "WriteRefused by the fence": WriteRefused(fenced=True, stored=GONE),
    "WriteLost": WriteLost(),
    "TimerFired": TimerFired(),
}
LATE = None
# Written down anew, not taken from the code: what the state is after the event.
F, L, D, W, Y, X = State  # following, loading, leading, writing, yielding, failed
AFTER: dict[str, tuple[State | None, ...]] = {
    # in state                    F     L     D     W     Y     X
    "Elected":                   (L,    L,    L,    L,    L,    L),
    "Deposed":                   (LATE, F,    F,    F,    F,    F),
    "Snapshot":                  (LATE, W,    Y,    W,    Y,    LATE),
    "HostCame":                  (LATE, L,    D,    W,    Y,    LATE),
    "HostWent":                  (LATE, L,    D,    W,    Y,    LATE),
    "StoredChanged":             (LATE, L,    Y,    W,    Y,    LATE),
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


def _memory(core: LeaderCore) -> dict[str, object]:
    """Return all that it holds; what lies in its containers is immutable."""
    return {name: copy.copy(value) for name, value in vars(core).items() if name != "_strategy"}


def test_the_table_has_a_cell_for_every_state_and_event() -> None:
    table = LeaderCore._TABLE
    assert {(s, e) for s, row in table.items() for e in row} == {
        (s, e) for s in State for e in get_args(Event)
    }


def test_what_is_no_event_is_refused_and_changes_nothing() -> None:
    core = core_in(State.LEADING)
    before = _memory(core)
    with pytest.raises(TypeError, match="not an event"):
        core.handle(Deposed(), "HostWent")  # type: ignore[arg-type]
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
    old = Stored(("a",), 8, 10, 3, DecisionRecord({"a": 1001}, "host-old", 2, "", _options(2)))
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


def _options(max_count: int) -> dict[str, object]:
    return {"max_count": max_count, "strategy": "rr"}


def test_nothing_is_written_where_there_is_nothing_at_all() -> None:
    core = make()
    core.handle(Elected(FENCE))
    assert core.handle(snapshot()) == []
    assert core.state is State.LEADING
    assert chosen(core.handle(HostCame(host("a", 11), 11))) == ["a"]


@pytest.mark.parametrize(
    "stored",
    [
        Stored((), 0, 10, record=record()),  # nobody chosen, said the one before us
        Stored(("z",), 8, 10),  # the Go package's
        Stored((), 8, 10),  # junk: the key is there and names nobody
    ],
)
def test_an_empty_pool_is_written_if_anything_is_stored(stored: Stored) -> None:
    core = make()
    core.handle(Elected(FENCE))
    write = write_in(core.handle(snapshot(stored=stored)))
    assert write.record.hosts == {}
    assert write.expected_revision == stored.mod_revision
    assert core.handle(WriteDone(20)) == []
    assert core.stored == Stored((), 0, 20, record=write.record)
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
    assert core.handle(HostCame(host("z", 22), 22), TimerFired()) == []
    core.handle(Elected(30))
    theirs = Stored(("a",), 25, 31, record=record("a", fence=28))
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


# The pool


def test_f20_a_batch_gives_one_evaluation_and_one_write() -> None:
    strategy = Counting()
    core = lead(make(3, strategy), "a")
    strategy.asked.clear()
    burst: list[Event] = [HostCame(host(f"n{at}", at), at) for at in range(21, 121)]
    assert chosen(core.handle(*burst, HostWent("a", 121))) == ["n21", "n22", "n23"]
    assert len(strategy.asked) == 1


def test_a_host_that_changes_nothing_is_evaluated_but_not_written() -> None:
    strategy = Counting()
    core = lead(make(1, strategy), "a")
    assert core.handle(HostCame(host("b", 21), 21)) == []
    assert core.handle(HostCame(Host("b", 1021, 21, data={"zone": "x"}), 22)) == []
    assert core.handle(HostWent("b", 23)) == []
    assert len(strategy.asked) == 4


def test_f20_events_at_or_below_the_snapshot_are_ignored() -> None:
    strategy = Counting()
    core = lead(make(2, strategy), "a", "b")
    strategy.asked.clear()
    assert core.handle(HostWent("a", 9), HostWent("b", 10), HostCame(host("z", 10), 10)) == []
    assert set(core.pool) == {"a", "b"}
    assert strategy.asked == []


def test_f20_reordered_events_of_one_host_end_with_the_newest() -> None:
    core = lead(make(9), "a")
    came, went, back = (
        HostCame(host("b", 21), 21),
        HostWent("b", 22),
        HostCame(host("b", 23), 23),
    )
    core.handle(went)
    core.handle(came)
    assert "b" not in core.pool  # a tombstone remembers
    core.handle(back, went, came, back)
    assert core.pool["b"].joined_revision == 23


def test_f20_events_that_overtake_the_snapshot_count() -> None:
    core = make(9)
    core.handle(Elected(FENCE))
    early: list[Event] = [HostCame(host("new", 12), 12), HostWent("a", 13), HostWent("b", 9)]
    assert core.handle(*early) == []
    assert sorted(chosen(core.handle(snapshot("a", "b")))) == ["b", "new"]


def test_a_snapshot_heals_what_the_watch_has_swallowed() -> None:
    core = lead(make(9), "a", "b")
    core.handle(HostCame(host("late", 35), 35))
    core.handle(WriteDone(36))
    healing = Snapshot(34, (host("b", 2), host("c", 30)), _at(core, 37))
    assert sorted(chosen(core.handle(healing))) == ["b", "c", "late"]


def _at(core: LeaderCore, revision: int) -> Stored:
    """Return what the core knows to be stored, read again at a later revision."""
    stored = core.stored
    assert stored is not None
    return Stored(stored.hosts, stored.mod_revision, revision, stored.lease, stored.record)


def test_an_old_snapshot_does_not_bring_back_the_dead_during_a_write_either() -> None:
    core = core_in(State.WRITING)
    core.handle(Snapshot(30, (host("a"),), NOTHING), snapshot("a", "b", "c", revision=29))
    core.handle(HostCame(host("b", 29), 29))
    assert set(core.pool) == {"a"}


def test_a_foreign_write_that_only_a_snapshot_shows_during_a_write() -> None:
    core = core_in(State.WRITING)
    theirs = Stored(("x",), 25, 30)
    assert core.handle(snapshot("a", "b", "c", revision=30, stored=theirs)) == []
    assert timer_in(core.handle(WriteDone(20))) == pytest.approx(0.1)
    assert core.stored == theirs


def test_a_snapshot_that_says_nothing_new_asks_nobody() -> None:
    strategy = Counting()
    core = lead(make(9, strategy), "a", "b")
    strategy.asked.clear()
    assert core.handle(snapshot("a", "b", revision=30, stored=_at(core, 30))) == []
    assert strategy.asked == []


def test_an_old_snapshot_does_not_bring_back_the_dead() -> None:
    core = lead(make(9), "a", "b")
    core.handle(snapshot("a", revision=30, stored=_at(core, 30)))
    core.handle(WriteDone(31))
    core.handle(snapshot("a", "b", revision=29, stored=NOTHING))
    assert set(core.pool) == {"a"}
    assert core.state is State.LEADING


def test_tombstones_are_pruned_by_each_snapshot() -> None:
    core = lead(make(1), "a")
    for at in range(21, 40):
        core.handle(HostWent(f"gone{at}", at))
    assert len(core._revisions) == 19
    core.handle(snapshot("a", revision=38, stored=_at(core, 38)))
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
        (Stored(("a", "b"), 8, 10, record=record("b", "a")), ("b", "a")),
        (Stored(("a", "b"), 8, 10, record=record("b", "c")), ("a", "b")),  # not of these hosts
        (Stored(("a", "b"), 8, 10), ("a", "b")),
        (Stored((), 0, 10), ()),
    ],
)
def test_last_is_the_records_order_if_it_belongs(stored: Stored, last: tuple[str, ...]) -> None:
    strategy = Counting()
    core = make(2, strategy)
    core.handle(Elected(FENCE))
    core.handle(snapshot("a", "b", stored=stored))
    assert strategy.asked[0][1].last == last


def test_f25_a_new_leader_keeps_chosen_hosts_that_live() -> None:
    theirs = Stored(("c", "d", "gone"), 8, 10, record=record("d", "gone", "c"))
    core = make(3)
    core.handle(Elected(FENCE))
    assert chosen(core.handle(snapshot("a", "b", "c", "d", stored=theirs))) == ["d", "c", "a"]


def test_f25_a_new_leader_keeps_whom_a_go_leader_chose() -> None:
    core = make(2)
    core.handle(Elected(FENCE))
    intents = core.handle(snapshot("a", "b", "c", "d", stored=Stored(("c", "d"), 8, 10)))
    assert chosen(intents) == ["c", "d"]


def test_f25_a_host_that_flaps_in_one_batch_stays_chosen_under_its_new_lease() -> None:
    core = lead(make(1), "a", "b")
    write = write_in(core.handle(HostWent("a", 21), HostCame(host("a", 22), 22)))
    assert write.record.hosts == {"a": 1022}
    assert write.record.reason == "a rejoined"


def test_f25_when_a_chosen_host_leaves_the_others_stay() -> None:
    core = lead(make(3), "a", "b", "c", "d")
    assert chosen(core.handle(HostWent("b", 21))) == ["a", "c", "d"]


def test_f18_a_new_lease_of_a_chosen_host_is_written() -> None:
    core = lead(make(1), "a")
    assert write_in(core.handle(HostCame(host("a", lease=9), 21))).record.hosts == {"a": 9}


def test_a_changed_order_is_written() -> None:
    strategy = Counting()
    core = lead(make(2, strategy), "a", "b")
    strategy.answer = ["b", "a"]
    write = write_in(core.handle(HostCame(host("c", 21), 21)))
    assert list(write.record.hosts) == ["b", "a"]
    assert write.record.reason == "the strategy chose anew"


def test_records_options_that_differ_are_written() -> None:
    core = lead(make(2), "a")
    mine = DecisionRecord({"a": 1001}, ME, FENCE, "elected", _options(3))
    assert core.handle(StoredChanged(Stored(("a",), 21, 21, record=mine))) != []
    assert core.state is State.WRITING


# One write at a time


def test_during_a_write_events_accumulate_and_are_evaluated_after_it() -> None:
    strategy = Counting()
    core = make(2, strategy)
    core.handle(Elected(FENCE))
    core.handle(snapshot("a"))
    assert core.handle(HostCame(host("b", 11), 11)) == []
    assert core.handle(HostCame(host("c", 12), 12)) == []
    assert len(strategy.asked) == 1
    write = write_in(core.handle(WriteDone(20)))
    assert write.expected_revision == 20
    assert list(write.record.hosts) == ["a", "b"]
    assert len(strategy.asked) == 2
    assert core.handle(WriteDone(21)) == []
    assert len(strategy.asked) == 2


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("names", [("a", "b"), ()])
def test_our_own_echo_is_no_foreign_write(first: bool, names: tuple[str, ...]) -> None:  # noqa: FBT001
    strategy = Counting()
    core = make(2, strategy)
    core.handle(Elected(FENCE))
    write = write_in(core.handle(snapshot(*names, stored=Stored(("z",), 8, 10))))
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
    half = StoredChanged(Stored(("a",), 20, 20))
    assert core.handle(half) == []
    assert core.handle(WriteDone(20)) == []
    assert core.handle(half) == []
    assert core.state is State.LEADING


def test_a_late_event_about_an_older_decision_is_ignored() -> None:
    core = lead(make(2), "a")
    assert core.handle(StoredChanged(Stored(("z",), 8, 19))) == []
    assert core.handle(StoredChanged(Stored(("z",), 8, 33))) == []  # read late, written early
    assert core.state is State.LEADING


def test_a_late_event_is_ignored_also_after_we_deleted_scheduled() -> None:
    core = make(2)
    core.handle(Elected(FENCE))
    core.handle(snapshot(stored=Stored(("z",), 8, 10)))
    core.handle(WriteDone(20))
    assert core.handle(StoredChanged(Stored(("z",), 8, 33))) == []
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
    second = write_in(core.handle(snapshot("a", "b", revision=15, stored=Stored((), 0, 15))))
    assert second.expected_revision == 0
    refused = WriteRefused(fenced=False, stored=echo(first, 16).stored)
    assert core.handle(refused) == []  # it is what we want; no fight
    assert core.state is State.LEADING
    assert chosen(core.handle(HostWent("a", 17))) == ["b"]


def test_f17_a_lost_write_lands_late_and_is_not_what_we_want_any_more() -> None:
    core = make(1)
    core.handle(Elected(FENCE))
    first = write_in(core.handle(snapshot("a", "b")))
    core.handle(WriteLost())
    core.handle(Snapshot(15, (host("b"),), Stored((), 0, 15)))
    refused = WriteRefused(fenced=False, stored=echo(first, 16).stored)
    write = write_in(core.handle(refused))
    assert write.expected_revision == 16
    assert list(write.record.hosts) == ["b"]


def test_a_foreign_write_behind_a_lost_one_is_yielded_to() -> None:
    core = lead(make(1), "a", "b")
    core.handle(HostWent("a", 21))
    core.handle(WriteLost())
    intents = core.handle(Snapshot(30, (host("b"),), Stored(("x",), 29, 30)))
    assert timer_in(intents) == pytest.approx(0.1)
    assert core.state is State.YIELDING


# The fence


def test_f5_refused_by_the_fence_is_deposed_without_intents() -> None:
    core = core_in(State.WRITING)
    assert core.handle(HostCame(host("z", 30), 30), WriteRefused(fenced=True, stored=GONE)) == []
    assert (core.state, core.fence) == (State.FOLLOWING, None)
    assert core.handle(WriteDone(31), TimerFired(), HostWent("a", 32)) == []


def test_f5_every_write_carries_the_fence_and_the_expected_revision() -> None:
    core = lead(make(1), "a", "b")
    write = write_in(core.handle(HostWent("a", 21)))
    assert (write.fence, write.expected_revision) == (FENCE, 20)
    core.handle(WriteDone(22))
    core.handle(foreign("x", revision=23))
    write = write_in(core.handle(TimerFired()))
    assert (write.fence, write.expected_revision) == (FENCE, 23)


# Foreign writes


def fight(core: LeaderCore, revision: int, *names: str) -> float:
    """One round: a foreign write, the timer, our write. Return how long we yielded."""
    delay = timer_in(core.handle(foreign(*names, revision=revision)))
    write_in(core.handle(TimerFired()))
    core.handle(WriteDone(revision + 1))
    return delay


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
    assert len(core.handle(HostWent("a", 32))) == 1
    assert core.handle(WriteDone(33)) == []  # the timer of quiet still runs
    assert core.handle(foreign("x", revision=34)) == [StartTimer(0.2)]


def test_f33_quiet_may_end_during_a_write() -> None:
    core = lead(make(1), "a", "b")
    fight(core, 30, "x")
    core.handle(HostWent("a", 32))
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
    assert core.handle(HostWent("a", 31)) == []
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
    intents = core.handle(StoredChanged(Stored(("a", "b"), 30, 30, record=theirs)))
    (warning,) = warnings_in(intents, "foreign-write")
    assert (warning.extra["leader"], warning.extra["fence"]) == (leader, fence)


def test_f33_our_record_taken_away_from_a_scheduled_that_stays_is_foreign_too() -> None:
    core = lead(make(2), "a", "b")
    intents = core.handle(StoredChanged(Stored(("a", "b"), 20, 30)))
    assert timer_in(intents) == pytest.approx(0.1)
    assert write_in(core.handle(TimerFired())).expected_revision == 20


def test_f33_a_refused_write_starts_the_fight() -> None:
    core = core_in(State.WRITING)
    there = Stored(("x",), 15, 15)
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
    core.handle(HostWent("a", 21))
    assert timer_in(core.handle(WriteRefused(fenced=False, stored=_at(core, 22)))) > 0


def test_f33_a_foreign_write_on_top_of_ours_seen_before_the_answer() -> None:
    core = core_in(State.WRITING)
    assert core.handle(foreign("x", revision=21)) == []
    intents = core.handle(WriteDone(20))
    assert timer_in(intents) == pytest.approx(0.1)
    assert write_in(core.handle(TimerFired())).expected_revision == 21


def test_f33_a_foreign_write_under_ours_seen_before_the_answer_is_history() -> None:
    core = lead(make(1), "a", "b")
    core.handle(HostWent("a", 21))
    core.handle(StoredChanged(Stored(("b",), 20, 22)))  # `decision` gone for a moment
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
    mine = _at(core, 31)
    core.handle(foreign("x", revision=30))
    back = Stored(mine.hosts, 31, 31, record=mine.record)  # a lost write of ours, say
    assert core.handle(StoredChanged(back)) == []
    assert core.handle(TimerFired()) == [StartTimer(10.0)]
    assert core.state is State.LEADING


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
    intents = core.handle(HostWent("b", 21))
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
        core.handle(HostWent("a", 21))
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
        HostCame(host("w", max_count=3, strategy="rr"), 11), HostCame(host("v", max_count=4), 12)
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
        HostCame(host("deep", max_count=deep), 30), HostCame(host("long", strategy="x" * 9999), 31)
    )
    warned = warnings_in(intents, "options-differ")
    assert len(warned) == 2
    assert all(len(warning.message) < 300 for warning in warned)
    crowd: list[Event] = [HostCame(host("h", max_count=at), at) for at in range(100, 300)]
    many = core.handle(*crowd)
    assert len(warned) + len(warnings_in(many, "options-differ")) == 32
    while deep:  # or the interpreter's own recursion takes it apart
        deep = deep.pop()  # type: ignore[assignment]


# Reasons


@pytest.mark.parametrize(
    ("max_count", "events", "reason"),
    [
        (3, [HostCame(host("c", 21), 21)], "c joined"),
        (2, [HostWent("a", 21)], "a left"),
        (2, [HostWent("a", 21), HostCame(host("c", 22), 22)], "a left, c joined"),
        (1, [HostWent("a", 21)], "a left"),  # b had been waiting
        (2, [HostWent("a", 21), HostWent("b", 22)], "a, b left"),
        (
            9,
            [HostCame(host(f"n{at}", at), at) for at in range(21, 28)],
            "n21, n22, n23 and 4 more joined",
        ),
    ],
)
def test_reasons_are_short_clauses(max_count: int, events: list[Event], reason: str) -> None:
    core = lead(make(max_count), "a", "b")
    assert write_in(core.handle(*events)).record.reason == reason


def test_the_public_names_are_those_of_all() -> None:
    exported = set(core_module.__all__)
    assert {kind.__name__ for kind in (*get_args(Event), *get_args(Intent))} <= exported
    assert all(hasattr(core_module, name) for name in exported)


# Cost


def test_an_event_costs_the_same_in_a_large_pool() -> None:
    """Of 5,000 hosts none is looked at when an event comes during a write."""

    class Untouchable(dict[str, Host]):
        def __iter__(self) -> None:  # type: ignore[override]
            raise AssertionError("the pool was gone through")

        values = items = keys = __iter__  # type: ignore[assignment]

    core = core_in(State.WRITING)
    core._pool = Untouchable({f"n{at}": host(f"n{at}") for at in range(5000)})
    core.handle(HostCame(host("new", 30), 30), HostWent("n7", 31))
    assert len(core.pool) == 5000
