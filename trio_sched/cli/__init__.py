"""The command ``trio-sched``. What it needs comes with the extra ``cli``."""

from __future__ import annotations

import importlib.util
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command. Exits, with 2 if click or rich is not installed."""
    if not all(importlib.util.find_spec(name) for name in ("click", "rich")):
        sys.stderr.write("trio-sched needs click and rich: pip install 'trio-sched[cli]'\n")
        sys.exit(2)
    # Imported here, so that the line above is all that is written without them.
    from trio_sched.cli.group import command  # noqa: PLC0415 # see above

    command.main(prog_name="trio-sched")
