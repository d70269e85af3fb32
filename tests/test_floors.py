"""The floors hold: what must not be imported is refused, each planted in a copy of the tree."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.places import PACKAGE, ROOT

PLANTS = [
    ("host/following.py", "from trio_sched.host import membership"),
    ("host/leading.py", "from trio_sched import scheduler"),
    ("host/session.py", "from trio_sched.testing import open_etcd"),
    ("model/path_view.py", "import trio"),
    ("model/path_view.py", "from trio_sched._support import tasks"),  # which imports trio
    ("model/keys.py", "import socket"),
    ("etcd_shim/channel/http2/connection.py", "import socket"),
    ("etcd_shim/channel/http2/frames.py", "import hyperframe"),
    ("etcd_shim/channel/http2/stray.py", ""),
    ("leader/machine.py", "import random"),
    ("leader/choice.py", "import time"),
    ("strategies/__init__.py", "import os"),
    ("reaper/helper/reap.py", "from trio_sched._support import processes"),
    ("etcd_shim/kv.py", "from trio_sched.etcd_shim import client"),
    ("etcd_shim/channel/__init__.py", "from trio_sched.etcd_shim import watch"),
    # Modules that stand on no floor.
    ("stray.py", ""),
    ("host/stray.py", ""),
    ("etcd_shim/stray.py", ""),
]


def lint(tree: Path) -> subprocess.CompletedProcess[str]:
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", program, "--no-cache"],
        cwd=tree,
        env={"PYTHONPATH": str(tree), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the package and of the contracts."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, tmp_path / "trio_sched", ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_tree_as_it_is_keeps_all_contracts(tree: Path) -> None:
    done = lint(tree)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("module", "line"), PLANTS)
def test_what_is_planted_is_refused(tree: Path, module: str, line: str) -> None:
    file = tree / "trio_sched" / module
    before = file.read_text() if file.exists() else '"""Planted."""\n'
    file.write_text(f"{before}\n{line}\n")
    done = lint(tree)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "BROKEN" in done.stdout or "not listed" in done.stdout + done.stderr
