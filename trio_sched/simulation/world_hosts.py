"""Who lives in a world: hosts, real above the bytes, and operators."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from math import inf
from random import Random
from typing import Any, Final

import trio

from trio_sched._support.wall_time import set_wall_clock
from trio_sched.control import Control
from trio_sched.etcd_shim import Client, Put
from trio_sched.etcd_shim.channel import ChannelSettings
from trio_sched.etcd_shim.errors import EtcdError
from trio_sched.etcd_shim.opening import client_block
from trio_sched.exceptions import HostNotFound, TrioSchedError
from trio_sched.host.result import Result
from trio_sched.host.slot import Slot
from trio_sched.model.records import Host
from trio_sched.model.ticks import MAX_ATTEMPTS, TickSchedule
from trio_sched.scheduler import open_host, schedule
from trio_sched.simulation.diary import Diary, Reading, Work
from trio_sched.simulation.plan import Action
from trio_sched.simulation.surroundings import PATH, Surroundings
from trio_sched.strategies import StrategyOptions
from trio_sched.strategies.built_in import RoundRobin

__all__ = ["EPOCH", "RESOURCE", "Operator", "WorldHost"]

EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
RESOURCE: Final = "/resource"
_POISON: Final = f"{PATH}/exchange/poison"
_OTHER_PATH: Final = "/other-world"
_NEIGHBOUR: Final = f"{PATH}/fleet/"  # another path, which begins with ours
_RETRY: Final = 1.0  # seconds after which a host tries again that could not join


class _Delicate(RoundRobin):
    """The default, but for one kind of data that it cannot bear."""

    def schedule(self, hosts: Mapping[str, Host], options: StrategyOptions) -> Sequence[str]:
        if any("poison" in host.data for host in hosts.values()):
            raise ValueError("poison")
        return super().schedule(hosts, options)


class _Counter(logging.Handler):
    """Counts the lines of a log."""

    def __init__(self, diary: Diary, label: str) -> None:
        super().__init__()
        self._diary = diary
        self._label = label

    def emit(self, record: logging.LogRecord) -> None:
        """Count a line, and see that it can be written."""
        record.getMessage()
        lines = self._diary.log_lines
        lines[self._label] = lines.get(self._label, 0) + 1


@dataclass(eq=False, slots=True)
class _Life:
    """From a host's start to its end.

    Attributes:
        label: of it, on the network and in the diary.
        scope: that ends it.
        result: what `schedule` gave; None while it has not joined.
        healthy: what its health check says.
        dead: whether it was killed; what its tasks still do then has no effect.
        thawed: set unless it is frozen.
        works: what it does.
        visit: to the path, of a host that is on another one, too; None while it is away from it.
        gap: seconds until it visits the path again.
    """

    label: str
    scope: trio.CancelScope
    result: Result | None = None
    healthy: bool = True
    dead: bool = False
    thawed: trio.Event | None = None
    works: list[Work] = field(default_factory=list)
    visit: trio.CancelScope | None = None
    gap: float = 0.0

    def recover(self) -> None:
        """Pass the health check again."""
        self.healthy = True


class WorldHost:
    """A host: joins, reads, works, and is subject to what the plan says.

    Attributes:
        name: of it.
        life: the one that it lives now; None if it is away.
    """

    def __init__(self, world: Surroundings, number: int) -> None:
        self._world = world
        self.name: str = f"host-{number}"
        self._is_shared = number < world.plan.shared
        self.life: _Life | None = None
        self._lives = 0
        self._away_until = 0.0
        self._stopped = False
        skew = Random(f"{world.plan.seed} clock {number}")  # noqa: S311 # a seed is the point
        self._ahead = skew.choice((0.0, 0.0, skew.uniform(-0.45, 0.45))) * world.plan.ticks

    # ---- what the plan says ------------------------------------------------------

    def begin(self) -> None:
        """Start, if it is away and may."""
        if self.life is None and not self._stopped and self._world.now >= self._away_until:
            self._lives += 1
            self.life = _Life(f"{self.name}#{self._lives}", trio.CancelScope())
            self._world.nursery.start_soon(self._live, self.life)

    def stop(self) -> None:
        """Leave in good order, for good."""
        self.leave_path()
        if self.life is not None:
            self.life.scope.cancel()

    def leave_path(self) -> None:
        """Leave the path in good order, for good; one that is on another one, too, stays there."""
        self._stopped = True
        life = self.life
        if life is not None:
            self._thaw(life)
            if life.visit is not None:
                life.visit.cancel()
            elif not self._is_shared:
                life.scope.cancel()

    def leave(self, seconds: float, *, stay: bool) -> None:
        """Leave in good order, and come back; the path alone, if it is to stay on another one."""
        life = self.life
        if life is not None and self._is_shared and stay:
            life.gap = seconds
            if life.visit is not None:
                life.visit.cancel()
        elif life is not None:
            self._come_back(seconds)
            life.scope.cancel()

    def die(self, seconds: float) -> None:
        """End as by SIGKILL, and be started again."""
        life, self.life = self.life, None
        if life is None:
            return
        life.dead = True
        for path in self._world.network.paths(life.label).values():
            path.kill()
        for work in life.works:
            work.end = min(work.end, self._world.now)
        self._end(life)
        self._thaw(life)
        life.scope.cancel()
        self._come_back(seconds)

    def _come_back(self, seconds: float) -> None:
        self._away_until = self._world.now + seconds
        self._world.cluster.timeline.after(seconds, self.begin)

    def freeze(self, seconds: float) -> None:
        """Let nothing reach it, and its work not notice."""
        life = self.life
        if life is not None and life.thawed is None:
            life.thawed = trio.Event()
            paths = self._world.network.paths(life.label).values()
            for path in paths:
                path.hold()
            self._world.cluster.timeline.after(seconds, self._unfreeze, life)

    def _unfreeze(self, life: _Life) -> None:
        for path in self._world.network.paths(life.label).values():
            path.release()
        self._thaw(life)

    def _thaw(self, life: _Life) -> None:
        if life.thawed is not None:
            life.thawed.set()
            life.thawed = None

    def silence(self, action: Action) -> None:
        """Let nothing arrive for a while, one way or both, of one member or all."""
        if self.life is None:
            return
        paths = [*self._world.network.paths(self.life.label).values()]
        if action.variant >= 3:
            paths = [paths[action.target % len(paths)]]
        for path in paths:
            path.hold(up=action.variant % 3 != 2, down=action.variant % 3 != 1)
            self._world.cluster.timeline.after(action.seconds, path.release)

    def cut(self) -> None:
        """Reset its connections."""
        if self.life is not None:
            for path in self._world.network.paths(self.life.label).values():
                path.cut()

    def refuse(self, seconds: float) -> None:
        """Reset its connections, and let none be made for a while."""
        if self.life is None:
            return
        for path in self._world.network.paths(self.life.label).values():
            path.refused = True
            path.cut()
            self._world.cluster.timeline.after(seconds, path.admit)

    def fall_ill(self, seconds: float) -> None:
        """Fail the health check for a while."""
        if self.life is not None:
            life = self.life
            life.healthy = False
            self._world.cluster.timeline.after(seconds, life.recover)

    def update(self, variant: int) -> None:
        """Publish something else."""
        if self.life is not None and self.life.result is not None:
            self._world.nursery.start_soon(self._update, self.life.result, variant)

    async def _update(self, result: Result, variant: int) -> None:
        with suppress(TrioSchedError):
            await result.update(weight=1.0 + variant)

    # ---- its life ----------------------------------------------------------------

    async def _live(self, life: _Life) -> None:
        world = self._world
        try:
            with life.scope:
                await self._stay(life)
        except* Exception as group:  # noqa: BLE001 # a bug of ours is a find, too
            self._note_end(life, _first_leaf(group))
        finally:
            self._end(life)
        world.cluster.timeline.after(_RETRY, self.begin)

    def _end(self, life: _Life) -> None:
        if self.life is life:
            self.life = None
        begin, end = self._world.diary.lives.get(life.label, (inf, inf))
        self._world.diary.lives[life.label] = begin, min(end, self._world.now)

    def _note_end(self, life: _Life, exc: BaseException) -> None:
        if life.dead:
            return
        entered = life.result is not None
        notes = self._world.diary.failures if entered else self._world.diary.refusals
        if not entered and not isinstance(exc, EtcdError):  # each name has one live host here
            notes = self._world.diary.failures
        notes.append((self._world.now, life.label, repr(exc)))

    async def _stay(self, life: _Life) -> None:
        world, plan = self._world, self._world.plan
        if plan.ticks:
            set_wall_clock(lambda: EPOCH + timedelta(seconds=world.now + self._ahead))
        logger = logging.Logger(life.label)  # noqa: LOG001 # one of its own, not the process's
        logger.addHandler(_Counter(world.diary, life.label))
        transport, settings = world.connect(life.label), ChannelSettings()

        async def health_check() -> bool:
            await trio.lowlevel.checkpoint()
            return life.healthy

        about_host: dict[str, Any] = {
            "session_ttl": plan.ttl,
            "health_check": health_check,
            "health_interval": 1.0,
            "logger": logger,
        }
        async with client_block(world.endpoints, settings=settings, transport=transport) as client:
            if self._is_shared:
                await self._stay_on_both(life, client, about_host)
            else:
                blocks = schedule(client, PATH, self.name, **self._about_path, **about_host)
                async with blocks as result:
                    await self._take_part(life, client, result)

    @property
    def _about_path(self) -> dict[str, Any]:
        plan = self._world.plan
        return {
            "strategy": _Delicate(),
            "max_count": plan.max_count,
            "takeover_pause": plan.takeover_pause,
        }

    async def _stay_on_both(self, life: _Life, client: Client, about_host: dict[str, Any]) -> None:
        """Be on another path all the time, and on the path again and again."""
        async with (
            open_host(client, self.name, **about_host) as host,
            host.schedule(_OTHER_PATH),
        ):
            while not self._stopped:
                with trio.CancelScope() as life.visit:
                    async with host.schedule(PATH, **self._about_path) as result:
                        await self._take_part(life, client, result)
                life.result = life.visit = None
                await trio.sleep(life.gap)
            await trio.sleep_forever()

    async def _take_part(self, life: _Life, client: Client, result: Result) -> None:
        world = self._world
        async with trio.open_nursery() as nursery:
            life.result = result
            begin, _ = world.diary.lives.get(life.label, (world.now, inf))
            world.diary.lives[life.label] = begin, inf
            nursery.start_soon(self._read, life, result)
            if world.plan.ticks:
                nursery.start_soon(self._do_ticks, life, result)
            else:
                nursery.start_soon(self._work, life, client, result)

    async def _read(self, life: _Life, result: Result) -> None:
        world = self._world
        readings = world.diary.readings.setdefault(life.label, [])
        async for hosts in result:
            if not life.dead:
                readings.append(Reading(world.now, hosts.revision, frozenset(hosts)))

    async def _work(self, life: _Life, client: Client, result: Result) -> None:
        world = self._world

        async def work(slot: Slot) -> None:
            note = Work(self.name, slot.key, slot.token, world.now)
            if not life.dead:
                world.diary.works.append(note)
                life.works.append(note)
            try:
                with trio.move_on_after(world.chance.uniform(1.0, 60.0)):
                    await self._write(client, slot)
            finally:
                with trio.CancelScope(shield=True):
                    await self._finish(life, note)
                note.end = min(note.end, world.now)

        await result.run_while_scheduled(work, restart=True)

    async def _do_ticks(self, life: _Life, result: Result) -> None:
        world = self._world

        async def work(slot: Slot, name: str) -> None:
            note = Work(self.name, slot.key, slot.token, world.now, tick=name)
            if not life.dead:
                world.diary.works.append(note)
                life.works.append(note)
            try:
                await trio.sleep(world.chance.uniform(0.0, 3.0))
                note.returned = True
            finally:
                if not note.returned:
                    with trio.CancelScope(shield=True):
                        await self._finish(life, note)
                note.end = min(note.end, world.now)

        times = TickSchedule(world.plan.ticks)
        await result.run_ticks(times, work, attempts=MAX_ATTEMPTS)

    async def _finish(self, life: _Life, work: Work) -> None:
        """Come to an end: within the grace, but not at once; and not at all while frozen."""
        if life.thawed is not None:
            work.frozen = True
            await life.thawed.wait()
        grace = min(1.0, self._world.plan.ttl / 10)
        await trio.sleep(self._world.chance.uniform(0.0, 0.9 * grace))

    async def _write(self, client: Client, slot: Slot) -> None:
        while True:
            await trio.sleep(self._world.chance.uniform(0.2, 2.0))
            with suppress(EtcdError):
                await client.txn([*slot.guard()], [Put(RESOURCE, str(slot.token))])


def _first_leaf(exc: BaseException) -> BaseException:
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    return exc


class Operator:
    """Has `Control`, and hands on keys, from a machine of its own."""

    def __init__(self, world: Surroundings) -> None:
        self._world = world

    def act(self, action: Action, name: str) -> None:
        """Begin to do something to a host, or to the path."""
        self._world.nursery.start_soon(self._act, action, name)

    async def _act(self, action: Action, name: str) -> None:
        world = self._world
        transport = world.connect("operator")
        with suppress(EtcdError, HostNotFound):
            async with client_block(world.endpoints, transport=transport) as client:
                await self._do(client, action, name)

    async def _do(self, client: Client, action: Action, name: str) -> None:
        control = Control(client, PATH, by="operator")
        match action.kind:
            case "pause-path":
                await control.pause()
                await trio.sleep(action.seconds)
                await control.resume()
            case "drain":
                await control.drain(name)
                await trio.sleep(action.seconds)
                await control.undrain(name)
            case "count":
                await control.set_count(1 + action.variant % 4)
                await trio.sleep(action.seconds)
                await control.set_count(None)
            case "evict":
                await control.evict(name)
            case "foreign":
                await client.put(f"{PATH}/scheduled", name)
            case "hand":
                await self._delete(client, action, name)
            case "poison":
                await client.put(_POISON, b'{"data":{"poison":true}}')
                await trio.sleep(action.seconds)
                await client.delete(_POISON)
            case "crowd":
                await client.put(f"{_NEIGHBOUR}exchange/{name}", b"a neighbour's")

    async def _delete(self, client: Client, action: Action, name: str) -> None:
        if action.variant % 2:
            await client.delete(f"{PATH}/exchange/{name}")
            return
        for kv in await client.get_prefix(f"{PATH}/election/"):
            if kv.value == name.encode():
                await client.delete(kv.key)

    async def reset(self) -> None:
        """Let nothing be wanted any more; until that has been done."""
        world = self._world
        transport = world.connect("operator")
        async with client_block(world.endpoints, transport=transport) as client:
            while True:
                with suppress(EtcdError):
                    control = Control(client, PATH, by="operator")
                    await control.resume()
                    await control.set_count(None)
                    await client.delete(_POISON)
                    await client.delete_prefix(_NEIGHBOUR)
                    for number in range(world.plan.hosts):
                        await control.undrain(f"host-{number}")
                    return
                await trio.sleep(0.1)
