"""``trio-sched simulate``: a trace of hosts that come and go, and what a strategy makes of it."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from functools import partial
from typing import TextIO

import click

from trio_sched.cli.common import (
    complete_place,
    complete_strategy,
    max_count_option,
    output_option,
    timeout_option,
)
from trio_sched.cli.connect import Connection, connection_options, usage_errors
from trio_sched.cli.exits import NO_PATH, strategy_failed
from trio_sched.cli.output import result_of, show_json, terminal, within
from trio_sched.cli.past import Past, read_past
from trio_sched.cli.reporter import Reporter
from trio_sched.cli.run.ticks import period_of
from trio_sched.exceptions import StrategyError
from trio_sched.model.keys import check_path
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
  # what would have been last night
  trio-sched simulate --from-history /jobs/backup --since 12h --strategy spread
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
@click.argument("trace", type=click.File(encoding="utf-8"), required=False)
@click.option(
    "--from-history",
    metavar="PATH",
    callback=usage_errors(check_path),
    shell_complete=complete_place("path"),
    help="Instead of TRACE: what hosts of PATH did, as far as etcd keeps it.",
)
@click.option(
    "--since",
    metavar="PERIOD",
    callback=usage_errors(period_of),
    help="With --from-history: as in 30m, 12h or 2d, up to now.",
)
@click.option(
    "--strategy",
    default="rr",
    show_default=True,
    shell_complete=complete_strategy,
    help="How hosts are chosen.",
)
@max_count_option("the trace's", "How many may be chosen at a time.")
@click.option("--svg", type=click.File("w", encoding="utf-8", lazy=True), help="Draw it, too.")
@connection_options
@output_option
@timeout_option
def simulate(
    trace: TextIO | None,
    from_history: str | None,
    since: str | None,
    strategy: str,
    max_count: int | None,
    svg: TextIO | None,
    connection: Connection,
    output: str,
    timeout: float,
) -> None:
    """Replay TRACE, a file or - for standard input, and draw who was scheduled when.

    Real hosts do what it says, on an etcd in memory and by a clock that jumps.
    """
    if (trace is None) is (from_history is None):
        raise click.UsageError("give TRACE, or --from-history PATH")
    if since is not None and from_history is None:
        raise click.UsageError("--since goes with --from-history")
    if trace is not None:
        found = _read(trace)
    else:
        assert from_history is not None
        found = _of_history(from_history, since, connection, timeout)
    replay = _replay(found, strategy, max_count)
    if svg is not None:
        svg.write(svg_chart(replay))
    if output == "json":
        show_json(replay.as_json())
        return
    console = terminal()
    width = max(_MIN_WIDTH, console.width) if console.is_terminal else _PIPE_WIDTH
    ascii_only = not (sys.stdout.encoding or "").lower().startswith("utf")
    sys.stdout.write(text_chart(replay, width=width, ascii_only=ascii_only))


def _of_history(path: str, since: str | None, connection: Connection, timeout: float) -> Trace:
    async def read() -> Past:
        async with connection.open() as client:
            return await read_past(client, path)

    code, found = result_of(connection, partial(within, timeout, read))
    if found is None:
        sys.exit(code)
    if found.first_revision > 1:
        click.echo(f"history before revision {found.first_revision} is compacted", err=True)
    try:
        return found.trace(None if since is None else time.time() - period_of(since))
    except ValueError as exc:
        Reporter(as_json=False).error(str(exc), NO_PATH)
        sys.exit(NO_PATH)


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
