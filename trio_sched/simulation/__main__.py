"""``python -m trio_sched.simulation``: run worlds by their seeds until one fails."""

from __future__ import annotations

import argparse
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

from trio_sched.simulation.explore import Search, describe, draw, explore, shrink
from trio_sched.simulation.plan import Plan
from trio_sched.simulation.world import World, WorldReport

__all__ = ["main"]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m trio_sched.simulation",
        description="Run simulated worlds, each by its seed, until one fails or time is over.",
    )
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="of CPU time to search for (default: 60)"
    )
    parser.add_argument("--seed", type=int, help="the first one; by chance if it is left out")
    parser.add_argument("--plan", type=Plan.from_json, help="run this one, as a failure shows it")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the failure there, too")
    return parser.parse_args(arguments)


def _progress(search: Search) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{search.worlds} worlds, {search.simulated / 3600:.1f} hours ")
        sys.stderr.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Search; return 1 if a world failed."""
    options = _parse(arguments)
    if options.plan is not None:
        return _show(World(options.plan).run(), options.svg)
    seed = secrets.randbelow(10**9) if options.seed is None else options.seed
    search = explore(seed, options.seconds, _progress)
    sys.stdout.write(
        f"{search.worlds} worlds from seed {seed} on, {search.simulated / 3600:.1f} simulated "
        f"hours: {search.simulated / search.cpu:.0f} simulated seconds for each of CPU\n"
    )
    return 0 if search.failure is None else _show(shrink(search.failure), options.svg)


def _show(report: WorldReport, svg: Path | None) -> int:
    if svg is not None:
        svg.write_text(draw(report, svg=True))
    sys.stdout.write(describe(report))
    return int(bool(report.violations))


if __name__ == "__main__":
    sys.exit(main())
