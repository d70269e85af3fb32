"""Thousands of hosts on a tiny model of etcd, driven by a seed through real `LeaderMachine`s.

Theory of operation
-------------------
All that happens is an action in a `Timeline`; each may put others there, and time
passes only between them. `World` is what can happen, and `_Plan` is what does: hosts
come, leave and crash, leaders pause, a foreign client writes. `FaultRates` has the frequencies.
After the given time nothing more goes wrong; what was begun comes to its end, and
then the decision has to be what the strategy wants.

All chance comes from one generator, and nothing is ordered by a hash. So a seed gives
the same in every process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from trio_sched.leader.machine import State
from trio_sched.model.control_state import ControlState
from trio_sched.model.records import DecisionRecord, Host, Options
from trio_sched.simulation.simulated_etcd import SimulatedEtcd
from trio_sched.simulation.simulated_hosts import PATH, Process, World
from trio_sched.strategies import Strategy, StrategyOptions, choose, get_strategy

__all__ = ["FaultRates", "SimulationReport", "simulate", "simulate_cores"]

_AFTERMATH = 600.0  # simulated seconds after which it will not settle any more
_MAX_PAUSE = 25.0  # simulated seconds; two and a half TTLs
_STRANGERS = ("stranger-1", "stranger-2", "stranger-3")


@dataclass(frozen=True, slots=True)
class SimulationReport:
    """What happened in a simulation.

    Attributes:
        decisions: decisions of leaders that were stored.
        writes: writes that leaders sent.
        refused: those that a guard refused.
        fenced: those of `refused` whose sender led no more.
        landed_late: those that were stored although their sender led no more.
        foreign: writes to ``scheduled`` by a foreign client.
        evaluations: how often a strategy was asked.
        churn: hosts that a leader dropped although they lived and there was room.
        longest_gap: the longest time, in simulated seconds, in which hosts lived but
            no decision was stored that names hosts, and none but such as live.
        most_chosen: hosts in the largest decision of a leader.
        settled: whether the last stored decision is what the strategy wants, and
            operators.
        digest: of all that happened, step by step.
    """

    decisions: int
    writes: int
    refused: int
    fenced: int
    landed_late: int
    foreign: int
    evaluations: int
    churn: int
    longest_gap: float
    most_chosen: int
    settled: bool
    digest: str


@dataclass(frozen=True, slots=True)
class FaultRates:
    """How often what goes wrong: mean times between, in simulated seconds; inf is never.

    Attributes:
        moves: some host leaves, crashes or comes.
        losses: a chosen host leaves or crashes.
        leader_faults: the leader leaves, crashes or pauses.
        foreign: a foreign client writes ``scheduled``, a few times in a row.
        breaks: the leader's watch on the pool breaks.
        operators: an operator drains, pauses, sets the count, evicts, or ends that.
        answers: share of writes whose answer is lost, or which come late.
    """

    moves: float = 2.0
    losses: float = 4.0
    leader_faults: float = 8.0
    foreign: float = 12.0
    breaks: float = 10.0
    operators: float = math.inf
    answers: float = 0.06


def simulate_cores(
    seed: int,
    *,
    hosts: int,
    seconds: float,
    max_count: int = 1,
    strategy: str | Strategy = "rr",
) -> SimulationReport:
    """Simulate hosts that share a path, and all that may go wrong around them.

    Every leader decides by the same code as a real one. There is no etcd, no network
    and no clock: the same arguments give the same report, in any process.

    Args:
        seed: of the plan and of all delays.
        hosts: how many there are; 1 or more.
        seconds: for how long things go wrong, in simulated time; more than 0. Then
            the simulation goes on until nothing is left to happen.
        max_count: how many may be chosen at most; 1 or more.
        strategy: of the leaders: its name, or itself.

    Raises:
        ValueError: a number is too small, or no strategy has this name.
        TypeError: `strategy` is neither a string nor a `Strategy`.
        StrategyError: the strategy raised, or broke its rules.
    """
    if hosts < 1 or max_count < 1:
        raise ValueError(f"hosts and max_count must be 1 or more, not {hosts} and {max_count}")
    if not 0 < seconds < math.inf:
        raise ValueError(f"seconds must be more than 0 and finite, not {seconds}")
    rates = FaultRates(moves=min(2.0, 200 / hosts))
    return simulate(seed, hosts, seconds, max_count, get_strategy(strategy), rates)


def simulate(
    seed: int,
    hosts: int,
    seconds: float,
    max_count: int,
    strategy: Strategy,
    rates: FaultRates,
    *,
    compares_fence: bool = True,
) -> SimulationReport:
    """Do what `simulate_cores` does, in any rates; perhaps without the fence."""
    counting = _Counting(strategy)
    options = Options(max_count, strategy.name)
    names = map("host-{}".format, range(hosts))
    world = World(
        seed, names, options, counting, answers=rates.answers, compares_fence=compares_fence
    )
    _Plan(world, rates, seconds).begin()
    finished = world.timeline.run(seconds + _AFTERMATH)
    evaluations, score = counting.asked, world.score
    score.judge(world.timeline.now, valid=True)
    return SimulationReport(
        **score.counts,
        evaluations=evaluations,
        churn=score.churn,
        longest_gap=score.longest_gap,
        most_chosen=score.most_chosen,
        settled=finished and _is_settled(world, strategy, max_count),
        digest=world.timeline.digest,
    )


def _is_settled(world: World, strategy: Strategy, max_count: int) -> bool:
    first, stored = world.etcd.leader, world.etcd.stored
    if first is None:
        return not stored.mod_revision
    leader, record = world.processes[first.name].leader, stored.record
    if leader is None or record is None or leader.core.state is not State.LEADING:
        return False
    return (
        (record.leader, record.fence) == (first.name, first.fence)
        and set(stored.hosts) == set(record.hosts)
        and _is_wanted(world.etcd, record, strategy, max_count)
    )


def _is_wanted(
    etcd: SimulatedEtcd, record: DecisionRecord, strategy: Strategy, max_count: int
) -> bool:
    control, pool = etcd.control, etcd.hosts
    if not control.known_to(record):
        return False
    if control.paused:  # then it depends on what was when it was paused
        return all(name in pool and pool[name].lease == at for name, at in record.hosts.items())
    may = {name: host for name, host in pool.items() if name not in control.drained}
    options = StrategyOptions(control.max_count or max_count, tuple(record.hosts), PATH)
    wanted = {name: pool[name].lease for name in choose(strategy, may, options)}
    return list(record.hosts.items()) == list(wanted.items())


class _Counting(Strategy):
    """Passes on to another strategy, and counts."""

    def __init__(self, inner: Strategy) -> None:
        self.name = inner.name
        self._inner = inner
        self.asked = 0

    def schedule(self, hosts: Mapping[str, Host], options: StrategyOptions) -> Sequence[str]:
        self.asked += 1
        return self._inner.schedule(hosts, options)


class _Plan:
    """What goes wrong, and when, until the time is up."""

    def __init__(self, world: World, rates: FaultRates, seconds: float) -> None:
        self._world = world
        self._weather = rates
        self._seconds = seconds
        self._time = world.timeline
        self._chance = world.chance
        self._all = list(world.processes.values())

    def begin(self) -> None:
        """Let the hosts join, half of them at once, and plan what comes first."""
        for process in self._all:
            longest = self._chance.choice((0.05, min(5.0, self._seconds / 4)))
            delay = self._chance.uniform(0.0, longest)
            self._time.after(delay, partial(self._world.start, process))
        rates = self._weather
        self._repeat(rates.moves, self._host_moves)
        self._repeat(rates.losses, self._lose_a_chosen_host)
        self._repeat(rates.leader_faults, self._leader_fails)
        self._repeat(rates.foreign, self._foreigner_writes)
        self._repeat(rates.breaks, self._watch_breaks)
        self._repeat(rates.operators, self._operator_acts)

    def _repeat(self, mean: float, action: Callable[[], None]) -> None:
        if mean < math.inf:
            self._later(self._chance.expovariate(1 / mean), partial(self._happen, mean, action))

    def _later(self, delay: float, action: Callable[[], None]) -> None:
        if self._time.now + delay < self._seconds:
            self._time.after(delay, action)

    def _happen(self, mean: float, action: Callable[[], None]) -> None:
        self._time.note(getattr(action, "__name__", ""))
        action()
        self._repeat(mean, action)

    def _host_moves(self) -> None:
        process = self._chance.choice(self._all)
        if process.running:
            self._end(process)
        else:
            self._world.start(process)

    def _end(self, process: Process) -> None:
        """Let a host leave or crash, and perhaps come back, maybe before its lease lapses."""
        end = self._chance.choice((self._world.leave, self._world.crash))
        end(process)
        if self._chance.random() < 0.6:
            delay = self._chance.uniform(0.2, 20.0)
            self._time.after(delay, partial(self._world.start, process))

    def _lose_a_chosen_host(self) -> None:
        processes = self._world.processes
        chosen = [processes[name] for name in self._world.etcd.names if name in processes]
        if chosen:
            self._end(self._chance.choice(chosen))

    def _leading(self) -> Process | None:
        first = self._world.etcd.leader
        return None if first is None else self._world.processes[first.name]

    def _leader_fails(self) -> None:
        leader = self._leading()
        if leader is None:
            return
        roll, pause = self._chance.random(), self._chance.uniform(0.1, _MAX_PAUSE)
        if roll < 0.3:
            self._end(leader)
        elif roll < 0.6:
            self._world.pause(leader, pause)
        else:
            leader.freeze = pause
            self._lose_a_chosen_host()  # so that there is something to write

    def _watch_breaks(self) -> None:
        process = self._leading()
        if process is not None and process.leader is not None:
            process.leader.load()

    def _operator_acts(self) -> None:
        etcd, chance = self._world.etcd, self._chance
        control = etcd.control
        name = chance.choice([*etcd.names, chance.choice(self._all).name])
        lease = etcd.hosts[name].lease if name in etcd.hosts else 0
        changes: tuple[Callable[[], ControlState], ...] = (
            control.pause,
            control.resume,
            partial(control.drain, name),
            partial(control.undrain, chance.choice([*sorted(control.drained), name])),
            partial(control.set_count, chance.choice((None, 1, 2, 4))),
            partial(control.evict, name, revision=etcd.revision, lease=lease),
        )
        etcd.put_control(chance.choice(changes)())

    def _foreigner_writes(self) -> None:
        at = 0.0
        for _ in range(self._chance.randint(1, 6)):
            self._later(at, self._write_once)
            at += self._chance.uniform(0.02, 2.0)

    def _write_once(self) -> None:
        hosts = [process.name for process in self._chance.choices(self._all, k=2)]
        some = self._chance.sample([*hosts, *_STRANGERS], self._chance.randint(0, 3))
        self._world.write_foreign(tuple(dict.fromkeys(some)))
