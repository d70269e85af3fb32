"""A trace, replayed through the real core: who was scheduled, and how well that went.

The hosts and their leaders are those of the simulator; here they do what the trace says,
and nothing else goes wrong. Messages take some milliseconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal, TypeAlias

from trio_sched.leader.machine import Event, WriteDecision, WriteDone
from trio_sched.model.control_state import ControlState
from trio_sched.model.keys import check_path
from trio_sched.model.records import Options, encode_host
from trio_sched.simulation.simulated_hosts import PATH, Process, World
from trio_sched.simulation.trace import Trace, TraceEvent
from trio_sched.strategies import Strategy, StrategyFunction, get_strategy

__all__ = ["Replay", "ReplayedDecision", "Span", "SpanState", "simulate"]

SpanState: TypeAlias = Literal["scheduled", "waiting", "unavailable", "dead", "dead and scheduled"]

_QUICK: Final = (0.002, 0.008)  # seconds that a message takes, at least and at most


@dataclass(frozen=True, slots=True)
class Span:
    """A time for which nothing changed about a host.

    Attributes:
        host: its name.
        state: ``scheduled``; ``waiting`` if it could have been; ``unavailable`` if it
            said so, or was drained; ``dead``, or ``dead and scheduled``, if it is gone and
            its keys are still there. A host that is not there has no span.
        start: in seconds.
        end: in seconds; more than `start`.
    """

    host: str
    state: SpanState
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class ReplayedDecision:
    """A decision that was stored.

    Attributes:
        at: when, in seconds.
        hosts: the chosen hosts, in the strategy's order.
        leader: who decided.
        reason: why, as recorded.
    """

    at: float
    hosts: tuple[str, ...]
    leader: str
    reason: str


@dataclass(frozen=True, slots=True)
class Replay:
    """What became of a trace.

    Attributes:
        strategy: name of the strategy.
        max_count: how many hosts could be chosen at most, unless operators said otherwise.
        seconds: how long it took.
        hosts: all hosts, in the order in which they first joined.
        spans: what they did, host by host and in the order of time.
        decisions: what was decided.
        placements: how often a host was given a place.
        churn: how often a host lost its place although it lived and could be chosen, and
            the places had not become fewer.
        unscheduled: seconds for which hosts could be chosen, and none that lived was.
        unfilled: the same for each place: seconds for which it had no living host, while
            one was waiting that could have taken it.
        scheduled: seconds for which each host was scheduled.
        balance: how evenly the hosts were scheduled, each by the share of the time for
            which it could have been: 1 if all alike, 1/n if one of n had it all (Jain's
            index).
    """

    strategy: str
    max_count: int
    seconds: float
    hosts: tuple[str, ...]
    spans: tuple[Span, ...]
    decisions: tuple[ReplayedDecision, ...]
    placements: int
    churn: int
    unscheduled: float
    unfilled: float
    scheduled: Mapping[str, float]
    balance: float

    def as_json(self) -> dict[str, object]:
        """Return all of it as plain values."""
        return {
            "strategy": self.strategy,
            "max_count": self.max_count,
            "seconds": self.seconds,
            "decisions": [
                {
                    "at": each.at,
                    "hosts": [*each.hosts],
                    "leader": each.leader,
                    "reason": each.reason,
                }
                for each in self.decisions
            ],
            "placements": self.placements,
            "churn": self.churn,
            "unscheduled": self.unscheduled,
            "unfilled": self.unfilled,
            "balance": self.balance,
            "hosts": {
                name: {
                    "scheduled": self.scheduled[name],
                    "spans": [
                        {"state": span.state, "start": span.start, "end": span.end}
                        for span in self.spans
                        if span.host == name
                    ],
                }
                for name in self.hosts
            },
        }


def simulate(
    strategy: str | Strategy | StrategyFunction, trace: Trace, *, path: str = PATH
) -> Replay:
    """Replay a trace through the real core, without etcd, network or clock.

    The oldest host leads, as in life: if it fails, nothing is decided until its lease has
    lapsed. The same arguments give the same answer.

    Args:
        strategy: its name, the strategy itself, or a plain function.
        trace: what happens.
        path: that the hosts share; some strategies choose by it.

    Raises:
        TypeError: `strategy` is none.
        ValueError: no strategy has this name, or `path` cannot be one.
        StrategyError: the strategy raised, or broke its rules.
    """
    check_path(path)
    world = _TracedWorld(trace, get_strategy(strategy), path)
    for event in trace.events:
        world.timeline.at(event.at, partial(world.take, event))
    world.timeline.run(trace.seconds)
    return world.report()


class _TracedWorld(World):
    """Does what a trace says, and takes down what each host does."""

    def __init__(self, trace: Trace, strategy: Strategy, path: str) -> None:
        self._trace = trace
        self._told = Options(trace.max_count, strategy.name)
        self._states: dict[str, tuple[SpanState, float]] = {}  # each with its beginning
        self._spans: dict[str, list[Span]] = {name: [] for name in trace.hosts}
        self._decisions: list[ReplayedDecision] = []
        self._placements = self._churn = 0
        self._unscheduled = self._unfilled = self._since = 0.0
        self._missing, self._nobody = 0, False  # places that are not filled; whether all are not
        super().__init__(0, trace.hosts, self._told, strategy, ttl=trace.ttl, path=path)

    def latency(self) -> float:
        """Return how long the next message travels."""
        return self.chance.uniform(*_QUICK)

    @property
    def _max_count(self) -> int:
        return self.etcd.control.max_count or self._trace.max_count

    def _may_choose(self, name: str) -> bool:
        host = self.etcd.hosts.get(name)
        available = host is not None and host.available
        return available and name in self.alive and name not in self.etcd.control.drained

    # ---- what happens

    def take(self, event: TraceEvent) -> None:
        """Let an event of the trace happen."""
        if event.do in {"join", "leave", "fail", "update"}:
            self._move(event, self.processes[event.host])
        else:
            self.etcd.put_control(self._wish(event, self.etcd.control))

    def _move(self, event: TraceEvent, process: Process) -> None:
        if event.do in {"join", "update"}:
            process.value = encode_host(self._told, event.data)
        if event.do == "join":
            self.start(process)
        elif not process.lease:  # it waits for its keys from a life before
            process.running = event.do == "update"
            process.life += event.do != "update"
        elif event.do == "update":
            self.etcd.update(process.name, process.value)
        else:
            (self.leave if event.do == "leave" else self.crash)(process)

    def _wish(self, event: TraceEvent, control: ControlState) -> ControlState:
        match event.do:
            case "pause":
                return control.pause()
            case "resume":
                return control.resume()
            case "drain":
                return control.drain(event.host)
            case "undrain":
                return control.undrain(event.host)
            case "evict":
                host = self.etcd.hosts.get(event.host)
                lease = 0 if host is None else host.lease
                return control.evict(event.host, revision=self.etcd.revision, lease=lease)
            case _:
                return control.set_count(event.max_count)

    # ---- what is taken down

    def write(self, write: WriteDecision, session: int, lease: int) -> Event:
        """Let a leader's write arrive at etcd."""
        answer = super().write(write, session, lease)
        if isinstance(answer, WriteDone):
            record, before = write.record, self._decisions[-1].hosts if self._decisions else ()
            could_stay = [name for name in before if self._may_choose(name)]
            dropped = sum(name not in record.hosts for name in could_stay)
            self._churn += max(0, dropped - max(0, len(could_stay) - self._max_count))
            self._placements += sum(name not in before for name in record.hosts)
            now, hosts = self.timeline.now, tuple(record.hosts)
            self._decisions.append(ReplayedDecision(now, hosts, record.leader, record.reason))
        return answer

    def _judge(self) -> None:
        super()._judge()
        self._add_up(self.timeline.now)
        chosen = set(self.etcd.names)
        for name in self.processes:
            self._note(name, self._state(name, chosen=name in chosen))
        states = Counter(state for state, _ in self._states.values())
        filled = states["scheduled"]
        wanted = min(self._max_count, filled + states["waiting"])
        self._missing = max(0, wanted - filled)
        self._nobody = wanted > 0 and not filled

    def _state(self, name: str, *, chosen: bool) -> SpanState | None:
        if name in self.alive:
            if chosen:
                return "scheduled"
            return "waiting" if self._may_choose(name) else "unavailable"
        if name in self.etcd.hosts and not self.processes[name].lease:
            return "dead and scheduled" if chosen else "dead"
        return None

    def _note(self, name: str, state: SpanState | None) -> None:
        before, now = self._states.get(name), self.timeline.now
        if before is not None and before[0] != state:
            del self._states[name]
            if before[1] < now:
                self._spans[name].append(Span(name, before[0], before[1], now))
        if state is not None and name not in self._states:
            self._states[name] = state, now

    def _add_up(self, now: float) -> None:
        """Take down for how long it was as it was since the last change."""
        self._unfilled += self._missing * (now - self._since)
        self._unscheduled += self._nobody * (now - self._since)
        self._since = now

    def report(self) -> Replay:
        """End all spans and add up."""
        trace = self._trace
        self.timeline.now = trace.seconds
        self._add_up(trace.seconds)
        for name in trace.hosts:
            self._note(name, None)
        spans = tuple(span for name in trace.hosts for span in self._spans[name])
        scheduled = {name: self._time(name, "scheduled") for name in trace.hosts}
        could = {name: self._time(name, "scheduled", "waiting") for name in trace.hosts}
        return Replay(
            strategy=self._told.strategy,
            max_count=trace.max_count,
            seconds=trace.seconds,
            hosts=trace.hosts,
            spans=spans,
            decisions=tuple(self._decisions),
            placements=self._placements,
            churn=self._churn,
            unscheduled=self._unscheduled,
            unfilled=self._unfilled,
            scheduled=scheduled,
            balance=_jain([scheduled[name] / could[name] for name in could if could[name]]),
        )

    def _time(self, name: str, *states: SpanState) -> float:
        spans = (span for span in self._spans[name] if span.state in states)
        return sum((span.end - span.start for span in spans), start=0.0)


def _jain(shares: list[float]) -> float:
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0
