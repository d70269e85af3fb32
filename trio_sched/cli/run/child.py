"""The child: a program in a process group of its own, which ends as a whole.

Theory of operation
-------------------
*Beginning.* What is started first is a helper, ``_helper/exec_child.py``. It asks the kernel to
kill it when we die, and then waits for our word. Before we give it, the reaper is sent the
group; so there is no moment at which we could die and leave something running. The kernel kills the
child when the *thread* that started it ends, so it is started in the thread that Trio runs in, the
main one, and not in one of Trio's workers, which live for seconds.

*Ending.* The child is not reaped before its group is gone and the reaper knows that, as until then
its number stands for no other process: a signal sent to the group reaches the group or nothing.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import trio

from trio_sched._support.processes import wait_ended
from trio_sched.reaper.helper import helper_command
from trio_sched.reaper.helper.groups import living_members, signal_group
from trio_sched.reaper.owner import Reaper

__all__ = ["CannotRun", "Child", "check_command", "start_child"]

_EXEC_PATIENCE = 10.0  # seconds for a program to be loaded, perhaps over a network


class CannotRun(Exception):
    """The command cannot be run.

    Attributes:
        code: 127 if there is no such command, else 126, as a shell has it.
    """

    def __init__(self, command: str, reason: int) -> None:
        super().__init__(f"cannot run {command!r}: {os.strerror(reason)}")
        self.code = 127 if reason == errno.ENOENT else 126


def check_command(command: str) -> None:
    """Raise at once if a command cannot be run.

    Raises:
        CannotRun: there is no such command, or no right to run it.
    """
    if shutil.which(command) is not None:
        return
    folders = [""] if "/" in command else os.get_exec_path()
    # Not `Path.exists`, which raises where a folder may not be searched.
    if any(os.path.exists(os.path.join(folder, command)) for folder in folders):  # noqa: PTH110, PTH118 # see above
        raise CannotRun(command, errno.EACCES)
    raise CannotRun(command, errno.ENOENT)


class Child:
    """A running command and its process group. Made by `start_child`.

    Attributes:
        pid: id of its process, and of its group.
    """

    def __init__(self, process: subprocess.Popen[bytes], reaper: Reaper) -> None:
        self._process = process
        self._reaper = reaper
        self.pid = process.pid

    @property
    def code(self) -> int:
        """The exit code of the command, once `end` has returned."""
        code = self._process.returncode
        return code if code >= 0 else 128 - code

    def send(self, number: signal.Signals) -> None:
        """Send a signal to all of the group."""
        signal_group(self.pid, number)

    async def wait(self) -> int:
        """Wait until the command itself has ended; return its exit code as a shell has it.

        Cancellation leaves it as it is.
        """
        await wait_ended(self.pid)
        found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 # it has ended
        assert found is not None
        return found.si_status + (0 if found.si_code == os.CLD_EXITED else 128)

    async def end(self, number: signal.Signals, until: Callable[[], float]) -> bool:
        """End what is left of the group: by `number`, and by SIGKILL when that is too slow.

        Returns when nothing is left of it. To be called once, and shielded.

        Args:
            number: the signal to begin with.
            until: returns, at each call, how long to wait, by trio's clock.

        Returns:
            Whether SIGKILL was needed.
        """
        killed = False
        if await self._members():
            self.send(number)
            self.send(signal.SIGCONT)  # a stopped process does not notice SIGTERM
        while members := await self._members():
            left = until() - trio.current_time()
            if left <= 0:
                killed = True
                self.send(signal.SIGKILL)
            with trio.move_on_after(min(left, 1.0) if left > 0 else 1.0):
                await wait_ended(members[0])
        self._reaper.group(None)
        self._process.wait()
        return killed

    async def _members(self) -> list[int]:
        """Return who has not ended; by a thread, as it goes through all processes."""
        return await trio.to_thread.run_sync(living_members, self.pid)


async def start_child(command: Sequence[str], env: Mapping[str, str], reaper: Reaper) -> Child:
    """Start a command.

    Args:
        command: the program and its arguments.
        env: its environment.
        reaper: is sent its group before it runs.

    Raises:
        CannotRun: it was not found, or may not be run.

    Cancelled before the command runs, it never does; cancelled later, the child is
    returned all the same.
    """
    await trio.lowlevel.checkpoint()
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            process = _spawn(command, env, theirs.fileno())
        child = Child(process, reaper)
        reaper.group(child.pid)
        try:
            reason = await _let_go(ours)
            if reason:
                raise CannotRun(command[0], reason)
        except BaseException:
            with trio.CancelScope(shield=True):
                await child.end(signal.SIGKILL, partial(float, "-inf"))
            raise
    return child


def _spawn(command: Sequence[str], env: Mapping[str, str], gate: int) -> subprocess.Popen[bytes]:
    """Start the helper that becomes the command; in this thread, see above."""
    try:
        return subprocess.Popen(  # noqa: S603 # what the user wants to run
            helper_command("exec_child", str(gate), str(os.getpid()), *command),
            env=env,
            pass_fds=[gate],
            process_group=0,
        )
    except OSError as exc:
        raise CannotRun(command[0], exc.errno or 0) from exc


async def _let_go(gate: socket.socket) -> int:
    """Give the word, and wait until the command runs; return 0, or the number of the error."""
    with trio.move_on_after(_EXEC_PATIENCE, shield=True):
        try:
            gate.send(b"!")
            await trio.lowlevel.wait_readable(gate)
            answer = gate.recv(16)
        except ConnectionError:  # it was killed before it read our word; its exit code shows that
            return 0
        return int(answer) if answer else 0
    return errno.ETIMEDOUT
