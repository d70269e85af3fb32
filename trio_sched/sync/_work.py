"""Work in a thread: its slot, and the turns in which it runs."""

from __future__ import annotations

import os
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from math import isinf
from typing import Any, Generic, TypeVar

import trio

from trio_sched._support.arguments import blocking_value
from trio_sched.etcd_shim import Compare, TxnResult
from trio_sched.etcd_shim.kv import Operation
from trio_sched.host.slot import Slot
from trio_sched.model.roster import Roster
from trio_sched.sync._portal import Portal

__all__ = ["SyncSlot", "Turn", "Turns", "monotonic"]

T = TypeVar("T")


class SyncSlot:
    """As `trio_sched.Slot`: the right to run.

    Attributes:
        index: its number.
        token: a fencing token.
        key: its key in etcd.
        lease: id of the session lease that it hangs on.
    """

    def __init__(self, portal: Portal, slot: Slot) -> None:
        self._portal = portal
        self._slot = slot
        self.index: int = slot.index
        self.token: int = slot.token
        self.key: bytes = slot.key
        self.lease: int = slot.lease
        self._is_stopped = False
        self._processes: set[trio.CancelScope] = set()

    @property
    def deadline(self) -> float:
        """By ``time.monotonic()``, when the work must have ended; later after each renewal."""
        return monotonic(self._portal, lambda: self._slot.deadline)

    @property
    def lost(self) -> bool:
        """True once the slot is known to be gone, so that another host may have it."""
        return self._portal.ask(lambda: self._slot.lost)

    def run_process(
        self,
        command: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        **options: Any,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a process as work under this slot, and block until it has ended.

        As `trio_sched.Slot.run_process`. When `stop` is set, before or meanwhile, all of it is
        ended, and this raises ``concurrent.futures.CancelledError``; work that lets that out is run
        again at its next turn.

        Raises:
            subprocess.CalledProcessError: it failed; unless ``check=False``.
            OSError: it cannot be run.
            TypeError: an argument is of a wrong type, or not taken.
            ValueError: an argument is not allowed.
        """
        return self._portal.call(self._run_process, command, options)

    async def _run_process(
        self,
        command: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        options: Mapping[str, Any],
    ) -> subprocess.CompletedProcess[bytes]:
        """Run it, in Trio's thread."""
        with trio.CancelScope() as scope:
            self._processes.add(scope)
            if self._is_stopped:
                scope.cancel()
            try:
                return await self._slot.run_process(command, **options)
            finally:
                self._processes.discard(scope)
        raise CancelledError("the work is to stop, and its process was ended")

    def _end_processes(self) -> None:
        """End the processes of the work, and begin no more; in Trio's thread."""
        self._is_stopped = True
        for scope in self._processes:
            scope.cancel()

    def guard(self) -> tuple[Compare, ...]:
        """Return what makes a transaction of yours fail once the slot is lost."""
        return self._slot.guard()

    def txn(
        self,
        compare: Sequence[Compare] = (),
        success: Sequence[Operation] = (),
        failure: Sequence[Operation] = (),
    ) -> TxnResult:
        """Carry out a transaction if the slot is held still. As `trio_sched.Slot.txn`."""
        return self._portal.call(self._slot.txn, compare, success, failure)

    def read_roster(self) -> Roster:
        """Ask etcd which slots of the path are held now. As `trio_sched.Slot.read_roster`."""
        return self._portal.call(self._slot.read_roster)


def monotonic(portal: Portal, moment: Callable[[], float]) -> float:
    """Return a moment of Trio's clock, by ``time.monotonic()``."""
    left = portal.ask(lambda: moment() - trio.current_time())
    return left if isinf(left) else time.monotonic() + left


class Turn(Generic[T]):
    """One time that work runs, in the thread that has asked for it."""

    def __init__(self, slot: SyncSlot, more: tuple[str, ...]) -> None:
        self._slot = slot
        self._more = more
        self.stop = threading.Event()
        self.ended = trio.Event()
        self.values: list[T] = []
        self.failure: BaseException | None = None

    def ask_to_stop(self) -> None:
        """Set `stop`, and end the processes of the work; in Trio's thread."""
        self.stop.set()
        self._slot._end_processes()  # noqa: SLF001 # of this module

    @property
    def was_stopped(self) -> bool:
        """Whether it ended without a failure of its own; of a turn that was asked to stop."""
        return self.failure is None or isinstance(self.failure, CancelledError)

    def take(
        self,
        portal: Portal,
        fn: Callable[..., T],
        *args: Any,
    ) -> None:
        """Run it."""
        try:
            value = fn(self._slot, self.stop, *self._more, *args)
            self.values.append(blocking_value("fn", value))
        except BaseException as exc:  # noqa: BLE001 # raised by the task that waits for it
            self.failure = exc
        finally:
            portal.run_soon(self.ended.set)


class Turns(Generic[T]):
    """The turns of one call, one after the other: Trio's thread gives them, the caller takes them.

    Once the caller takes no more, each that was given, and was not taken, ends at once: as the
    slot is not freed before its turn has ended.
    """

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Turn[T] | None] = queue.SimpleQueue()
        self._newest: Turn[T] | None = None
        self._refused = False

    def give(self, turn: Turn[T] | None) -> None:
        """Give the next one, or None when no more come; in Trio's thread."""
        self._newest = turn
        if self._refused:  # else `refuse` finds it, as that is set first
            self._end_newest()
        self._queue.put(turn)

    def wait(self) -> Turn[T] | None:
        """Block until the next one is given, or no more come."""
        return self._queue.get()

    def refuse(self, portal: Portal) -> None:
        """Take no more; nothing runs in one now."""
        self._refused = True
        portal.run_soon(self._end_newest)

    def _end_newest(self) -> None:
        if self._newest is not None:
            self._newest.ended.set()
