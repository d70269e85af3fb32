"""A whole cluster in one process: real hosts on an etcd in memory, under a clock that jumps.

Theory of operation
-------------------
All that is above the bytes is real: `schedule`, the client, its channel. Below it are a `Network`
and a `Cluster`, and all chance, that of the hosts included, comes from one seed. Trio
itself runs tasks in a random order; its scheduler can draw that from a seed, too
(the hook that Hypothesis uses). So a plan gives the same world, step by step, each time.

The world is judged by what was written down in its `Diary`, by checkers that share no code
with what they check (`world_checks`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from math import inf
from random import Random
from typing import Any, Final

import trio

from trio_sched._support.arguments import check_instance
from trio_sched._support.chance import set_chance
from trio_sched._support.suspension import set_suspension
from trio_sched._support.wall_time import set_wall_clock
from trio_sched.model.keys import KeyRange, PathKeys
from trio_sched.simulation.diary import Diary
from trio_sched.simulation.go_host import GO_TTL, GoHost
from trio_sched.simulation.memory_cluster import Cluster, Member
from trio_sched.simulation.memory_store import Commit, Snapshot
from trio_sched.simulation.network import Network
from trio_sched.simulation.plan import EARLY_OF_WORK, Action, Plan
from trio_sched.simulation.seeded import rare_collections, run_apart, seeded_scheduler
from trio_sched.simulation.surroundings import PATH, Surroundings
from trio_sched.simulation.timeline import JumpingClock
from trio_sched.simulation.world_checks import Outcome, check
from trio_sched.simulation.world_hosts import EPOCH, Operator, WorldHost
from trio_sched.simulation.world_tick_checks import is_of_ticks

__all__ = ["World", "WorldReport"]

_KEYS: Final = PathKeys(PATH)
_DAY: Final = 86400
_DELAY: Final = (0.0005, 0.02)  # seconds that bytes travel for
_ELECTION: Final = 2.0  # seconds that etcd takes for one, at most
_DECISION_TTLS: Final = 3  # how much longer a decision's lease lives than a session
_FIGHT: Final = 10.0  # seconds after which a foreign write is answered, at most
_PATIENCE: Final = 600.0  # seconds in which a world comes to its end, when all is over
_SNAPSHOTS: Final = 10.0  # seconds between two of those that the store can be restored from


@dataclass(frozen=True, slots=True)
class WorldReport:
    """What came of a world.

    Attributes:
        plan: of it.
        violations: what must not be, one line each; empty if all held.
        seconds: how long it was, by its own clock.
        digest: of all that happened.
        diary: what was written down.
        requests: how many etcd was asked for, by method.
    """

    plan: Plan
    violations: tuple[str, ...]
    seconds: float
    digest: str
    diary: Diary
    requests: dict[str, int] = field(default_factory=dict)


class World:
    """Hosts, members and what happens to them; run once.

    Args:
        plan: what happens; or a seed, for a plan by chance.

    ``World(7).run()`` gives a `WorldReport`. It runs a trio of its own; where one runs already, or
    asyncio, in a thread.
    """

    def __init__(self, plan: Plan | int) -> None:
        words = "a Plan, or a seed, which is an int"
        if isinstance(plan, bool):
            raise TypeError(f"plan must be {words}, not {plan}")
        check_instance("plan", plan, (Plan, int), words)
        self._plan = plan = Plan.random(plan) if isinstance(plan, int) else plan
        self._diary = Diary()
        self._cluster = Cluster(plan.members, chance=Random(f"{plan.seed} etcd"))  # noqa: S311 # a seed is the point
        self._network = Network(self._cluster, _DELAY, Random(f"{plan.seed} network"))  # noqa: S311 # as above
        self._snapshot: Snapshot | None = None
        self._outcome = Outcome()
        self._hosts: list[WorldHost] = []
        self._ended = False
        self._done: dict[str, Callable[[Action], None]] = {}

    def run(self) -> WorldReport:
        """Let it happen.

        Raises:
            RuntimeError: it was run before.
        """
        if self._ended:
            raise RuntimeError("a world runs once")
        self._ended = True
        run_apart(self._run)
        violations = check(self._plan, self._diary, self._outcome)
        return WorldReport(
            self._plan,
            tuple(violations),
            self._outcome.seconds,
            self._diary.digest,
            self._diary,
            dict(self._cluster.refusals.counts),
        )

    def _run(self) -> None:
        clock = JumpingClock()
        with seeded_scheduler(self._plan.seed), rare_collections():
            trio.run(self._main, clock, clock=clock)

    # ---- the course of it --------------------------------------------------------

    async def _main(self, clock: JumpingClock) -> None:
        plan = self._plan
        set_chance(Random(f"{plan.seed} hosts"))  # noqa: S311 # a seed is the point
        set_suspension(float, inf)  # this machine's own is not the world's
        set_wall_clock(lambda: EPOCH + timedelta(seconds=trio.current_time()))
        self._cluster.listeners.append(self._see)
        self._cluster.refusals.listeners.append(self._see_request)
        clock.drive(self._cluster.timeline)
        with trio.move_on_after(plan.seconds + _PATIENCE) as patience:
            async with trio.open_nursery() as nursery:
                await self._happen(nursery)
                nursery.cancel_scope.cancel()
        self._outcome.hangs = patience.cancelled_caught
        self._outcome.seconds = trio.current_time()

    def _see(self, commit: Commit) -> None:
        self._diary.see_commit(trio.current_time(), *commit)

    def _see_request(self, _method: str) -> None:
        self._diary.requests[int(trio.current_time())] += 1

    async def _happen(self, nursery: trio.Nursery) -> None:
        plan, timeline = self._plan, self._cluster.timeline
        chance = Random(f"{plan.seed} work")  # noqa: S311 # a seed is the point
        world = Surroundings(plan, self._cluster, self._network, self._diary, nursery, chance)
        self._hosts = [WorldHost(world, number) for number in range(plan.hosts)]
        operator = Operator(world)
        self._done = self._deeds(world, operator)
        for host in self._hosts:
            timeline.at(chance.uniform(0.0, 2.0), host.begin)
        for action in plan.actions:
            timeline.at(action.at, self._do, action)
        timeline.after(_SNAPSHOTS, self._take_snapshot)
        await trio.sleep_until(max(plan.seconds, plan.last_fault))
        await operator.reset()
        lapsed = max(plan.ttl, *self._longer_waits())
        # Work that ends by itself just then looks at the marks of others for the first time when it
        # begins anew, and a pause counts from when one is seen without its slot.
        await trio.sleep(lapsed + 2 * plan.takeover_pause + 2 + _ELECTION)
        self._outcome.settled = self._state()
        for host in self._hosts:
            host.leave_path()
        if plan.shared:  # what such a host leaves does not lapse, so it must have seen to it
            await trio.sleep(2 * plan.ttl + _ELECTION)
            self._outcome.not_left = [
                kv.key for kv in self._cluster.store.kvs() if _of_host(kv.key)
            ]
        for host in self._hosts:
            host.stop()
        await trio.sleep((_DECISION_TTLS + 1) * plan.ttl + _ELECTION)
        store = self._cluster.store
        # What is remembered of ticks is to outlive the hosts.
        left = (kv.key for kv in store.kvs() if not is_of_ticks(kv.key))
        self._outcome.left = [key for key in left if key.startswith(PATH.encode())]
        longest = plan.ticks + _DAY if plan.ticks else inf
        self._outcome.leases = [lease.id for lease in store.leases if lease.ttl < longest]

    def _longer_waits(self) -> Iterable[float]:
        """Return how long it takes at most until what others did is over."""
        waits = {"go": GO_TTL, "foreign": _FIGHT}
        return [0.0, *(waits.get(action.kind, 0.0) for action in self._plan.actions)]

    def _take_snapshot(self) -> None:
        self._snapshot = self._cluster.store.snapshot()
        self._cluster.timeline.after(_SNAPSHOTS, self._take_snapshot)

    def _state(self) -> dict[str, Any]:
        """Return what is so when all has settled."""
        lives = {host.name: host.life for host in self._hosts}
        readings = {
            name: self._diary.readings[life.label][-1].hosts
            for name, life in lives.items()
            if life is not None and self._diary.readings.get(life.label)
        }
        return {
            "at": trio.current_time(),
            "there": sorted(name for name, life in lives.items() if life and life.result),
            "scheduled": sorted(
                name
                for name, life in lives.items()
                if life and life.result and life.result.scheduled
            ),
            "readings": readings,
        }

    # ---- what happens ------------------------------------------------------------

    def _do(self, action: Action) -> None:
        self._done[action.kind](action)

    def _deeds(
        self, world: Surroundings, operator: Operator
    ) -> dict[str, Callable[[Action], None]]:
        def go(action: Action) -> None:
            world.nursery.start_soon(GoHost(world, action.target).run, action.seconds)

        def operate(action: Action) -> None:
            operator.act(action, self._hosts[action.target % len(self._hosts)].name)

        by_operators = (
            "pause-path",
            "drain",
            "count",
            "evict",
            "foreign",
            "hand",
            "poison",
            "crowd",
        )
        return {
            **self._host_deeds(),
            **self._member_deeds(),
            **dict.fromkeys(by_operators, operate),
            "go": go,
        }

    def _host_deeds(self) -> dict[str, Callable[[Action], None]]:
        def host(action: Action) -> WorldHost:
            return self._hosts[action.target % len(self._hosts)]

        return {
            "leave": lambda action: host(action).leave(action.seconds, stay=action.variant % 3 > 0),
            "die": lambda action: host(action).die(action.seconds),
            "silence": lambda action: host(action).silence(action),
            "cut": lambda action: host(action).cut(),
            "refuse": lambda action: host(action).refuse(action.seconds),
            "update": lambda action: host(action).update(action.variant),
            "sick": lambda action: host(action).fall_ill(action.seconds),
            "freeze": lambda action: host(action).freeze(action.seconds),
        }

    def _member_deeds(self) -> dict[str, Callable[[Action], None]]:
        cluster = self._cluster

        def for_a_while(
            begin: Callable[[Member], None], end: Callable[[Member], None]
        ) -> Callable[[Action], None]:
            def do(action: Action) -> None:
                member = cluster.members[action.target % len(cluster.members)]
                begin(member)
                cluster.timeline.after(action.seconds, end, member)

            return do

        def at_once(do: Callable[[Member], None]) -> Callable[[Action], None]:
            return lambda action: do(cluster.members[action.target % len(cluster.members)])

        return {
            "stop": for_a_while(cluster.stop, cluster.start),
            "isolate": for_a_while(cluster.isolate, cluster.rejoin),
            "pause": for_a_while(cluster.pause, cluster.resume),
            "move": at_once(cluster.move_leader),
            "miss": at_once(lambda member: setattr(member, "misses_next", True)),
            "stall": lambda action: cluster.stall(action.seconds),
            "late": self._expire_late,
            "full": self._fill,
            "busy": lambda action: self._refuse(action, "busy"),
            "forbid": self._forbid,
            "compact": lambda _: self._compact(),
            "early": lambda action: self._expire_early(action.variant),
            "restore": lambda _: self._restore(),
        }

    def _expire_late(self, action: Action) -> None:
        cluster = self._cluster
        cluster.expiry_delay = 2.0
        cluster.timeline.after(action.seconds, setattr, cluster, "expiry_delay", 0.0)

    def _fill(self, action: Action) -> None:
        self._cluster.refusals.no_space_for_txns = bool(action.variant % 2)
        self._refuse(action, "no_space")

    def _refuse(self, action: Action, what: str) -> None:
        refusals = self._cluster.refusals
        setattr(refusals, what, True)
        self._cluster.timeline.after(action.seconds, setattr, refusals, what, False)  # noqa: FBT003 # setattr's

    def _forbid(self, action: Action) -> None:
        forbidden, path = self._cluster.refusals.forbidden, f"{PATH}/".encode()
        forbidden.add(path)
        self._cluster.timeline.after(action.seconds, forbidden.discard, path)

    def _compact(self) -> None:
        store = self._cluster.store
        if store.revision > store.compacted_revision:
            store.compact(store.revision)

    def _expire_early(self, variant: int) -> None:
        found = list(self._cluster.store.leases)
        if self._plan.never_too_many:  # then that of the decision, and of marks of slots, stays
            found = [lease for lease in found if not any(map(_of_decision, lease.keys))]
        if variant >= EARLY_OF_WORK:
            found = [lease for lease in found if any(map(_of_slot, lease.keys))] or found
        leases = sorted(lease.id for lease in found)
        if leases:
            self._cluster.expire(leases[variant % len(leases)])

    def _restore(self) -> None:
        if self._snapshot is not None:
            self._cluster.restore(self._snapshot)
            store = self._cluster.store
            self._diary.see_restore(trio.current_time(), store.revision, store.kvs())


def _of_host(key: bytes) -> bool:
    parts = (_KEYS.exchange, _KEYS.election, _KEYS.slots)
    return any(key in KeyRange.below(part) for part in parts)


def _of_slot(key: bytes) -> bool:
    return key in KeyRange.below(_KEYS.slots)


def _of_decision(key: bytes) -> bool:
    return key in _KEYS.decision or key in KeyRange.below(_KEYS.marks)
