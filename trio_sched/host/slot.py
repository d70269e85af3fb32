"""A slot: the right to run, as the work that runs under it sees it.

How it is taken, and what makes it safe, is in ``slots.py``.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import trio

from trio_sched.etcd_shim import Client, Compare, Txn, TxnResult
from trio_sched.etcd_shim._pages import read_ranges
from trio_sched.etcd_shim.kv import Operation, prefix_range
from trio_sched.exceptions import SlotLost
from trio_sched.host.process import run_process
from trio_sched.host.session import Session
from trio_sched.model.roster import Roster
from trio_sched.reaper.owner import Reaper

__all__ = ["Slot", "SlotHold"]


class SlotHold:
    """What a slot hangs on.

    Attributes:
        session: of its host.
        mark: value of its mark; empty if it has none.
        marked_on: id of the lease that the mark hangs on.
        gone: set once the slot is known to be gone, or its work has ended.
    """

    def __init__(self, session: Session, mark: bytes, marked_on: int) -> None:
        self.session = session
        self.mark = mark
        self.marked_on = marked_on
        self.gone: trio.Event = trio.Event()


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
    _hold: SlotHold

    @property
    def deadline(self) -> float:
        """By trio's clock, when the work must have ended; later after each renewal.

        Until then no other host gets the slot, unless an operator takes it away by
        hand. The work is cancelled some time before, see `grace`.
        """
        return self._hold.session.deadline

    @property
    def session_alive(self) -> bool:
        """True as long as the session that it hangs on is not known to be lost."""
        return self._hold.session.lost_reason is None

    @property
    def lost(self) -> bool:
        """True once the slot is *known* to be gone, so that another host may have it.

        Then there is no time left: what runs under it has to end at once. While it is
        False, there is time until `deadline`.
        """
        return self._hold.gone.is_set() or self._hold.session.gone

    async def wait_lost(self) -> None:
        """Wait until the slot is known to be gone. Returns when its work has ended, too."""
        await self._hold.gone.wait()

    @property
    def lease(self) -> int:
        """Id of the session lease that the slot hangs on."""
        return self._hold.session.lease

    @property
    def client(self) -> Client:
        """The client that it was taken with."""
        return self._hold.session.client

    @property
    def reaper(self) -> Reaper | None:
        """The reaper that holds its lease, if there is one."""
        return self._hold.session.reaper

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
            subprocess.CalledProcessError: it failed; unless ``check=False``.
            OSError: it cannot be run.
            TypeError: an argument is of a wrong type, or not taken.
            ValueError: an argument is not allowed.
        """
        return await run_process(self, command, **options)

    def guard(self) -> tuple[Compare, ...]:
        """Return what makes a transaction of yours fail once the slot is lost.

        ``await client.txn([*slot.guard(), ...], [...])``. It needs no clock: etcd
        itself compares, in the order of all writes. Look at the outcome:
        ``succeeded`` is false then. `txn` looks by itself.
        """
        return (Compare.create_revision(self.key, "==", self.token),)

    async def txn(
        self,
        compare: Sequence[Compare] = (),
        success: Sequence[Operation] = (),
        failure: Sequence[Operation] = (),
    ) -> TxnResult:
        """Carry out a transaction if the slot is held still, else nothing of it.

        Args:
            compare: conditions of yours; the slot's own comes before them.
            success: operations if all hold.
            failure: operations if the slot is held, and one of yours does not hold.

        Returns:
            What came of yours; `succeeded` says whether your conditions held.

        Raises:
            SlotLost: the slot is gone; nothing was done, neither of `success` nor of `failure`.
            EtcdError: as of `Client.txn`; after a ConnectionLost it may have been done.

        Cancellation: as of `Client.txn`. Cancelled work may use it to clean up, in a shielded
        scope with a deadline.
        """
        yours = Txn(compare, success, failure)
        answer = await self.client.txn(self.guard(), [yours])
        if not answer.succeeded:
            raise self._lost()
        found = answer.responses[0]
        assert isinstance(found, TxnResult)
        return found

    async def read_roster(self) -> Roster:
        """Ask etcd which slots of the path are held now.

        Send it with the token to what is outside of etcd: the newest roster that was seen there
        refuses the tokens of all slots that were gone by then.

        Raises:
            SlotLost: this slot is gone.
            EtcdError: etcd refused, or was not reached.
        """
        slots = self.key[: self.key.rindex(b"/") + 1]
        found = await read_ranges(self.client, [prefix_range(slots)])
        if all((kv.key, kv.create_revision) != (self.key, self.token) for kv in found):
            raise self._lost()
        return Roster(found.revision, frozenset(kv.create_revision for kv in found))

    def _lost(self) -> SlotLost:
        """Note that the slot is known to be gone; return the error for it."""
        self._hold.gone.set()
        return SlotLost(self.key, self.token)
