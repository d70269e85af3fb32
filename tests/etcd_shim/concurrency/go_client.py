"""A client of Go that takes part, built out of ``go_peer`` where it can be built.

That takes Debian's packages ``golang-go`` and ``golang-etcd-server-dev``, or a ``GOPATH`` in which
the sources of etcd 3.4 are.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import partial
from pathlib import Path

import pytest
import trio

__all__ = ["GoClient", "build"]

GOPATH = os.environ.get("GOPATH", "/usr/share/gocode")
BUILD_TIMEOUT = 300  # seconds; the first build compiles gRPC, too


def build(folder: Path) -> Path:
    """Build the program into a folder and return its path; skip the test where it cannot be."""
    compiler = shutil.which("go")
    if compiler is None:
        pytest.skip("not installed: go (Debian's golang-go)")
    recipes = "src/go.etcd.io/etcd/contrib/recipes"
    if not any(Path(path, recipes).is_dir() for path in GOPATH.split(os.pathsep)):
        pytest.skip("not installed: clientv3 3.4 (Debian's golang-etcd-server-dev)")
    program = folder / "go_peer"
    subprocess.run(
        [compiler, "build", "-o", str(program), "."],
        cwd=Path(__file__).parent / "go_peer",
        env=os.environ | {"GO111MODULE": "off", "GOPATH": GOPATH, "CGO_ENABLED": "0"},
        timeout=BUILD_TIMEOUT,
        check=True,
    )
    return program


class GoClient:
    """One run of the program. Made by `start`; ended with its nursery."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self._unread = b""

    @classmethod
    async def start(
        cls, nursery: trio.Nursery, program: Path, what: str, *arguments: str
    ) -> GoClient:
        """Start it; the nursery waits for its end."""
        run = partial(
            trio.run_process,
            [str(program), what, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            check=False,
        )
        return cls(await nursery.start(run))

    async def line(self) -> str:
        """Wait for what it says next."""
        assert self.process.stdout is not None
        while b"\n" not in self._unread:
            chunk = await self.process.stdout.receive_some()
            assert chunk, f"it has ended after {self._unread!r}"
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode()

    async def go_on(self) -> None:
        """Let it go on."""
        assert self.process.stdin is not None
        await self.process.stdin.send_all(b"\n")
