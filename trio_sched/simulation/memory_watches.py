"""The watches of an etcd in memory: those that wait for commits; others read history first.

As in etcd, a watch that begins above the store's revision is *synced*: it gets each commit as it
happens. One that begins in the past is served from the log a moment later, all in one answer,
and is synced from then on. (etcd: `server/storage/mvcc/watchable_store.go`.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from trio_sched.etcd_shim._pb import messages_pb2 as pb
from trio_sched.simulation.memory_store import Commit, in_range

__all__ = ["Watch", "WatchIndex", "encode_events"]

K = TypeVar("K")
_Range: TypeAlias = tuple[bytes, bytes]


@dataclass(eq=False, slots=True)
class Watch:
    """A watch.

    Attributes:
        id: by which its client knows it.
        start: the first key of its range, or the only one.
        end: behind its range; empty if it is of one key.
        next_revision: below which it gets nothing.
        no_put: leave puts out.
        no_delete: leave deletions out.
        prev_kv: say how each key was before.
        send: takes what is sent: an encoded `WatchResponse`.
        asked_from: the revision from which on it was asked for; 0 for now.
        synced: whether it waits for commits.
    """

    id: int
    start: bytes
    end: bytes
    next_revision: int
    no_put: bool
    no_delete: bool
    prev_kv: bool
    send: Callable[[bytes], None]
    asked_from: int = 0
    synced: bool = False

    @property
    def kind(self) -> tuple[bool, bool, bool]:
        """What its answers depend on, its range aside."""
        return self.no_put, self.no_delete, self.prev_kv

    @property
    def is_of_one_key(self) -> bool:
        """Whether there is only one key in its range."""
        return not self.end or self.end == self.start + b"\0"

    def wanted(self, events: Iterable[pb.Event]) -> list[pb.Event]:
        """Return the events that it asked for."""
        left_out = {pb.Event.PUT} if self.no_put else set()
        if self.no_delete:
            left_out.add(pb.Event.DELETE)
        return [
            event
            for event in events
            if event.type not in left_out and in_range(event.kv.key, self.start, self.end)
        ]

    def deliver(self, payload: bytes) -> None:
        """Send an encoded answer that lacks the id only."""
        self.send(payload + pb.WatchResponse(watch_id=self.id).SerializeToString())


def encode_events(events: Iterable[pb.Event], header: pb.ResponseHeader, *, prev_kv: bool) -> bytes:
    """Return an answer that holds events, encoded, without the id of a watch."""
    answer = pb.WatchResponse(header=header)
    answer.events.extend(events)
    if not prev_kv:
        for event in answer.events:
            event.ClearField("prev_kv")
    return answer.SerializeToString()


class WatchIndex:
    """The watches that are synced, by their ranges."""

    def __init__(self) -> None:
        self._by_key: dict[bytes, dict[Watch, None]] = {}
        self._by_range: dict[_Range, dict[Watch, None]] = {}

    def add(self, watch: Watch) -> None:
        """Take in a watch."""
        watch.synced = True
        if watch.is_of_one_key:
            self._by_key.setdefault(watch.start, {})[watch] = None
        else:
            self._by_range.setdefault((watch.start, watch.end), {})[watch] = None

    def discard(self, watch: Watch) -> None:
        """Forget a watch, if it is here."""
        if watch.is_of_one_key:
            _discard(self._by_key, watch.start, watch)
        else:
            _discard(self._by_range, (watch.start, watch.end), watch)

    def want(self, commit: Commit) -> bool:
        """Return whether a commit is for one of them."""
        keys = [event.kv.key for event in commit[1]]
        return any(key in self._by_key for key in keys) or any(
            in_range(key, start, end) for start, end in self._by_range for key in keys
        )

    def notify(self, commit: Commit, header: pb.ResponseHeader) -> None:
        """Give a commit to the watches that it is for."""
        _, events = commit
        for key in dict.fromkeys(event.kv.key for event in events):
            watches = self._by_key.get(key)
            if watches:
                inside = [event for event in events if event.kv.key == key]
                _deliver(watches, inside, header)
        for (start, end), watches in [*self._by_range.items()]:
            inside = [event for event in events if in_range(event.kv.key, start, end)]
            if inside:
                _deliver(watches, inside, header)


def _discard(index: dict[K, dict[Watch, None]], where: K, watch: Watch) -> None:
    watches = index.get(where, {})
    watches.pop(watch, None)
    if not watches:
        index.pop(where, None)


def _deliver(
    watches: Iterable[Watch], events: Iterable[pb.Event], header: pb.ResponseHeader
) -> None:
    """Deliver events that lie in the range of all of these; each kind of answer is made once."""
    made: dict[tuple[bool, bool, bool], bytes] = {}
    for watch in [*watches]:
        if header.revision < watch.next_revision:
            continue
        payload = made.get(watch.kind)
        if payload is None:
            wanted = watch.wanted(events)
            payload = encode_events(wanted, header, prev_kv=watch.prev_kv) if wanted else b""
            made[watch.kind] = payload
        if payload:
            watch.deliver(payload)
