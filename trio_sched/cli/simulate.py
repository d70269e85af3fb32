"""``trio-sched simulate``: a trace of hosts that come and go, and what a strategy makes of it."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TextIO

import click

from trio_sched.cli.common import complete_strategy, max_count_option, output_option
from trio_sched.cli.exits import strategy_failed
from trio_sched.cli.output import show_json, terminal
from trio_sched.exceptions import StrategyError
from trio_sched.simulation import Replay, Trace, simulate as replay_trace, svg_chart, text_chart

__all__ = ["simulate"]

_PIPE_WIDTH = 100  # columns of a chart that no terminal limits
_MIN_WIDTH = 40


@click.command(
    short_help="Replay a trace of hosts, and draw it.",
    epilog="""\b
Examples:
  trio-sched simulate week.json --strategy spread
  trio-sched simulate week.json --strategy weighted --svg weighted.svg
\b
A trace is JSON; what is left out has these values or is not there:
  {"max_count": 1, "ttl": 10, "events": [
    {"at": 0, "join": "a", "zone": "x", "weight": 2, "priority": 0},
    {"at": 1, "join": "b"}, {"at": 30, "fail": "a"},
    {"at": 60, "leave": "b"}, {"at": 70, "drain": "b"},
    {"at": 80, "pause": true}, {"at": 90, "set-count": 2}]}
\b
Exit codes:
  70  the strategy broke its rules
  2   wrong usage, such as a trace that is none
""",
)
@click.argument("trace", type=click.File(encoding="utf-8"))
@click.option(
    "--strategy",
    default="rr",
    show_default=True,
    shell_complete=complete_strategy,
    help="How hosts are chosen.",
)
@max_count_option("the trace's", "How many may be chosen at a time.")
@click.option("--svg", type=click.File("w", encoding="utf-8", lazy=True), help="Draw it, too.")
@output_option
def simulate(
    trace: TextIO, strategy: str, max_count: int | None, svg: TextIO | None, output: str
) -> None:
    """Replay TRACE, a file or - for standard input, and draw who was scheduled when.

    Real hosts do what it says, on an etcd in memory and by a clock that jumps.
    """
    replay = _replay(_read(trace), strategy, max_count)
    if svg is not None:
        svg.write(svg_chart(replay))
    if output == "json":
        show_json(replay.as_json())
        return
    console = terminal()
    width = max(_MIN_WIDTH, console.width) if console.is_terminal else _PIPE_WIDTH
    ascii_only = not (sys.stdout.encoding or "").lower().startswith("utf")
    sys.stdout.write(text_chart(replay, width=width, ascii_only=ascii_only))


def _read(file: TextIO) -> Trace:
    try:
        return Trace.from_json(file.read())
    except (TypeError, ValueError) as exc:
        raise click.BadParameter(f"{file.name!r}: {exc}", param_hint="TRACE") from exc


def _replay(trace: Trace, strategy: str, max_count: int | None) -> Replay:
    if max_count is not None:
        trace = replace(trace, max_count=max_count)
    try:
        return replay_trace(strategy, trace)
    except (TypeError, ValueError) as exc:
        raise click.BadParameter(str(exc), param_hint="--strategy") from exc
    except StrategyError as exc:
        sys.exit(strategy_failed(exc))
