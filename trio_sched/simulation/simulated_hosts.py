"""The hosts of a world: processes that run, pause and end, and the leaders among them.

Theory of operation
-------------------
A follower is no more than its keys; the elected host gets a `Leader`, which does
what `trio_sched.host.leading` does: one batch of events at a time, nothing else while a
write is under way, the pool from a snapshot and a watch, the decision from a watch
that comes at its own time.

A lease is renewed by itself as long as its host runs, and costs no action. Only when
the host crashes or pauses is its end put into the timeline; a pause that ends before
takes that back. A paused host wakes up with all in its hands that it had: unheard
events, a timer that is due, perhaps a write that it was about to send. It learns
that its lease is gone only some time later, and until then believes that it leads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

from trio_sched.leader import events
from trio_sched.leader.machine import LeaderMachine
from trio_sched.model.records import Options, encode_host
from trio_sched.simulation.simulated_etcd import Candidate, Commit, Score, SimulatedEtcd, Timeline
from trio_sched.strategies import Strategy

__all__ = ["PATH", "TTL", "Leader", "Process", "World"]

PATH = "/simulated"
TTL = 10.0  # seconds that a session's lease lives without being renewed
_DECISION_TTLS = 3  # how much longer a leader's decision lease does


@dataclass(slots=True)
class Process:
    """A host: a process that runs or not, and may be paused.

    Attributes:
        value: what it registers with.
        lease: that it believes to hold; 0 if none.
        life: grows whenever it starts or ends, and voids what was meant for it before.
        freeze: for how long it pauses when it is about to write; 0 if not.
    """

    name: str
    value: bytes
    running: bool = False
    paused: bool = False
    lease: int = 0
    life: int = 0
    freeze: float = 0.0
    leader: Leader | None = None


class Leader:
    """Drives one `LeaderMachine` as long as its host believes to lead."""

    def __init__(self, world: World, process: Process, candidate: Candidate) -> None:
        self._world = world
        self._time = world.timeline
        self._etcd = world.etcd
        self._process = process
        self._candidate = candidate
        self.core = world.core(process.name)
        self._inbox: list[events.Event] = []
        self._stopped = False
        self._awake = False  # whether it will look into its inbox soon
        self._writing = False
        self._held: events.WriteDecision | None = None  # about to be sent when we were paused
        self._timers = 0
        self._due = False
        self._watch = 0  # the number of the watch on the pool
        self._watching = False
        self._delivered = dict.fromkeys(("pool", "decision", "control"), 0.0)  # up to when
        self.decision_lease = 0
        self._inherited = 0

    @property
    def leases(self) -> set[int]:
        """The decision leases that have to be seen to when it leads no more."""
        return {self.decision_lease, self._inherited} - {0}

    def start(self) -> None:
        """Begin to lead."""
        self.read_decision()
        self._inbox.append(events.Elected(self._candidate.fence))
        self.notify()

    def stop(self) -> None:
        """Handle nothing more."""
        self._stopped = True
        self.core.handle(events.Deposed())

    def wake(self) -> None:
        """Go on after a pause."""
        held, self._held = self._held, None
        if held is not None:
            self._send(held)
        self.notify()

    # ---- batches

    def _post(self, event: events.Event) -> None:
        self._inbox.append(event)
        self.notify()

    def notify(self) -> None:
        """See to it that what has happened is handled soon."""
        if not (self._awake or self._writing or self._stopped or self._process.paused):
            self._awake = True
            self._time.after(self._world.chance.uniform(0.0, 0.005), self._handle)

    def _handle(self) -> None:
        self._awake = False
        if self._stopped or self._writing or self._process.paused:
            return
        batch, self._inbox = self._inbox, []
        if self._due:
            self._due = False
            batch.append(events.TimerFired())
        if not batch:
            return
        intents = self.core.handle(*batch)
        kinds = [type(event).__name__ for event in batch]
        self._time.note(self._process.name, kinds, self.core.state.value, intents)
        for intent in intents:
            self._carry_out(intent)

    def _carry_out(self, intent: events.Intent) -> None:
        match intent:
            case events.LoadSnapshot():
                self.load()
            case events.WriteDecision():
                self._writing = True
                if not self._freeze(intent):
                    self._send(intent)
            case events.StartTimer(delay):
                self._timers += 1
                self._time.after(delay, partial(self._notify_timer, self._timers))
            case events.Fail(error):
                raise error

    def _freeze(self, write: events.WriteDecision) -> bool:
        process = self._process
        if not process.freeze:
            return False
        self._held = write
        self._world.pause(process, process.freeze)
        process.freeze = 0.0
        return True

    def _notify_timer(self, number: int) -> None:
        if number == self._timers:
            self._due = True
            self.notify()

    # ---- what it reads and watches

    def load(self) -> None:
        """Read the pool, and watch it from there."""
        self._watch += 1
        self._watching = False
        self._time.after(self._world.latency(), partial(self._read_pool, self._watch))

    def _read_pool(self, watch: int) -> None:
        if watch != self._watch or self._stopped:
            return
        lease = self._etcd.record.lease if self._etcd.record is not None else 0
        if lease != self.decision_lease:
            self._inherited = lease
        self._watching = True
        self._deliver_later("pool", watch, [self._etcd.snapshot()])

    def read_decision(self) -> None:
        """Read the decision."""
        self._time.after(
            self._world.latency(), partial(self._post, events.DecisionChanged(self._etcd.stored))
        )

    def see(self, commit: Commit) -> None:
        """Receive a revision, when the watches come to it."""
        if commit.pool and self._watching:
            self._deliver_later("pool", self._watch, commit.pool)
        if commit.stored is not None:
            changed = events.DecisionChanged(commit.stored)
            self._deliver_later("decision", 0, partial(self._post, changed))
        if commit.control is not None:
            self._deliver_later("control", 0, partial(self._post, commit.control))

    def _deliver_later(
        self, what: str, watch: int, events: Sequence[events.Event] | Callable[[], None]
    ) -> None:
        """Let events arrive after a while, but not before those that went before."""
        self._delivered[what] = max(self._delivered[what], self._time.now + self._world.latency())
        self._time.at(self._delivered[what], partial(self._deliver, watch, events))

    def _deliver(self, watch: int, events: Sequence[events.Event] | Callable[[], None]) -> None:
        if self._stopped:
            return
        if callable(events):
            events()
        elif watch == self._watch:
            self._inbox += events
            self.notify()

    # ---- what it writes

    def _send(self, write: events.WriteDecision) -> None:
        world = self._world
        world.score.counts["writes"] += 1
        if self.decision_lease not in self._etcd.leases:
            self.decision_lease = self._etcd.grant("")
        arrive = partial(self._arrive, write, self.decision_lease)
        chance = world.chance
        if chance.random() >= world.answers:
            self._time.after(world.latency(), partial(arrive, answered=True))
            return
        # It never arrives; or does, but the answer does not; or long after we gave it up.
        delay = (None, world.latency(), chance.uniform(0.5, 5.0))[chance.randrange(3)]
        if delay is not None:
            self._time.after(delay, partial(arrive, answered=False))
        self._time.after(1.0, partial(self._answer, events.WriteLost(write.fence)))

    def _arrive(self, write: events.WriteDecision, lease: int, *, answered: bool) -> None:
        answer = self._world.write(write, self._candidate.lease, lease)
        if answered:
            self._time.after(self._world.latency(), partial(self._answer, answer))

    def _answer(self, answer: events.Event) -> None:
        if self._stopped:
            return
        self._writing = False
        if isinstance(answer, events.WriteDone) and self._inherited:
            self._etcd.revoke(self._inherited)
            self._inherited = 0
        self._post(answer)


class World:
    """Hosts, their leases, and what happens to them.

    Args:
        seed: of all chance.
        names: of the hosts.
        options: what decisions are made with.
        strategy: of the leaders.
        answers: share of writes whose answer is lost, or which come late.
        compares_fence: whether etcd compares the fence of a leader's write.
        ttl: seconds that a session's lease lives without being renewed.
        path: that the hosts share.
    """

    def __init__(
        self,
        seed: int,
        names: Iterable[str],
        options: Options,
        strategy: Strategy,
        *,
        answers: float = 0.0,
        compares_fence: bool = True,
        ttl: float = TTL,
        path: str = PATH,
    ) -> None:
        self.chance = Random(seed)  # noqa: S311 # the same for the same seed is the point
        self.answers = answers
        self.timeline = Timeline()
        self.etcd = SimulatedEtcd(self._see, compares_fence=compares_fence)
        self.score = Score()
        value = encode_host(options)
        self.processes = {name: Process(name, value) for name in names}
        self.ttl = ttl
        self._decision_ttl = _DECISION_TTLS * ttl
        self._path = path
        self._options = options
        self._strategy = strategy
        self._leaders: list[Leader] = []
        self.alive: dict[str, None] = {}  # hosts that run and are registered
        self._lapsing: dict[int, float] = {}  # leases that are not renewed, and when they end
        self._elected: Candidate | None = None

    def core(self, name: str) -> LeaderMachine:
        """Return what decides for a host."""
        return LeaderMachine(
            hostname=name, path=self._path, options=self._options, strategy=self._strategy
        )

    def latency(self) -> float:
        """Return how long the next message travels: mostly some ms, sometimes much longer."""
        chance = self.chance
        slow = chance.random() < 0.03
        return chance.uniform(0.05, 1.0) if slow else chance.uniform(0.001, 0.02)

    # ---- etcd

    def _see(self, commit: Commit) -> None:
        self.timeline.note(commit)
        for leader in self._leaders:
            leader.see(commit)
        first = self.etcd.leader
        if first is not None and first != self._elected:
            self.timeline.after(self.latency(), partial(self._elect, first))
        self._elected = first
        self._judge()

    def _judge(self) -> None:
        names = self.etcd.names
        valid = bool(names) and all(name in self.alive for name in names)
        self.score.judge(self.timeline.now, valid=valid or not self.alive)

    def write(self, write: events.WriteDecision, session: int, lease: int) -> events.Event:
        """Let a leader's write arrive at etcd."""
        leads = self.etcd.leads(session, write.fence)
        before, pool, counts = self.etcd.names, self.etcd.hosts, self.score.counts
        answer = self.etcd.write(write, session, lease)
        if isinstance(answer, events.WriteDone):
            self.score.decided(before, write.record.hosts, pool, self._options.max_count)
            counts["landed_late"] += not leads
        elif isinstance(answer, events.WriteRefused):
            counts["refused"] += 1
            counts["fenced"] += answer.fenced
        return answer

    def write_foreign(self, names: tuple[str, ...]) -> None:
        """Let a foreign client write."""
        self.score.counts["foreign"] += 1
        self.etcd.put_foreign(names)

    def _lapse_unless_renewed(self, lease: int, ttl: float) -> None:
        """Let a lease end that was renewed a third of its TTL ago at most."""
        if lease in self.etcd.leases and lease not in self._lapsing:
            ends = self.timeline.now + ttl - self.chance.uniform(0.0, ttl / 3)
            self._lapsing[lease] = ends
            self.timeline.at(ends, partial(self._lapse, lease, ends))

    def _lapse(self, lease: int, ends: float) -> None:
        if self._lapsing.get(lease) == ends:
            del self._lapsing[lease]
            name = self.etcd.leases.get(lease)
            if name and self.processes[name].lease == lease:
                self.alive.pop(name, None)  # it is paused
            self.etcd.revoke(lease)

    # ---- hosts

    def _elect(self, candidate: Candidate) -> None:
        process = self.processes[candidate.name]
        if process.lease != candidate.lease or process.paused or process.leader is not None:
            return
        process.leader = Leader(self, process, candidate)
        self._leaders.append(process.leader)
        process.leader.start()

    def start(self, process: Process) -> None:
        """Start a host that does not run."""
        if not process.running:
            process.running = True
            process.life += 1
            self._join(process, process.life)

    def _join(self, process: Process, life: int) -> None:
        if process.life != life:
            return
        lease = self.etcd.join(process.name, process.value)
        if lease is None:  # its key from a life before is still there
            delay = self.chance.uniform(0.2, 1.0)
            self.timeline.after(delay, partial(self._join, process, life))
            return
        process.lease = lease
        self.alive[process.name] = None
        self._judge()

    def _end(self, process: Process) -> tuple[int, set[int]]:
        """Forget the session; return its lease, and those of its decisions."""
        lease, leader = process.lease, process.leader
        process.lease, process.leader = 0, None
        process.paused, process.freeze = False, 0.0
        process.life += 1
        self.alive.pop(process.name, None)
        if leader is None:
            return lease, set()
        leader.stop()
        self._leaders.remove(leader)
        return lease, leader.leases

    def leave(self, process: Process) -> None:
        """Let a host leave and clean up."""
        if process.running and process.lease and not process.paused:
            process.running = False
            lease, decisions = self._end(process)
            self._judge()
            self.timeline.after(self.latency(), partial(self._clean, lease, decisions))

    def crash(self, process: Process) -> None:
        """Let a host end without a word."""
        if process.running and process.lease:
            process.running = False
            lease, decisions = self._end(process)
            self._lapse_unless_renewed(lease, self.ttl)
            for decision in sorted(decisions):
                self._lapse_unless_renewed(decision, self._decision_ttl)
            self._judge()

    def _clean(self, lease: int, decisions: set[int]) -> None:
        self.etcd.revoke(lease)
        kept = self.etcd.record.lease if self.etcd.record is not None else 0
        cleared = self.etcd.clear_if_last()
        for useless in sorted(decisions):
            if cleared or useless != kept:
                self.etcd.revoke(useless)
            else:
                self._lapse_unless_renewed(useless, self._decision_ttl)

    def pause(self, process: Process, seconds: float) -> None:
        """Let a host stand still for a while."""
        if process.running and process.lease and not process.paused:
            process.paused = True
            self._lapse_unless_renewed(process.lease, self.ttl)
            for decision in sorted(process.leader.leases if process.leader else ()):
                self._lapse_unless_renewed(decision, self._decision_ttl)
            self.timeline.after(seconds, partial(self._resume, process, process.life))

    def _resume(self, process: Process, life: int) -> None:
        if process.life != life:
            return
        process.paused = False
        if process.lease in self.etcd.leases:
            for lease in (process.lease, *(process.leader.leases if process.leader else ())):
                self._lapsing.pop(lease, None)
            first = self.etcd.leader
            if first is not None and first.name == process.name:
                self._elect(first)
        else:
            delay = self.chance.uniform(0.0, 2.0)
            self.timeline.after(delay, partial(self._lose, process, life))
        if process.leader is not None:
            process.leader.wake()

    def _lose(self, process: Process, life: int) -> None:
        """Let a host learn that its session was lost, and join again."""
        if process.life == life and not process.paused:
            lease, decisions = self._end(process)
            self._clean(lease, decisions)
            delay = self.chance.uniform(0.1, 0.5)
            self.timeline.after(delay, partial(self._join, process, process.life))
