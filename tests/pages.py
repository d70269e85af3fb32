"""What tests of pages of the documentation need."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.places import ROOT

__all__ = ["run_program"]


def run_program(
    program: str, folder: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a page's program, its warnings being errors; in an empty environment if none is given."""
    file = folder / "program.py"
    file.write_text(program)
    return subprocess.run(
        [sys.executable, "-W", "error", file],
        env={**(environment or {}), "PYTHONPATH": str(ROOT)},
        check=False,
        timeout=50,
        capture_output=True,
        text=True,
    )
