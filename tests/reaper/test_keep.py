"""The keeper: what it waits for, what it ends, and what it says."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.reaper.tree_tools import kept, work_of
from trio_sched.reaper.helper import helper_command
from trio_sched.reaper.helper.tree import members, start_of

ECHO = ["echo", "it runs"]
SLEEP = ["sleep", "300"]


class Keeper:
    """A keeper, and the end of its gate that is ours."""

    def __init__(self, process: subprocess.Popen[bytes], gate: socket.socket) -> None:
        self.process = process
        self.gate = gate
        self._rest = b""

    def line(self) -> str:
        """The next line; an empty one at the end."""
        while b"\n" not in self._rest:
            data = self.gate.recv(4096)
            if not data:
                return ""
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()

    def begun(self) -> int:
        """Let the command run; return its id."""
        what, start, group, cgroup = self.line().split(" ")
        assert (what, int(start)) == ("work", start_of(self.process.pid))
        assert not cgroup
        self.gate.send(b"go\n")
        return int(group)

    def end(self) -> bytes:
        """Wait for its end; return what was written."""
        return self.process.communicate(timeout=30)[0]


@contextmanager
def keeper(
    *command: str,
    parent: int = 0,
    options: str = "-",
    env: dict[str, str] | None = None,
    under: tuple[str, ...] = (),
) -> Iterator[Keeper]:
    ours, theirs = socket.socketpair()
    arguments = [str(theirs.fileno()), str(parent or os.getpid()), options, *command]
    with (
        ours,
        subprocess.Popen(
            [*under, *helper_command("keep", *arguments)],
            pass_fds=[theirs.fileno()],
            stdout=subprocess.PIPE,
            env=env,
        ) as process,
    ):
        theirs.close()
        try:
            yield Keeper(process, ours)
        finally:
            process.kill()


# ---- beginning ------------------------------------------------------------------------------


def test_without_a_word_it_never_runs() -> None:
    with keeper(*ECHO) as found:
        found.line()
        found.gate.shutdown(socket.SHUT_RDWR)
        assert found.end() == b""


def test_an_orphan_never_runs() -> None:
    """Its parent died before it could ask for the kernel's help."""
    with keeper(*ECHO, parent=os.getpid() + 1) as found:
        assert found.end() == b""
        assert found.line() == ""


def test_with_a_word_it_runs() -> None:
    with keeper(*ECHO) as found:
        found.begun()
        assert found.line() == "running"
        assert found.line() == "ended 0"
        assert found.line() == ""
        assert found.end() == b"it runs\n"


@pytest.mark.parametrize(
    ("words", "code"), [("exit 7", "7"), ("kill -9 $$", "-9"), ("kill $$", "-15")]
)
def test_how_it_ended(words: str, code: str) -> None:
    with keeper("sh", "-c", words) as found:
        found.begun()
        assert [found.line(), found.line()] == ["running", f"ended {code}"]


def test_what_cannot_be_run() -> None:
    with keeper("/no/such/command") as found:
        found.begun()
        assert {found.line(), found.line()} == {"failed 2", "ended 126"}


@pytest.mark.parametrize("closed", ["0", "0 1", "1 2", "0 1 2"])
def test_standard_files_that_are_closed_are_closed_for_the_command_and_no_trouble(
    closed: str,
) -> None:
    """No file of the keeper's own takes their place."""
    closing = " ".join(f"{number}>&-" for number in closed.split())
    looking = " || ".join(f"[ -e /proc/self/fd/{number} ]" for number in closed.split())
    with keeper(
        *("sh", "-c", f"{looking} || exit 7"), under=("sh", "-c", f'exec "$@" {closing}', "sh")
    ) as found:
        found.gate.settimeout(30)
        found.begun()
        assert [found.line(), found.line(), found.line()] == ["running", "ended 7", ""]


