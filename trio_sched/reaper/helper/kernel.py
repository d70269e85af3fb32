"""What only Linux offers a process that looks after others: ``prctl``, by way of `ctypes`.

Each function returns whether it worked. Where it did not, the rest does without it.
"""

from __future__ import annotations

__all__ = ["adopt_orphans", "signal_with_parent"]

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> bool:
    """Become the parent of all orphans among our descendants, as init would (a *subreaper*)."""
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def signal_with_parent(number: int) -> bool:
    """Have the kernel send us a signal when the thread that started us ends.

    Kept over an exec, but for one of a program that changes its user.
    """
    return _prctl(_PR_SET_PDEATHSIG, number)


def _prctl(option: int, value: int) -> bool:
    try:
        import ctypes  # noqa: PLC0415 # slow, and not every Python has it

        done: int = ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        return False
    return done == 0
