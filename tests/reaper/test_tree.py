"""Which processes belong to a work, and the means by which they are ended."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.reaper.process_tools import exists, proc_bytes
from tests.reaper.tree_tools import has_cgroups, kept
from trio_sched.reaper.helper import cgroups, tree
from trio_sched.reaper.helper.tree import COOKIE, Work, cookie_of, is_over, kill_work, members

SLEEP = ["sleep", "300"]


@pytest.fixture
def family() -> Iterator[Work]:
    """A process with two descendants that are in a session of their own, as if it were a keeper."""
    words = "setsid sh -c 'sleep 300 & echo ready; wait' & wait"
    with subprocess.Popen(["sh", "-c", words], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        work = Work(process.pid, tree.start_of(process.pid), 0)
        try:
            yield work
        finally:
            kill_work(work)
            process.kill()


@pytest.mark.parametrize("children", [True, False])
def test_what_is_below_a_keeper(
    family: Work, monkeypatch: pytest.MonkeyPatch, *, children: bool
) -> None:
    """By the kernel's own lists, and where there are none."""
    assert tree.has_children_files()
    monkeypatch.setattr(tree, "has_children_files", lambda: children)
    found = members(family)
    assert len(found) == 2
    assert all(start >= family.start for start in found.values())
    assert family.keeper not in found
    assert not is_over(family)


@pytest.mark.parametrize("pidfds", [True, False])
def test_a_number_that_is_anothers_by_now_is_not_signalled(
    family: Work, monkeypatch: pytest.MonkeyPatch, *, pidfds: bool
) -> None:
    if not pidfds:
        monkeypatch.delattr(os, "pidfd_open")
    found = members(family)
    tree.signal_all({pid: start - 1 for pid, start in found.items()}, signal.SIGKILL)
    assert members(family) == found
    assert not tree.signal_all({**found, 2**22 - 1: 1}, signal.SIGKILL)
    kept(family, 0)


def test_without_proc_there_is_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(SLEEP, process_group=0) as process:
        work = Work(2**22 - 1, 0, process.pid)
        monkeypatch.setattr(tree, "_has_proc", lambda: False)
        assert list(members(work)) == [process.pid]
        kill_work(work)
    assert is_over(work)


# ---- a keeper that is gone ------------------------------------------------------------------


@pytest.fixture
def gone() -> Iterator[tuple[int, int]]:
    """The number and the beginning of a process that has ended."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        yield process.pid, tree.start_of(process.pid)


def ended(keeper: tuple[int, int]) -> tuple[int, int]:
    os.kill(keeper[0], signal.SIGKILL)
    os.waitpid(keeper[0], 0)
    return keeper


def test_by_the_cookie(gone: tuple[int, int]) -> None:
    env = os.environ | {COOKIE: cookie_of(*gone)}
    with subprocess.Popen(SLEEP, env=env, start_new_session=True) as process:
        work = Work(*ended(gone), 0)
        while COOKIE.encode() not in proc_bytes(process.pid, "environ"):
            pass  # it is about to become another program
        assert process.pid in members(work)
        assert not members(Work(work.keeper, work.start + 1, 0)), "another keeper of this number"
        kill_work(work)
    assert is_over(work)


def test_by_the_group(gone: tuple[int, int]) -> None:
    with subprocess.Popen(SLEEP, process_group=0) as process:
        work = Work(*ended(gone), process.pid)
        assert list(members(work)) == [process.pid]
        later = Work(work.keeper, tree.start_of(process.pid) + 1, process.pid)
        assert not members(later), "it was there before: the number is another group's"
        kill_work(work)
    assert is_over(work)


def test_by_who_adopted_it(gone: tuple[int, int]) -> None:
    """Its parent: but not what that had started before."""
    words = "sleep 300 & env -i sleep 300 & echo ready; wait"
    with subprocess.Popen(["sh", "-c", words], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        above = (parent.pid, tree.start_of(parent.pid))
        work = Work(*ended(gone), 0, *above)
        found = members(work)
        assert len(found) == 2
        (other, _) = found
        assert len(members(work, besides=other)) == 1
        assert not members(Work(work.keeper, max(found.values()) + 1, 0, *above))
        assert not members(Work(*gone, 0, parent.pid, above[1] + 1)), "another one by now"
        kill_work(work)
        parent.wait()
    assert is_over(work)


# ---- cgroups --------------------------------------------------------------------------------


@pytest.mark.skipif(not has_cgroups(), reason="no cgroup may be made here")
def test_by_the_cgroup(gone: tuple[int, int]) -> None:
    folder = cgroups.make_cgroup(f"trio-sched-test-{os.getpid()}-b")
    with subprocess.Popen(["env", "-i", "setsid", "-w", *SLEEP]) as process:
        assert cgroups.enter_cgroup(folder, process.pid)
        work = Work(*ended(gone), 0, cgroup=folder)
        kept(work, 1)
        assert process.pid in members(work)
        kill_work(work)
    kept(work, 0)
    cgroups.remove_cgroup(folder)
    assert not Path(folder).exists()
    assert not cgroups.enter_cgroup(folder, os.getpid())
    assert not cgroups.cgroup_members(folder)
    cgroups.kill_cgroup(folder)


@pytest.mark.parametrize(
    "texts",
    [
        {"/proc/self/mountinfo": ""},
        {"/proc/self/mountinfo": "nonsense"},
        {"/proc/self/cgroup": "4:memory:/a"},
        {"/proc/self/cgroup": "0::/../a"},
        {"/proc/self/cgroup": "0::/not/there"},
    ],
)
def test_where_there_is_no_cgroup(monkeypatch: pytest.MonkeyPatch, texts: dict[str, str]) -> None:
    found = {
        "/proc/self/mountinfo": "31 23 0:28 / /proc rw - cgroup2 cgroup2 rw",
        "/proc/self/cgroup": "0::/",
    }
    monkeypatch.setattr(cgroups, "_read", (found | texts).__getitem__)
    assert not cgroups.make_cgroup("trio-sched-test")


def test_where_none_may_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "_our_cgroup", lambda: "/proc")
    assert not cgroups.make_cgroup("trio-sched-test")
    assert not exists(2**22 - 1)


def test_where_a_cgroup_cannot_be_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As before Linux 5.14."""
    monkeypatch.setattr(cgroups, "_our_cgroup", lambda: str(tmp_path))
    assert not cgroups.make_cgroup("a")
    assert not list(tmp_path.iterdir())
