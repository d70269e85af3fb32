"""The command of ``trio-sched run``: how it is found, started and reaped.

How it ends, with all that it has started, is in ``reaper/child.py``.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from math import inf

import trio

from trio_sched.cli.exits import CannotRun
from trio_sched.reaper.child import Child, KeeperLost, keeper_command, open_gate
from trio_sched.reaper.owner import Reaper

__all__ = ["RunChild", "check_command", "shell_code", "start_child"]


def check_command(command: str) -> None:
    """Raise at once if a command cannot be run.

    Raises:
        CannotRun: there is no such command, or no right to run it.
    """
    if shutil.which(command) is not None:
        return
    folders = [""] if "/" in command else os.get_exec_path()
    # Not `Path.exists`, which raises where a folder may not be searched.
    # And '' names nothing, though each folder and '' is the folder.
    if command and any(os.path.exists(os.path.join(folder, command)) for folder in folders):  # noqa: PTH110, PTH118 # see above
        raise CannotRun(command, errno.EACCES)
    raise CannotRun(command, errno.ENOENT)


class RunChild(Child):
    """The command, and the process of its keeper. Made by `start_child`."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        gate: socket.socket,
        reaper: Reaper | None,
        *,
        adopts: bool,
    ) -> None:
        super().__init__(gate, process.pid, reaper, adopts=adopts)
        self._process = process

    @property
    def exit_code(self) -> int:
        """The exit code of the command as a shell has it, once `end` has returned."""
        assert self.code is not None
        return shell_code(self.code)

    async def end(
        self, number: signal.Signals, until: Callable[[], float], *, at_once: bool = False
    ) -> bool:
        """End what is left of the tree, as `Child.end` does, and reap the keeper."""
        killed = await super().end(number, until, at_once=at_once)
        self._process.wait()
        return killed


async def start_child(
    command: Sequence[str],
    env: Mapping[str, str],
    reaper: Reaper | None,
    deadline: float = inf,
    *,
    adopts: bool = False,
) -> RunChild:
    """Start a command.

    Args:
        command: the program and its arguments.
        env: its environment.
        reaper: is sent what it has to end, before the command runs.
        deadline: by trio's clock, when it must have ended, as for `Child.until`.
        adopts: whether this process adopts orphans.

    Raises:
        CannotRun: it was not found, or may not be run.

    Cancelled before the command runs, it never does; cancelled later, the child is
    returned all the same.
    """
    await trio.lowlevel.checkpoint()
    gate, theirs = open_gate()
    with theirs:
        process = _spawn(keeper_command(theirs, command, env, adopts=adopts), env, theirs.fileno())
    child = RunChild(process, gate, reaper, adopts=adopts)
    try:
        reason = await child.begin(deadline)
        if reason:
            raise CannotRun(command[0], reason)
    except KeeperLost:
        pass  # its exit code shows that
    except BaseException:
        with trio.CancelScope(shield=True):
            await child.end(signal.SIGKILL, lambda: -inf, at_once=True)
        raise
    return child


def shell_code(code: int) -> int:
    """Return the exit code that a shell has for a process: 128 and the signal's number."""
    return code if code >= 0 else 128 - code


def _spawn(keeper: list[str], env: Mapping[str, str], gate: int) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(keeper, env=env, pass_fds=[gate], process_group=0)  # noqa: S603 # our own command
    except OSError as exc:
        raise CannotRun(keeper[0], exc.errno or 0) from exc
