"""Hosts as processes, under a seeded plan of faults, and everything that they wrote down."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import trio

from tests.host.slot_checker import Change, Life, Run, Verdict, judge, stale_writes
from tests.host.soak_etcd import restore, save
from tests.reaper.tree_tools import helpers_of
from trio_sched import Client, Control, open_client
from trio_sched.etcd_shim import EventType
from trio_sched.model.keys import PathKeys
from trio_sched.model.records import DecisionRecord
from trio_sched.testing import Etcd, FaultyLink, open_faulty_link

__all__ = ["Report", "Soak", "open_soak"]

PROGRAM = Path(__file__).with_name("slot_host.py")
TTL = 2  # seconds
SHORT_PAUSE = 0.15  # seconds: less than the margin that is taken off a TTL of 2
SLOWEST_AWAKENING = 1.5  # seconds: it asks twice a second, and work may take 0.3 s to end
SLOWEST_REPLACEMENT = 3.0  # seconds: of a helper that is gone, on a busy machine
NAMES = "abcdef"
FEWEST = 3  # hosts that are left alive
BEATS = 0.1  # seconds: a process that has not written for longer is taken for gone, while it runs
LONG_AGO = 10.0  # seconds: one that has not written for so long is gone, however busy the machine


@dataclass(eq=False)
class Host:
    """A host's process, and the links that it reaches etcd's members by."""

    life: Life
    process: trio.Process
    links: list[FaultyLink]
    tree: bool
    hurt_at: float = -inf  # by trio's clock, when one of its helpers was


@dataclass
class Report:
    """What a soak found.

    Attributes:
        verdict: of the checker.
        stale: guarded writes that went through though they must not.
        faults: how often each fault was made.
        runs: how many there were.
        writes: how many guarded writes went through.
        writers: how many runs must have made one: none of a tree, nor of a host that was stopped,
            and longer than a lease lives without etcd.
        gaps: the longest time, in seconds, that nothing ran after each kind of fault.
        predicted: overlaps that docs/guarantees.md predicts: after a raft leader stood still, and
            of work from before a restore with work from after it.
    """

    verdict: Verdict
    stale: list[str]
    faults: dict[str, int]
    runs: int
    writes: int
    writers: int
    gaps: dict[str, float] = field(default_factory=dict)
    predicted: list[str] = field(default_factory=list)


@dataclass
class Epoch:
    """The time between two restores.

    Attributes:
        began: by CLOCK_MONOTONIC.
        history: of the store, once it is over.
    """

    began: float = -inf
    history: History = field(default_factory=list)


class Soak:
    """A group of hosts to make trouble for. Made by `open_soak`."""

    def __init__(  # made in one place
        self,
        etcd: Etcd,
        path: str,
        log: Path,
        seed: int,
        nursery: trio.Nursery,
        links: Callable[[str], Awaitable[FaultyLink]],
        *,
        slots: bool,
    ) -> None:
        self._etcd = etcd
        self.path = path
        self._log = log
        self._slots = slots
        self._dice = random.Random(seed)
        self._nursery = nursery
        self._links = links
        self._lives: dict[str, Life] = {}
        self._hosts: dict[str, Host] = {}
        self._epochs = [Epoch()]
        self._stood_still: list[tuple[float, float]] = []  # raft leaders; by CLOCK_MONOTONIC
        self._ended: dict[str, float] = {}  # of trees
        self._noted: list[dict[str, Any]] = []
        self._log_end = 0
        self.faults: dict[str, int] = {}
        self.gaps: dict[str, float] = {}

    # ---- hosts ---------------------------------------------------------------------

    async def join(self) -> None:
        """Start a host under a name that is free, with options by chance."""
        name = next((name for name in NAMES if name not in self._hosts), None)
        if name is None:
            return
        life = Life(f"{name}{len(self._lives)}")
        links = [await self._links(endpoint) for endpoint in self._etcd.endpoints]
        orders = {
            "endpoints": [link.endpoint for link in links],
            "path": self.path,
            "data": f"{self.path}-data",
            "name": name,
            "life": life.name,
            "ttl": TTL,
            "max_count": self._dice.choice([1, 2, 2, 2]),
            "strategy": self._dice.choice(["alpha", "rr"]),
            "log": str(self._log),
            "seed": self._dice.random(),
            "no_slots": not self._slots,
            "tree": self._slots and self._dice.random() < 0.5,
        }
        command = [sys.executable, str(PROGRAM), json.dumps(orders)]
        run = partial(
            trio.run_process, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, check=False
        )
        process: trio.Process = await self._nursery.start(run)
        self._lives[life.name] = life
        self._hosts[name] = Host(life, process, links, bool(orders["tree"]))
        assert process.stdout is not None
        await process.stdout.receive_some()  # it has joined

    async def _remove(self, host: Host) -> None:
        self._hosts = {name: h for name, h in self._hosts.items() if h is not host}
        await host.process.wait()
        host.life.gone = time.monotonic()

    def _any(self) -> Host:
        """Return a host, most times one that runs something."""
        now = time.monotonic()
        running = {run.life.name for run in self.runs() if run.goes_on_at(now, but_frozen=True)}
        hosts = list(self._hosts.values())
        busy = [host for host in hosts if host.life.name in running]
        return self._dice.choice(busy if busy and self._dice.random() < 0.8 else hosts)

    # ---- faults --------------------------------------------------------------------

    async def make_trouble(self, seconds: float) -> None:
        """Go through faults by chance for so long; after each let work go on again."""
        kinds = [
            *(self.kill, self.pause, self.freeze, self.suspend, self.leave),
            *(self.join, self.cut, self.restart, self.recount),
            self.restore if len(self._etcd.members) == 1 else self.pause_leader,
            *(self.kill_both, self.kill_helper, self.stop_helper),
        ]
        ends_at = trio.current_time() + seconds
        while trio.current_time() < ends_at:
            kind = self._dice.choice(kinds)
            spare = len(self._hosts) - FEWEST
            if (spare <= 0 and kind in (self.kill, self.kill_both, self.leave)) or (
                kind in (self.freeze, self.suspend) and spare < 1
            ):
                kind = self.join
            self.faults[kind.__name__] = self.faults.get(kind.__name__, 0) + 1
            began = time.monotonic()
            await kind()
            await self.wait_running()
            gap = time.monotonic() - began
            self.gaps[kind.__name__] = max(self.gaps.get(kind.__name__, 0.0), gap)
            await trio.sleep(self._dice.random())  # not for something: work goes on meanwhile

    async def kill(self) -> None:
        """SIGKILL a host."""
        host = self._any()
        host.process.kill()
        await self._remove(host)

    async def kill_both(self) -> None:
        """SIGKILL a host and its reaper, so that its lease lapses; or a host and a keeper.

        Not while one of its helpers is being replaced: all three are gone then, and nothing is
        left that could end what the command has started (docs/run.md).
        """
        host = self._any()
        await trio.sleep_until(host.hurt_at + SLOWEST_REPLACEMENT)
        if host.process.returncode is not None or host not in self._hosts.values():
            return
        helper = self._helper(host)
        for pid in self._dice.sample([host.process.pid, *helper], 1 + len(helper)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await self._remove(host)

    async def kill_helper(self) -> None:
        """SIGKILL a reaper or a keeper."""
        self._hurt(self._any(), signal.SIGKILL)

    async def stop_helper(self) -> None:
        """Stop a reaper or a keeper, and let nothing but its own people continue it."""
        self._hurt(self._any(), signal.SIGSTOP)

    def _hurt(self, host: Host, number: signal.Signals) -> None:
        host.hurt_at = trio.current_time()
        for pid in self._helper(host):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _helper(self, host: Host) -> list[int]:
        """Return one of a host's helpers, by chance; none if it has none."""
        helpers = helpers_of(host.process.pid)
        return [self._dice.choice(helpers)] if helpers else []

    async def leave(self) -> None:
        """Let a host leave in its own time."""
        host = self._any()
        assert host.process.stdin is not None
        await host.process.stdin.aclose()
        await self._remove(host)

    async def pause(self) -> None:
        """Stop a process for less than the margin."""
        await self._stop(self._any(), SHORT_PAUSE)

    async def freeze(self) -> None:
        """Stop a process for longer than its lease lives: overlap is in the nature of it."""
        await self._stop(self._any(), 2 * TTL)

    async def suspend(self) -> None:
        """Let a host's machine sleep: its clock does not tell it how long that was."""
        await self._stop(self._any(), 2 * TTL * self._dice.random(), suspended=True)

    async def _stop(self, host: Host, seconds: float, *, suspended: bool = False) -> None:
        began = time.monotonic()
        excused = seconds > SHORT_PAUSE
        if excused:
            host.life.frozen.append((began, inf))
        host.process.send_signal(signal.SIGSTOP)
        try:
            await trio.sleep(seconds)
        finally:
            if suspended:
                host.process.send_signal(signal.SIGUSR1)  # comes before anything else
            host.process.send_signal(signal.SIGCONT)
            if excused:
                host.life.frozen[-1] = (began, time.monotonic() + SLOWEST_AWAKENING)

    async def cut(self) -> None:
        """Cut a host off: for a moment, or for longer than its lease lives."""
        links = self._any().links
        trouble = self._dice.choice(["cut", "refuse", "stall", "mute"])
        for link in links:
            getattr(link, trouble)()
        await trio.sleep(self._dice.choice([0.1, 0.5, 2 * TTL]))
        for link in links:
            link.heal()

    async def recount(self) -> None:
        """Say how many may run, as an operator does."""
        async with open_client(*self._etcd.endpoints) as client:
            await Control(client, self.path).set_count(self._dice.choice([None, 1, 2, 3]))

    async def restart(self) -> None:
        """Kill a member of etcd, and start it again."""
        member = self._dice.choice(self._etcd.members)
        member.kill()
        await trio.sleep(self._dice.random())
        await member.start()

    async def pause_leader(self) -> None:
        """Stop the raft leader for longer than a TTL: what it had renewed lapses elsewhere."""
        member = await self._etcd.raft_leader()
        began = time.monotonic()
        member.pause()
        try:
            await trio.sleep(TTL + self._dice.random() * TTL)
        finally:
            member.resume()
            self._stood_still.append((began, time.monotonic() + 2 * TTL))

    async def restore(self) -> None:
        """Let etcd go back to what it was some time ago.

        No host reaches it meanwhile, so that all that it holds is in the history that is read.
        """
        file = self._log.with_name("snapshot")
        await save(self._etcd, file)
        await trio.sleep(self._dice.random() * TTL)
        links = [link for host in self._hosts.values() for link in host.links]
        for link in links:
            link.refuse()
        async with open_client(self._etcd.endpoint) as client:
            self._epochs[-1].history = await read_history(client, self.path)
        (member,) = self._etcd.members
        member.kill()
        self._epochs.append(Epoch(time.monotonic()))
        await restore(self._etcd, file)
        for link in links:
            link.heal()

    async def wait_running(self) -> None:
        """Wait until some work goes on, by what the hosts have written down."""
        while not self._is_running():  # noqa: ASYNC110 # processes have no other way to show it
            await trio.sleep(0.02)

    def _is_running(self) -> bool:
        now = time.monotonic()
        return any(run.goes_on_at(now, but_frozen=True) for run in self.runs())

    # ---- what was written down ---------------------------------------------------------

    def runs(self) -> list[Run]:
        """Read what the hosts have written."""
        begun: dict[tuple[str, int], Run] = {}
        for event in self._read_log():
            life = self._lives[event["life"]]
            key = (life.name, event["token"])
            if event.get("tree"):
                # Neither its host's end nor that it was stopped excuses what goes on of a tree.
                own = Life(life.name)
                ended = self._last_beat(f"{life.name}-{event['token']}")
                begun[key] = Run(own, event["token"], event["index"], event["at"], ended)
            elif event["event"] == "begin":
                begun[key] = Run(life, event["token"], event["index"], event["at"])
            else:
                begun[key] = Run(
                    life, event["token"], event["index"], begun[key].began, event["at"]
                )
        return list(begun.values())

    def _read_log(self) -> list[dict[str, Any]]:
        """Return what is in the log; only what is new is read."""
        if self._log.exists():
            with self._log.open() as file:
                file.seek(self._log_end)
                self._noted += map(json.loads, iter(file.readline, ""))
                self._log_end = file.tell()
        return self._noted

    def _last_beat(self, name: str) -> float:
        """Return when the last process of a tree wrote; infinity if it does still."""
        if name in self._ended:
            return self._ended[name]
        files = Path(f"{self._log}-{name}").iterdir()
        last = max(float(text) for file in files if (text := file.read_text()))
        age = time.monotonic() - last
        if age > LONG_AGO:
            self._ended[name] = last
        return last if age > BEATS else inf

    @property
    def _writers(self) -> list[Life]:
        """The lives of hosts whose work makes guarded writes, and that were not stopped."""
        trees = {event["life"] for event in self._read_log() if event.get("tree")}
        lives = self._lives.items()
        return [life for name, life in lives if name not in trees and not life.frozen]

    async def report(self, client: Client) -> Report:
        """Judge it all."""
        self._epochs[-1].history = await read_history(client, self.path)
        runs, ends = self.runs(), [*(epoch.began for epoch in self._epochs[1:]), inf]
        now, writers = time.monotonic(), self._writers
        its_own = [run for run in runs if run.life in writers]
        long = sum(min(run.ended, run.life.gone, now) - run.began > 2 * TTL for run in its_own)
        verdict = Verdict([], [], 0)
        report = Report(verdict, [], self.faults, len(runs), 0, long, self.gaps)
        earlier: list[Run] = []
        for epoch, end in zip(self._epochs, ends, strict=True):
            its = [run for run in runs if epoch.began <= run.began < end]
            self._judge(epoch, its, earlier, report)
            earlier += its
        return report

    def _judge(self, epoch: Epoch, runs: list[Run], earlier: list[Run], report: Report) -> None:
        """Judge what was in one epoch."""
        keys = PathKeys(self.path)
        changes = [
            Change(revision, int(str(record.options["max_count"])))
            for revision, key, value in epoch.history
            if key == keys.record and value and (record := DecisionRecord.decode(value))
        ]
        slots = list(slot_lives(epoch.history, keys.slots))
        data = f"{self.path}-data".encode()
        writes = [(rev, int(value)) for rev, key, value in epoch.history if key == data and value]
        verdict = judge(runs, changes, self._stood_still, earlier)
        whole = report.verdict
        report.verdict = Verdict(
            [*whole.violations, *verdict.violations],
            [*whole.excused, *verdict.excused],
            max(whole.most, verdict.most),
        )
        report.predicted += verdict.predicted
        report.stale += stale_writes(writes, slots) if self._slots else []
        report.writes += len(writes)


