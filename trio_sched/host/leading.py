"""What a host does while it leads: it drives a `LeaderCore`.

The core decides, this carries out. One task reads all of the path at one revision
and then follows it by one watch; one keeps the decision lease; and one hands what
has happened to the core, in batches, and carries out what the core wants. A burst
of events that comes while a write is under way is one batch.

The one watch tells the leader everything in the order of revisions: hosts, the
decision, and that its own keys are still there. So a host that leads from the
first needs no other.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import trio

from trio_sched import etcd_shim
from trio_sched._support.tasks import Doorbell, finish, open_plain_nursery
from trio_sched._support.wall_time import wall_time
from trio_sched.etcd_shim import (
    Client,
    Compare,
    Delete,
    EventType,
    Get,
    Put,
    TxnResult,
)
from trio_sched.etcd_shim._backoff import TRANSIENT, persist
from trio_sched.etcd_shim.errors import Compacted, LeaseExists, LeaseNotFound, WatchOverflow
from trio_sched.etcd_shim.lease import new_lease_id
from trio_sched.host.election import read_snapshot
from trio_sched.host.following import DecisionFollower
from trio_sched.host.joining import version_of
from trio_sched.host.session import Session, revoke_quietly
from trio_sched.host.snapshot import PathSnapshot, whole_range
from trio_sched.leader.machine import (
    ControlChanged,
    Elected,
    Event,
    Fail,
    HostCame,
    HostWent,
    Intent,
    LeaderCore,
    LoadSnapshot,
    Snapshot,
    StartTimer,
    TimerFired,
    Warn,
    WriteDecision,
    WriteDone,
    WriteLost,
    WriteRefused,
)
from trio_sched.model.decision_view import DecisionView
from trio_sched.model.keys import PathKeys
from trio_sched.model.path_state import control_of, host_of
from trio_sched.model.records import encode_scheduled

__all__ = ["DECISION_TTLS", "Leading"]

DECISION_TTLS = 3
"""How many session TTLs a decision outlives the hosts who could renew it."""

_PATH_BUFFER = 100_000  # events that may wait to be read


@dataclass(frozen=True, slots=True)
class Place:
    """Where a host leads, and as whom."""

    client: Client
    keys: PathKeys
    hostname: str
    session: Session
    logger: logging.Logger


class Leading:
    """One term of leadership. `run` leads until it is cancelled or fails."""

    def __init__(
        self, place: Place, follower: DecisionFollower, core: LeaderCore, fence: int, grace: float
    ) -> None:
        self._place = place
        self._follower = follower
        self._client = place.client
        self._keys = place.keys
        self._core = core
        self._fence = fence
        self._grace = grace
        self._own_keys = (
            place.keys.host(place.hostname),
            place.keys.candidate(place.session.lease),
        )
        self._events: deque[Event] = deque()
        self._bell = Doorbell()
        self._timer: float | None = None
        self._path_scope = trio.CancelScope()
        self._inherited = 0  # the decision lease of the leader before us
        self._decision_lease = 0

    @property
    def decision_leases(self) -> set[int]:
        """The leases that must be seen to when we leave."""
        return {self._decision_lease, self._inherited} - {0}

    def tell(self, event: Event) -> None:
        """Let the core know what has happened. Never waits."""
        self._events.append(event)
        self._bell.ring()

    async def run(self, snapshot: PathSnapshot | None) -> None:
        """Lead until cancelled.

        Args:
            snapshot: of when we were elected, or later; None to read one.

        Raises:
            SessionLost: one of our keys is gone.
            StrategyError: the strategy raised, or broke its rules.
        """
        self._core.handle(Elected(self._fence))  # it wants a snapshot, which comes anyway
        async with open_plain_nursery() as nursery:
            nursery.start_soon(self._keep_decision_lease)
            nursery.start_soon(self._follow_path, snapshot)
            nursery.start_soon(self._reconcile)
            nursery.start_soon(self._evaluate)

    # ---- evaluation ------------------------------------------------------------

    async def _evaluate(self) -> None:
        while True:
            batch = await self._next_batch()
            for intent in self._core.handle(*batch):
                await self._carry_out(intent)

    async def _next_batch(self) -> Sequence[Event]:
        """Wait until something has happened, and return all that has."""
        await trio.lowlevel.checkpoint()
        while not self._events and not self._timer_is_due():
            with trio.CancelScope() as scope:
                if self._timer is not None:
                    scope.deadline = self._timer
                await self._bell.wait()
        if self._timer_is_due():  # however many events there are, so that none can starve it
            self._timer = None
            self._events.append(TimerFired())
        batch, self._events = self._events, deque()
        return batch

    def _timer_is_due(self) -> bool:
        return self._timer is not None and trio.current_time() >= self._timer

    async def _carry_out(self, intent: Intent) -> None:
        match intent:
            case LoadSnapshot():
                self._path_scope.cancel()
            case WriteDecision():
                self.tell(await self._write(intent))
            case StartTimer(delay):
                self._timer = trio.current_time() + delay
            case Warn(kind, message, extra):
                self._place.logger.warning(message, extra={"kind": kind, **extra})
            case Fail(error):
                raise error

    # ---- the path -----------------------------------------------------------------

    async def _follow_path(self, snapshot: PathSnapshot | None) -> None:
        """Tell who is there and what is decided, and each change; start over if need be."""
        while True:
            with trio.CancelScope() as self._path_scope:
                if snapshot is None:
                    snapshot = await persist(read_snapshot, self._client, self._keys)
                self._take_snapshot(snapshot)
                revision, snapshot = snapshot.revision, None
                with contextlib.suppress(Compacted, WatchOverflow):  # the next one heals it
                    await self._watch_path(revision)

    async def _reconcile(self) -> None:
        """Read it all anew once in a session TTL, should etcd have lost an event."""
        while True:
            await trio.sleep(self._place.session.ttl)
            self._take_snapshot(await persist(read_snapshot, self._client, self._keys))

    def _take_snapshot(self, snapshot: PathSnapshot) -> None:
        own = snapshot.candidates.get(self._own_keys[1])
        if own is None or own.create_revision != self._fence:
            raise self._place.session.lose("its candidate key is gone")
        view = DecisionView()
        view.load(snapshot.scheduled, snapshot.decision, snapshot.revision)
        if view.decision_lease != self._decision_lease:
            self._inherited = view.decision_lease
        self.tell(Snapshot(snapshot.revision, snapshot.hosts, view.stored, snapshot.control))
        self._follower.learn(
            snapshot.scheduled, snapshot.decision, snapshot.revision, snapshot.asked_at
        )

    async def _watch_path(self, revision: int) -> None:
        first, end = whole_range(self._keys)
        async with self._client.watch(
            first, range_end=end, start_revision=revision + 1, buffer_size=_PATH_BUFFER
        ) as watcher:
            while True:
                batch = await watcher.receive()
                for event in batch.events:
                    self._take(event)
                self._follower.complete(batch.revision)

    def _take(self, event: etcd_shim.Event) -> None:
        kv = event.kv
        gone = event.type is EventType.DELETE
        if kv.key in self._own_keys and (gone or kv.lease != self._place.session.lease):
            raise self._place.session.lose(f"somebody touched its key {kv.key.decode()}")
        if kv.key == self._keys.control:
            self.tell(ControlChanged(control_of(None if gone else kv), kv.mod_revision))
        elif not kv.key.startswith(self._keys.exchange):
            self._follower.take(event)
        elif gone:
            self.tell(HostWent(self._keys.hostname(kv.key), kv.mod_revision))
        else:
            self.tell(HostCame(host_of(self._keys, kv), kv.mod_revision))

    # ---- writing --------------------------------------------------------------------

    async def _write(self, intent: WriteDecision) -> Event:
        """Write a decision, guarded by our fence and by what we last saw."""
        lease = await self._ensure_decision_lease()
        keys, names = self._keys, intent.record.hosts
        record = replace(intent.record, when=wall_time())
        try:
            answer = await self._client.txn(
                [
                    Compare.create_revision(self._own_keys[1], "==", intent.fence),
                    Compare.mod_revision(keys.scheduled, "==", intent.expected_revision),
                ],
                [
                    Put(keys.scheduled, encode_scheduled(names), lease)
                    if names
                    else Delete(keys.scheduled),
                    Put(keys.decision, record.encode(), lease),
                ],
                [Get(self._own_keys[1]), Get(keys.scheduled), Get(keys.decision)],
            )
        except LeaseNotFound:
            self._decision_lease = 0  # somebody revoked it; the core will ask again
            return WriteLost(intent.fence)
        except TRANSIENT:
            return WriteLost(intent.fence)
        if answer.succeeded:
            await self._revoke_inherited()
            return WriteDone(answer.revision, intent.fence)
        return self._refused(answer, intent.fence)

    def _refused(self, answer: TxnResult, fence: int) -> WriteRefused:
        candidate = answer.get(0).kv
        if candidate is None or candidate.create_revision != fence:
            raise self._place.session.lose("its candidate key is gone")
        view = DecisionView()
        view.load(version_of(answer.get(1)), version_of(answer.get(2)), answer.revision)
        return WriteRefused(fenced=False, stored=view.stored, fence=fence)

    # ---- the decision lease -----------------------------------------------------------

    async def _ensure_decision_lease(self) -> int:
        if not self._decision_lease:
            ttl = self._place.session.ttl * DECISION_TTLS
            if self._inherited and await persist(self._renew_inherited) == ttl:
                self._decision_lease, self._inherited = self._inherited, 0
                return self._decision_lease
            # Noted before it is asked for, so that leaving revokes it whatever happens.
            self._decision_lease = new_lease_id()
            await persist(finish, self._grace, self._grant_decision_lease, ttl)
        return self._decision_lease

    async def _renew_inherited(self) -> int:
        try:
            return await self._client.lease_renew(self._inherited)
        except LeaseNotFound:
            self._inherited = 0
            return 0

    async def _grant_decision_lease(self, ttl: int) -> None:
        with contextlib.suppress(LeaseExists):  # an answer was lost; the id is ours alone
            await self._client.lease_grant(ttl, self._decision_lease)

    async def _keep_decision_lease(self) -> None:
        """Renew it at a third of its TTL, that is, once in a session TTL."""
        while True:
            await trio.sleep(self._place.session.ttl)
            lease = self._decision_lease
            if lease:
                try:
                    await persist(self._client.lease_renew, lease)
                except LeaseNotFound:
                    if self._decision_lease == lease:
                        self._decision_lease = 0
                    self._path_scope.cancel()  # look at what is there, and write it anew

    async def _revoke_inherited(self) -> None:
        """Revoke the lease of the leader before us, now that nothing hangs on it."""
        if self._inherited and self._inherited != self._decision_lease:
            await revoke_quietly(self._client, self._inherited)
        self._inherited = 0
