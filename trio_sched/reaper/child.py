"""A command and all that it starts, which end as a whole.

Theory of operation
-------------------
*Beginning.* What is started first is a keeper, ``helper/keep.py``. It adopts the orphans of the
command, and dies only when nothing of it is left, so that its end is what to wait for. It says who
the command is, and lets it run only when the reaper knows that; so there is no moment at which we
could die and leave something running.

*Ending.* All of the tree is asked, and killed when that takes too long, whatever groups and
sessions it is in, see ``helper/tree.py``. What we may not signal counts as running; that is logged
once.

*When one of us is killed or stopped*, those who are left end the tree: we do if the keeper is gone,
the keeper and the reaper if we are. The keeper and the reaper know the deadline, and end it then if
we do not.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from fcntl import F_DUPFD_CLOEXEC, fcntl

import trio

from trio_sched._support.processes import wait_ended
from trio_sched.reaper.helper import helper_command
from trio_sched.reaper.helper.cgroups import remove_cgroup
from trio_sched.reaper.helper.terminal import take_terminal
from trio_sched.reaper.helper.tree import (
    Work,
    children_of,
    kill_work,
    lives,
    members,
    signal_all,
    start_of,
)
from trio_sched.reaper.owner import Reaper, monotonic_at

__all__ = ["NO_CGROUP", "Child", "KeeperLost", "keeper_command", "open_gate"]

NO_CGROUP = "TRIO_SCHED_NO_CGROUP"  # a variable in our environment: the command gets none

_EXEC_PATIENCE = 10.0  # seconds for a program to be loaded, perhaps over a network
_ROUND = 0.02  # seconds between two rounds of killing
_CHECK = 0.01  # seconds between two checks of the time that is left
_MAX_LINE = 4096  # bytes

_logger = logging.getLogger("trio_sched")


class KeeperLost(Exception):
    """The keeper ended before the command ran: it was killed."""


def open_gate() -> tuple[socket.socket, socket.socket]:
    """Return our end of the gate, and the keeper's, which is above 0, 1 and 2 if these are free."""
    ours, theirs = socket.socketpair()
    if theirs.fileno() <= 2:
        with theirs:
            theirs = socket.socket(fileno=fcntl(theirs, F_DUPFD_CLOEXEC, 3))
    ours.setblocking(False)  # noqa: FBT003 # takes no keyword
    return ours, theirs


def keeper_command(
    gate: socket.socket, command: Sequence[str], env: Mapping[str, str], *, adopts: bool = False
) -> list[str]:
    """Return what starts a command by a keeper; its process has to be our child.

    Args:
        gate: the keeper's end of it, which has to be passed to it.
        command: the program and its arguments.
        env: the environment that the keeper will have.
        adopts: whether we adopt orphans.
    """
    options = "a" * adopts + "c" * (NO_CGROUP not in os.environ) + "l" * ("LC_CTYPE" not in env)
    return helper_command("keep", str(gate.fileno()), str(os.getpid()), f"-{options}", *command)


