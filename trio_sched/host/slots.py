"""Slots: the right to run, so that never more than `max_count` hosts do.

Theory of operation
-------------------
A decision says who *shall* run; while it changes hands, two hosts may both think
that it is their turn. So a host that runs holds a *slot*: a key ``PATH/slots/N`` on its
session's lease. It is created before the work begins and deleted after the work has
ended. What makes it safe is in the transaction that creates it:

- The stored decision must still be the one that named us. So takes and decisions
  are in one order, and a host that does not know the newest takes nothing.
- The slot's key must not exist, and what went with its lease was not released: see ``marks.py``.
- The slot's number must be `usable`. That is every number below the decision's
  max_count, unless slots are held from a time when it was higher. As a take needs
  the decision to stand, and the slots were read after it, no such slot is added
  between the read and the take; they can only go.

The slot's *token* is the create_revision of its key. It grows with each slot taken,
and a transaction guarded by it is refused once the slot is gone. What is outside of etcd
is guarded by a `Roster`: which slots were held at a revision, so that it depends on no number.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from math import inf
from typing import Final, NamedTuple

import trio

from trio_sched.etcd_shim import (
    Client,
    Compare,
    Delete,
    Get,
    GetResult,
    KeyValue,
    Put,
    Txn,
)
from trio_sched.etcd_shim._pages import read_ranges
from trio_sched.etcd_shim.client import prefix_of
from trio_sched.etcd_shim.errors import EtcdError, LeaseNotFound
from trio_sched.host.following import PathFollower
from trio_sched.host.marks import Marks, is_of_lease, new_mark
from trio_sched.host.policy import Then, Where, outcome
from trio_sched.host.session import Session
from trio_sched.host.slot import Slot, SlotHold
from trio_sched.host.state import HostState
from trio_sched.model.keys import PathKeys
from trio_sched.model.path_view import PathView
from trio_sched.reaper.owner import Reaper

__all__ = ["SlotKeys", "Taken", "usable"]


def usable(held: Iterable[int], max_count: int) -> int:
    """Return the number below which slots may be taken.

    It is the highest `k` up to `max_count` such that all slots below `k` together
    with those held from `k` on are not more than `max_count`.
    """
    numbers = list(held)
    for k in range(max_count, 0, -1):
        if k + sum(number >= k for number in numbers) <= max_count:
            return k
    return 0


@dataclass(frozen=True, slots=True)
class Taken:
    """What an attempt to take a slot gave.

    Attributes:
        slot: the slot; None if none is free now.
        stands: whether the decision still stood.
        found: the slots and their marks, as they were read before.
        again_at: by trio's clock, when one that was not released may be taken.
    """

    slot: Slot | None
    stands: bool
    found: GetResult
    again_at: float = inf


_MOST_REMEMBERED: Final = 8  # slots that were released


class _Owed(NamedTuple):
    """A slot whose work has ended, and which is not released yet."""

    number: int
    mark: bytes
    token: int
    lease: int


class SlotKeys:
    """The keys of slots, as one host sees them.

    Args:
        client: the client to ask with.
        keys: of the path.
        hostname: what goes into a slot's key.
        state: of this host, whose follower watches the slots.
        pause: seconds before a slot is taken that went with its lease.
        reaper: is sent what to release, should this process be killed.
    """

    def __init__(
        self,
        client: Client,
        keys: PathKeys,
        hostname: str,
        state: HostState,
        pause: float = 0.0,
        reaper: Reaper | None = None,
    ) -> None:
        self._client = client
        self._keys = keys
        self._state = state
        self._patience = state.patience
        self._hostname = hostname
        self._marks = Marks(keys, pause)
        self._reaper = reaper
        # Marks of ours, the newest last: a restored store may hold one that was released.
        self._made: deque[bytes] = deque(maxlen=100)
        self._hold: SlotHold | None = None  # of the slot that was taken last
        self._owed: list[_Owed] = []
        self._released: dict[int, int] = {}  # by number, the lease that it hung on
        self._start: Callable[[], None] | None = None
        self._releasing = False

    @property
    def keys_of_path(self) -> PathKeys:
        """The keys of the path."""
        return self._keys

    @property
    def pause(self) -> float:
        """Seconds before what went with its lease is taken."""
        return self._marks.pause

    @property
    def owed(self) -> int:
        """How many slots are free, as their work has ended, and not released in etcd yet."""
        return len(self._owed)

    # ---- taking ------------------------------------------------------------------------

    async def take(self, session: Session, decision: int, max_count: int) -> Taken:
        """Take a free slot, if the decision of this revision still stands.

        Raises:
            SessionLost: the session's lease is gone.
        """
        try:
            while True:
                # Each attempt reads anew: while one was refused, a slot of ours may have come
                # back, in a store that was restored.
                taken = await self._patience.insist(self._try, session, decision, max_count)
                if taken is not None:
                    return taken
        except LeaseNotFound as exc:
            raise session.mark_lost("the lease was revoked or has lapsed", gone=True) from exc
        except EtcdError as exc:
            if outcome(exc, Where.TAKING) is not Then.LOSE:
                raise
            raise session.mark_lost(str(exc)) from exc

    async def _try(self, session: Session, decision: int, max_count: int) -> Taken | None:
        """Read the slots and take a free one; None if another host took it in between."""
        both = self._keys.slots_and_marks
        found = await self._client.get(both.first, range_end=both.end)
        held, marks = self._numbers(found), self._marks.by_number(found)
        if await self._forget_leftovers(found, session):
            return None
        now = trio.current_time()
        self._marks.update(found, held, now)
        over_at = {n: self._marks.over_at(kv.value) for n, kv in marks.items() if n not in held}
        pausing = {n: at for n, at in over_at.items() if at > now}
        taken = held | pausing.keys()
        limit = usable(taken, max_count)
        numbers = chain(range(min(self._rank, limit), limit), range(min(self._rank, limit)))
        free = next((number for number in numbers if number not in taken), None)
        if free is None:
            return Taken(
                None, stands=True, found=found, again_at=min(pausing.values(), default=inf)
            )
        former = marks[free].value if free in marks else None
        released = self._released.pop(free, 0)
        slot, stands = await self._create(session, free, decision, former, self._marks_lease)
        if slot is None and released:
            self._released[free] = released
        return None if slot is None and stands else Taken(slot, stands, found)

    async def _create(
        self, session: Session, number: int, decision: int, former: bytes | None, lease: int
    ) -> tuple[Slot | None, bool]:
        """Create a slot's key, and its mark on `lease`; return whether the decision stands.

        Under the leader of another kind there is no lease for a mark, and so none is put.
        """
        key, mark_key = self._keys.slot(number), self._keys.mark(number)
        mark = self._make_mark(number, session) if lease else b""
        no_mark = [] if former is None else [Delete(mark_key)]
        marking = [Put(mark_key, mark, lease)] if mark else no_mark
        session.unanswered += 1
        try:
            answer = await self._client.txn(
                [
                    Compare.mod_revision(self._keys.scheduled, "==", decision),
                    Compare.create_revision(key, "==", 0),
                    _is_marked(mark_key, former),
                ],
                [Put(key, self._hostname, session.lease), *marking],
                [Get(self._keys.scheduled), Get(key), Get(mark_key)],
            )
        except LeaseNotFound:
            session.unanswered -= 1
            if not lease:
                raise
            self._note_released(number, mark)  # it may be the lease of the mark that is gone
            return await self._create(session, number, decision, former, 0)
        session.unanswered -= 1
        hold = SlotHold(session, mark, lease)
        if answer.succeeded:
            return self._held(Slot(number, answer.revision, key, hold), hold), True
        scheduled, kv, marked = (answer.get(index).kv for index in range(3))
        if kv is not None and kv.lease == session.lease:
            # Ours, by an attempt whose answer was lost; it was made under this decision.
            return self._held(Slot(number, kv.create_revision, key, hold), hold), True
        if mark and (marked is None or marked.value != mark):
            self._note_released(number, mark)
        return None, scheduled is not None and scheduled.mod_revision == decision

    def _make_mark(self, number: int, session: Session) -> bytes:
        """Return the mark for a slot that is about to be taken; the reaper is sent it first."""
        mark = new_mark(self._hostname, session.lease)
        self._made.append(mark)
        if self._reaper is not None:
            below = prefix_of(self._client)
            self._reaper.taken(
                below + self._keys.slot(number), below + self._keys.mark(number), mark
            )
        return mark

    @property
    def _rank(self) -> int:
        """Our place in the decision: where all that are chosen begin to look for a free slot.

        So each finds one of its own, and does not take turns with all others for the first.
        """
        hosts = self._follower.view.hosts
        return hosts.index(self._hostname) if self._hostname in hosts else 0

    @property
    def _marks_lease(self) -> int:
        """Id of the lease that marks hang on: that of the decision; 0 if it has none."""
        return self._follower.view.decision_lease

    def _numbers(self, found: GetResult) -> set[int]:
        numbers = (self._keys.slot_number(kv.key) for kv in found.kvs)
        return {number for number in numbers if number is not None}

    async def _forget_leftovers(self, found: GetResult, session: Session) -> bool:
        """Free what is left of slots of our own: we hold none, but freeing one failed before.

        Returns:
            Whether there was any.
        """
        leftovers = False
        for kv in found.kvs:
            number = self._keys.slot_number(kv.key)
            if number is not None and kv.lease == session.lease:
                leftovers = True
                await self._delete(kv.key, kv.create_revision)
        for number, mark in self._marks.by_number(found).items():
            if mark.value in self._made or is_of_lease(mark.value, session.lease):
                leftovers = True
                await self._release(number, mark.value)
        return leftovers

    def _held(self, slot: Slot, hold: SlotHold) -> Slot:
        self._hold = hold
        return slot

    async def keep_marked(self, slot: Slot) -> None:
        """Put the slot's mark under the lease of the newest decision when that has changed.

        Never returns; errors of etcd are waited out.
        """
        hold, key = self._hold, self._keys.mark(slot.index)
        assert hold is not None
        while True:
            lease = self._marks_lease
            if lease and lease != hold.marked_on:
                hold.mark = hold.mark or self._make_mark(slot.index, hold.session)
                with contextlib.suppress(LeaseNotFound):  # there will be another decision
                    await self._patience.insist(self._mark_again, slot, key, hold, lease)
                hold.marked_on = lease
            await self._state.wait_changed()

    async def _mark_again(self, slot: Slot, key: bytes, hold: SlotHold, lease: int) -> None:
        ours = Compare.create_revision(slot.key, "==", slot.token)
        await self._client.txn([ours], [Put(key, hold.mark, lease)])

    # ---- giving back -------------------------------------------------------------------

    async def free(self, slot: Slot) -> None:
        """Give a slot back, as its work has ended. Raises no `EtcdError`.

        What etcd does not let us give back in this time is owed: `keep_releasing` does it. If the
        session ends before, the slot goes with its lease, and the next host pauses.
        """
        hold = self._hold
        if hold is None:
            return
        hold.gone.set()
        owed = _Owed(slot.index, hold.mark, slot.token, slot.lease)
        self._owed.append(owed)
        try:
            with contextlib.suppress(EtcdError):
                await self._settle(owed)
        finally:
            self._start_if_needed()

    def begin_releasing(self, start: Callable[[], None]) -> None:
        """Have what is owed released from now on, as soon as etcd allows it.

        Args:
            start: called when something is owed; it starts `keep_releasing` as a task.
        """
        self._start, self._releasing = start, False
        self._start_if_needed()

    def stop_releasing(self) -> None:
        """Start no more tasks: their nursery is being left."""
        self._start = None

    def _start_if_needed(self) -> None:
        if self._start is not None and self._owed and not self._releasing:
            self._releasing = True
            self._start()

    async def keep_releasing(self) -> None:
        """Release what is owed, until there is nothing more.

        Raises:
            EtcdError: by what a session is lost.
        """
        while self._owed:
            await self.release_owed()
        self._releasing = False

    async def release_owed(self) -> None:
        """Release what is owed now. Raises as `keep_releasing` does."""
        for owed in list(self._owed):
            await self._settle(owed)

    async def release_all(self, session: Session) -> None:
        """Release all that is there of our own, when no work goes on under a session that lives.

        Raises as `keep_releasing` does.
        """
        await self.release_owed()
        if session.unanswered:
            both = self._keys.slots_and_marks
            found = await self._patience.insist(read_ranges, self._client, [(both.first, both.end)])
            await self._patience.insist(self._forget_leftovers, found, session)

    async def _settle(self, owed: _Owed) -> None:
        if owed.mark:
            await self._patience.insist(self._release, owed.number, owed.mark, owed.token)
        else:
            await self._patience.insist(self._delete, self._keys.slot(owed.number), owed.token)
        if owed in self._owed:
            self._owed.remove(owed)
        self._released.pop(owed.number, None)
        self._released[owed.number] = owed.lease
        while len(self._released) > _MOST_REMEMBERED:
            del self._released[next(iter(self._released))]

    def keys(self) -> dict[bytes, int]:
        """Return the keys of slots that this session has released, each with its lease.

        A store that is restored may hold one again, and as the session lives, so would the slot.
        """
        session = self._state.session
        lease = session.lease if session is not None else 0
        return {
            self._keys.slot(number): lease
            for number, former in self._released.items()
            if former == lease
        }

    def note_found(self, kv: KeyValue) -> None:
        """Release a slot again that a restored store holds."""
        number = self._keys.slot_number(kv.key)
        if number is not None and self._released.get(number) == kv.lease:
            self._owed.append(_Owed(number, b"", kv.create_revision, kv.lease))
            self._start_if_needed()

    async def _release(self, number: int, mark: bytes, token: int = 0) -> None:
        """Delete a slot's key and its mark, if it is this one still; or the key, by its token."""
        key, mark_key = self._keys.slot(number), self._keys.mark(number)
        by_token = Txn([Compare.create_revision(key, "==", token)], [Delete(key)])
        await self._client.txn(
            [Compare.value(mark_key, "==", mark)],
            [Delete(key), Delete(mark_key)],
            [by_token] if token else [],
        )
        self._note_released(number, mark)

    async def _delete(self, key: bytes, token: int) -> None:
        await self._client.txn([Compare.create_revision(key, "==", token)], [Delete(key)])

    def _note_released(self, number: int, mark: bytes) -> None:
        if self._reaper is not None and mark:
            self._reaper.freed(prefix_of(self._client) + self._keys.slot(number))

    # ---- waiting -----------------------------------------------------------------------

    async def wait_lost(self, slot: Slot) -> None:
        """Wait until a slot's key is gone."""
        kv = KeyValue(slot.key, self._hostname.encode(), slot.token, slot.token, 1, slot.lease)
        try:
            await self._follower.wait_changed_key(kv, slot.token)
        except EtcdError as exc:  # what another store holds, or nobody watches, is not our slot
            self._lose(exc)
        self.note_gone()

    def note_gone(self) -> None:
        """Note that the slot that is held is known to be gone."""
        if self._hold is not None:
            self._hold.gone.set()

    async def wait_freed(self, taken: Taken) -> None:
        """Wait until some slot may have become free since the slots were read."""
        before = {kv.key: kv.create_revision for kv in taken.found}
        both = self._keys.slots_and_marks

        def is_freed(view: PathView) -> bool:
            now = {kv.key: kv.create_revision for kv in view.within(both)}
            return any(now.get(key) != revision for key, revision in before.items())

        try:
            with trio.move_on_at(taken.again_at):
                await self._follower.wait_for(both, taken.found, is_freed)
        except EtcdError as exc:
            self._lose(exc)
            await trio.sleep_forever()  # the session's end is noticed by who waits with us

    def _lose(self, error: EtcdError) -> None:
        """Lose the session, if that is what the error does."""
        if outcome(error, Where.WORKING) is not Then.LOSE:
            raise error
        if self._state.session is not None:
            self._state.session.mark_lost(str(error))

    @property
    def _follower(self) -> PathFollower:
        assert self._state.follower is not None  # a slot is taken under a session
        return self._state.follower


def _is_marked(key: bytes, value: bytes | None) -> Compare:
    """Return the condition that a mark has this value; or, if that is None, that there is none."""
    if value is None:
        return Compare.create_revision(key, "==", 0)
    return Compare.value(key, "==", value)
