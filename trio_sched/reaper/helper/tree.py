"""Which processes belong to a work: the command, and everything that it started.

Theory of operation
-------------------
A command is started by its *keeper* (``keep.py``), which the kernel makes the parent of all orphans
below it. So whatever groups and sessions they put themselves into, they are below the keeper as
long as it lives, and ``/proc`` shows what is below it.

A keeper that was killed leaves them behind. They are known then by

- the cgroup that the command was put into, where we may make one;
- their parent, if the process that had the keeper started adopts orphans itself;
- their process group, if it still is the command's; and
- a variable in their environment, which names the keeper.

A process whose main thread has ended is shown as a zombie, but its other threads go on: it lives.
A number may be given to another process once its own has been reaped. So a process is a number
*and* when it began, and is signalled through a descriptor that stands for it alone.
"""

from __future__ import annotations

import os

from trio_sched.reaper.helper.cgroups import cgroup_members, kill_cgroup
from trio_sched.reaper.helper.groups import has_ended, living_members, signal_group
from trio_sched.reaper.helper.light import quiet, signals

__all__ = [
    "COOKIE",
    "Work",
    "children_of",
    "cookie_of",
    "has_children_files",
    "is_over",
    "kill_work",
    "lives",
    "members",
    "signal_all",
    "start_of",
]

COOKIE = "TRIO_SCHED_WORK"  # a variable in the environment of a command, see `cookie_of`


class Work:
    """A command that runs, with all that it starts. Not to be changed.

    Attributes:
        keeper: id of the keeper's process.
        start: when that began, as ``start_of`` has it.
        group: id of the command's process, and of its group; 0 as long as it is not known.
        above: the process that adopts the keeper's orphans, if that is the keeper's
            parent; else 0.
        above_start: when that began.
        cgroup: folder of the command's cgroup; empty if it has none of its own.
    """

    __slots__ = ("above", "above_start", "cgroup", "group", "keeper", "start")

    def __init__(
        self,
        keeper: int,
        start: int,
        group: int,
        above: int = 0,
        above_start: int = 0,
        cgroup: str = "",
    ) -> None:
        self.keeper: int = keeper
        self.start: int = start
        self.group: int = group
        self.above: int = above
        self.above_start: int = above_start
        self.cgroup: str = cgroup

    @property
    def numbers(self) -> tuple[int, int, int, int, int]:
        """All but the cgroup, in order."""
        return self.keeper, self.start, self.group, self.above, self.above_start


class _Process:
    __slots__ = ("ended", "group", "parent", "start")

    def __init__(self, parent: int, group: int, start: int, *, ended: bool) -> None:
        self.parent = parent
        self.group = group
        self.start = start
        self.ended = ended


def cookie_of(keeper: int, start: int) -> str:
    """Return the value of `COOKIE` for what a keeper starts."""
    return f"{keeper}-{start}"


def start_of(pid: int) -> int:
    """Return when a process began, in ticks since boot; 0 if there is none, or no ``/proc``."""
    found = _read(str(pid))
    return 0 if found is None else found.start


def lives(pid: int, start: int) -> bool:
    """Return whether this very process has not ended."""
    found = _read(str(pid))
    return found is not None and found.start == start and not found.ended


def members(work: Work, besides: int = 0) -> dict[int, int]:
    """Return those of a work's processes that have not ended: their ids, and when each began.

    Args:
        work: the work; its keeper is none of them.
        besides: a process that is below `Work.above` and does not belong to the work.
    """
    if not _has_proc():
        return dict.fromkeys(living_members(work.group), 0)
    found = _below([work.keeper]) if lives(work.keeper, work.start) else _left_behind(work, besides)
    found += cgroup_members(work.cgroup)
    processes = {pid: _read(str(pid)) for pid in {*found} - {work.keeper, os.getpid(), besides}}
    return {
        pid: process.start
        for pid, process in sorted(processes.items())
        if process is not None and not process.ended
    }


def is_over(work: Work, besides: int = 0) -> bool:
    """Return whether nothing of a work lives any more.

    A keeper ends when it has no descendants: that is for the kernel to say, and certain.
    """
    return not lives(work.keeper, work.start) and not members(work, besides)


def signal_all(found: dict[int, int], number: int) -> list[int]:
    """Send a signal to each of these; return those that we may not signal."""
    return [pid for pid, start in found.items() if not _send(pid, start, number)]


