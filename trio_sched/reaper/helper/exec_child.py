"""Become the child, once the word is given.

``exec_child GATE PARENT COMMAND…``, in a process group of its own. It arranges to die with its
parent, waits at the gate until the reaper knows its group, and becomes the command. If the parent
dies before the word is given, the gate closes, and the command is never started.

The gate is one end of a socket pair. The word is one byte; the answer is the end of the file when
the command runs, or the number of the error that kept it from it.
"""

from __future__ import annotations

import os
import sys

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1
_SIGKILL = 9
_SIGPIPE, _SIGXFSZ = 13, 25  # ignored by Python, and that would be inherited


def main() -> None:
    """Do it. Returns never."""
    _, gate, parent, *command = sys.argv
    _die_with_parent()
    # The parent may have died before the line above; then we are another's child by now.
    if os.getppid() != int(parent) or os.read(int(gate), 1) != b"!":
        os._exit(0)
    _restore_signals()
    os.set_inheritable(int(gate), False)  # noqa: FBT003 # takes no keyword
    try:
        os.execvp(command[0], command)  # noqa: S606 # what it is for
    except OSError as error:
        os.write(int(gate), b"%d" % (error.errno or 0))
    os._exit(126)


def _die_with_parent() -> None:
    """Have the kernel kill us when the thread that started us ends; kept over an exec."""
    try:
        import ctypes  # noqa: PLC0415 # not every Python has it

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        pass  # not available here; the reaper watches, too


def _restore_signals() -> None:
    import signal  # noqa: PLC0415 # slow; the parent death signal is set before

    for number in (_SIGPIPE, _SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
