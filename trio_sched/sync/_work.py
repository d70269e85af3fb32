"""Work in a thread: its slot, and the turns in which it runs."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
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

    @property
    def deadline(self) -> float:
        """By ``time.monotonic()``, when the work must have ended; later after each renewal."""
        return monotonic(self._portal, lambda: self._slot.deadline)

    @property
    def lost(self) -> bool:
        """True once the slot is known to be gone, so that another host may have it."""
        return self._portal.ask(lambda: self._slot.lost)

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

    def __init__(self, slot: Slot, more: tuple[str, ...]) -> None:
        self._slot = slot
        self._more = more
        self.stop = threading.Event()
        self.ended = trio.Event()
        self.values: list[T] = []
        self.failure: BaseException | None = None

    def take(
        self,
        portal: Portal,
        fn: Callable[..., T],
        *args: Any,
    ) -> None:
        """Run it."""
        try:
            value = fn(SyncSlot(portal, self._slot), self.stop, *self._more, *args)
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
