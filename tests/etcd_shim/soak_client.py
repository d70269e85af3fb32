"""A client under load and under a seeded plan of faults, and everything that it said.

The client reaches two of three members through HAProxy, and each through a link that can be cut.
It has writers, watches and leases; an *operator*, a client that has a way of its own, reads the
history of the store, by which all is judged (``client_checker``).
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import trio

from tests.etcd_shim.client_checker import (
    Change,
    Fate,
    Lapse,
    Write,
    judge_lapses,
    judge_watch,
    judge_writes,
)
from tests.etcd_shim.soak_faults import Faults
from tests.etcd_shim.soak_proxy import open_haproxy
from tests.helpers import PASSWORD
from trio_sched.etcd_shim import (
    Client,
    Delete,
    EtcdError,
    Event,
    EventType,
    KeptLease,
    Put,
    open_client,
)
from trio_sched.etcd_shim._about import TRANSIENT
from trio_sched.etcd_shim._backoff import retry_transient
from trio_sched.etcd_shim.errors import (
    AuthenticationFailed,
    AuthStoreChanged,
    Compacted,
    ConnectionFailed,
    ConnectionLost,
    LeaseLost,
    PermissionDenied,
    TooManyRequests,
    Unauthenticated,
)
from trio_sched.testing import Etcd, open_faulty_link

__all__ = ["ClientSoak", "Report", "open_client_soak"]

WATCHES = 200
LEASES = 200
MEMBERS = 3
PER_CONNECTION = (4, 3)  # tasks and descriptors
WRITERS = 20
KEYS = 4  # of each writer
TTLS = (8, 20)  # seconds
FAULTS_IN_A_ROUND = 4
MAX_SILENCE = 20  # seconds
MAX_VIOLATIONS = 50  # that are shown
WRITTEN = "/app/w/"
LEASED = "/app/lease/"
WAY_BACK = 30.0  # seconds in which all is to be as before, once no fault is made: bounds, no waits
_REFUSED = (
    AuthenticationFailed,
    AuthStoreChanged,
    ConnectionFailed,
    PermissionDenied,
    TooManyRequests,
    Unauthenticated,
)


@dataclass
class Watch:
    """One of the client's watches.

    Attributes:
        prefix: of the keys.
        start: the first revision that is to be judged.
        next_revision: the first that has not come.
        seen: what came since `start`.
        gaps: revisions that it was said to have missed, as their history is gone: from, and up to.
        heard: set when something has come.
        ends: how it ended the last times, and what had not come then.
    """

    prefix: str
    start: int
    next_revision: int
    seen: list[Change] = field(default_factory=list)
    gaps: list[tuple[int, int]] = field(default_factory=list)
    heard: trio.Event = field(default_factory=trio.Event)
    ends: deque[tuple[int, str]] = field(default_factory=lambda: deque(maxlen=5))

    def hear(self, event: Event) -> None:
        self.seen.append(_change(event))
        self.next_revision = event.kv.mod_revision + 1
        self.heard.set()

    def note_end(self, error: EtcdError) -> None:
        self.ends.append((self.next_revision, repr(error)))
        if isinstance(error, Compacted):
            self.gaps.append((self.next_revision, error.revision))
            self.next_revision = max(self.next_revision, error.revision)
            self.heard.set()

    def expected(self, history: Iterable[Change], newest: int) -> list[Change]:
        """Return what it is to bring of a history, up to a revision."""
        prefix = self.prefix.encode()
        return [
            change
            for change in history
            if self.start <= change.revision <= newest
            and change.key.startswith(prefix)
            and not any(first <= change.revision < end for first, end in self.gaps)
        ]


@dataclass
class Report:
    """What a soak found.

    Attributes:
        violations: in plain words.
        predicted: leases that etcd took away though they were renewed, at a time when it does so.
        faults: how often each was made.
        fates: of writes, by the client's words.
        counts: of what else went on.
        before: tasks and descriptors of this process, with the load there, before any fault.
        after: how many more there were at the end than there may be.
        left: how many more there were after the client's block than before it.
        behind: what stood between.
    """

    violations: list[str] = field(default_factory=list)
    predicted: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    fates: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    before: tuple[int, int] = (0, 0)
    after: tuple[int, int] = (0, 0)
    left: tuple[int, int] = (0, 0)
    behind: str = ""


class ClientSoak:
    """Made by `open_client_soak`.

    Attributes:
        client: the one that is judged.
        report: what was found so far.
    """

    def __init__(self, client: Client, operator: Client, seed: int) -> None:
        self.client = client
        self._operator = operator
        self._dice = random.Random(seed)
        self.faults: Faults
        self._numbers = 0
        self._writes: list[Write] = []
        self._history: list[Change] = []
        self._collected = 0  # up to this revision
        self._acknowledged = 0  # the highest revision of a write
        self._acknowledged_at = trio.current_time()
        self._under_way: dict[int, Write] = {}
        self._watches: list[Watch] = []
        self._leases: dict[str, KeptLease] = {}
        self._lapses: list[Lapse] = []
        self._collecting = trio.Lock()
        self.report = Report()

    # ---- load ----------------------------------------------------------------------

    async def _write(self, writer: int, dice: random.Random) -> None:
        """Write for ever, to keys of its own, and note what the client says of each write."""
        while True:
            self._numbers += 1
            number, keys = self._numbers, [f"{WRITTEN}{writer}/{n}" for n in range(KEYS)]
            dice.shuffle(keys)
            chosen = keys[: dice.choice([1, 1, 2])]
            write = Write(number, tuple(key.encode() for key in chosen), Fate.UNKNOWN)
            self._under_way[number] = write
            with trio.move_on_after(dice.choice([0.01, 0.05, *[100.0] * 18])):
                try:
                    revision = await self._put(number, chosen, keys[-1], dice)
                except EtcdError as exc:
                    write = replace(write, fate=_fate(exc))
                    self._note_error("write", exc)
                else:
                    write = replace(write, fate=Fate.ACKNOWLEDGED, revision=revision)
                    self._acknowledged = max(self._acknowledged, revision)
                    self._acknowledged_at = trio.current_time()
            del self._under_way[number]
            self._writes.append(write)
            self.report.fates[write.fate.value] += 1
            await trio.sleep(dice.random() * 0.4)  # that is how much load there is

    async def _put(self, number: int, keys: list[str], other: str, dice: random.Random) -> int:
        """Put a number to each key, in one revision, which is returned."""
        if len(keys) == 1 and dice.random() < 0.7:
            return (await self.client.put(keys[0], str(number))).revision
        puts = [Put(key, str(number)) for key in keys]
        answer = await self.client.txn([], [*puts, *[Delete(other)][: dice.randint(0, 1)]])
        return answer.revision

    async def _read(self, dice: random.Random) -> None:
        """Read for ever; nothing that is read is older than what was acknowledged before."""
        while True:
            key, known = f"{WRITTEN}{dice.randrange(WRITERS)}/0", self._acknowledged
            try:
                found = (await self.client.get(key)).revision
            except EtcdError as exc:
                self._note_error("read", exc)
            else:
                self.report.counts["reads"] += 1
                if found < known:
                    self._violate(
                        f"a read at {found} is older than {known}, which was acknowledged"
                    )
            await trio.sleep(dice.random() * 0.4)

    async def _watch(self, watch: Watch, progress_notify: bool) -> None:  # a task
        """Watch for ever, from where it ended if it did."""
        while True:
            try:
                async with self.client.watch(
                    watch.prefix,
                    prefix=True,
                    start_revision=watch.next_revision,
                    progress_notify=progress_notify,
                ) as watcher:
                    async for event in watcher:
                        watch.hear(event)
            except Compacted as exc:
                if exc.revision <= watch.next_revision:
                    self._violate(f"a watch at {watch.next_revision} ended by {exc!r}")
                watch.note_end(exc)
                self.report.counts["watches that were said to have a gap"] += 1
            except EtcdError as exc:
                if isinstance(exc, TRANSIENT):
                    self._violate(f"a watch ended by {exc!r}")
                watch.note_end(exc)
                self._note_error("watch", exc)
            await trio.sleep(0.3)  # after an error that it cannot wait out

    async def _keep(self, number: int, dice: random.Random) -> None:
        """Keep leases, one after the other, each with a key."""
        while True:
            try:
                async with self.client.open_lease(dice.randint(*TTLS)) as lease:
                    key = f"{LEASED}{number}/{lease.id:x}"
                    await self.client.put(key, "", lease=lease.id)
                    self._leases[key] = lease
                    try:
                        await trio.sleep(dice.expovariate(1 / 120))
                    finally:
                        del self._leases[key]
                self.report.counts["leases revoked"] += 1
            except LeaseLost as exc:
                self.report.counts[f"{exc.reason}, during {self.faults.words}"] += 1
            except EtcdError as exc:  # its lease is revoked by now, which may have taken a while
                self._note_error("lease", exc, TTLS[1])
            await trio.sleep(0.3)  # after an error that it cannot wait out

    async def _note_lapses(self) -> None:
        """Note what becomes of the leases' keys, as the operator follows them."""
        async with self._operator.follow(LEASED) as follower:
            async for event in follower:
                if event.type is EventType.DELETE:
                    self._note_absence(event.kv.key.decode())

    async def _note_silence(self) -> None:
        """Note when nothing is acknowledged for longer than any fault lasts."""
        while True:
            if self.faults.forbids():
                self._acknowledged_at = trio.current_time()
            if trio.current_time() > self._acknowledged_at + MAX_SILENCE:
                statistics = self.client.statistics()
                self._violate(f"no write was acknowledged for {MAX_SILENCE} s: {statistics}")
                self._acknowledged_at = trio.current_time()
            await trio.sleep(0.5)

    def _note_absence(self, key: str) -> None:
        lease = self._leases.get(key)
        if lease is not None:
            self._lapses.append(Lapse(key, trio.current_time(), lease.alive))

    def _note_error(self, what: str, error: EtcdError, late: float = 0.0) -> None:
        self.report.counts[f"{what}: {type(error).__name__}"] += 1
        if not isinstance(error, TRANSIENT) and not self.faults.explain(error, late):
            self._violate(f"a {what} ended by {error!r}")

    def _violate(self, words: str) -> None:
        known = self.report.violations
        words = f"{words} (during {self.faults.words})"
        if len(known) < MAX_VIOLATIONS and words not in known:
            known.append(words)

    # ---- judgement -----------------------------------------------------------------

    async def compact(self) -> None:
        """Forget what was read of the history, or only what all watches have brought already."""
        await self._collect()
        revision = self._collected
        if self._dice.random() < 0.5:
            revision = min(revision, *(watch.next_revision - 1 for watch in self._watches))
        try:
            await self._operator.compact(revision)
        except EtcdError as exc:
            self.report.counts[f"compaction: {type(exc).__name__}"] += 1

    async def _collect(self) -> None:
        """Read what the store has changed since the last time, by a watch without faults."""
        async with (
            self._collecting,
            self._operator.watch(
                "/app/", prefix=True, start_revision=self._collected + 1, buffer_size=10**6
            ) as watcher,
        ):
            end = (await retry_transient(self._operator.put, "/app/collected", "")).revision
            while self._collected < end:
                batch = await watcher.receive()
                changes = [event for event in batch.events if _is_written(event.kv.key)]
                self._history += map(_change, changes)
                self._collected = batch.revision

    async def judge(self) -> None:
        """Judge what went on since the last time; no fault is being made."""
        await self._collect()
        newest = self._collected
        with trio.move_on_after(WAY_BACK):
            for watch in self._watches:
                await self._catch_up(watch, newest)
        self._judge_watches(newest)
        self._judge_writes(newest)
        await self._check_leases()
        lapses, self._lapses = self._lapses, []
        wrong, predicted = judge_lapses(lapses, self.faults.stood_still.spans)
        self.report.violations += wrong
        self.report.predicted += predicted

    async def _catch_up(self, watch: Watch, newest: int) -> None:
        """Wait until a watch has brought what it is to bring."""
        while expected := watch.expected(self._history, newest):
            if watch.next_revision > expected[-1].revision:
                return
            watch.heard = trio.Event()
            await watch.heard.wait()

    def _judge_watches(self, newest: int) -> None:
        for number, watch in enumerate(self._watches):
            came = [change for change in watch.seen if change.revision <= newest]
            expected = watch.expected(self._history, newest)
            for words in judge_watch(f"watch {number} of {watch.prefix}", expected, came):
                self._violate(f"{words}; it ended by {list(watch.ends)}")
            self.report.counts["events"] += len(came)
            watch.seen = watch.seen[len(came) :]
            watch.start = max(watch.start, newest + 1)

    def _judge_writes(self, newest: int) -> None:
        """Judge those of this part of the history; what may come later is kept."""
        writes = [*self._writes, *self._under_way.values()]
        for words in judge_writes([w for w in writes if w.revision <= newest], self._history):
            self._violate(words)
        there = {change.number for change in self._history}
        self._writes = [
            write
            for write in self._writes
            if write.revision > newest
            or (write.fate is not Fate.ACKNOWLEDGED and write.number not in there)
        ]
        self._history = [change for change in self._history if change.number in self._under_way]

    async def _check_leases(self) -> None:
        """Check that the leases that are said to live have their keys."""
        kept = dict(self._leases)
        there = await retry_transient(self._operator.get_prefix, LEASED)
        for key in kept.keys() - {kv.key.decode() for kv in there}:
            self._note_absence(key)

    async def make_trouble(self, seconds: float, progress: Callable[[Report], object]) -> None:
        """Make faults for so long, and judge after each few; then see what was left open."""
        ends_at = trio.current_time() + seconds
        while trio.current_time() < ends_at and not self.report.violations:
            for _ in range(FAULTS_IN_A_ROUND):
                await self.faults.make()
                await trio.sleep(self._dice.random())  # not for something: the load goes on
            await self.judge()
            self.report.faults = self.faults.made
            progress(self.report)
        self.report.after = await self.wait_resources(self._most_resources)

    def _most_resources(self) -> tuple[int, int]:
        """Return how many tasks and descriptors there may be.

        What goes on may do so at a member that refused something else: there may be a connection to
        each, with what it takes at both ends of its link.
        """
        (tasks, descriptors), each = self.report.before, PER_CONNECTION
        more = min(len(self.client.statistics().connections), MEMBERS) - 1
        return tasks + more * each[0], descriptors + more * each[1]

    async def wait_resources(self, most: Callable[[], tuple[int, int]]) -> tuple[int, int]:
        """Return how many tasks and descriptors there are more than there may be, once it is 0."""
        more = (0, 0)
        with trio.move_on_after(WAY_BACK):
            while True:
                self.faults.reap()
                (tasks, descriptors), (most_tasks, most_descriptors) = resources(), most()
                more = max(0, tasks - most_tasks), max(0, descriptors - most_descriptors)
                if more == (0, 0):
                    break
                await trio.sleep(0.05)  # connections end in their own time, at both ends
        return more

    async def start_load(self, nursery: trio.Nursery) -> None:
        """Begin to write, to watch and to keep leases; wait until all are there."""
        self._collected = (await self._operator.get("/app/")).revision
        for number in range(WATCHES):
            first = self._collected + 1
            watch = Watch(f"{WRITTEN}{number % WRITERS}/", first, first)
            self._watches.append(watch)
            nursery.start_soon(self._watch, watch, self._dice.random() < 0.5)
        for number in range(LEASES):
            nursery.start_soon(self._keep, number, random.Random(self._dice.random()))
        for number in range(WRITERS):
            nursery.start_soon(self._write, number, random.Random(self._dice.random()))
            nursery.start_soon(self._read, random.Random(self._dice.random()))
        nursery.start_soon(self._note_lapses)
        nursery.start_soon(self._note_silence)
        with trio.fail_after(WAY_BACK):
            for watch in self._watches:
                await watch.heard.wait()
            while len(self._leases) < 0.9 * LEASES:  # noqa: ASYNC110 # some are just being revoked
                await trio.sleep(0.05)
        await self.judge()
        self.report.before = resources()


