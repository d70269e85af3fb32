"""A clock for tests that jumps when all tasks wait, unless they wait for a real etcd.

Trio's `MockClock` jumps as soon as all tasks wait, and a task that waits for an answer from a
socket is one of them: time passes in which nothing had a chance to arrive, and clients give up
their connections. This clock asks our clients first. It polls while one of them expects something
from a server, and once more after it has come, as an event of a watch may follow.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from trio.testing import MockClock

from trio_sched.etcd_shim.channel import network_awaited

__all__ = ["autojump_clock"]

_POLL: Final = 0.002  # real seconds
_MAX_WAIT: Final = 5.0  # real seconds, after which a server that is silent counts as gone


def autojump_clock() -> MockClock:
    """Return a `trio.testing.MockClock` that jumps, and works with a client on a real etcd.

    For ``trio.run(main, clock=autojump_clock())``. As long as no client of ours waits for the
    network it is ``MockClock(autojump_threshold=0)``, and on an etcd in memory no client ever
    does. While one connects, or has no answer yet to a request or a ping, time stands still: for
    5 real seconds at most, so that a server that hangs can be part of a test. It knows nothing
    of other sockets, threads and processes, as any ``MockClock``.

    Raises:
        RuntimeError: this version of trio has no hook to say when its clock jumps.
    """
    clock = MockClock(autojump_threshold=0)
    if not hasattr(clock, "_autojump"):
        raise RuntimeError(
            "this version of trio has no MockClock._autojump, which autojump_clock needs"
        )
    # MockClock is final, and has no public way to be asked before it jumps (trio issue 1587).
    vars(clock)["_autojump"] = _Jumper(clock, clock._autojump)  # noqa: SLF001 # as said
    return clock


class _Jumper:
    """Called by trio when all tasks have waited for the clock's threshold: jumps, or polls."""

    def __init__(self, clock: MockClock, jump: Callable[[], object]) -> None:
        self._clock = clock
        self._jump = jump
        self._threshold = clock.autojump_threshold  # that of who uses the clock
        self._waits_since: float | None = None  # by the real clock

    def __call__(self) -> None:
        if self._clock.autojump_threshold != _POLL:
            self._threshold = self._clock.autojump_threshold
        if self._is_to_wait():
            self._set_threshold(max(self._threshold, _POLL))
        else:
            self._set_threshold(self._threshold)
            self._jump()

    def _is_to_wait(self) -> bool:
        since = self._waits_since
        if not network_awaited():
            self._waits_since = None
            return since is not None
        if since is None:
            since = self._waits_since = time.monotonic()
        return time.monotonic() - since < _MAX_WAIT

    def _set_threshold(self, seconds: float) -> None:
        if self._clock.autojump_threshold != seconds:
            self._clock.autojump_threshold = seconds
