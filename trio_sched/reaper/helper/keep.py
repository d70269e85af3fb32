"""The keeper of a command: starts it, adopts its orphans, and ends when nothing of it is left.

``keep GATE PARENT OPTIONS COMMAND…``. `OPTIONS` are letters: ``a`` if the parent adopts orphans,
too; ``c`` to have a cgroup if we may; ``l`` if there was no LC_CTYPE, which Python sets.

Theory of operation
-------------------
The gate is one end of a socket pair; the parent, which wants the command to run, has the other one.
It sends, a line each:

    go                  the reaper knows the command: it may run
    until SECONDS       by CLOCK_MONOTONIC, when all must have ended
    resume              we may go on in the terminal

and reads, in this order for the first ones:

    work START GROUP CGROUP     when we began, the command's process, and its cgroup in hex
    running | failed ERRNO      the command was started, or why not
    stopped NUMBER      by its terminal, which the command cannot use in the background
    signal NUMBER       what the terminal has sent, as for a Ctrl-C
    ended CODE          the command's own end, -NUMBER if a signal ended it; others may go on
    (end)               nothing is left

*Ending.* When the parent is gone, in any way, or the moment passes, we kill all that is below us,
again and again until the kernel says that we have no child. If *we* are killed, the kernel kills
the command; the rest is for the parent and the reaper, see ``tree.py``. If we are stopped, the
kernel wakes us when the parent goes.

*The terminal.* The command is in a group of its own, and in the background at first. When it wants
to read, the kernel stops it. Then, if our parent's group is in the foreground, it gets the
terminal, and we go into its group to hear what the terminal sends it: so one Ctrl-C ends
everything. A Ctrl-Z gives the terminal back.
"""

from __future__ import annotations

import os
import select
import sys
import time

from trio_sched.reaper.helper.cgroups import enter_cgroup, make_cgroup, remove_cgroup
from trio_sched.reaper.helper.kernel import adopt_orphans, signal_with_parent
from trio_sched.reaper.helper.light import quiet, signals
from trio_sched.reaper.helper.terminal import Terminal
from trio_sched.reaper.helper.tree import (
    COOKIE,
    Work,
    children_of,
    cookie_of,
    has_children_files,
    kill_work,
    start_of,
)

__all__ = ["main"]

_PAUSE = (10, 200)  # milliseconds between two rounds of killing: at first, and at most
_FOREGROUND = 200  # milliseconds between two checks whether we are in the foreground by now
_LONG = 60_000  # milliseconds between two checks of the clock
_OURS = (signals.SIGINT, signals.SIGQUIT, signals.SIGHUP)  # from the terminal, to be passed on
_BY_TERMINAL = (signals.SIGTSTP, signals.SIGTTIN, signals.SIGTTOU)
_HANDLED = (
    *(*_OURS, *_BY_TERMINAL, signals.SIGTERM, signals.SIGUSR1, signals.SIGUSR2, signals.SIGALRM),
    *(signals.SIGVTALRM, signals.SIGPROF, signals.SIGIO, signals.SIGPWR, signals.SIGXCPU),
)
_IGNORED_BY_PYTHON = (signals.SIGPIPE, signals.SIGXFSZ)


def main() -> None:
    """Do it. Returns never."""
    _, gate, parent, options, *command = sys.argv
    _fill_standard_files()
    _Keeper(int(gate), int(parent), options).keep(command)
    os._exit(0)


