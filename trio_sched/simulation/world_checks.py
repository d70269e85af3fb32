"""What must hold in a world, whatever happens: checkers that read the diary alone.

They parse keys and values themselves, as they must not share a mistake with what they check.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf
from typing import Any, Final

from trio_sched.simulation.diary import Diary, Entry, Work
from trio_sched.simulation.plan import Plan
from trio_sched.simulation.world_tick_checks import check_ticks

__all__ = ["Outcome", "check"]

_SLOTS: Final = b"/world/slots/"
_ELECTION: Final = b"/world/election/"
_SCHEDULED: Final = b"/world/scheduled"
_RECORD: Final = b"/world/scheduled.record"
_RESOURCE: Final = b"/resource"
# A host may be cut off for two and a half TTLs. It must know what stood for longer.
_LONG_TTLS: Final = 4
_LONG_SECONDS: Final = 12.0
_MAX_LOG_LINES: Final = 4.0  # a second and host
_STEERED: Final = frozenset({"pause-path", "drain", "count", "evict"})  # by a write of `control`
_MAX_REQUESTS: Final = ((1, 40), (10, 12))  # in so many seconds, as many a second, host and path


@dataclass(slots=True)
class Outcome:
    """What was so at the end.

    Attributes:
        seconds: how long the world was.
        hangs: whether it did not end by itself.
        settled: what was so when all had settled.
        not_left: keys that hosts had when all had left the path and some lived on.
        left: the keys that were there when all had gone.
        leases: the leases that were there then.
    """

    seconds: float = 0.0
    hangs: bool = False
    settled: dict[str, Any] = field(default_factory=dict)
    not_left: list[bytes] = field(default_factory=list)
    left: list[bytes] = field(default_factory=list)
    leases: list[int] = field(default_factory=list)


@dataclass(slots=True)
class _Store:
    """What is in the store, as its entries are replayed."""

    keys: dict[bytes, tuple[bytes, int, int]] = field(default_factory=dict)  # value, created, mod

    def replay(self, entry: Entry) -> None:
        """Take an entry in."""
        if entry.restored:
            self.keys.clear()
        for change in entry.changes:
            if change.value is None:
                self.keys.pop(change.key, None)
            else:
                self.keys[change.key] = change.value, change.created, entry.revision

    def below(self, prefix: bytes) -> dict[bytes, tuple[bytes, int, int]]:
        """Return the keys with a prefix."""
        return {key: kv for key, kv in self.keys.items() if key.startswith(prefix)}

    def limit(self, default: int) -> int:
        """Return how many may run by the stored decision."""
        scheduled, record = self.keys.get(_SCHEDULED), self.keys.get(_RECORD)
        if scheduled is None or record is None or scheduled[2] != record[2]:
            return default
        return int(json.loads(record[0])["options"]["max_count"])

    @property
    def scheduled(self) -> frozenset[str]:
        """The stored decision."""
        found = self.keys.get(_SCHEDULED)
        return frozenset(found[0].decode().split(",")) if found else frozenset()


def check(plan: Plan, diary: Diary, outcome: Outcome) -> list[str]:
    """Return what must not be, one line each."""
    checks: tuple[Callable[[Plan, Diary, Outcome], Iterable[str]], ...] = (
        _check_end,
        _check_failures,
        _check_slots,
        _check_work,
        _check_overlap,
        _check_guarded_writes,
        _check_leaders,
        _check_readings,
        _check_truth,
        _check_current,
        _check_settled,
        _check_left,
        _check_rates,
        _check_ticks,
    )
    return [violation for each in checks for violation in each(plan, diary, outcome)]


def _check_end(_plan: Plan, _diary: Diary, outcome: Outcome) -> Iterator[str]:
    if outcome.hangs:
        yield "the world did not end: something waits for ever"


def _check_failures(_plan: Plan, diary: Diary, _outcome: Outcome) -> Iterator[str]:
    for at, label, failure in diary.failures:
        yield f"{at:.3f}: the block of {label} ended: {failure}"


def _check_slots(plan: Plan, diary: Diary, _outcome: Outcome) -> Iterator[str]:
    """Never more slots are held than the decision allows at the moment at which one is taken."""
    store = _Store()
    for entry in diary.entries:
        taken = [c for c in entry.changes if c.key.startswith(_SLOTS) and c.value is not None]
        limit = store.limit(plan.max_count)
        store.replay(entry)
        held = store.below(_SLOTS)
        if taken and not entry.restored and len(held) > limit:
            yield f"{entry.at:.3f}: {len(held)} slots are held, {limit} may be: {sorted(held)}"


@dataclass(slots=True)
class _Slot:
    host: str
    begin: float
    end: float = inf


def _slots(diary: Diary) -> dict[tuple[bytes, int], list[_Slot]]:
    """Return the life of each slot, by key and token; a restored store may use a token again."""
    lives: dict[tuple[bytes, int], list[_Slot]] = {}
    now: dict[bytes, _Slot] = {}
    for entry in diary.entries:
        if entry.restored:
            for slot in now.values():
                slot.end = entry.at
            now.clear()
        for change in entry.changes:
            if change.key.startswith(_SLOTS):
                before = now.pop(change.key, None)
                if before is not None:
                    before.end = entry.at
                if change.value is not None:
                    slot = now[change.key] = _Slot(change.value.decode(), entry.at)
                    lives.setdefault((change.key, change.created), []).append(slot)
    return lives


def _check_work(plan: Plan, diary: Diary, _outcome: Outcome) -> Iterator[str]:
    """Work is never outside a slot: it begins after the slot was taken, and ends before it goes."""
    lives = _slots(diary)
    for work in diary.works:
        found = [slot for slot in lives.get((work.slot, work.token), []) if slot.host == work.host]
        if not any(slot.begin <= work.begin for slot in found):
            yield f"{work.begin:.3f}: {work.host} works with a slot that it never took"
        elif plan.assumes and not any(work.end <= slot.end for slot in found):
            slot = found[-1]
            yield f"{slot.end:.3f}: {work.host} works until {work.end:.3f}, its slot is gone"


def _limits(plan: Plan, diary: Diary) -> list[tuple[float, int]]:
    store = _Store()
    limits = [(-inf, plan.max_count)]
    for entry in diary.entries:
        store.replay(entry)
        limit = store.limit(plan.max_count)
        if limit != limits[-1][1]:
            limits.append((entry.at, limit))
    return limits


def _check_overlap(plan: Plan, diary: Diary, _outcome: Outcome) -> Iterator[str]:
    """No more hosts work at once than may, or might when the first of their slots was taken."""
    if not plan.never_too_many:
        return
    limits, lives = _limits(plan, diary), _slots(diary)

    def taken(work: Work) -> float:
        found = lives.get((work.slot, work.token), [])
        return min([work.begin, *(slot.begin for slot in found if slot.host == work.host)])

    for work in diary.works:
        together = [other for other in diary.works if other.begin <= work.begin < other.end]
        first = min(map(taken, (*together, work)))
        index = max(0, bisect_right(limits, (first, 0)) - 1)
        allowed = max(limit for at, limit in limits[index:] if at <= work.begin)
        if len(together) > allowed:
            names = ", ".join(sorted(_name(other) for other in together))
            yield f"{work.begin:.3f}: {len(together)} work at once, {allowed} may: {names}"


def _name(work: Work) -> str:
    return f"{work.host} ({work.begin:.3f} to {work.end:.3f})"


def _check_guarded_writes(_plan: Plan, diary: Diary, _outcome: Outcome) -> Iterator[str]:
    """No write that a slot's token guards is carried out when the slot is gone."""
    store = _Store()
    restored = False
    for entry in diary.entries:
        restored = restored or entry.restored
        for change in entry.changes:
            if change.key == _RESOURCE and change.value is not None and not restored:
                tokens = {created for _, created, _ in store.below(_SLOTS).values()}
                if int(change.value) not in tokens:
                    yield f"{entry.at:.3f}: a stale write, by token {int(change.value)}"
        store.replay(entry)


