"""Trees of processes, as tests see them."""

from __future__ import annotations

import os
import time
from pathlib import Path

from trio_sched.reaper.helper.cgroups import make_cgroup, remove_cgroup
from trio_sched.reaper.helper.tree import Work, members, start_of

__all__ = ["has_cgroups", "kept", "marked", "work_of"]


def work_of(keeper: int, group: int) -> Work:
    """The work of a keeper that lives."""
    return Work(keeper, start_of(keeper), group)


def kept(work: Work, number: int) -> None:
    """Wait until so many processes of a work live; there is no event for that."""
    while len(members(work)) != number:
        time.sleep(0.01)


def marked(mark: str) -> list[int]:
    """All processes that live and have `mark` among the words of their command lines.

    However they are related: this shares no code with what ends them.
    """
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            words = folder.joinpath("cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if mark.encode() in words:  # a zombie has none
            found.append(int(folder.name))
    return found


def has_cgroups() -> bool:
    """Whether we may make a cgroup here."""
    folder = make_cgroup(f"trio-sched-test-{os.getpid()}")
    remove_cgroup(folder)
    return bool(folder)