def resources() -> tuple[int, int]:
    """Return how many tasks and how many open descriptors this process has."""
    tasks = trio.lowlevel.current_statistics().tasks_living
    return tasks, len(list(Path("/proc/self/fd").iterdir()))


def _change(event: Event) -> Change:
    number = None if event.type is EventType.DELETE else int(event.kv.value)
    return Change(event.kv.mod_revision, event.kv.key, number)


def _is_written(key: bytes) -> bool:
    return key.startswith(WRITTEN.encode())


def _fate(error: EtcdError) -> Fate:
    """Return what an error says of the write that it ended."""
    untouched = isinstance(error, ConnectionLost) and not error.processed
    return Fate.NOT_DONE if untouched or isinstance(error, _REFUSED) else Fate.UNKNOWN


@asynccontextmanager
async def open_client_soak(etcd: Etcd, folder: Path, seed: int) -> AsyncIterator[ClientSoak]:
    """Give a client under load; when the block is left, it is closed, and that is judged, too."""
    async with AsyncExitStack() as stack:
        *behind, direct = etcd.endpoints
        proxy = stack.enter_context(open_haproxy(behind, folder))
        if proxy is not None:
            await proxy.start()
        targets = etcd.endpoints if proxy is None else [*proxy.endpoints, direct]
        links = [await stack.enter_async_context(open_faulty_link(target)) for target in targets]
        operator = await stack.enter_async_context(
            open_client(*etcd.endpoints, user="root", password=PASSWORD)
        )
        async with operator.watch("/app/"):  # has a task from now on
            before = resources()
        endpoints = [link.endpoint for link in links]
        async with open_client(*endpoints, user="app", password=PASSWORD) as client:
            soak = ClientSoak(client, operator, seed)
            version = (await operator.status()).version
            soak.faults = Faults(etcd, links, proxy, operator, soak.compact, seed, version)
            soak.report.behind = "no proxy" if proxy is None else "HAProxy"
            async with trio.open_nursery() as nursery:
                await soak.start_load(nursery)
                yield soak
                nursery.cancel_scope.cancel()
        soak.report.left = await soak.wait_resources(lambda: before)
