"""Several leaders' cores on the store of an etcd in memory, to be driven by Hypothesis.

The store has a log of changes, from which each host's watch may be late, repeated and out of
order. Hosts of our own pause, lose their
lease without noticing, and go on writing; somebody else writes ``scheduled``
without asking anybody; and operators pause, drain, set the count and evict.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, cast

from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from tests.leader.machine_etcd import EVICTED, HOSTS, Etcd
from trio_sched.leader.machine import (
    Deposed,
    Elected,
    Event,
    Fail,
    HostJoined,
    HostLeft,
    LeaderMachine,
    LoadSnapshot,
    Snapshot,
    StartTimer,
    State,
    TimerFired,
    WriteDecision,
    WriteLost,
    WriteRefused,
)
from trio_sched.model.records import (
    DecisionRecord,
    Host,
    Options,
)
from trio_sched.strategies import StrategyOptions, choose, get_strategy

CANDIDATES = ("l1", "l2")
IF_THERE_ARE_OPERATORS = precondition(lambda machine: machine.operators)
SETTINGS = settings(
    max_examples=150,
    stateful_step_count=60,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


@dataclass(slots=True)
class Candidate:
    """One of our own hosts, with its core and all that is on the way to it or from it."""

    name: str
    core: LeaderMachine
    read: int = 0  # how much of the log has come into its inbox
    inbox: list[Event] = field(default_factory=list)
    answers: list[Event] = field(default_factory=list)
    work: list[LoadSnapshot | WriteDecision] = field(default_factory=list)
    timer: float | None = None
    newest: dict[str, tuple[int, Host | None]] = field(default_factory=dict)  # the oracle
    oracle_fence: int | None = None


class Model(RuleBasedStateMachine):
    """See the module."""

    compares_fence: ClassVar[bool] = True
    operators: ClassVar[bool] = True  # whether there are any

    @initialize(name=st.sampled_from(["rr", "alpha"]), max_count=st.integers(1, 3))
    def begin(self, name: str, max_count: int) -> None:
        self.etcd = Etcd(compares_fence=self.compares_fence)
        self.strategy = get_strategy(name)
        self.options = Options(max_count, name)
        self.candidates = {name: self.candidate(name) for name in CANDIDATES}
        self.lost_writes: list[tuple[str, WriteDecision]] = []
        for candidate in CANDIDATES:
            self.etcd.put_candidate(candidate)

    def candidate(self, name: str) -> Candidate:
        core = LeaderMachine(hostname=name, path="/p", options=self.options, strategy=self.strategy)
        return Candidate(name, core)

    # What happens to the hosts and to etcd

    @rule(
        name=st.sampled_from(HOSTS),
        value=st.sampled_from([b"TODO", b"{}", b'{"data":{"z":1}}', b'{"available":false}', None]),
        restart=st.booleans(),
    )
    def host_changes(self, name: str, value: bytes | None, restart: bool) -> None:
        """It comes, or says something else, or goes, or comes back under a new lease."""
        if value is None or restart:
            self.etcd.delete_host(name)
        if value is not None:
            self.etcd.put_host(name, value)

    @rule(names=st.sets(st.sampled_from([*HOSTS, "stranger"]), max_size=3))
    def foreign_write(self, names: set[str]) -> None:
        self.etcd.put_scheduled(tuple(sorted(names)))

    @IF_THERE_ARE_OPERATORS
    @rule(name=st.sampled_from(HOSTS))
    def operator_drains_or_undrains(self, name: str) -> None:
        control = self.etcd.control
        drained = name in control.drained
        self.etcd.put_control(control.undrain(name) if drained else control.drain(name))

    @IF_THERE_ARE_OPERATORS
    @rule(pick=st.integers(0, 9))
    def operator_evicts(self, pick: int) -> None:
        """Somebody who holds a place, mostly."""
        hosts = (*self.etcd.stored().hosts, HOSTS[pick % 5])
        name = hosts[pick % len(hosts)]
        lease = self.etcd.host(name).lease if self.etcd.has_host(name) else 0
        revision = self.etcd.revision
        self.etcd.put_control(self.etcd.control.evict(name, revision=revision, lease=lease))

    @IF_THERE_ARE_OPERATORS
    @rule(max_count=st.none() | st.integers(1, 3), pause=st.booleans())
    def operator_steers_all(self, max_count: int | None, pause: bool) -> None:
        control = self.etcd.control.set_count(max_count)
        self.etcd.put_control(control.pause() if pause else control.resume())

    @rule(name=st.sampled_from(CANDIDATES), back=st.booleans())
    def candidate_loses_its_key(self, name: str, back: bool) -> None:
        """Its lease has lapsed, say; it need not notice for a while."""
        self.etcd.delete_candidate(name)
        if back:
            self.etcd.put_candidate(name)

    # What the drivers do, sooner or later

    def learn_of_the_election(self, name: str) -> None:
        candidate, leader = self.candidates[name], self.etcd.leader()
        if leader is not None and leader[0] == name:
            self.tell(candidate, Elected(leader[1]))
        elif candidate.core.fence is not None:
            self.tell(candidate, Deposed())

    @rule(
        name=st.sampled_from(CANDIDATES),
        learns=st.booleans(),
        fates=st.lists(st.sampled_from(["ok", "ok", "lost", "gone", "late"]), max_size=6),
    )
    def run(self, name: str, learns: bool, fates: list[str]) -> None:
        """All goes in order for a while, except that answers to writes are lost."""
        if learns:
            self.learn_of_the_election(name)
        for fate in fates:
            self.step(self.candidates[name], fate)

    @rule(name=st.sampled_from(CANDIDATES), fate=st.sampled_from(["ok", "lost", "gone", "late"]))
    def work_is_done(self, name: str, fate: str) -> None:
        if self.candidates[name].work:
            self.carry_out(self.candidates[name], fate)

    @rule(
        name=st.sampled_from(CANDIDATES),
        picks=st.lists(st.integers(0, 999), max_size=6),
        again=st.booleans(),
        answered=st.booleans(),
    )
    def deliver(self, name: str, picks: list[int], again: bool, answered: bool) -> None:
        """Some of what the watch said, in any order, perhaps twice; and answers, once."""
        candidate = self.candidates[name]
        self.receive(candidate)
        inbox = candidate.inbox
        at = {pick % len(inbox) for pick in picks} if inbox else set()
        events = [inbox[pick % len(inbox)] for pick in picks] if inbox else []
        if not again:
            candidate.inbox = [event for i, event in enumerate(inbox) if i not in at]
        if answered and candidate.answers:
            events.insert(sum(picks) % (len(events) + 1), candidate.answers.pop(0))
        self.tell(candidate, *events)

    @precondition(lambda self: self.lost_writes)
    @rule()
    def a_lost_write_reaches_etcd_after_all(self) -> None:
        name, write = self.lost_writes.pop(0)
        self.etcd.write(write, name)

    @rule(name=st.sampled_from(CANDIDATES))
    def timer_fires(self, name: str) -> None:
        candidate = self.candidates[name]
        if candidate.timer is not None:
            candidate.timer = None
            self.tell(candidate, TimerFired())

    @rule(name=st.sampled_from(CANDIDATES))
    def reconcile(self, name: str) -> None:
        candidate = self.candidates[name]
        if candidate.core.fence is not None:
            candidate.work.append(LoadSnapshot(candidate.core.fence))

    @rule(sure=st.integers(0, 3))
    def settle_sometimes(self, sure: int) -> None:
        if not sure:
            self.settle()

    def settle(self) -> None:
        """Everything in flight arrives, and then the decision is what it should be."""
        while self.lost_writes:
            self.a_lost_write_reaches_etcd_after_all()
        for candidate in self.candidates.values():
            self.learn_of_the_election(candidate.name)
        for _ in range(200):
            if not any(self.step(candidate) for candidate in self.candidates.values()):
                break
        else:
            raise AssertionError("it does not settle")
        self.check_settled()

    def teardown(self) -> None:
        if not hasattr(self, "etcd"):
            return
        self.etcd.put_candidate(CANDIDATES[0])
        self.settle()

    # How a driver works

    def receive(self, candidate: Candidate) -> None:
        candidate.inbox += self.etcd.log[candidate.read :]
        candidate.read = len(self.etcd.log)

    def step(self, candidate: Candidate, fate: str = "ok") -> bool:
        self.receive(candidate)
        if candidate.inbox or candidate.answers:
            events = (*candidate.inbox, *candidate.answers)
            candidate.inbox, candidate.answers = [], []
            self.tell(candidate, *events)
        elif candidate.work:
            self.carry_out(candidate, fate)
        elif candidate.timer is not None:
            candidate.timer = None
            self.tell(candidate, TimerFired())
        else:
            return False
        return True

    def carry_out(self, candidate: Candidate, fate: str) -> None:
        work = candidate.work.pop(0)
        if isinstance(work, LoadSnapshot):
            if work.fence == candidate.core.fence:  # else nobody wants it any more
                hosts = tuple(self.etcd.hosts().values())
                etcd = self.etcd
                snapshot = Snapshot(etcd.revision, hosts, etcd.stored(), etcd.control)
                candidate.answers.append(snapshot)
            return
        answer: Event = WriteLost(work.fence)
        if fate == "late":
            self.lost_writes.append((candidate.name, work))
        elif fate == "lost":
            self.etcd.write(work, candidate.name)
        elif fate == "ok":
            answer = self.etcd.write(work, candidate.name)
        candidate.answers.append(answer)

    def tell(self, candidate: Candidate, *events: Event) -> None:
        core = candidate.core
        was_failed = core.state is State.FAILED
        for event in events:
            self.note(candidate, event)
        intents = core.handle(*events)
        assert not was_failed or not intents
        assert sum(isinstance(intent, WriteDecision) for intent in intents) <= 1
        for intent in intents:
            if isinstance(intent, LoadSnapshot | WriteDecision):
                candidate.work.append(intent)
            elif isinstance(intent, StartTimer):
                assert 0.1 <= intent.delay <= 10
                candidate.timer = intent.delay
            assert not isinstance(intent, Fail)
            if isinstance(intent, WriteDecision):
                self.check_write(candidate, intent)
        self.check_pool(candidate)

    # What must hold

    def note(self, candidate: Candidate, event: Event) -> None:
        """Keep the oracle: of each host the newest that was said since the election."""
        if isinstance(event, Elected):
            if event.fence != candidate.oracle_fence:
                candidate.oracle_fence, candidate.newest = event.fence, {}
        elif isinstance(event, Deposed) or (isinstance(event, WriteRefused) and event.fenced):
            if not isinstance(event, WriteRefused) or event.fence == candidate.oracle_fence:
                candidate.oracle_fence, candidate.newest = None, {}
        elif candidate.oracle_fence is None:
            return
        elif isinstance(event, HostJoined):
            self.hear(candidate, event.host.name, event.revision, event.host)
        elif isinstance(event, HostLeft):
            self.hear(candidate, event.name, event.revision, None)
        elif isinstance(event, Snapshot) and event.revision >= candidate.oracle_fence:
            there = {host.name: host for host in event.hosts}
            for name in HOSTS:
                self.hear(candidate, name, event.revision, there.get(name))

    def hear(self, candidate: Candidate, name: str, revision: int, host: Host | None) -> None:
        if revision >= candidate.newest.get(name, (0, None))[0]:
            candidate.newest[name] = (revision, host)

    def check_pool(self, candidate: Candidate) -> None:
        said = {name: host for name, (_, host) in candidate.newest.items() if host is not None}
        assert dict(candidate.core.pool) == said

    def check_write(self, candidate: Candidate, write: WriteDecision) -> None:
        pool = candidate.core.pool
        assert write.fence == candidate.core.fence
        assert write.record.fence == write.fence
        assert {name: pool[name].lease for name in write.record.hosts} == write.record.hosts

    @invariant()
    def what_we_stored_is_sound(self) -> None:
        stored = self.etcd.stored() if hasattr(self, "etcd") else None
        if stored is None or stored.record is None:
            return
        assert len(stored.hosts) <= cast(int, stored.record.options["max_count"])
        assert set(stored.hosts) == set(stored.record.hosts)
        assert set(stored.record.hosts.items()) <= self.etcd.lives
        assert len(set(self.etcd.evicted)) == len(self.etcd.evicted), "evicted twice"

    def check_settled(self) -> None:
        leader = self.etcd.leader()
        if leader is None:
            return
        candidate = self.candidates[leader[0]]
        pool, stored = self.etcd.hosts(), self.etcd.stored()
        assert candidate.core.state is State.LEADING
        assert dict(candidate.core.pool) == pool
        others = [other for other in self.candidates.values() if other is not candidate]
        assert all(other.core.state is State.FOLLOWING for other in others)
        if stored.record is None:
            assert not pool
            assert not stored.mod_revision
            return
        record, control = stored.record, self.etcd.control
        assert (record.leader, record.fence) == leader
        assert record.hosts == {name: pool[name].lease for name in record.hosts}
        wishes = record.options.get("control", {})
        assert cast("dict[str, object]", wishes).get("revision", 0) == control.revision
        if not control.paused:
            self.check_choice(pool, record)
        if stored.hosts:
            assert stored.lease == leader[1]  # under its own lease

    def check_choice(self, pool: dict[str, Host], record: DecisionRecord) -> None:
        """The strategy's choice of those that may be chosen; less whom the last one evicted."""
        control, found = self.etcd.control, EVICTED.search(record.reason)
        evicted = found[1].split(", ") if found else []
        may = {
            name: host
            for name, host in pool.items()
            if host.available and name not in control.drained and name not in evicted
        }
        options = StrategyOptions(
            control.max_count or self.options.max_count, tuple(record.hosts), "/p"
        )
        assert tuple(record.hosts) == choose(self.strategy, may, options)


def make_machine(strategy: str = "rr", max_count: int = 2) -> Model:
    machine = Model()
    machine.begin(strategy, max_count)
    return machine
