"""``trio-sched watch``: a path as it changes, on a terminal or as JSON lines."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from math import inf

import click
import trio
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.segment import Segment
from rich.text import Text

from trio_sched._support.tasks import open_plain_nursery
from trio_sched.cli.common import CODES, reading_options
from trio_sched.cli.connect import Connection
from trio_sched.cli.output import NoAnswer, is_live, perform, show, show_json, terminal
from trio_sched.cli.view.document import document_of
from trio_sched.cli.view.tables import status_view
from trio_sched.cli.view.words import plain
from trio_sched.host.observation import PathObservation
from trio_sched.leader.diagnosis import diagnose
from trio_sched.model.path_state import PathState
from trio_sched.scheduler import observe

__all__ = ["watch"]

_REDRAWN = 1.0  # seconds after which ages are shown anew
_RECONCILE = 2.0  # seconds without a change after which etcd is read
_SILENT = 3 * _RECONCILE  # seconds after which something is wrong

_EXAMPLES = """\b
Examples:
  trio-sched watch /jobs/backup
  # whenever something changes, what is scheduled now
  trio-sched watch /jobs/backup -o json | jq -c --unbuffered .decision.hosts
"""


@click.command(short_help="Show a path as it changes.", epilog=f"{_EXAMPLES}\n{CODES}")
@reading_options
def watch(path: str, connection: Connection, output: str, timeout: float) -> None:
    """Show PATH as `status` does, and each change, until interrupted.

    On a terminal it is drawn anew in place; else there is a line for each change. As
    JSON, each line is a document as `status` prints it, without the TTLs of leases. A slow
    reader gets the newest state and misses some between; what was missed while etcd was
    away is shown when it is back.
    """
    perform(connection, partial(_watch, path, connection, output, timeout))


async def _watch(path: str, connection: Connection, output: str, timeout: float) -> int:
    with trio.move_on_after(timeout) as scope:
        async with (
            connection.open() as client,
            observe(client, path, pool=True, reconcile=_RECONCILE) as seen,
        ):
            scope.deadline = inf  # etcd has answered
            await _show_all(seen, output)
    raise NoAnswer(timeout)  # it ends by a signal, or so


async def _show_all(seen: PathObservation, output: str) -> None:
    console = terminal()
    if output == "json":
        await _show_states(seen, lambda state: show_json(document_of(state, {}), on_one_line=True))
    elif is_live(console):
        await _draw(seen, console)
    else:
        await _show_states(seen, lambda state: show(line_of(state, datetime.now(UTC))))


async def _show_states(seen: PathObservation, show_state: Callable[[PathState], None]) -> None:
    async with open_plain_nursery() as nursery:
        nursery.start_soon(_report_silence, seen)
        async for state in seen:
            show_state(state)


async def _report_silence(seen: PathObservation) -> None:
    """Report on standard error when etcd has fallen silent, and when it is back."""
    silent = False
    while True:
        await trio.sleep(_REDRAWN)
        silence = _silence(seen)
        if bool(silence) != silent:
            silent = bool(silence)
            click.echo(f"trio-sched: {silence or 'etcd answers again'}", err=True)


def _silence(seen: PathObservation) -> str:
    """Return for how long etcd has not answered, as text; empty if it does."""
    seconds = trio.current_time() - seen.answered_at
    if seconds < _SILENT:
        return ""
    return f"etcd has not answered for {seconds:.0f} s; what is shown is the last that is known"


def line_of(state: PathState, now: datetime) -> str:
    """Return the state on one line."""
    leader = state.leader
    parts = [
        f"leader {leader.name}" if leader is not None else "no leader",
        f"pool {', '.join(state.pool) or 'empty'}",
        f"scheduled {', '.join(state.hosts) or 'none'}",
    ]
    if state.record is not None and state.record.reason:
        parts.append(state.record.reason)
    parts += [f"warning: {each.message}" for each in diagnose(state) if each.level == "warning"]
    return plain(f"{now:%H:%M:%S} revision {state.revision}: {'; '.join(parts)}")


async def _draw(seen: PathObservation, console: Console) -> None:
    view = _View(seen)
    with Live(view, console=console, auto_refresh=False) as live:
        async with open_plain_nursery() as nursery:
            nursery.start_soon(_redraw, live)
            async for _state in seen:
                live.refresh()


async def _redraw(live: Live) -> None:
    while True:
        await trio.sleep(_REDRAWN)
        live.refresh()


class _View:
    """The newest state, as many lines of it as the terminal has, and how many more there are."""

    def __init__(self, seen: PathObservation) -> None:
        self._seen = seen

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = status_view(self._seen.newest, None, datetime.now(UTC))
        lines = console.render_lines(shown, options.update(height=None), pad=False)
        silence = _silence(self._seen)
        room = max(2, console.height - 1) - bool(silence)
        more = len(lines) - (room - 1) if len(lines) > room else 0
        for line in lines[: room - 1] if more else lines:
            yield from line
            yield Segment.line()
        if more:
            yield Text(f"and {more} lines more, for which this terminal is not high enough")
        if silence:
            yield Text(silence, style="bold red")
