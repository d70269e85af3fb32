"""Builds the column of Go's clientv3, out of ``go_client``, where it can be built.

The packages are ``golang-go`` and ``golang-etcd-server-dev``: the compiler, and the sources of
clientv3. What is built is a program that does what `_worker` does, and it gets its orders likewise.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

__all__ = ["NotInstalled", "build", "version"]

SOURCES = Path("/usr/share/gocode")  # where Debian's packages of Go sources lie
CLIENT = SOURCES / "src/go.etcd.io/etcd"
PROGRAM = Path(__file__).parent / "go_client"
# How long a build may take, in seconds; the first one compiles gRPC, too.
PATIENCE = 300


class NotInstalled(Exception):
    """It cannot be built; the text says why."""


def build(folder: Path) -> Path:
    """Build the program into a folder and return its path. Takes ten seconds, once."""
    compiler = shutil.which("go")
    if compiler is None:
        raise NotInstalled("not installed: go (Debian's golang-go)")
    if not (CLIENT / "clientv3").is_dir():
        raise NotInstalled("not installed: clientv3 (Debian's golang-etcd-server-dev)")
    program = folder / "go_client"
    done = subprocess.run(  # noqa: S603 # what we built it from is ours
        [compiler, "build", "-o", str(program), "."],
        cwd=PROGRAM,
        env=os.environ | {"GO111MODULE": "off", "GOPATH": str(SOURCES)},
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    if done.returncode:
        raise NotInstalled(f"not built: {done.stderr.decode().strip().rpartition(chr(10))[2]}")
    return program


def version() -> str | None:
    """Return the version of the etcd whose clientv3 it is, as Debian's package says."""
    try:
        text = (CLIENT / "version/version.go").read_text()
    except OSError:
        return None
    _, found, rest = text.partition("Version           = ")
    return rest.split('"')[1] if found else None
