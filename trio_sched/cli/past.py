"""What was below a path, from etcd's revisions, as far as they are kept.

Theory of operation
-------------------
A watch that begins at the oldest revision that is kept delivers all that has changed since; what
was there before is read at the revision before that. Etcd says when a watch has caught up, or, if
this version cannot be relied on for that, it has when what the events make of the state is what is
read now, and nothing comes any more for a moment.

Etcd keeps no times. Leaders write into their decisions when they were made, and hosts since when
they are there; the time of anything else lies between those of its neighbours.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Final

import trio

from trio_sched.cli.common import read_at
from trio_sched.etcd_shim import Client, Event, EventType, KeyValue
from trio_sched.etcd_shim.errors import Compacted, RevisionCompacted, Unimplemented
from trio_sched.etcd_shim.watch import Watcher
from trio_sched.model.control_state import ControlState
from trio_sched.model.keys import PathKeys
from trio_sched.model.path_state import control_of, host_of
from trio_sched.model.records import MAX_COUNT, Host, HostData
from trio_sched.model.stored_decision import StoredDecision
from trio_sched.simulation import Trace, TraceEvent

__all__ = ["Past", "PastDecision", "read_past"]

_QUIET: Final = 0.5  # seconds
_MAX_EVENTS: Final = 1_000_000
_MAX_ATTEMPTS: Final = 5  # while history is compacted under us


@dataclass(frozen=True, slots=True)
class PastDecision:
    """A decision that was.

    Attributes:
        revision: of it.
        when: by its leader's clock, in ISO 8601; empty if that is not known.
        hosts: the chosen ones; none when it had lapsed, or was taken away.
        leader: who decided; None if the leader was of another kind, or there was no decision.
        reason: why.
    """

    revision: int
    when: str
    hosts: tuple[str, ...]
    leader: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Past:
    """What was below a path.

    Attributes:
        path: the path.
        first_revision: the oldest whose changes are kept; what was before it is compacted,
            unless it is 1.
        last_revision: as of which it was read.
        before: what was there before, by key.
        events: what has changed since, in order.
    """

    path: str
    first_revision: int
    last_revision: int
    before: Mapping[bytes, KeyValue]
    events: tuple[Event, ...]

    def states(self) -> Iterator[tuple[int, Mapping[bytes, KeyValue], frozenset[bytes]]]:
        """Return each revision, with what was there then, and the keys that changed."""
        state = dict(self.before)
        if state:
            yield self.first_revision - 1, state, frozenset(state)
        for revision, events in groupby(self.events, key=lambda event: event.kv.mod_revision):
            changed = set()
            for event in events:
                _apply(state, event)
                changed.add(event.kv.key)
            yield revision, state, frozenset(changed)

    def decisions(self) -> Iterator[PastDecision]:
        """Return the decisions, in order."""
        keys = PathKeys(self.path)
        for revision, state, changed in self.states():
            if not changed & {keys.scheduled, keys.record}:
                continue
            pair = state.get(keys.scheduled), state.get(keys.record)
            at = max((kv.mod_revision for kv in pair if kv is not None), default=revision)
            found = StoredDecision.pair(*pair, revision)
            record = found.record
            reason = "" if record is None else record.reason
            if record is None:
                reason = "of another kind of leader" if found.hosts else "it lapsed, or all left"
            yield PastDecision(
                at if revision < self.first_revision else revision,
                "" if record is None else record.when,
                found.hosts,
                None if record is None else record.leader,
                reason,
            )

    # ---- as a trace ------------------------------------------------------------------

    def trace(self, since: float | None = None) -> Trace:
        """Return what hosts and operators did, for a simulation.

        Args:
            since: seconds since 1970; what was so then happens at the beginning. None for all.

        Raises:
            ValueError: no host was ever there, or nothing says when.
        """
        keys, clock = PathKeys(self.path), _Clock(self._anchors())
        began = clock.first if since is None else max(since, clock.first)
        known = nothing = _Known({}, ControlState())
        events: list[TraceEvent] = []
        count, is_before = 1, since is not None
        for revision, state, changed in self.states():
            if not any(key == keys.control or key.startswith(keys.exchange) for key in changed):
                continue
            now, at = _Known.of(keys, state), clock.at(revision)
            count = max([count, *now.counts()])
            if is_before and at >= began:
                events += nothing.events_to(known, 0.0)  # what was so at the beginning
                is_before = False
            if not is_before:
                events += known.events_to(now, round(max(0.0, at - began), 3))
            known = now
        if is_before:
            events += nothing.events_to(known, 0.0)
        if not any(event.do == "join" for event in events):
            raise ValueError(f"no host was on {self.path!r} in what etcd keeps of it")
        return Trace(tuple(events), max_count=count)

    def _anchors(self) -> Iterator[tuple[int, float]]:
        keys = PathKeys(self.path)
        for decision in self.decisions():
            with suppress(ValueError):
                yield decision.revision, datetime.fromisoformat(decision.when).timestamp()
        for revision, state, changed in self.states():
            for key in changed:
                kv = state.get(key)
                if kv is not None and key.startswith(keys.exchange) and kv.version == 1:
                    with suppress(ValueError):
                        since = host_of(keys, kv).since
                        yield revision, datetime.fromisoformat(since).timestamp()


class _Clock:
    """When revisions were, as far as some of them say."""

    def __init__(self, anchors: Iterable[tuple[int, float]]) -> None:
        found = sorted(anchors)
        if not found:
            raise ValueError("nothing that etcd keeps of it says when it was")
        self._revisions = [revision for revision, _ in found]
        self._times = [time for _, time in found]
        for index in range(1, len(self._times)):  # clocks differ; revisions have the order
            self._times[index] = max(self._times[index], self._times[index - 1])
        self.first: float = self._times[0]

    def at(self, revision: int) -> float:
        """Return when a revision was, in seconds since 1970."""
        behind = bisect_right(self._revisions, revision)
        if behind in {0, len(self._revisions)}:
            return self._times[0 if behind == 0 else -1]
        low, high = self._revisions[behind - 1], self._revisions[behind]
        share = (revision - low) / (high - low)
        return self._times[behind - 1] + share * (self._times[behind] - self._times[behind - 1])


@dataclass(frozen=True, slots=True)
class _Known:
    """Hosts, and what operators want."""

    hosts: Mapping[str, Host]
    control: ControlState

    @classmethod
    def of(cls, keys: PathKeys, state: Mapping[bytes, KeyValue]) -> _Known:
        found = [host_of(keys, kv) for key, kv in state.items() if key.startswith(keys.exchange)]
        usable = {host.name: host for host in found if not {",", "/"} & set(host.name)}
        return cls(usable, control_of(state.get(keys.control)))

    def counts(self) -> Iterator[int]:
        """Return how many may be chosen, as the hosts were started."""
        for host in self.hosts.values():
            count = host.options.get("max_count")
            if type(count) is int and 0 < count <= MAX_COUNT:
                yield count

    def events_to(self, now: _Known, at: float) -> Iterator[TraceEvent]:
        """Return what makes this into another one."""
        for name, host in self.hosts.items():
            after = now.hosts.get(name)
            if after is None or after.lease != host.lease:
                yield TraceEvent(at, "leave", name)
        for name, host in now.hosts.items():
            before = self.hosts.get(name)
            if before is None or before.lease != host.lease:
                yield TraceEvent(at, "join", name, _data(host))
            elif _data(before) != _data(host):
                yield TraceEvent(at, "update", name, _data(host))
        yield from self._control_to(now.control, at)

    def _control_to(self, now: ControlState, at: float) -> Iterator[TraceEvent]:
        before = self.control
        if now.paused != before.paused:
            yield TraceEvent(at, "pause" if now.paused else "resume")
        for name in sorted(now.drained - before.drained):
            yield TraceEvent(at, "drain", name)
        for name in sorted(before.drained - now.drained):
            yield TraceEvent(at, "undrain", name)
        if now.max_count != before.max_count:
            yield TraceEvent(at, "set-count", max_count=now.max_count)


def _data(host: Host) -> HostData:
    return HostData(host.weight, host.zone, host.priority, host.data, host.available, host.reason)


def _apply(state: dict[bytes, KeyValue], event: Event) -> None:
    if event.type is EventType.DELETE:
        state.pop(event.kv.key, None)
    else:
        state[event.kv.key] = event.kv


# ---- reading -------------------------------------------------------------------------


async def read_past(client: Client, path: str) -> Past:
    """Read all that etcd keeps of what was below a path: hosts, decisions and control.

    Raises:
        EtcdError: etcd refused.
    """
    keys, first = PathKeys(path), 1
    for _ in range(_MAX_ATTEMPTS - 1):
        try:
            return await _read_from(client, keys, first)
        except Compacted as exc:
            first = exc.revision + 1
        except RevisionCompacted:
            first = 1
    return await _read_from(client, keys, first)


async def _read_from(client: Client, keys: PathKeys, first: int) -> Past:
    covered = keys.leading
    before: Mapping[bytes, KeyValue] = {}
    if first > 1:
        found = await read_at(client, keys, covered, first - 1)
        before = {kv.key: kv for kv in found.kvs}
    last = (await client.get(keys.control)).revision
    now = {kv.key: kv.mod_revision for kv in (await read_at(client, keys, covered, last)).kvs}
    watch = client.watch(
        covered.first, range_end=covered.end, start_revision=first, buffer_size=_MAX_EVENTS
    )
    async with watch as watcher:
        try:
            found_events = await _until_told(watcher, last)
        except Unimplemented:
            found_events = await _until_quiet(watcher, before, now)
    ours = (event for event in found_events if keys.is_ours(event.kv.key))
    events = tuple(event for event in ours if event.kv.mod_revision <= last)
    return Past(keys.path, first, last, before, events)


async def _until_told(watcher: Watcher, last: int) -> list[Event]:
    """Return what has happened up to a revision, as etcd says when that is all."""
    events: list[Event] = []
    reached = 0
    while reached < last:
        reached = await watcher.request_progress()
        events += (await watcher.receive()).events
    return events


async def _until_quiet(
    watcher: Watcher, before: Mapping[bytes, KeyValue], now: Mapping[bytes, int]
) -> list[Event]:
    """Return what has happened, until it makes what is there now, and nothing comes any more."""
    events: list[Event] = []
    state = dict(before)
    while True:
        with trio.move_on_after(_QUIET) as quiet:
            batch = await watcher.receive()
            events += batch.events
            for event in batch.events:
                _apply(state, event)
        same = now.items() <= {key: kv.mod_revision for key, kv in state.items()}.items()
        if quiet.cancelled_caught and same:
            return events
