"""What the tests of the leader's core share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trio_sched.leader.machine import (
    ControlChanged,
    DecisionChanged,
    Deposed,
    Elected,
    Event,
    HostJoined,
    HostLeft,
    Intent,
    LeaderMachine,
    LoadSnapshot,
    Snapshot,
    StartTimer,
    State,
    TimerFired,
    Warn,
    WriteDecision,
    WriteDone,
    WriteLost,
    WriteRefused,
)
from trio_sched.model.control_state import ControlState
from trio_sched.model.records import DecisionRecord, Host, Hosts, Options
from trio_sched.model.stored_decision import StoredDecision
from trio_sched.strategies import Strategy, StrategyOptions, get_strategy

ME = "host-me"


FENCE = 5


NOTHING = StoredDecision((), 0, 10)


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
) -> LeaderMachine:
    options = Options(max_count, "rr", hosts_filter)
    return LeaderMachine(
        hostname=ME, path="/p", options=options, strategy=strategy or get_strategy("rr")
    )


def host(name: str, joined: int = 1, lease: int | None = None, **options: object) -> Host:
    return Host(name, joined + 1000 if lease is None else lease, joined, options=options)


def snapshot(*names: str, revision: int = 10, stored: StoredDecision = NOTHING) -> Snapshot:
    return Snapshot(revision, tuple(host(name, at) for at, name in enumerate(names, 1)), stored)


def record(*names: str, leader: str = "host-old", fence: int = 2, lease: int = 1) -> DecisionRecord:
    return DecisionRecord(dict.fromkeys(names, lease), leader, fence, "elected", {})


def foreign(*names: str, revision: int) -> DecisionChanged:
    return DecisionChanged(StoredDecision(names, revision if names else 0, revision))


def echo(write: WriteDecision, revision: int) -> DecisionChanged:
    """Return what the watch says about a write of ours, as it comes back from JSON."""
    back = DecisionRecord.decode(write.record.encode())
    names = tuple(Hosts(write.record.hosts))
    return DecisionChanged(StoredDecision(names, revision if names else 0, revision, 77, back))


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


def lead(core: LeaderMachine, *names: str, stored: StoredDecision = NOTHING) -> LeaderMachine:
    """Bring a core to LEADING: snapshot at 10, its first write at 20."""
    assert core.handle(Elected(FENCE)) == [LoadSnapshot(FENCE)]
    intents = core.handle(snapshot(*names, stored=stored))
    assert isinstance(only(intents), WriteDecision)
    assert core.handle(WriteDone(20)) == []
    assert core.state is State.LEADING
    return core


def core_in(state: State) -> LeaderMachine:
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


GONE = StoredDecision((), 0, 45)


EVENTS: dict[str, Event] = {
    "Elected": Elected(50),
    "Deposed": Deposed(),
    "Snapshot": Snapshot(
        40,
        (host("a"), host("b", 2), host("c", 3)),
        StoredDecision(("a",), 39, 40, record=record("a")),
    ),
    "HostJoined": HostJoined(host("d", 41), 41),
    "HostLeft": HostLeft("c", 42),
    "DecisionChanged": foreign("x", "y", revision=43),
    "ControlChanged": ControlChanged(ControlState(max_count=1), 43),
    "WriteDone": WriteDone(44),
    "WriteRefused": WriteRefused(fenced=False, stored=GONE),
    "WriteRefused by the fence": WriteRefused(fenced=True, stored=GONE),
    "WriteLost": WriteLost(),
    "TimerFired": TimerFired(),
}


def options_of(max_count: int) -> dict[str, object]:
    return {"max_count": max_count, "strategy": "rr"}


def stored_at(core: LeaderMachine, revision: int) -> StoredDecision:
    """Return what the core knows to be stored, read again at a later revision."""
    stored = core.stored
    assert stored is not None
    return StoredDecision(stored.hosts, stored.mod_revision, revision, stored.lease, stored.record)


def fight(core: LeaderMachine, revision: int, *names: str) -> float:
    """One round: a foreign write, the timer, our write. Return how long we yielded."""
    delay = timer_in(core.handle(foreign(*names, revision=revision)))
    write_in(core.handle(TimerFired()))
    core.handle(WriteDone(revision + 1))
    return delay
