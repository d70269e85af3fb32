"""Trio's scheduler under a seed, and a thread for a world that is run inside another.

Trio runs the tasks of a batch in a random order. It has a hook for Hypothesis: then it sorts them
by their age and shuffles them, by a generator that is one for the whole process. In its place
comes one that draws from a thread's own seed, so runs in other threads neither disturb it nor
notice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from threading import Lock, Thread, get_ident
from typing import Any, TypeVar

import trio

__all__ = ["run_apart", "seeded_scheduler"]

T = TypeVar("T")


class _ByThread(Random):
    """Draws from the seed of the thread that asks; from `before` if it has none."""

    def __init__(self, before: Random, *, was_allowed: bool) -> None:
        super().__init__()
        self.before = before
        self.was_allowed = was_allowed
        self.seeds: dict[int, Random] = {}

    def random(self) -> float:
        """Draw a number from 0 to 1; see `Random`."""
        return self.seeds.get(get_ident(), self.before).random()

    def getrandbits(self, k: int, /) -> int:
        """Draw bits; see `Random`."""
        return self.seeds.get(get_ident(), self.before).getrandbits(k)


_lock = Lock()


@contextmanager
def seeded_scheduler(seed: object) -> Iterator[None]:
    """Let trio draw the order of tasks from a seed, in this thread, and leave it as it was."""
    core: Any = trio._core._run  # noqa: SLF001 # there is no public name for it
    me = get_ident()
    with _lock:
        if not isinstance(core._r, _ByThread):  # noqa: SLF001 # as above
            allowed = core._ALLOW_DETERMINISTIC_SCHEDULING  # noqa: SLF001 # as above
            core._r = _ByThread(core._r, was_allowed=allowed)  # noqa: SLF001 # as above
            core._ALLOW_DETERMINISTIC_SCHEDULING = True  # noqa: SLF001 # as above
        ours: _ByThread = core._r  # noqa: SLF001 # as above
        outer = ours.seeds.get(me)
        ours.seeds[me] = Random(f"{seed} trio")  # noqa: S311 # a seed is the point
    try:
        yield
    finally:
        with _lock:
            del ours.seeds[me]
            if outer is not None:
                ours.seeds[me] = outer
            if not ours.seeds:
                core._r = ours.before  # noqa: SLF001 # as above
                core._ALLOW_DETERMINISTIC_SCHEDULING = ours.was_allowed  # noqa: SLF001 # as above


def run_apart(fn: Callable[[], T]) -> T:
    """Call `fn`, which runs trio: here, or if trio or asyncio runs here, in another thread.

    What it raises is raised here.
    """
    if not _loop_runs_here():
        return fn()
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(fn())
        except BaseException as exc:  # noqa: BLE001 # raised below, where it was called
            failures.append(exc)

    thread = Thread(target=run, name="trio_sched simulation", daemon=True)
    thread.start()
    thread.join()
    for exc in failures:
        raise exc
    return results[0]


def _loop_runs_here() -> bool:
    for current in (trio.lowlevel.current_trio_token, asyncio.get_running_loop):
        try:
            current()
        except RuntimeError:
            continue
        return True
    return False