def kill_work(work: Work, besides: int = 0) -> tuple[dict[int, int], list[int]]:
    """Kill what lives of a work; return what that was, and those that we may not signal.

    To be repeated until `is_over`: it may have forked meanwhile.
    """
    found = members(work, besides)
    kill_cgroup(work.cgroup)
    refused = signal_all(found, signals.SIGKILL)
    if not _has_proc():
        signal_group(work.group, signals.SIGKILL)
    if lives(work.keeper, work.start):  # it has to reap, and may have been stopped
        signal_all({work.keeper: work.start}, signals.SIGCONT)
    return found, refused


def has_children_files() -> bool:
    """Return whether `children_of` works here, which a kernel may have been built without."""
    return os.path.exists(f"/proc/self/task/{os.getpid()}/children")  # noqa: PTH110 # pathlib is too heavy


def children_of(pid: int) -> list[int]:
    """Return the ids of a process's children, zombies included.

    One may be missing if others end meanwhile.
    """
    found: list[int] = []
    with quiet(OSError):  # it has just ended
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 # the same
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:  # noqa: PTH123 # the same
                found += map(int, file.read().split())
    return found


def _send(pid: int, start: int, number: int) -> bool:
    """Send a signal to this very process, if it is there; return False if we may not."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    except (AttributeError, OSError):  # before Linux 5.3, or where the call is forbidden
        return _send_by_number(pid, start, number)
    try:
        if start_of(pid) == start:
            signals.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        pass
    except PermissionError:
        return False
    finally:
        os.close(descriptor)
    return True


def _send_by_number(pid: int, start: int, number: int) -> bool:
    try:
        if start_of(pid) == start:
            os.kill(pid, number)
    except ProcessLookupError:
        pass
    except PermissionError:
        return False
    return True


def _left_behind(work: Work, besides: int) -> list[int]:
    """Return what descends from a keeper that is gone, as far as that can be known."""
    table = _table()
    roots = [pid for pid, process in table.items() if _is_left(pid, process, work)]
    if work.above and lives(work.above, work.above_start):
        adopted = {pid for pid, process in table.items() if process.parent == work.above}
        adopted -= {work.keeper, besides, os.getpid()}
        roots += [pid for pid in adopted if table[pid].start >= work.start]
    return roots + _below(roots, table)


def _is_left(pid: int, process: _Process, work: Work) -> bool:
    if process.start < work.start or process.ended:
        return False
    return process.group == work.group != 0 or _has_cookie(pid, work)


def _has_cookie(pid: int, work: Work) -> bool:
    wanted = f"{COOKIE}={cookie_of(work.keeper, work.start)}".encode()
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123 # pathlib is too heavy
            return wanted in file.read().split(b"\0")
    except OSError:  # another user's, or it has just ended
        return False


def _below(roots: list[int], table: dict[int, _Process] | None = None) -> list[int]:
    """Return all that descend from these; by a table of all processes if that is quicker."""
    if table is None and not has_children_files():
        table = _table()
    known = None if table is None else _by_parent(table)
    found: set[int] = set()
    todo = list(roots)
    while todo:
        pid = todo.pop()
        children = children_of(pid) if known is None else known.get(pid, [])
        new = [child for child in children if child not in found]
        found.update(new)
        todo += new
    return list(found)


def _by_parent(table: dict[int, _Process]) -> dict[int, list[int]]:
    children: dict[int, list[int]] = {}
    for pid, process in table.items():
        children.setdefault(process.parent, []).append(pid)
    return children


def _has_proc() -> bool:
    return os.path.exists("/proc/self")  # noqa: PTH110 # the same


def _table() -> dict[int, _Process]:
    """Read of all processes what matters here."""
    names = os.listdir("/proc")  # noqa: PTH208 # the same
    found = {int(name): _read(name) for name in names if name.isdigit()}
    return {pid: process for pid, process in found.items() if process is not None}


def _read(pid: str) -> _Process | None:
    text = b""
    with quiet(OSError), open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 # the same
        text = file.read()
    if not text:
        return None  # it has just ended
    # The second field is the program's name in brackets, and may hold anything.
    fields = text[text.rindex(b")") + 2 :].split()
    return _Process(
        int(fields[1]), int(fields[2]), int(fields[19]), ended=has_ended(pid, fields[0])
    )
