"""A trace, replayed by real hosts: who was scheduled, and how well that went.

Theory of operation
-------------------
Each host is `schedule` on a client of its own, below which are a `Network` and a `Cluster` of one
member; operators have `Control`. Time is trio's mock clock, which jumps; messages take some
milliseconds, and nothing goes wrong but what the trace says. What came of it is taken down from
the store's commits (`replay_report`). All chance has one seed, so a trace gives the same each time.

Of a long time in which nothing happens only the first part is played. When the store has not
changed for as long as anything could take that is still under way, there is nothing but renewals
and proofs, some in each TTL; whole TTLs of that are left out. So a trace costs what its
events cost, and not what its weeks do. By trio's clock it is shorter then: see `_Run.now`.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from math import inf
from random import Random
from typing import Final

import trio

from trio_sched._support.arguments import check_instance
from trio_sched._support.chance import set_chance
from trio_sched._support.suspension import set_suspension
from trio_sched._support.tasks import ServiceBlock, ServiceNursery, open_plain_nursery
from trio_sched._support.wall_time import set_wall_clock
from trio_sched.control import Control
from trio_sched.etcd_shim import Client
from trio_sched.etcd_shim.channel import Channel, ChannelSettings, Endpoint, PingPolicy
from trio_sched.etcd_shim.lease import MAX_TTL
from trio_sched.exceptions import EndOfResults, HostNotFound, TrioSchedError
from trio_sched.host.decision_leases import DECISION_TTLS
from trio_sched.host.result import Result
from trio_sched.model.keys import check_path
from trio_sched.model.records import HostData
from trio_sched.scheduler import schedule
from trio_sched.simulation.memory_cluster import Cluster
from trio_sched.simulation.memory_store import Commit
from trio_sched.simulation.network import MemoryTransport, Network
from trio_sched.simulation.replay_report import (
    Replay,
    ReplayedDecision,
    Reporter,
    Span,
    SpanState,
)
from trio_sched.simulation.seeded import rare_collections, run_apart, seeded_scheduler
from trio_sched.simulation.timeline import JumpingClock
from trio_sched.simulation.trace import Trace, TraceEvent
from trio_sched.strategies import Strategy, StrategyFunction, get_strategy

__all__ = ["Replay", "ReplayedDecision", "Span", "SpanState", "simulate"]

_PATH: Final = "/simulated"
_EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
_QUICK: Final = (0.002, 0.008)  # seconds that bytes travel for, at least and at most
_MIN_TTL: Final = 2  # seconds; etcd grants no less
_NEVER: Final = 1e9  # seconds; nothing falls silent here, so no peer is asked whether it is there
_MAX_PAUSE: Final = 10.0  # seconds that a leader or a host waits before it tries again, at most
_HEALTH_INTERVAL: Final = 0.25  # seconds; see `_Life.check_health`


def simulate(
    strategy: str | Strategy | StrategyFunction, trace: Trace, *, path: str = _PATH
) -> Replay:
    """Replay a trace with real hosts, on an etcd in memory, under a clock that jumps.

    The oldest host leads, as in life: if it fails, nothing is decided until its lease has
    lapsed. The same arguments give the same answer. A TTL is rounded up to whole seconds,
    2 at least. It runs trio; where trio or asyncio runs already, in a thread of its own.

    Args:
        strategy: its name, the strategy itself, or a plain function.
        trace: what happens.
        path: that the hosts share; some strategies choose by it.

    Raises:
        TypeError: `strategy` or `trace` is none.
        ValueError: no strategy has this name, or `path` cannot be one.
        StrategyError: the strategy raised, or broke its rules.
    """
    check_path(path)
    check_instance("trace", trace, Trace, "a Trace")
    chosen = get_strategy(strategy)
    return run_apart(lambda: _Run(trace, chosen, path).run())


class _Run:
    """A trace under way.

    Attributes:
        trace: what happens.
        strategy: of all hosts.
        path: that they share.
        cluster: their etcd.
        network: between.
        reporter: takes down what happens.
        nursery: where they live.
        logger: of all hosts; nothing is written.
    """

    nursery: trio.Nursery

    def __init__(self, trace: Trace, strategy: Strategy, path: str) -> None:
        self.trace = trace
        self.strategy = strategy
        self.path = path
        self.cluster = Cluster(chance=Random("etcd"))  # noqa: S311 # a seed is the point
        self.network = Network(self.cluster, _QUICK, Random("network"))  # noqa: S311 # as above
        self.reporter = Reporter(trace, strategy.name, path, self.now)
        self.logger = logging.Logger("trio_sched.simulation", logging.CRITICAL + 1)  # noqa: LOG001 # one of its own
        self._hosts = {name: _Host(self, name) for name in trace.hosts}
        self._playing = trio.CancelScope()
        self._failure: TrioSchedError | None = None
        self._left_out = 0.0  # seconds
        self._changed_at = 0.0  # by trio's clock
        self._asked: deque[TraceEvent] = deque()  # of operators
        self._asking = trio.lowlevel.ParkingLot()

    @property
    def ttl(self) -> int:
        """Seconds that the leases of sessions live."""
        return min(max(math.ceil(self.trace.ttl), _MIN_TTL), MAX_TTL // DECISION_TTLS)

    def run(self) -> Replay:
        """Let it happen."""
        clock = JumpingClock()
        with seeded_scheduler("replay"), rare_collections():
            trio.run(self._main, clock, clock=clock)
        if self._failure is not None:
            raise self._failure
        return self.reporter.report()

    async def _main(self, clock: JumpingClock) -> None:
        set_chance(Random("hosts"))  # noqa: S311 # a seed is the point
        set_suspension(float, inf)  # as in a world
        set_wall_clock(lambda: _EPOCH + timedelta(seconds=self.now()))
        clock.drive(self.cluster.timeline)
        self.cluster.listeners.append(self._see)
        async with open_plain_nursery() as self.nursery:
            self.nursery.start_soon(self._operate)
            with self._playing:
                await self._play()
            self._end()

    def now(self) -> float:
        """Return the seconds since the beginning, with those that were left out."""
        return trio.current_time() + self._left_out

    def _see(self, commit: Commit) -> None:
        self._changed_at = trio.current_time()
        self.reporter.see(commit)

    def _end(self) -> None:
        self.cluster.listeners.clear()
        for host in self._hosts.values():
            host.kill()
        self.nursery.cancel_scope.cancel()

    def fail(self, error: TrioSchedError) -> None:
        """End it all by an error; the first one counts."""
        if not self._playing.cancel_called:
            self._failure = error
            self._playing.cancel()

    # ---- what happens ------------------------------------------------------------------

    async def _play(self) -> None:
        for event in self.trace.events:
            await self._wait_until(event.at)
            self._changed_at = trio.current_time()
            if event.do in {"join", "leave", "fail", "update"}:
                self._hosts[event.host].take(event)
            else:
                self._asked.append(event)
                self._asking.unpark_all()
        await self._wait_until(self.trace.seconds)

    async def _wait_until(self, time: float) -> None:
        """Wait for a time of the trace; leave out whole TTLs in which nothing happens."""
        quiet = (DECISION_TTLS + 1) * self.ttl + _MAX_PAUSE
        while (quiet_at := self._changed_at + quiet) < time - self._left_out:
            await trio.sleep_until(quiet_at)
            if self._changed_at + quiet <= quiet_at:
                self._left_out += (time - self.now()) // self.ttl * self.ttl
                break
        await trio.sleep_until(time - self._left_out)

    def open_client(self, label: str, services: ServiceNursery) -> ServiceBlock[Client]:
        """Open a client, as `client_block` does; when `services` are cancelled, it is dead."""
        endpoints = [Endpoint.parse(member.url) for member in self.cluster.members]
        transport = MemoryTransport(self.network, label)
        settings, pings = ChannelSettings(), PingPolicy(interval=_NEVER, patience=_NEVER)
        channel = Channel(services, endpoints, None, None, settings, pings, transport)
        return ServiceBlock(services, Client(channel))

    # ---- operators ---------------------------------------------------------------------

    async def _operate(self) -> None:
        async with self.open_client("operator", ServiceNursery()) as client:
            control = Control(client, self.path)
            while True:
                while not self._asked:
                    await self._asking.park()
                with suppress(HostNotFound):
                    await _steer(control, self._asked.popleft())


async def _steer(control: Control, event: TraceEvent) -> None:
    match event.do:
        case "pause":
            await control.pause()
        case "resume":
            await control.resume()
        case "drain":
            await control.drain(event.host)
        case "undrain":
            await control.undrain(event.host)
        case "evict":
            await control.evict(event.host)
        case _:
            await control.set_count(event.max_count)


class _Life:
    """From a host's start to its end.

    Attributes:
        label: of it, on the network.
        data: what it has to publish.
        scope: that ends it.
        services: what its client lives by.
        result: what `schedule` gave; None while it has not joined.
        dead: whether it was killed.
    """

    def __init__(self, label: str, data: HostData) -> None:
        self.label = label
        self.data = data
        self.scope = trio.CancelScope()
        self.services = ServiceNursery()
        self.result: Result | None = None
        self.dead = False
        self._published = data
        self._may_be_chosen = data.available

    async def check_health(self) -> bool:
        """Say no until the host has joined and published why it is not available.

        For a host that is not available when it joins: `schedule` has no argument for that.
        """
        return self._may_be_chosen

    async def publish(self) -> None:
        """Publish what it has to, now that it has joined."""
        assert self.result is not None
        data, before = self.data, self._published
        self._published = data
        async with open_plain_nursery() as nursery:  # both get into one write
            changes = {"weight", "zone", "priority", "data"}
            if any(getattr(data, name) != getattr(before, name) for name in changes):
                nursery.start_soon(self._update, self.result, data)
            if not data.available:
                nursery.start_soon(self.result.drain, data.reason)
            elif not before.available:
                nursery.start_soon(self.result.undrain)
        self._may_be_chosen = True

    async def _update(self, result: Result, data: HostData) -> None:
        await result.update(
            weight=data.weight, zone=data.zone, priority=data.priority, data=data.data
        )


class _Host:
    """A host of a trace: real above the bytes."""

    def __init__(self, run: _Run, name: str) -> None:
        self._run = run
        self._name = name
        self._life: _Life | None = None
        self._lives = 0

    def take(self, event: TraceEvent) -> None:
        """Let an event of the trace happen."""
        match event.do:
            case "join":
                self._join(event.data)
            case "update":
                self._update(event.data)
            case "leave":
                self._leave()
            case _:
                self.kill()

    def _join(self, data: HostData) -> None:
        self._lives += 1
        self._life = _Life(f"{self._name}#{self._lives}", data)
        self._run.reporter.start(self._name)
        self._run.nursery.start_soon(self._live, self._life)

    def _update(self, data: HostData) -> None:
        assert self._life is not None
        self._life.data = data
        if self._life.result is not None:
            self._run.nursery.start_soon(self._publish, self._life)

    async def _publish(self, life: _Life) -> None:
        with suppress(EndOfResults):
            await life.publish()

    def _leave(self) -> None:
        """Leave in good order."""
        assert self._life is not None
        self._run.reporter.stop(self._name)
        self._life.scope.cancel()
        self._life = None

    def kill(self) -> None:
        """End as by SIGKILL, if it runs: the member sees its connection end."""
        life, self._life = self._life, None
        if life is not None:
            self._run.reporter.stop(self._name)
            life.dead = True
            for path in self._run.network.paths(life.label).values():
                path.kill()
            life.services.cancel()
            life.scope.cancel()

    async def _live(self, life: _Life) -> None:
        try:
            with life.scope:
                await self._stay(life)
        except TrioSchedError as exc:
            if not life.dead:
                self._run.fail(exc)

    async def _stay(self, life: _Life) -> None:
        run, data = self._run, life.data
        async with (
            run.open_client(life.label, life.services) as client,
            schedule(
                client,
                run.path,
                self._name,
                strategy=run.strategy,
                max_count=run.trace.max_count,
                session_ttl=run.ttl,
                weight=data.weight,
                zone=data.zone,
                priority=data.priority,
                data=data.data,
                health_check=None if data.available else life.check_health,
                health_interval=_HEALTH_INTERVAL,
                logger=run.logger,
                strict=True,
            ) as life.result,
        ):
            await life.publish()
            await trio.sleep_forever()
