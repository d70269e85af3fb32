"""Where things lie in the checkout."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
TESTS = ROOT / "tests"
PACKAGE = ROOT / "trio_sched"
