"""A cgroup (version 2) for a command: no process leaves it by a session, a fork or as an orphan.

Where we may make one below our own, that is. In a container it is mostly read-only, and a user
has one of their own only by systemd; then there is none, and the rest does without it.
"""

from __future__ import annotations

import os
import time

from trio_sched.reaper.helper.light import quiet

__all__ = ["cgroup_members", "enter_cgroup", "kill_cgroup", "make_cgroup", "remove_cgroup"]

_ATTEMPTS = 20  # a cgroup stays busy for a moment after its last process has ended
_PAUSE = 0.005  # seconds


def make_cgroup(name: str) -> str:
    """Make a cgroup below our own; return its folder, or an empty text if we may not."""
    ours = _our_cgroup()
    if not ours:
        return ""
    folder = f"{ours}/{name}"
    try:
        os.mkdir(folder)  # noqa: PTH102 # pathlib is too heavy for a helper
    except OSError:
        return ""
    if os.access(f"{folder}/cgroup.kill", os.W_OK):
        return folder
    remove_cgroup(folder)  # before Linux 5.14
    return ""


def enter_cgroup(folder: str, pid: int) -> bool:
    """Put a process into a cgroup; return whether it is in it."""
    return _write(f"{folder}/cgroup.procs", b"%d" % pid)


def kill_cgroup(folder: str) -> None:
    """Kill all that are in a cgroup, at one blow, and of whatever user they are."""
    if folder:
        _write(f"{folder}/cgroup.kill", b"1")


def cgroup_members(folder: str) -> list[int]:
    """Return the ids of all processes in a cgroup, and in those below it."""
    found: list[int] = []
    for inner, _folders, _files in os.walk(folder) if folder else ():
        with quiet(OSError, ValueError), open(f"{inner}/cgroup.procs", "rb") as file:  # noqa: PTH123 # the same
            found += [int(word) for word in file.read().split()]
    return found


def remove_cgroup(folder: str) -> None:
    """Remove a cgroup that nothing is in any more, and those below it."""
    if not folder:
        return
    for inner, _folders, _files in list(os.walk(folder, topdown=False)):
        for _ in range(_ATTEMPTS):
            try:
                os.rmdir(inner)  # noqa: PTH106 # the same
            except FileNotFoundError:
                pass
            except OSError:
                time.sleep(_PAUSE)
                continue
            break


def _our_cgroup() -> str:
    """Return the folder of our own cgroup; empty if there is none of version 2."""
    with quiet(OSError, UnicodeDecodeError, ValueError):
        mounts = [line.split(" ") for line in _read("/proc/self/mountinfo").splitlines()]
        # ID PARENT DEVICE ROOT MOUNTPOINT OPTIONS… - TYPE SOURCE OPTIONS
        found = [words for words in mounts if words[words.index("-") + 1] == "cgroup2"]
        own = [line[3:] for line in _read("/proc/self/cgroup").splitlines() if line[:3] == "0::"]
        if not found or not own or ".." in own[0]:
            return ""
        root, mount = found[0][3].rstrip("/"), found[0][4]
        if own[0].startswith(root) and os.path.isdir(mount + own[0][len(root) :]):  # noqa: PTH112 # the same
            return (mount + own[0][len(root) :]).rstrip("/")
    return ""


def _read(name: str) -> str:
    with open(name, encoding="utf-8") as file:  # noqa: PTH123 # the same
        return file.read()


def _write(name: str, data: bytes) -> bool:
    try:
        descriptor = os.open(name, os.O_WRONLY)
    except OSError:
        return False
    try:
        return os.write(descriptor, data) == len(data)
    except OSError:
        return False
    finally:
        os.close(descriptor)
