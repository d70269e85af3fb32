"""A PostgreSQL for a test, where Debian's packages or another's have put one."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["Postgres", "find_postgres", "open_postgres"]


def find_postgres() -> Path | None:
    """The folder of its programs; None if there is none, or none that we can run.

    It refuses to run as root, so then there has to be its user.
    """
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if found := shutil.which("initdb"):
        folders.append(Path(found).resolve().parent)
    if os.geteuid() == 0:
        try:
            pwd.getpwnam("postgres")
        except KeyError:
            return None
    return folders[-1] if folders else None


class Postgres:
    """One that runs, and is reached by a socket in its folder."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.folder = folder
        self._programs = programs

    def command(self, *words: str) -> list[str]:
        """A program of it, as its user."""
        user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        prefix = user if os.geteuid() == 0 else []
        return [*prefix, str(self._programs / words[0]), *words[1:]]

    @property
    def psql(self) -> list[str]:
        """The command that reads SQL from its standard input; it ends at the first error."""
        options = ("-XAtq", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose")
        return self.command("psql", *options, "-h", str(self.folder), "postgres")

    def run(self, sql: str) -> subprocess.CompletedProcess[str]:
        """Run some SQL, whatever comes of it."""
        return subprocess.run(
            self.psql, input=sql, capture_output=True, text=True, timeout=30, check=False
        )

    def do(self, *words: str) -> None:
        """Run one of its programs."""
        subprocess.run(
            self.command(*words), cwd=self.folder, stdout=subprocess.DEVNULL, timeout=60, check=True
        )


@contextmanager
def open_postgres(programs: Path) -> Iterator[Postgres]:
    """Start one that listens at no port; it ends with the block."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = Postgres(programs, folder)
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
        data = str(folder / "data")
        server.do("initdb", "-D", data, "-A", "trust", "-N")
        options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
        control = ("pg_ctl", "-D", data, "-w", "-l", str(folder / "log"))
        server.do(*control, "-o", options, "start")
        try:
            yield server
        finally:
            server.do(*control, "-m", "immediate", "stop")