def test_the_environment_is_not_changed_but_for_the_cookie() -> None:
    env = {"PATH": os.environ["PATH"]}
    with keeper("env", options="-l", env=env) as found:
        found.begun()
        lines = dict(line.split("=", 1) for line in found.end().decode().splitlines())
    assert lines.pop("TRIO_SCHED_WORK").startswith(f"{found.process.pid}-")
    assert lines == env


def test_signals_are_as_they_were() -> None:
    """A handler is gone after an exec, and what was ignored stays so."""
    status = ["grep", "-E", "^Sig(Ign|Blk)", "/proc/self/status"]
    with keeper(*status) as found:
        found.begun()
        assert b"SigBlk:\t0000000000000000" in found.end()
    under = ("sh", "-c", "trap '' HUP CHLD; exec \"$@\"", "sh")
    with keeper(*status, under=under) as found:
        found.begun()
        assert b"SigIgn:\t0000000000000001" in found.end(), "but SIGCHLD is of no use to anyone"


# ---- ending ---------------------------------------------------------------------------------


def test_it_ends_when_nothing_is_left() -> None:
    with keeper("sh", "-c", "setsid sleep 300 & exit 3") as found:
        work = work_of(found.process.pid, found.begun())
        assert [found.line(), found.line()] == ["running", "ended 3"]
        assert len(members(work)) == 1, "an orphan in a session of its own"
        (left,) = members(work)
        os.kill(left, signal.SIGKILL)
        assert found.line() == ""
        found.end()


def test_it_ends_all_when_its_parent_closes_the_gate() -> None:
    with keeper("sh", "-c", "setsid sleep 300 & sleep 300") as found:
        work = work_of(found.process.pid, found.begun())
        kept(work, 3)
        found.gate.shutdown(socket.SHUT_WR)
        found.end()
        assert not members(work)


def test_it_ends_all_when_the_moment_passes() -> None:
    with keeper("sh", "-c", "trap '' TERM; setsid sleep 300 & sleep 300") as found:
        work = work_of(found.process.pid, found.begun())
        kept(work, 3)
        found.gate.send(f"until {time.monotonic() + 1000:.3f}\n".encode())
        found.gate.send(f"until {time.monotonic():.3f}\n".encode())
        assert [found.line(), found.line(), found.line()] == ["running", "ended -9", ""]
        assert not members(work)


def test_it_wakes_up_to_end_all_when_its_parent_is_killed() -> None:
    """Though it is stopped: the kernel continues it then."""
    program = (
        "import subprocess, sys, time\n"
        "process = subprocess.Popen(sys.argv[2:], pass_fds=[int(sys.argv[1])])\n"
        "print(process.pid, flush=True)\n"
        "time.sleep(300)\n"
    )
    ours, theirs = socket.socketpair()
    with ours, theirs:
        gate = str(theirs.fileno())
        inner = helper_command("keep", gate, "PARENT", "-", *SLEEP)
        words = f"import os\n{program}".replace(
            "sys.argv[2:]", "[str(os.getpid()) if x == 'PARENT' else x for x in sys.argv[2:]]"
        )
        with subprocess.Popen(
            [sys.executable, "-c", words, gate, *inner],
            pass_fds=[theirs.fileno()],
            stdout=subprocess.PIPE,
        ) as parent:
            assert parent.stdout is not None
            pid = int(parent.stdout.readline())
            found = Keeper(parent, ours)
            _, start, group, _ = found.line().split(" ")
            ours.send(b"go\n")
            assert found.line() == "running"
            work = work_of(pid, int(group))
            assert work.start == int(start)
            os.kill(pid, signal.SIGSTOP)
            parent.kill()
            parent.wait()
            assert found.line() == "ended -9"
            assert not members(work)


def test_the_command_dies_with_a_keeper_that_is_killed() -> None:
    with keeper(*SLEEP) as found:
        work = work_of(found.process.pid, found.begun())
        kept(work, 1)
        found.process.kill()
        found.end()
        kept(work, 0)
