"""The demo in a terminal, drawn with rich."""

from __future__ import annotations

import io
import re
import time
from contextlib import AbstractContextManager
from pathlib import Path

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from trio_sched.cli.demo.board import Board, Event, HostState, HostView, Step
from trio_sched.cli.demo.view import View

__all__ = ["LiveView", "save_svg"]

_WIDTH = 92  # columns of the picture
# Fixed, so that nothing jumps when a word changes.
_COLUMNS = {"host": 8, "process": 8, "state": 25, "leads": 6, "runs": 4, "knows": 22}
_STYLES = {
    HostState.STARTING: "dim",
    HostState.JOINING: "yellow",
    HostState.JOINED: "green",
    HostState.LEAVING: "yellow",
    HostState.LEFT: "dim",
    HostState.KILLED: "red",
    HostState.DIED: "bold red",
}


class LiveView(View):
    """The whole board, redrawn at each event and ten times a second."""

    period = 0.1

    def __init__(self, board: Board, console: Console) -> None:
        self._board = board
        self._live = Live(console=console, auto_refresh=False, get_renderable=self._draw)

    def opened(self) -> AbstractContextManager[object]:
        """Take the terminal over; afterwards the last picture stays."""
        return self._live

    def show(self, event: Event) -> None:  # noqa: ARG002 - the board knows it already
        """Redraw."""
        self._live.refresh()

    def refresh(self) -> None:
        """Redraw."""
        self._live.refresh()

    def _draw(self) -> RenderableType:
        return draw(self._board, time.monotonic())


def save_svg(board: Board, path: Path) -> None:
    """Write a picture of the board as it is now."""
    console = Console(
        record=True, width=_WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    console.print(draw(board, time.monotonic()))
    svg = console.export_svg(title="trio-sched demo")
    # rich's picture loads a font from the network; a picture in a repository had better not.
    path.write_text(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL))


def draw(board: Board, now: float) -> RenderableType:
    """The board as it is at a time of the monotonic clock."""
    parts: list[RenderableType] = [
        Text(board.etcd or "starting etcd …", style="dim"),
        _hosts(board),
    ]
    parts += [_holdings(board), Text(), _steps(board, now)]
    if board.total is not None:
        parts.append(_verdict(board, board.total))
    return Panel(Group(*parts), title="[bold]trio-sched demo", border_style="blue", width=_WIDTH)


def _hosts(board: Board) -> Table:
    table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False)
    for column, width in _COLUMNS.items():
        table.add_column(column, width=width)
    for host in board.hosts.values():
        table.add_row(*_host(board, host))
    return table


def _host(board: Board, host: HostView) -> list[RenderableType]:
    pooled = host.name in board.pool
    # A killed host stays in the pool until its lease lapses; that is worth seeing.
    state = f"{host.state.value}, still in the pool" if pooled and host not in board.alive else ""
    chosen = "" if host.chosen is None else f"{', '.join(host.chosen)}  [dim]@{host.revision}[/]"
    return [
        Text(host.name, style="bold" if pooled else "dim"),
        Text(str(host.pid), style="dim"),
        Text(state or host.state.value, style=_STYLES[host.state]),
        Text("★" if board.leader == host.name else "", style="yellow"),
        Text("●" if host.name in board.scheduled else "", style="green"),
        Text.from_markup(chosen, style="" if host in board.alive else "dim"),
    ]


def _holdings(board: Board) -> Text:
    return Text(f"etcd holds {board.keys} keys and {board.leases} leases of ours", style="dim")


def _steps(board: Board, now: float) -> Table:
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(width=1)
    table.add_column(width=9, justify="right")
    table.add_column(ratio=1)
    for step in board.steps:
        table.add_row(*_step(board, step, now))
    return table


def _step(board: Board, step: Step, now: float) -> list[RenderableType]:
    if step.seconds is not None:
        text = Text.assemble(step.title, "  ", (step.note, "dim"))
        return [Text("✔", style="green"), Text(f"{step.seconds:.3f} s", style="bold cyan"), text]
    if board.failure is not None:
        return [Text("✘", style="red"), Text("failed", style="red"), Text(step.title, style="red")]
    return [Text("…"), Text(f"{now - step.began:.1f} s", style="dim"), Text(step.title)]


def _verdict(board: Board, total: float) -> RenderableType:
    if board.failure is not None:
        return Padding(Text(f"failed: {board.failure}", style="bold red"), (1, 0, 0, 0))
    text = Text.assemble(
        ("All of it came true", "bold green"),
        f" in {total:.1f} s. Times are from the deed to the last host's word.",
    )
    return Padding(text, (1, 0, 0, 0))