def _fill_standard_files() -> None:
    """Have something open as 0, 1 and 2; for the command, what we open is closed by its exec.

    What is closed there would else be taken by files of ours, which are lost when we let go of
    those of the command.
    """
    while (null := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(null)


class _Keeper:
    def __init__(self, gate: int, parent: int, options: str) -> None:
        self._gate = gate
        self._parent = parent
        self._options = options
        self._child = 0
        self._word = -1  # a pipe that lets the child go
        self._failure = -1  # a pipe that says why it could not be run
        self._rest = b""
        self._until: float | None = None
        self._killing = False
        self._started = False
        self._ended = False  # the command itself
        self._terminal = Terminal(parent)
        os.set_inheritable(gate, False)  # noqa: FBT003 # takes no keyword
        os.set_blocking(gate, False)

    def keep(self, command: list[str]) -> None:
        """Start the command, and stay until nothing of it is left."""
        self._wakeup = self._take_signals()
        adopt_orphans()
        signal_with_parent(signals.SIGCONT)
        parent = _watch_process(self._parent)
        if os.getppid() != self._parent:
            return  # it died before we could ask; then we are another's child by now
        self._begin(command)
        poll = select.poll()
        for descriptor in (self._gate, self._wakeup, self._failure, parent):
            if descriptor >= 0:
                poll.register(descriptor, select.POLLIN)
        pause = _PAUSE[0]
        while not self._reap():
            if self._overdue():
                self._killing = True
            if self._killing:
                kill_work(self._work)
            if self._terminal.waiting:
                self._terminal.retry()
            for descriptor, _ in poll.poll(pause if self._killing else self._milliseconds()):
                if descriptor == parent or not self._handle(descriptor):
                    poll.unregister(descriptor)
                    self._killing = self._killing or descriptor in (parent, self._gate)
            pause = min(pause * 2, _PAUSE[1])
        self._terminal.give_back()
        remove_cgroup(self._work.cgroup)

    def _take_signals(self) -> int:
        """Take all that would end or stop us; return where the arrival of one can be read.

        By a handler: an exec makes that the default again, and what was ignored stays so.
        """
        ours, theirs = os.pipe()
        for descriptor in (ours, theirs):
            os.set_blocking(descriptor, False)
        signals.set_wakeup_fd(theirs, warn_on_full_buffer=False)
        for number in _HANDLED:
            if signals.getsignal(number) != signals.SIG_IGN:
                signals.signal(number, lambda *_: None)
        signals.signal(
            signals.SIGCHLD, lambda *_: None
        )  # if it is ignored, there is nothing to wait for
        return ours

    # ---- beginning -----------------------------------------------------------------

    def _begin(self, command: list[str]) -> None:
        keeper, start = os.getpid(), start_of(os.getpid())
        folder = (
            make_cgroup(f"trio-sched-{cookie_of(keeper, start)}") if "c" in self._options else ""
        )
        word, self._word = os.pipe()
        self._failure, failure = os.pipe()
        self._child = os.fork()
        if not self._child:
            os.close(self._word)  # or we would keep it open for ourselves
            _become(command, keeper, start, word, failure, self._options)
        os.close(word)
        os.close(failure)
        with quiet(OSError):  # it does the same
            os.setpgid(self._child, self._child)
        if folder and not enter_cgroup(folder, self._child):
            remove_cgroup(folder)
            folder = ""
        above = self._parent if "a" in self._options else 0
        self._work = Work(
            keeper, start, self._child, above, start_of(above) if above else 0, folder
        )
        _let_go_of_files()
        self._say(f"work {start} {self._child} {folder.encode().hex()}")

    # ---- what comes in -------------------------------------------------------------

    def _handle(self, descriptor: int) -> bool:
        """Read what a descriptor has; return False at its end."""
        try:
            data = os.read(descriptor, 4096)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if descriptor == self._wakeup:
            self._handle_signals(data)
        elif descriptor == self._failure:
            self._note_start(data)
            return False
        elif data:
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                self._handle_line(line)
        return bool(data)

    def _handle_line(self, line: bytes) -> None:
        what, *words = line.decode().split(" ")
        if what == "go":
            with quiet(OSError):  # it was killed
                os.write(self._word, b"!")
        elif what == "until":
            self._until = float(words[0])
        elif what == "resume":
            self._terminal.resume(self._child)

    def _handle_signals(self, numbers: bytes) -> None:
        for number in numbers:
            if number in _OURS and self._terminal.handed_over:
                self._say(f"signal {number}")

    def _overdue(self) -> bool:
        return self._until is not None and self._until <= time.monotonic()

    def _milliseconds(self) -> float:
        """Return how long to wait for whatever comes next."""
        longest = _FOREGROUND if self._terminal.waiting else _LONG
        if self._until is None:
            return longest
        return min(max(0.0, (self._until - time.monotonic()) * 1000), longest)

    # ---- what ends -----------------------------------------------------------------

    def _reap(self) -> bool:
        """Reap what has ended; return whether nothing is left.

        The command is reaped last, so that its number is no other group's until then.
        """
        if has_children_files():
            self._check_child()
            while others := [pid for pid in children_of(os.getpid()) if pid != self._child]:
                if not any(map(_has_been_reaped, others)):
                    return False
            if not self._ended:
                return False
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return False
                if pid == self._child:
                    self._note_end(os.waitstatus_to_exitcode(status))
        except ChildProcessError:
            return True

    def _check_child(self) -> None:
        """Look at what became of the command, and do not reap it."""
        if self._ended:
            return
        events = os.WEXITED | os.WSTOPPED | os.WNOHANG
        found = os.waitid(os.P_PID, self._child, events | os.WNOWAIT)
        if found is None:
            return
        if found.si_code == os.CLD_STOPPED:
            os.waitid(os.P_PID, self._child, os.WSTOPPED | os.WNOHANG)  # it is reported once
            self._stopped(found.si_status)
        else:
            self._note_end(found.si_status if found.si_code == os.CLD_EXITED else -found.si_status)

    def _note_start(self, failure: bytes) -> None:
        if not self._started:
            self._started = True
            self._say(f"failed {failure.decode()}" if failure else "running")

    def _note_end(self, code: int) -> None:
        if not self._ended:
            self._ended = True
            self._note_start(os.read(self._failure, 16))
            self._handle(self._wakeup)  # a Ctrl-C that ended it came before its end
            self._say(f"ended {code}")

    def _stopped(self, number: int) -> None:
        if number in _BY_TERMINAL and not self._terminal.stopped(number, self._child):
            self._say(f"stopped {number}")

    def _say(self, line: str) -> None:
        with quiet(OSError):  # it is gone, or does not read
            os.write(self._gate, f"{line}\n".encode())


def _become(
    command: list[str], keeper: int, start: int, word: int, failure: int, options: str
) -> None:
    """Become the command, once the word is given. Returns never."""
    signals.set_wakeup_fd(-1)
    os.setpgid(0, 0)
    signal_with_parent(signals.SIGKILL)
    # The keeper may have died before the line above.
    if os.getppid() != keeper or os.read(word, 1) != b"!":
        os._exit(0)
    for number in (*_IGNORED_BY_PYTHON, signals.SIGCHLD):
        signals.signal(number, signals.SIG_DFL)
    if "l" in options:
        os.environ.pop("LC_CTYPE", None)
    os.environ[COOKIE] = cookie_of(keeper, start)
    try:
        os.execvp(command[0], command)  # noqa: S606 # what it is for
    except OSError as error:
        os.write(failure, b"%d" % (error.errno or 0))
    os._exit(126)


def _has_been_reaped(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def _let_go_of_files() -> None:
    """Hold no file of the command's, nor its folder: who reads them would wait for our end, too."""
    for name in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd") else ():  # noqa: PTH110, PTH208 # pathlib is too heavy
        with quiet(OSError):  # what listed them is closed by now
            if int(name) > 2 and os.get_inheritable(int(name)):
                os.close(int(name))
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)
    os.close(null)
    os.chdir("/")


def _watch_process(pid: int) -> int:
    """Return what can be read when a process has ended; -1 if there is no such thing here."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return -1
