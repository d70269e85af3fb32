"""Waiting for a process to end, without reaping it.

Until it is reaped its number belongs to no other process, nor does that of its group. So code
that signals a process or a group by number waits in this way first, and reaps last.
"""

from __future__ import annotations

import os
import time

import trio

__all__ = ["wait_ended"]

_POLL_INTERVAL = 0.02  # seconds between two checks where the end of a process cannot be waited for


async def wait_ended(pid: int) -> None:
    """Wait until a process has ended, reaped or not; return at once if it is not there.

    Cancellation leaves it as it is.
    """
    await trio.lowlevel.checkpoint()
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except (AttributeError, OSError):  # before Linux 5.3, or where the call is forbidden
        await trio.to_thread.run_sync(_wait_in_thread, pid, abandon_on_cancel=True)
        return
    try:
        await trio.lowlevel.wait_readable(descriptor)
    finally:
        trio.lowlevel.notify_closing(descriptor)
        os.close(descriptor)


def _wait_in_thread(pid: int) -> None:
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    except ChildProcessError:  # not a child of ours, of whose end there is no other sign
        while _there(pid):
            time.sleep(_POLL_INTERVAL)


def _there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