History = list[tuple[int, bytes, bytes | None]]


async def read_history(client: Client, path: str) -> History:
    """Read every change of each key that starts with `path`; None for a deletion."""
    newest = (await client.get(path)).revision
    found: History = []
    async with client.watch(
        path, prefix=True, start_revision=1, progress_notify=True, buffer_size=10**6
    ) as events:
        await client.put(path + "-end", "")
        while not found or found[-1][0] <= newest:
            for event in (await events.receive()).events:
                gone = event.type is EventType.DELETE
                found.append(
                    (event.kv.mod_revision, event.kv.key, None if gone else event.kv.value)
                )
    return found


def slot_lives(history: History, slots: bytes) -> list[tuple[int, float]]:
    """Return the token of each slot that there was, and the revision at which it went."""
    ends: dict[int, float] = {}
    held: dict[bytes, int] = {}
    for revision, key, value in history:
        if key.startswith(slots):
            if value is None:
                ends[held.pop(key)] = revision
            else:
                held[key] = revision
                ends[revision] = inf
    return list(ends.items())


@asynccontextmanager
async def open_soak(
    etcd: Etcd, path: str, log: Path, seed: int, *, slots: bool = True
) -> AsyncIterator[Soak]:
    """Give hosts to make trouble for; they are killed when the block is left."""
    async with trio.open_nursery() as nursery:

        async def open_link(endpoint: str, task_status: trio.TaskStatus[FaultyLink]) -> None:
            async with open_faulty_link(endpoint) as link:
                task_status.started(link)
                await trio.sleep_forever()

        soak = Soak(etcd, path, log, seed, nursery, partial(nursery.start, open_link), slots=slots)
        for _ in range(FEWEST + 1):
            await soak.join()
        yield soak
        nursery.cancel_scope.cancel()


async def judged(etcd: Etcd, soak: Soak) -> Report:
    """Judge it all, by a client of our own."""
    async with open_client(*etcd.endpoints) as client:
        return await soak.report(client)
