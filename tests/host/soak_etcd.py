"""A real etcd that goes back to an earlier state, as one that is restored from a backup."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import trio

from trio_sched.testing import Etcd

__all__ = ["restore", "save"]


async def save(etcd: Etcd, file: Path) -> None:
    """Save a snapshot of an etcd of one member."""
    await etcd.etcdctl("snapshot", "save", str(file))


async def restore(etcd: Etcd, file: Path) -> None:
    """Kill an etcd of one member, and start it with what a snapshot holds."""
    (member,) = etcd.members
    member.kill()
    folder = member._settings.folder / f"{member.name}.data"
    shutil.rmtree(folder)
    etcdutl = etcd.executable.with_name("etcdutl")  # etcd 3.4 has none
    tool = etcdutl if os.access(etcdutl, os.X_OK) else etcd._etcdctl()
    await trio.run_process(
        [str(tool), "snapshot", "restore", str(file), f"--data-dir={folder}"]
        + [f"{name}={value}" for name, value in _cluster_options(member._command()).items()],
        env=os.environ | {"ETCDCTL_API": "3"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    await member.start()


def _cluster_options(command: list[str]) -> dict[str, str]:
    """Return what a member's command says of its cluster."""
    wanted = ("--name", "--initial-cluster", "--initial-cluster-token",
              "--initial-advertise-peer-urls")  # fmt: skip
    pairs = dict(word.split("=", 1) for word in command if "=" in word)
    return {name: pairs[name] for name in wanted}
