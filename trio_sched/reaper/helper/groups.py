"""Process groups: which processes are in one, and how to end all of it.

Signal 0 finds a group, but finds zombies, too: where no parent reaps orphans, as in many
containers, they stay for ever. So ``/proc`` is read where there is one.
"""

from __future__ import annotations

import os
import select
import time

__all__ = ["has_ended", "kill_group", "living_members", "signal_group", "wait_for_one"]

_SIGKILL = 9
_POLL_INTERVAL = 0.02  # seconds between two checks where the end of a process cannot be waited for


def signal_group(pgid: int, number: int) -> bool:
    """Send a signal to all of a group; return whether it has a process, zombies included."""
    try:
        os.killpg(pgid, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # not ours to signal, but there
    return True


def living_members(pgid: int) -> list[int]:
    """Return the ids of a group's processes that have not ended."""
    try:
        names = os.listdir("/proc")  # noqa: PTH208 # pathlib is too heavy for a helper
    except OSError:
        names = []
    if "self" not in names:
        return [pgid] if signal_group(pgid, 0) else []
    return [int(name) for name in names if name.isdigit() and _lives_in(name, pgid)]


def _lives_in(pid: str, pgid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 # the same
            text = file.read()
    except OSError:
        return False  # it has just ended
    # The second field is the program's name in brackets, and may hold anything.
    state, _parent, group = text[text.rindex(b")") + 2 :].split(None, 3)[:3]
    return int(group) == pgid and not has_ended(pid, state)


def has_ended(pid: str, state: bytes) -> bool:
    """Return whether a process has ended, by the state of its main thread.

    If only that thread has ended, the process lives: the kernel shows it as a zombie with threads.
    """
    if state not in b"ZX":
        return False
    try:
        threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 # the same
    except OSError:
        return True
    return all(thread == pid or _thread_has_ended(pid, thread) for thread in threads)


def _thread_has_ended(pid: str, thread: str) -> bool:
    try:
        with open(f"/proc/{pid}/task/{thread}/stat", "rb") as file:  # noqa: PTH123 # the same
            text = file.read()
    except OSError:
        return True
    return text[text.rindex(b")") + 2 :].split(None, 1)[0] in b"ZX"


def kill_group(pgid: int, seconds: float) -> bool:
    """Kill a group and wait until it is gone; return whether it is, within these seconds."""
    end = time.monotonic() + seconds
    while True:
        signal_group(pgid, _SIGKILL)
        members = living_members(pgid)
        if not members:
            return True
        left = end - time.monotonic()
        if left <= 0:
            return False
        wait_for_one(members[0], min(left, 0.5))


def wait_for_one(pid: int, seconds: float) -> None:
    """Wait until a process has ended, or for these seconds."""
    try:
        descriptor = os.pidfd_open(pid)
    except (AttributeError, OSError):  # an old kernel, or it has just ended
        time.sleep(_POLL_INTERVAL)
        return
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.poll(seconds * 1000)
    finally:
        os.close(descriptor)
