"""Work that is a process: ended before its host's right to run is, with all that it starts.

It is `trio.run_process` with a keeper in between, which starts the command and outlives what that
starts; see ``reaper/child.py``. Plain `trio.run_process` ends the one process that it has started,
and only as long as we live.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import inf
from typing import Any, Protocol

import trio

from trio_sched._support.arguments import check_seconds
from trio_sched._support.tasks import open_plain_nursery
from trio_sched.reaper.child import Child, KeeperLost, keeper_command, open_gate
from trio_sched.reaper.owner import Reaper

__all__ = ["Right", "run_process"]

_GRACE = 5.0  # seconds, as trio has it
_LAST_MOMENT = 0.2  # seconds before the deadline at which nothing must be left, at most
_REFUSED = ("executable", "task_status", "deliver_cancel", "close_fds")


class Right(Protocol):
    """The right to run: a slot."""

    @property
    def deadline(self) -> float:
        """By trio's clock, when all must have ended."""

    @property
    def lost(self) -> bool:
        """Whether it is known to be gone: then another host may begin at any moment."""

    @property
    def reaper(self) -> Reaper | None:
        """The one that is to know of the process, if there is one."""


async def run_process(
    right: Right,
    command: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    check: bool = True,
    shell: bool = False,
    grace: float = _GRACE,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    **options: Any,
) -> subprocess.CompletedProcess[bytes]:
    """Run a command. See `Slot.run_process`."""
    _check(options)
    check_seconds("grace", grace, zero=True)
    words = _words(command, shell=shell)
    keeper = _Keeper()
    gate, theirs = open_gate()
    async with open_plain_nursery() as nursery:
        with theirs:
            full = keeper_command(theirs, words, os.environ if env is None else env)
            options |= {"env": env, "pass_fds": (*pass_fds, theirs.fileno())}
            try:
                process: trio.Process = await nursery.start(partial(keeper.run, full, **options))
            except BaseException:
                gate.close()
                raise
        child = keeper.child = Child(gate, process.pid, right.reaper)
        try:
            await _whole(child, right, words[0])
        finally:
            with trio.CancelScope(shield=True):
                await child.end(signal.SIGTERM, _until(right, grace), at_once=right.lost)
    assert child.code is not None
    found = keeper.result
    assert found is not None
    if check and child.code:
        raise subprocess.CalledProcessError(child.code, command, found.stdout, found.stderr)
    return subprocess.CompletedProcess(command, child.code, found.stdout, found.stderr)


async def _whole(child: Child, right: Right, name: str) -> None:
    """Run the command to its own end."""
    try:
        reason = await child.begin(right.deadline)
    except KeeperLost:
        return  # its code shows that
    if reason:
        raise OSError(reason, os.strerror(reason), name)
    async with open_plain_nursery() as nursery:
        nursery.start_soon(child.follow, lambda: right.deadline)
        await child.wait()
        nursery.cancel_scope.cancel()


class _Keeper:
    """The process of a keeper, and its end."""

    def __init__(self) -> None:
        self.child: Child | None = None  # once there is one, it ends the process
        self.result: subprocess.CompletedProcess[bytes] | None = None

    async def run(  # noqa: ASYNC128 # it is trio's `run_process` that says that it has started
        self, command: list[str], *, task_status: trio.TaskStatus[trio.Process], **options: Any
    ) -> None:
        """Run it to its end."""
        options.setdefault("start_new_session", False)
        if not options["start_new_session"]:
            options.setdefault("process_group", 0)
        self.result = await trio.run_process(
            command, check=False, deliver_cancel=self._end, task_status=task_status, **options
        )

    async def _end(self, process: trio.Process) -> None:
        if self.child is None:
            process.kill()  # the command does not run yet, and dies with it
        await trio.sleep_forever()


def _until(right: Right, grace: float) -> Callable[[], float]:
    """Return what says until when it may end by itself."""
    at_most = trio.current_time() + grace
    margin = min(_LAST_MOMENT, max(right.deadline - trio.current_time(), 0.0) / 2)
    return lambda: -inf if right.lost else min(at_most, right.deadline - margin)


def _words(
    command: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], *, shell: bool
) -> list[str]:
    """Return the program and its arguments; check them as `trio.run_process` does."""
    if shell:
        if not isinstance(command, str):
            raise TypeError("with shell=True the command must be a string, not a list")
        return ["/bin/sh", "-c", command]
    if isinstance(command, str):
        raise TypeError("the command must be a list of strings, or a string with shell=True")
    words = [command] if isinstance(command, os.PathLike) else command
    found = [os.fspath(word) for word in words]
    if not found:
        raise ValueError("the command must not be empty")
    return found


def _check(options: Mapping[str, Any]) -> None:
    for name in _REFUSED:
        if name in options:
            raise TypeError(f"run_process() of a slot takes no {name!r}")
    for name in ("stdin", "stdout", "stderr"):
        if options.get(name) is subprocess.PIPE:
            raise ValueError(
                f"{name}=PIPE needs a task that uses it; give bytes, or capture_{name}"
            )
    if isinstance(options.get("stdin"), str):
        raise TypeError("stdin must be bytes, not str")