class Child:
    """A command that is about to run, or runs, with its tree.

    Args:
        gate: our end of it.
        keeper: id of the keeper's process.
        reaper: is to know of it; None if there is none.
        adopts: whether we adopt orphans.

    Attributes:
        pid: id of the command's process, and of its group, once `begin` has returned.
        code: how it ended: its exit code, -N if signal N ended it; None as long as that is not
            known. -9 if the keeper was killed, as the command dies with it.
    """

    def __init__(
        self, gate: socket.socket, keeper: int, reaper: Reaper | None, *, adopts: bool = False
    ) -> None:
        self._gate = gate
        self._reaper = reaper
        self._above = os.getpid() if adopts else 0
        self._work = Work(keeper, start_of(keeper), 0)
        self._lines: list[str] = []
        self._rest = b""
        self._refused: set[int] = set()
        self.pid: int = 0
        self.code: int | None = None

    # ---- beginning -----------------------------------------------------------------

    async def begin(self, deadline: float) -> int:
        """Let the command run, once the reaper knows it; return 0, or an error's number.

        Cancelled before it runs, it never does. After an error, and a cancellation, `end` is
        to be called all the same.

        Args:
            deadline: as for `until`.

        Raises:
            KeeperLost: it will never run.
        """
        with trio.move_on_after(_EXEC_PATIENCE, shield=True):
            line = await self._line()
            if line is None:
                raise KeeperLost
            _, start, group, cgroup = line.split(" ")
            above = (self._above, start_of(self._above) if self._above else 0)
            folder = bytes.fromhex(cgroup).decode()
            self._work = Work(self._work.keeper, int(start), int(group), *above, folder)
            self.pid = self._work.group
            if self._reaper is not None:
                self._reaper.work(self._work)
            self.until(deadline)
            self._send("go")
            line = await self._line()
            return int(line.split(" ")[1]) if line and line.startswith("failed") else 0
        return errno.ETIMEDOUT

    # ---- while it runs -------------------------------------------------------------

    async def wait(self, handle: Callable[[str, int], object] = lambda *_: None) -> int:
        """Wait until the command itself has ended; return its `code`.

        Cancellation leaves it as it is.

        Args:
            handle: called with ``"signal"`` and the number of one that its terminal has sent,
                and with ``"stopped"`` and the number of the one that stopped it there.
        """
        while self.code is None:
            line = await self._line()
            what, _, number = (line or "ended -9").partition(" ")
            if what == "ended":
                self.code = int(number)
            elif what in {"signal", "stopped"}:
                handle(what, int(number))
        return self.code

    def send(self, number: signal.Signals) -> None:
        """Send a signal to all of the tree, and SIGCONT, as a stopped process notices none."""
        found = self._members()
        self._note_refused(signal_all(found, number))
        signal_all(found, signal.SIGCONT)

    def resume(self) -> None:
        """Let it go on, in the foreground of its terminal if that is where we are."""
        self._send("resume")

    def until(self, deadline: float) -> None:
        """Have it ended at this moment by the keeper and the reaper, if not by us."""
        if self._reaper is not None:
            self._reaper.until(deadline, self._work)
        moment = monotonic_at(deadline)
        if moment is not None:
            self._send(f"until {moment:.3f}")

    def check(self) -> None:
        """Log what is there that we may not signal, once for each process."""
        self._note_refused(signal_all(self._members(), 0))

    async def follow(self, deadline: Callable[[], float]) -> None:
        """Send each new deadline, well before the last one that is known; and `check`.

        Until cancelled.

        Args:
            deadline: returns, at each call, the newest, as for `until`.
        """
        while True:
            self.until(deadline())
            self.check()
            await trio.sleep(max((deadline() - trio.current_time()) / 4, 0.1))

    # ---- ending --------------------------------------------------------------------

    async def end(
        self, number: signal.Signals, until: Callable[[], float], *, at_once: bool = False
    ) -> bool:
        """End what is left of the tree: by `number`, and by SIGKILL when that is too slow.

        Returns when nothing is left of it. To be called once, and shielded.

        Args:
            number: the signal to begin with.
            until: returns, at each call, how long to wait, by trio's clock. What it returns
                counts at once, a hundredth of a second later at most.
            at_once: begin with SIGKILL.

        Returns:
            Whether SIGKILL was needed.
        """
        killed = False
        if not at_once:
            self.send(number)
            signal_all({self._work.keeper: self._work.start}, signal.SIGCONT)
        while not await self._is_over():
            left = -1.0 if at_once else until() - trio.current_time()
            if left <= 0:
                killed = self._kill() or killed
            with trio.move_on_after(min(left, _CHECK) if left > 0 else _ROUND):
                await self._wait_for_keeper()
        self._settle()
        return killed

    async def _is_over(self) -> bool:
        """Whether nothing lives: what the keeper's end shows, unless it was killed."""
        if lives(self._work.keeper, self._work.start):
            return False
        return not await trio.to_thread.run_sync(self._members)

    async def _wait_for_keeper(self) -> None:
        if lives(self._work.keeper, self._work.start):
            await wait_ended(self._work.keeper)
        else:
            await trio.sleep_forever()

    def _kill(self) -> bool:
        """Kill all that is there; return whether there was something."""
        found, refused = kill_work(self._work, self._besides)
        self._note_refused(refused)
        return bool(found)

    def _members(self) -> dict[int, int]:
        return members(self._work, self._besides)

    @property
    def _besides(self) -> int:
        return (self._reaper.pid or 0) if self._reaper is not None else 0

    def _note_refused(self, pids: Sequence[int]) -> None:
        new = [pid for pid in pids if pid not in self._refused]
        self._refused.update(new)
        if new:
            _logger.warning(
                "we may not signal process %s of the command; it counts as running until it ends",
                ", ".join(map(str, new)),
            )

    def _settle(self) -> None:
        """Note what came of it, and forget it: nothing lives any more."""
        while self.code is None and (line := self._receive()):
            if line.startswith("ended "):
                self.code = int(line.split(" ")[1])
        if self.code is None:  # the keeper was killed
            self.code = -signal.SIGKILL
            if self.pid:
                take_terminal(self.pid, os.getpgrp())
        remove_cgroup(self._work.cgroup)
        if self._above:
            _reap_orphans({self._besides, self._work.keeper})
        if self._reaper is not None:
            self._reaper.over(self._work)
        self._gate.close()

    # ---- the gate ------------------------------------------------------------------

    def _send(self, line: str) -> None:
        with suppress(OSError):  # it is gone, or stopped
            self._gate.send(f"{line}\n".encode())

    async def _line(self) -> str | None:
        """Return the next line of the keeper; None if it is gone."""
        await trio.lowlevel.checkpoint()
        while True:
            line = self._receive()
            if line is None:
                await trio.lowlevel.wait_readable(self._gate)
            else:
                return line or None

    def _receive(self) -> str | None:
        """Return the next line; an empty one at the end, None if there is none yet."""
        while b"\n" not in self._rest:
            try:
                data = self._gate.recv(_MAX_LINE)
            except BlockingIOError:
                return None
            except OSError:
                data = b""
            if not data:
                return ""
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()


def _reap_orphans(others: set[int]) -> None:
    """Reap what we have adopted from a keeper that was killed."""
    for pid in children_of(os.getpid()):
        if pid not in others:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
