"""The terminal of a command: lent to it when it wants to read, and taken back.

A group that is in the background is stopped by the kernel when it reads from its terminal, or
changes it. So it is seen when a command needs the terminal, and one that never does leaves it
alone: the pager at the end of ``run … | less`` keeps it.
"""

from __future__ import annotations

import os

from trio_sched.reaper.helper.light import quiet, signals

__all__ = ["Terminal", "take_terminal"]


class Terminal:
    """The terminal that a command may use, for its keeper.

    Args:
        parent: the process that had the keeper started; it has the terminal by right.

    Attributes:
        handed_over: whether the command's group has it; then we are in that group.
    """

    def __init__(self, parent: int) -> None:
        self.handed_over: bool = False
        self._parent = parent
        self._owner = _group_of(parent)
        self._group = 0  # of the command, once it has wanted the terminal
        self._stopped = 0  # the signal that stopped it

    def stopped(self, number: int, child: int) -> bool:
        """Give a command that was stopped by `number` what it waits for; return whether it goes on.

        Stopped by Ctrl-Z, it waits, and the terminal is its owner's again.
        """
        self._group = _group_of(child)
        self._stopped = number
        if number == signals.SIGTSTP:
            self.give_back()
            return False
        return self._hand_over()

    @property
    def waiting(self) -> bool:
        """Whether the command waits for its owner to be in the foreground.

        Of which there is no event: a shell's ``fg`` does not signal what was not stopped.
        """
        return self._stopped not in {0, signals.SIGTSTP}

    def retry(self) -> None:
        """Hand it over by now, if we may."""
        self._hand_over()

    def resume(self, child: int) -> None:
        """Go on: with the terminal, if its owner has it again; else in the background."""
        if self._stopped and not self._hand_over():
            self._continue(_group_of(child))

    def give_back(self) -> None:
        """Give the terminal back to its owner, unless another has it by now."""
        if self.handed_over:
            self.handed_over = False
            take_terminal(self._group, self._owner)

    def _hand_over(self) -> bool:
        tty = _open_terminal()
        if tty < 0:
            return False
        try:
            if os.tcgetpgrp(tty) != self._owner or _is_stopping(self._parent):
                return False
            with quiet(OSError):  # we lead a session; then there is no Ctrl-C for us
                os.setpgid(0, self._group)
            _set_foreground(tty, self._group)
            if _is_stopping(self._parent):
                # A Ctrl-Z was before us: the terminal is the shell's by now, and a command that
                # waits in a read would still get what is typed.
                if os.tcgetpgrp(tty) == self._group:
                    _set_foreground(tty, os.getpgid(os.getsid(0)))
                return False
        except OSError:  # its group is gone, or in another session
            return False
        finally:
            os.close(tty)
        self.handed_over = True
        self._continue(self._group)
        return True

    def _continue(self, group: int) -> None:
        self._stopped = 0
        with quiet(OSError):
            os.killpg(group, signals.SIGCONT)


def _is_stopping(pid: int) -> bool:
    """Return whether a process is stopped, or is about to be by its terminal."""
    text = b""
    with quiet(OSError), open(f"/proc/{pid}/status", "rb") as file:  # noqa: PTH123 # pathlib is too heavy
        text = file.read()
    status = dict(line.split(b":", 1) for line in text.splitlines() if b":" in line)
    pending = int(status.get(b"ShdPnd", b"0"), 16) | int(status.get(b"SigPnd", b"0"), 16)
    return status.get(b"State", b"").strip()[:1] == b"T" or bool(pending & 1 << signals.SIGTSTP - 1)


def take_terminal(group: int, owner: int) -> None:
    """Put `owner` into the foreground, if `group` is there, or a group that is gone."""
    tty = _open_terminal()
    if tty < 0:
        return
    try:
        now = os.tcgetpgrp(tty)
        if now == group or not _exists(now):
            _set_foreground(tty, owner)
    except OSError:  # the terminal is gone, or the owner
        pass
    finally:
        os.close(tty)


def _set_foreground(tty: int, group: int) -> None:
    """Change the foreground group; from the background that would stop us, but for the mask."""
    before = signals.pthread_sigmask(signals.SIG_BLOCK, [signals.SIGTTOU])
    try:
        os.tcsetpgrp(tty, group)
    finally:
        signals.pthread_sigmask(signals.SIG_SETMASK, before)


def _open_terminal() -> int:
    try:
        return os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except OSError:
        return -1


def _group_of(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except OSError:
        return 0


def _exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
