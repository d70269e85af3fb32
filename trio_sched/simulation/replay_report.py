"""What becomes of a trace: who was scheduled when, taken down as it happens, and added up.

The `Reporter` reads the store's commits as an etcd's watcher would, and is told what the trace does
to hosts; it shares no code with those who decide. Each change costs as much as it touches hosts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from trio_sched.etcd_shim._pb import messages_pb2 as pb
from trio_sched.model.control_state import ControlState
from trio_sched.model.keys import PathKeys
from trio_sched.model.records import DecisionRecord, Host, decode_scheduled
from trio_sched.simulation.memory_store import Commit
from trio_sched.simulation.trace import Trace

__all__ = ["Replay", "ReplayedDecision", "Reporter", "Span", "SpanState"]

SpanState: TypeAlias = Literal["scheduled", "waiting", "unavailable", "dead", "dead and scheduled"]

_SCHEDULED: Final[tuple[SpanState, ...]] = ("scheduled",)
_COULD: Final[tuple[SpanState, ...]] = ("scheduled", "waiting")


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


class Reporter:
    """Takes down what happens, and makes a `Replay` of it.

    Args:
        trace: that is replayed.
        strategy: its name.
        path: that the hosts share.
        clock: gives the seconds since the beginning.
    """

    def __init__(self, trace: Trace, strategy: str, path: str, clock: Callable[[], float]) -> None:
        self._trace = trace
        self._strategy = strategy
        self._keys = PathKeys(path)
        self._clock = clock
        self._running: set[str] = set()  # by the trace
        self._alive: set[str] = set()  # those of them that have joined
        self._pool: dict[str, bool] = {}  # who is registered, and whether available
        self._chosen: frozenset[str] = frozenset()
        self._control = ControlState()
        self._states: dict[str, tuple[SpanState, float]] = {}  # each with its beginning
        self._numbers: Counter[SpanState] = Counter()
        self._spans: dict[str, list[Span]] = {name: [] for name in trace.hosts}
        self._decisions: list[ReplayedDecision] = []
        self._placements = self._churn = 0
        self._unscheduled = self._unfilled = self._since = 0.0
        self._missing, self._none = 0, False  # places without a host; whether all are

    @property
    def _max_count(self) -> int:
        return self._control.max_count or self._trace.max_count

    def _may_choose(self, name: str) -> bool:
        available = self._pool.get(name, False)
        return available and name in self._alive and name not in self._control.drained

    # ---- what happens ----------------------------------------------------------------

    def start(self, name: str) -> None:
        """Note that a host runs from now on."""
        self._running.add(name)

    def stop(self, name: str) -> None:
        """Note that a host runs no more."""
        self._running.discard(name)
        self._alive.discard(name)
        self._judge([name])

    def see(self, commit: Commit) -> None:
        """Take in what a revision of the store has changed."""
        keys, touched = self._keys, set[str]()
        record: DecisionRecord | None = None
        for event in commit[1]:
            key = event.kv.key
            if key.startswith(keys.exchange):
                touched.add(self._see_host(event))
            elif key == keys.scheduled:
                before, self._chosen = self._chosen, frozenset(decode_scheduled(event.kv.value))
                touched |= before ^ self._chosen
            elif key == keys.control:
                before = self._control.drained
                self._control = ControlState.decode(event.kv.value, event.kv.mod_revision)
                touched |= before ^ self._control.drained
            elif key == keys.record and event.type == pb.Event.PUT:
                record = DecisionRecord.decode(event.kv.value)
        self._judge(touched)
        if record is not None:
            self._decided(record)

    def _see_host(self, event: pb.Event) -> str:
        kv = event.kv
        name = self._keys.hostname(kv.key)
        if event.type == pb.Event.DELETE:
            self._pool.pop(name, None)
            self._alive.discard(name)
            return name
        host = Host.decode(name, kv.value, lease=kv.lease, joined_revision=kv.create_revision)
        self._pool[name] = host.available
        if kv.version == 1 and name in self._running:
            self._alive.add(name)
        return name

    def _decided(self, record: DecisionRecord) -> None:
        before = self._decisions[-1].hosts if self._decisions else ()
        could_stay = [name for name in before if self._may_choose(name)]
        dropped = sum(name not in record.hosts for name in could_stay)
        self._churn += max(0, dropped - max(0, len(could_stay) - self._max_count))
        self._placements += sum(name not in before for name in record.hosts)
        hosts = tuple(record.hosts)
        decision = ReplayedDecision(self._clock(), hosts, record.leader, record.reason)
        self._decisions.append(decision)

    # ---- what is taken down ------------------------------------------------------------

    def _judge(self, touched: Iterable[str]) -> None:
        """Take down the state of hosts to which something has happened."""
        now = self._clock()
        self._add_up(now)
        for name in touched:
            if name in self._spans:
                self._note(name, self._state(name), now)
        filled = self._numbers["scheduled"]
        wanted = min(self._max_count, filled + self._numbers["waiting"])
        self._missing = max(0, wanted - filled)
        self._none = wanted > 0 and not filled

    def _state(self, name: str) -> SpanState | None:
        chosen = name in self._chosen
        if name in self._alive:
            if chosen:
                return "scheduled"
            return "waiting" if self._may_choose(name) else "unavailable"
        if name in self._pool:
            return "dead and scheduled" if chosen else "dead"
        return None

    def _note(self, name: str, state: SpanState | None, now: float) -> None:
        before = self._states.get(name)
        if before is not None and before[0] != state:
            del self._states[name]
            self._numbers[before[0]] -= 1
            if before[1] < now:
                self._spans[name].append(Span(name, before[0], before[1], now))
        if state is not None and name not in self._states:
            self._states[name] = state, now
            self._numbers[state] += 1

    def _add_up(self, now: float) -> None:
        """Take down for how long it was as it was since the last change."""
        self._unfilled += self._missing * (now - self._since)
        self._unscheduled += self._none * (now - self._since)
        self._since = now

    # ---- the report ----------------------------------------------------------------------

    def report(self) -> Replay:
        """End all spans, at the end of the trace, and add up."""
        trace = self._trace
        self._add_up(trace.seconds)
        for name in trace.hosts:
            self._note(name, None, trace.seconds)
        spans = tuple(span for name in trace.hosts for span in self._spans[name])
        scheduled = {name: self._time(name, _SCHEDULED) for name in trace.hosts}
        could = {name: self._time(name, _COULD) for name in trace.hosts}
        return Replay(
            strategy=self._strategy,
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

    def _time(self, name: str, states: Iterable[SpanState]) -> float:
        spans = (span for span in self._spans[name] if span.state in states)
        return sum((span.end - span.start for span in spans), start=0.0)


def _jain(shares: list[float]) -> float:
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0