def _check_leaders(plan: Plan, diary: Diary, _outcome: Outcome) -> Iterator[str]:
    """What writes a decision with its record leads: its candidate is the oldest there is.

    Right after a restore, a leader of the life before may be one of the candidates and not
    know yet that it is not the oldest any more.
    """
    store, restored = _Store(), -inf
    for entry in diary.entries:
        store.replay(entry)
        restored = entry.at if entry.restored else restored
        if entry.at < restored + plan.ttl:
            continue
        for change in entry.changes:
            if change.key == _RECORD and change.value is not None:
                fence = json.loads(change.value)["fence"]
                oldest = min((kv[1] for kv in store.below(_ELECTION).values()), default=0)
                if fence != oldest:
                    yield f"{entry.at:.3f}: fence {fence} wrote a decision, {oldest} leads"


def _check_readings(_plan: Plan, diary: Diary, _outcome: Outcome) -> Iterator[str]:
    """No reader goes back, but over the end of a store's life."""
    restores = [entry.at for entry in diary.entries if entry.restored]
    for label, readings in diary.readings.items():
        for before, after in pairwise(readings):
            over_an_end = any(at <= after.at for at in restores)
            if after.revision < before.revision and not over_an_end:
                yield f"{after.at:.3f}: {label} reads {after.revision} after {before.revision}"


