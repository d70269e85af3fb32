"""Slots: the right to run, so that never more than `max_count` hosts do.

Theory of operation
-------------------
A decision says who *shall* run; while it changes hands, two hosts may both think
that it is their turn. So a host that runs holds a *slot*: a key ``PATH/slots/N`` on its
session's lease. It is created before the work begins and deleted after the work has
ended. What makes it safe is in the transaction that creates it:

- The stored decision must still be the one that named us. So takes and decisions
  are in one order, and a host that does not know the newest takes nothing.
- The slot's key must not exist.
- The slot's number must be `usable`. That is every number below the decision's
  max_count, unless slots are held from a time when it was higher. As a take needs
  the decision to stand, and the slots were read after it, no such slot is added
  between the read and the take; they can only go.

The slot's *token* is the create_revision of its key. It grows with each slot taken,
and a transaction guarded by it is refused once the slot is gone.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import trio

from trio_sched.etcd_shim import Client, Compare, Delete, Get, GetResult, KeyValue, Put
from trio_sched.etcd_shim.errors import EtcdError, LeaseNotFound
from trio_sched.host.following import PathFollower
from trio_sched.host.policy import Then, Where, outcome
from trio_sched.host.process import run_process
from trio_sched.host.session import Session
from trio_sched.host.state import HostState
from trio_sched.model.keys import KeyRange, PathKeys
from trio_sched.model.path_view import PathView
from trio_sched.reaper.owner import Reaper

__all__ = ["Slot", "SlotKeys", "Taken", "usable"]


@dataclass(frozen=True, slots=True)
class Slot:
    """The right to run. Given to the work by `Result.run_while_scheduled`.

    Attributes:
        index: its number, from 0 on; below the decision's max_count, except if that
            was lowered while the work goes on.
        token: create_revision of its key, a fencing token: each slot that is taken
            on a path has a higher one than all before.
        key: its key in etcd.
    """

    index: int
    token: int
    key: bytes
    _session: Session

    @property
    def deadline(self) -> float:
        """By trio's clock, when the work must have ended; later after each renewal.

        Until then no other host gets the slot, unless an operator takes it away by
        hand. The work is cancelled some time before, see `grace`.
        """
        return self._session.deadline

    @property
    def session_alive(self) -> bool:
        """True as long as the session that it hangs on is not known to be lost."""
        return self._session.lost_reason is None

    @property
    def lease(self) -> int:
        """Id of the session lease that the slot hangs on."""
        return self._session.lease

    @property
    def reaper(self) -> Reaper | None:
        """The reaper that holds its lease, if there is one."""
        return self._session.reaper

    async def run_process(
        self,
        command: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        **options: Any,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a process as work under this slot, as `trio.run_process` does.

        ``await slot.run_process(["backup", "--all"])``. All that the process starts belongs to it,
        whatever groups and sessions it is in. When the process ends, and when this is
        cancelled, as work is that loses its slot, all of it is ended before this
        returns: by SIGTERM, and by SIGKILL `grace` seconds later, and in any case before
        `deadline`. If our own process is killed it is ended at once, and before its lease is
        revoked if there is a reaper.

        Args:
            command: the program and its arguments; with ``shell=True``, a string.
            **options: those of `trio.run_process`: ``stdin``, ``capture_stdout``,
                ``capture_stderr``, ``check``, ``env``, ``cwd`` and so on, but neither
                ``deliver_cancel`` nor ``task_status``; and ``grace``, 5 seconds by default.

        Returns:
            How it ended, and what was captured.

        Raises:
            CalledProcessError: it failed; unless ``check=False``.
            OSError: it cannot be run.
            TypeError: an argument is of a wrong type, or not taken.
            ValueError: an argument is not allowed.
        """
        return await run_process(self, command, **options)

    def guard(self) -> tuple[Compare, ...]:
        """Return what makes a transaction of yours fail once the slot is lost.

        ``await client.txn([*slot.guard(), ...], [...])``. It needs no clock: etcd
        itself compares, in the order of all writes.
        """
        return (Compare.create_revision(self.key, "==", self.token),)


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
        found: the slots, as they were read before.
    """

    slot: Slot | None
    stands: bool
    found: GetResult


class SlotKeys:
    """The keys of slots, as one host sees them.

    Args:
        client: the client to ask with.
        keys: of the path.
        hostname: what goes into a slot's key.
        state: of this host, whose follower watches the slots.
    """

    def __init__(self, client: Client, keys: PathKeys, hostname: str, state: HostState) -> None:
        self._client = client
        self._keys = keys
        self._state = state
        self._patience = state.patience
        self._hostname = hostname

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
            raise session.mark_lost("the lease was revoked or has lapsed") from exc
        except EtcdError as exc:
            if outcome(exc, Where.TAKING) is not Then.LOSE:
                raise
            raise session.mark_lost(str(exc)) from exc

    async def _try(self, session: Session, decision: int, max_count: int) -> Taken | None:
        """Read the slots and take a free one; None if another host took it in between."""
        found = await self._client.get_prefix(self._keys.slots)
        await self._forget_leftovers(found, session)
        held = self._numbers(found)
        free = next((n for n in range(usable(held, max_count)) if n not in held), None)
        if free is None:
            return Taken(None, stands=True, found=found)
        slot, stands = await self._create(session, free, decision)
        return None if slot is None and stands else Taken(slot, stands, found)

    async def _create(
        self, session: Session, number: int, decision: int
    ) -> tuple[Slot | None, bool]:
        """Create a slot's key; return whether the decision stands."""
        key = self._keys.slot(number)
        stands = Compare.mod_revision(self._keys.scheduled, "==", decision)
        answer = await self._client.txn(
            [stands, Compare.create_revision(key, "==", 0)],
            [Put(key, self._hostname, session.lease)],
            [Get(self._keys.scheduled), Get(key)],
        )
        if answer.succeeded:
            return Slot(number, answer.revision, key, session), True
        scheduled, kv = answer.get(0).kv, answer.get(1).kv
        if kv is not None and kv.lease == session.lease:
            # Ours, by an attempt whose answer was lost; it was made under this decision.
            return Slot(number, kv.create_revision, key, session), True
        return None, scheduled is not None and scheduled.mod_revision == decision

    def _numbers(self, found: GetResult) -> set[int]:
        numbers = (self._keys.slot_number(kv.key) for kv in found.kvs)
        return {number for number in numbers if number is not None}

    async def _forget_leftovers(self, found: GetResult, session: Session) -> None:
        """Free slots of our own session: we hold none, but freeing one failed before."""
        for kv in found.kvs:
            if kv.lease == session.lease:
                await self._delete(kv.key, kv.create_revision)

    async def free(self, slot: Slot) -> None:
        """Give a slot back. Raises no `EtcdError`: the session's end does it, too."""
        with contextlib.suppress(EtcdError):
            await self._patience.insist(self._delete, slot.key, slot.token)

    async def _delete(self, key: bytes, token: int) -> None:
        await self._client.txn([Compare.create_revision(key, "==", token)], [Delete(key)])

    async def wait_lost(self, slot: Slot) -> None:
        """Wait until a slot's key is gone."""
        kv = KeyValue(slot.key, self._hostname.encode(), slot.token, slot.token, 1, slot.lease)
        try:
            await self._follower.wait_changed_key(kv, slot.token)
        except EtcdError as exc:  # what another store holds, or nobody watches, is not our slot
            self._lose(exc)

    async def wait_freed(self, taken: Taken) -> None:
        """Wait until some slot has been freed since the slots were read."""
        tokens = {kv.key: kv.create_revision for kv in taken.found}
        slots = KeyRange.below(self._keys.slots)

        def is_freed(view: PathView) -> bool:
            held = {kv.key: kv.create_revision for kv in view.within(slots)}
            return any(held.get(key) != token for key, token in tokens.items())

        try:
            await self._follower.wait_for(slots, taken.found, is_freed)
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
