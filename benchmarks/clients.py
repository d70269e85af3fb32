"""Our etcd client next to others, on a real etcd.

``nox -s bench``, or ``python benchmarks/clients.py`` where all of them are installed.

Each client has a process of its own, and one process is at work at a time. The rounds take all
clients in turn, each time beginning with another, and the figures are medians over the rounds.
Other programs on the machine disturb them, so only ratios within one run mean something.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio
from _catalogue import COLUMNS, FRESH, ROWS, Column, Row
from _report import as_json, show
from _required import verdicts
from _runner import Plan, measure

ROUNDS, QUICK_ROUNDS = 7, 3

Named = TypeVar("Named", Row, Column)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Compare our etcd client with others.")
    parser.add_argument("--only", metavar="CLIENTS", help=_names(COLUMNS))
    parser.add_argument("--rows", metavar="ROWS", help=_names((*ROWS, *FRESH)))
    rounds = f"how often each is measured (default: {ROUNDS}, with --quick {QUICK_ROUNDS})"
    parser.add_argument("--rounds", type=int, metavar="N", help=rounds)
    parser.add_argument("--quick", action="store_true", help="be done in a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there, too")
    parser.add_argument("--no-check", action="store_true", help="exit 0 whatever comes out")
    options = parser.parse_args(arguments)
    try:
        options.columns = _chosen(COLUMNS, options.only)
        options.chosen_rows = _chosen((*ROWS, *FRESH), options.rows)
    except ValueError as exc:
        parser.error(str(exc))
    if options.rounds is None:
        options.rounds = QUICK_ROUNDS if options.quick else ROUNDS
    return options


def _names(things: Sequence[Row] | Sequence[Column]) -> str:
    return "some of: " + ",".join(thing.name for thing in things)


def _chosen(things: Sequence[Named], names: str | None) -> list[Named]:
    if names is None:
        return list(things)
    wanted = names.split(",")
    if unknown := set(wanted) - {thing.name for thing in things}:
        raise ValueError(f"no {', '.join(sorted(unknown))}; there is {_names(things)}")
    return [thing for thing in things if thing.name in wanted]


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


def main() -> int:
    """Measure, print, and return 1 if a requirement is not met."""
    options = parse()
    plan = Plan(options.columns, options.chosen_rows, options.rounds, options.quick)
    results = trio.run(partial(measure, plan, _progress))
    _progress("")
    judged = verdicts(plan, results)
    show(plan, results, judged)
    if options.json is not None:
        options.json.write_text(json.dumps(as_json(plan, results, judged), indent=1) + "\n")
    return int(not options.no_check and not all(verdict.passed for verdict in judged))


if __name__ == "__main__":
    sys.exit(main())
