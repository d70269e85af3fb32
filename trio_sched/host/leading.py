"""What a host does while it leads: it drives a `LeaderMachine`.

The machine decides, this carries out. One range of the path's view covers all that a leader
has to know: hosts, the decision, what operators want, and that its own keys are still there.
What changes in the view is posted to the machine, in batches, and what the machine wants is
carried out. A burst of events that comes while a write is under way is one batch, and of each
host only the newest state. What keeps the decision's lease is in ``decision_leases.py``.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import NoReturn

import trio
from grpclib.const import Status

from trio_sched._support.tasks import open_plain_nursery
from trio_sched._support.tracing import span
from trio_sched._support.wall_time import wall_time
from trio_sched.etcd_shim import Client, Compare, Delete, Get, GetResult, Put, TxnResult
from trio_sched.etcd_shim.errors import EtcdError, LeaseNotFound, RequestTooLarge
from trio_sched.exceptions import StrategyError
from trio_sched.host.counts import HostCounts
from trio_sched.host.decision_leases import DecisionLease, carry_marks
from trio_sched.host.following import PathFollower
from trio_sched.host.patience import Wait
from trio_sched.host.policy import Then, Where, outcome
from trio_sched.host.session import Session
from trio_sched.leader import events
from trio_sched.leader.machine import LeaderMachine
from trio_sched.model.keys import KeyRange
from trio_sched.model.path_state import host_of
from trio_sched.model.records import DecisionRecord, encode_scheduled
from trio_sched.model.stored_decision import StoredDecision

__all__ = ["LeaderContext", "Leading"]

_RECONCILE = 1.1  # TTLs from one read of all that a leader has to know to the next
_MAX_FAILURES = 5  # of a strategy in a row, until another host is to lead
_FIRST_DELAY = 0.25  # seconds, doubled with each failure
_MAX_SIZE = 1_500_000  # bytes of a decision; etcd takes 1.5 MiB in one request by default


@dataclass(frozen=True, slots=True)
class LeaderContext:
    """Where a host leads, and as which.

    Attributes:
        client: the client to ask with.
        follower: of the path.
        session: of the host.
        host_key: by which it is discovered.
        logger: for what people should know.
        note_trouble: publishes what this host has trouble with; None when that is over.
        strict: whether a strategy that fails ends the block.
        counts: of the host.
    """

    client: Client
    follower: PathFollower
    session: Session
    host_key: bytes
    logger: logging.Logger
    note_trouble: Callable[[str | None], None]
    strict: bool = False
    counts: HostCounts = field(default_factory=HostCounts)


def _check_size(names: Collection[str], record: DecisionRecord) -> None:
    """Refuse a decision that etcd will not take."""
    if names and len(encode_scheduled(names)) + len(record.encode()) > _MAX_SIZE:
        raise _too_large(len(names))


def _too_large(hosts: int) -> RequestTooLarge:
    return RequestTooLarge(
        Status.INVALID_ARGUMENT,
        f"a decision of {hosts} hosts is larger than a request to etcd may be, and is not "
        "written; what is stored stays, until max_count is lowered",
    )


class _Resigned(Exception):  # no error: it ends the tasks of a term
    """Another host may do better."""


class Leading:
    """One term of leadership. `run` leads until it is cancelled, fails or resigns.

    A strategy that fails is asked again, later each time; what is stored stays. When it has
    failed again and again, this host resigns, as another may have a strategy that does not.

    Attributes:
        lease: that its decisions hang on.
    """

    def __init__(
        self, context: LeaderContext, machine: LeaderMachine, fence: int, lease: DecisionLease
    ) -> None:
        self._context = context
        self._follower = context.follower
        self._view = context.follower.view
        self._client = context.client
        self._patience = context.follower.patience
        self._write_wait = Wait(self._patience)
        self._keys = context.follower.view.keys
        self._machine = machine
        self._fence = fence
        self.lease: DecisionLease = lease
        self._candidate = self._keys.candidate(context.session.lease)
        self._events: list[events.Event] = []
        self._timer = inf
        self._inherited = 0  # the decision lease of the leader before us
        self._is_gone = False  # the decision lease, and so what hung on it
        self._failures = 0  # of the strategy, in a row
        self._refused_since = inf  # by trio's clock; of our write

    def take_over(self, everything: GetResult) -> None:
        """Let the view cover all that a leader has to know, in place of what it covers.

        Args:
            everything: a read of it, when we were elected or later.
        """
        self._view.track()
        self._follower.replace(self._keys.leading, everything)
        self._machine.handle(events.Elected(self._fence))  # it wants a snapshot, which comes first
        self._post_snapshot()

    async def run(self, everything: GetResult) -> None:
        """Go on from what `take_over` loaded, and lead until cancelled, or resigned.

        Raises:
            SessionLost: one of our keys is gone.
            StrategyError: if `strict`, the strategy raised, or broke its rules.
        """
        try:
            with contextlib.suppress(_Resigned):
                async with open_plain_nursery() as nursery:
                    self._nursery = nursery
                    # Where the pool is small, it is proven within that time, and not read.
                    pause = _RECONCILE * self._context.session.ttl
                    nursery.start_soon(self._follower.follow, self._keys.leading, everything, pause)
                    self.lease.begin(nursery, self._note_gone)
                    nursery.start_soon(self._evaluate)
        finally:
            self.lease.end()

    # ---- evaluation ------------------------------------------------------------

    async def _evaluate(self) -> None:
        while True:
            batch = await self._next_batch()
            self._context.counts.note_event()
            try:
                for intent in self._machine.handle(*batch):
                    await self._carry_out(intent)
            except StrategyError as error:
                await self._bear(error)
            else:
                self._note_success()
                if self._timer == inf and not self._events:
                    self._context.counts.note_settled()

    async def _bear(self, error: StrategyError) -> None:
        """Say that the strategy has failed, wait, and have it asked again.

        Raises:
            StrategyError: if `strict`.
        """
        if self._context.strict:
            raise error
        self._failures += 1
        again = self._failures < _MAX_FAILURES
        then = "it is asked again" if again else "this host leads no more"
        extra = {"kind": "strategy-failed", "failures": self._failures}
        words = f"{self._keys.path}: {error}; the decision stays as it is, {then}"
        self._context.logger.warning(words, extra=extra, exc_info=error.__cause__)
        if not again:
            self._context.note_trouble(None)  # it is others' now
            self._resign()
        self._context.note_trouble(str(error))
        await trio.sleep(_FIRST_DELAY * 2**self._failures)
        self._machine.handle(events.Deposed(), events.Elected(self._fence))
        self._post_snapshot()

    def _resign(self) -> NoReturn:
        """Lead no more, and go on knowing the decision, and that our own key is there."""
        own = KeyRange.of(self._context.host_key)
        self._follower.split(self._keys.leading, self._keys.decision, own)
        raise _Resigned

    def _note_success(self) -> None:
        if self._failures:
            self._failures = 0
            self._context.note_trouble(None)
            words = f"{self._keys.path}: the strategy fails no more"
            self._context.logger.warning(words, extra={"kind": "strategy-works"})

    async def _next_batch(self) -> Sequence[events.Event]:
        """Wait until something has happened, and return all that has."""
        await trio.lowlevel.checkpoint()
        await self._see_what_is_gone()
        while not self._collect():
            with trio.move_on_at(self._timer):
                await self._follower.changed.park()
            await self._see_what_is_gone()
        batch, self._events = self._events, []
        return batch

    def _note_gone(self) -> None:
        self._is_gone = True
        self._follower.note_change()

    async def _see_what_is_gone(self) -> None:
        """Let the machine see what is there without the decision lease, and write anew."""
        while self._is_gone:
            self._is_gone = False
            await self._follower.reload(self._keys.leading)
            self._post_snapshot()

    def _collect(self) -> bool:
        """Post what has changed in the view, and the timer if it is due."""
        self._events += self._changes()
        if trio.current_time() >= self._timer:  # however many events there are
            self._timer = inf
            self._events.append(events.TimerFired())
        return bool(self._events)

    def _changes(self) -> Iterator[events.Event]:
        """Yield what has changed in the view since it was asked last, each once."""
        keys, view, changes = self._keys, self._view, self._view.take_changes()
        for key, revision in changes.items():
            if key.startswith(keys.exchange):
                kv = view.get(key)
                if kv is None:
                    yield events.HostLeft(keys.hostname(key), revision)
                else:
                    yield events.HostJoined(host_of(keys, kv), revision)
        if keys.control in changes:
            yield events.ControlChanged(view.control, changes[keys.control])
        if changes.keys() & {keys.scheduled, keys.record}:
            yield events.DecisionChanged(view.decision)

    def _post_snapshot(self) -> None:
        """Post all that the view shows, in place of what has changed in it."""
        view = self._view
        view.take_changes()
        if view.decision_lease != self.lease.id:
            self._inherited = view.decision_lease
        hosts = tuple(
            host_of(self._keys, kv) for kv in view.within(KeyRange.below(self._keys.exchange))
        )
        revision = view.covered[self._keys.leading]
        self._events.append(events.Snapshot(revision, hosts, view.decision, view.control))

    async def _carry_out(self, intent: events.Intent) -> None:
        match intent:
            case events.LoadSnapshot():
                await self._follower.reload(self._keys.leading)
                self._post_snapshot()
            case events.WriteDecision():
                with span(
                    "trio_sched.decision", path=self._keys.path, hosts=len(intent.record.hosts)
                ):
                    self._events.append(await self._write(intent))
            case events.StartTimer(delay):
                self._timer = trio.current_time() + delay
            case events.Warn(kind, message, extra):
                self._context.logger.warning(message, extra={"kind": kind, **extra})
            case events.Fail(error):
                raise error

    # ---- writing --------------------------------------------------------------------

    async def _write(self, intent: events.WriteDecision) -> events.Event:
        """Write a decision, guarded by our fence and by what we last saw."""
        keys, names = self._keys, intent.record.hosts
        record = replace(intent.record, when=wall_time())
        lease = 0
        try:
            _check_size(names, record)
            lease = await self.lease.ensure(self._inherited)
            answer = await self._client.txn(
                [
                    Compare.create_revision(self._candidate, "==", intent.fence),
                    Compare.mod_revision(keys.scheduled, "==", intent.expected_revision),
                ],
                [
                    Put(keys.scheduled, encode_scheduled(names), lease)
                    if names
                    else Delete(keys.scheduled),
                    Put(keys.record, record.encode(), lease),
                ],
                [Get(self._candidate), Get(keys.scheduled), Get(keys.record)],
            )
        except LeaseNotFound:
            self.lease.note_gone(lease)  # it was revoked; the machine asks again
            return events.WriteLost(intent.fence)
        except EtcdError as exc:
            too_large = isinstance(exc, RequestTooLarge)
            await self._wait_out(_too_large(len(names)) if too_large else exc)
            return events.WriteLost(intent.fence)
        self._refused_since = inf
        self._write_wait.worked()
        if answer.succeeded:
            self._inherit(lease)
            self._context.counts.note_written()
            return events.WriteDone(answer.revision, intent.fence)
        return self._refused(answer, intent.fence)

    def _inherit(self, lease: int) -> None:
        """See to what hangs on the lease of the leader before us, if ours is another one.

        By a task: if etcd refuses that for a while, decisions go on.
        """
        if self._inherited not in {0, lease}:
            self._nursery.start_soon(self._carry_marks, lease)
        self._inherited = 0

    async def _carry_marks(self, lease: int) -> None:
        with contextlib.suppress(LeaseNotFound):  # there will be another decision
            await self._patience.insist(carry_marks, self._client, self._keys, lease)

    async def _wait_out(self, error: EtcdError) -> None:
        """Wait before the next attempt to write; resign if it was in vain for a TTL.

        Only where another host may do better, as it is another user to etcd.
        """
        now = trio.current_time()
        if outcome(error, Where.LEADING) is not Then.RESIGN:
            self._refused_since = inf
        elif self._refused_since == inf:
            self._refused_since = now
        elif now - self._refused_since >= self._context.session.ttl:
            self._write_wait.end()
            words = (
                f"{self._keys.path}: etcd refuses our decisions, this host leads no more: {error}"
            )
            self._context.logger.warning(words, extra={"kind": "write-refused"})
            self._resign()
        await self._write_wait.out(error)

    def _refused(self, answer: TxnResult, fence: int) -> events.WriteRefused:
        candidate = answer.get(0).kv
        if candidate is None or candidate.create_revision != fence:
            raise self._context.session.give_up("its candidate key is gone")
        stored = StoredDecision.pair(answer.get(1).kv, answer.get(2).kv, answer.revision)
        return events.WriteRefused(fenced=False, stored=stored, fence=fence)
