"""What is to be done at the end of a scheduler tick, when trio is about to wait.

A task that was woken by an answer often has the next request ready. A connection that
waits for that, and sends all of it together with its own acknowledgements, makes
one system call instead of one for each. It could yield until they have run; but
trio runs the tasks of a tick in any order, so that takes two checkpoints, and each
is a whole tick, which polls all file descriptors. So it asks to be
called back by an instrument, which trio calls before it waits for I/O.

There are limits to what may be done there. Trio has settled how long it will wait
by then, so a task that is woken would sleep on: to wake one, another
tick is asked for with `run_soon`. And trio drops an instrument that raises.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVarTuple

import trio

__all__ = ["BeforeWaitHook"]

Ts = TypeVarTuple("Ts")

_current: trio.lowlevel.RunVar[BeforeWaitHook] = trio.lowlevel.RunVar("trio_sched_before_wait")


class BeforeWaitHook(trio.abc.Instrument):
    """Calls back when trio is about to wait, or one tick later if it always has work."""

    def __init__(self) -> None:
        self._due: list[Callable[[], None]] = []
        self._young = False  # what is due has not seen a tick of others yet
        self._token = trio.lowlevel.current_trio_token()

    @classmethod
    def current(cls) -> BeforeWaitHook:
        """Return the one of this run of trio."""
        try:
            return _current.get()
        except LookupError:
            hook = cls()
            trio.lowlevel.add_instrument(hook)
            _current.set(hook)
            return hook

    def call(self, fn: Callable[[], None]) -> None:
        """Have `fn` called once; it must not raise, nor wake a task."""
        if not self._due:
            self._young = True
        self._due.append(fn)

    def run_soon(self, fn: Callable[[*Ts], object], *args: *Ts) -> None:
        """Run ``fn(*args)`` in another tick, in which it may wake tasks."""
        self._token.run_sync_soon(fn, *args)

    def before_io_wait(self, timeout: float) -> None:
        """Do what is due, at the end of a tick; trio calls it."""
        if not self._due:
            return
        if timeout == 0 and self._young:  # tasks that were woken are still to run
            self._young = False
            return
        due, self._due = self._due, []
        for fn in due:
            fn()