def _check_truth(_plan: Plan, diary: Diary, _outcome: Outcome) -> Iterator[str]:
    """What a reader is given was stored."""
    store, stored = _Store(), dict[int, set[frozenset[str]]]()
    for entry in diary.entries:
        store.replay(entry)
        stored.setdefault(entry.revision, set()).add(store.scheduled)
    for label, readings in diary.readings.items():
        for reading in readings:
            if reading.hosts and reading.hosts not in stored.get(reading.revision, set()):
                hosts = ", ".join(sorted(reading.hosts))
                yield f"{reading.at:.3f}: {label} reads {hosts} at {reading.revision}: never stored"


def _check_current(plan: Plan, diary: Diary, _outcome: Outcome) -> Iterator[str]:
    """What has been stored for long is what each host has read that was there all the while."""
    if not plan.assumes:
        return
    for begin, end, scheduled in _long_decisions(diary, _LONG_TTLS * plan.ttl + _LONG_SECONDS):
        for label, (joined, ended) in diary.lives.items():
            if joined > begin or ended < end:
                continue
            seen = [each.hosts for each in diary.readings.get(label, []) if each.at < end]
            if not seen or seen[-1] not in {scheduled, frozenset()}:
                yield f"{end:.3f}: {label} has not read what is stored since {begin:.3f}"


def _long_decisions(diary: Diary, least: float) -> Iterator[tuple[float, float, frozenset[str]]]:
    """Return the times for which a decision stood long, and the decision."""
    store, since = _Store(), 0.0
    for entry in diary.entries:
        before = store.scheduled
        store.replay(entry)
        if store.scheduled != before:
            if entry.at - since >= least:
                yield since, entry.at, before
            since = entry.at


def _check_settled(plan: Plan, diary: Diary, outcome: Outcome) -> Iterator[str]:
    """A TTL and two seconds after the last fault all agree, and work goes on."""
    settled = outcome.settled
    if not settled:
        return
    store, at = _Store(), settled["at"]
    for entry in diary.entries:
        if entry.at <= at:
            store.replay(entry)
    missing = [f"host-{n}" for n in range(plan.hosts) if f"host-{n}" not in settled["there"]]
    if missing:
        yield f"{at:.3f}: {', '.join(missing)} are not there again"
    for name in settled["there"]:
        if settled["readings"].get(name) != store.scheduled:
            yield f"{at:.3f}: {name} has read {settled['readings'].get(name)}, not what is stored"
    if len(store.scheduled) != min(plan.max_count, plan.hosts):
        yield f"{at:.3f}: {sorted(store.scheduled)} are scheduled, {plan.max_count} may be"
    if set(settled["scheduled"]) != store.scheduled:
        yield f"{at:.3f}: {settled['scheduled']} think that they are scheduled"
    working = {work.host for work in diary.works if work.begin <= at and work.end > at - 1.0}
    # Within the second, as work begins anew now and then; and ticks are now and then only.
    if working != store.scheduled and not plan.ticks:
        yield f"{at:.3f}: {sorted(working)} work, {sorted(store.scheduled)} are to"


def _check_ticks(plan: Plan, diary: Diary, outcome: Outcome) -> Iterator[str]:
    yield from check_ticks(plan, diary, outcome.settled.get("at", 0.0))


def _check_left(_plan: Plan, _diary: Diary, outcome: Outcome) -> Iterator[str]:
    for key in outcome.not_left:
        yield f"when all had left the path, {key.decode()} was there"
    for key in outcome.left:
        if not key.endswith(b"/control"):
            yield f"when all had gone, {key.decode()} was left"
    if outcome.leases:
        yield f"when all had gone, {len(outcome.leases)} leases were left"


def _check_rates(plan: Plan, diary: Diary, outcome: Outcome) -> Iterator[str]:
    most = _MAX_LOG_LINES * outcome.seconds * plan.hosts
    lines = sum(diary.log_lines.values())
    if lines > most:
        yield f"{lines} lines of log in {outcome.seconds:.0f} s"
    hosts = plan.hosts + sum(action.kind == "go" for action in plan.actions)
    lives = hosts + plan.shared  # who shares a session is on two paths
    # Operators who were held up all write one key at once, and each tries anew for each other.
    steered = sum(action.kind in _STEERED for action in plan.actions)
    for seconds, most_of_one in _MAX_REQUESTS:
        asked: Counter[int] = Counter()
        for second, number in diary.requests.items():
            asked[second // seconds] += number
        for part, number in asked.items():
            if number > most_of_one * seconds * lives + 2 * steered**2:
                yield f"{part * seconds}: {number} requests in {seconds} s, by {hosts} hosts"
