"""What the demo shows: JSON lines for programs, text lines for logs, a picture for a terminal."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

from rich import box
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from trio_sched.cli.demo.board import Board, Event, HostState, HostView, Step

__all__ = ["draw", "json_of", "save_svg", "text_of"]

_WIDTH = 92  # columns of the picture
# Fixed, so that nothing jumps when a word changes.
_COLUMNS = {"host": 8, "process": 8, "state": 25, "leads": 6, "runs": 4, "knows": 22}
_STYLES = {
    HostState.JOINING: "yellow",
    HostState.JOINED: "green",
    HostState.LEAVING: "yellow",
    HostState.KILLED: "red",
    HostState.DIED: "bold red",
}
_LINES = {
    "etcd": "etcd {version} at {endpoint}, path {path}",
    "step": "== {title}",
    "host": "{host} (process {pid}): {state}",
    "decision": "{host} knows: {hosts} (revision {revision})",
    "path": "pool: {pool} | leader: {leader} | scheduled: {scheduled}",
    "measured": "-- came true everywhere in {seconds:.3f} s: {note}",
    "failed": "failed: {reason}",
}


def json_of(event: Event) -> str:
    """The event as a JSON object on a line."""
    fields = {"event": event.kind, "t": round(event.t, 4), **event.fields}
    return json.dumps(fields) + "\n"


def text_of(event: Event, board: Board) -> str:
    """The event as lines of a log."""
    if event.kind == "summary":
        steps = [step for step in board.steps if step.seconds is not None]
        lines = ["", "measured:", *(f"  {step.seconds:7.3f} s  {step.title}" for step in steps)]
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


def save_svg(board: Board, path: Path) -> None:
    """Write a picture of the board as it is now."""
    console = Console(
        record=True, width=_WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    console.print(draw(board, 0.0))
    svg = console.export_svg(title="trio-sched demo")
    # rich's picture loads a font from the network; a picture in a repository must not.
    path.write_text(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL))


def draw(board: Board, now: float) -> RenderableType:
    """The board as it is at a time of the monotonic clock."""
    hosts = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False)
    for column, width in _COLUMNS.items():
        hosts.add_column(column, width=width)
    for host in board.hosts.values():
        hosts.add_row(*_host(board, host))
    steps = Table.grid(padding=(0, 1), expand=True)
    steps.add_column(width=1)
    steps.add_column(width=9, justify="right")
    steps.add_column(ratio=1)
    for step in board.steps:
        steps.add_row(*_step(board, step, now))
    held = board.path
    parts: list[RenderableType] = [
        Text(board.etcd or "starting etcd …", style="dim"),
        hosts,
        Text(f"etcd holds {held.keys} keys and {held.leases} leases of ours", style="dim"),
        Text(),
        steps,
    ]
    if board.failure is not None:
        parts += [Text(), Text(f"failed: {board.failure}", style="bold red")]
    elif board.total is not None:
        end = f" in {board.total:.1f} s. Times are from the action to the last host's report."
        parts += [Text(), Text.assemble(("All of it came true", "bold green"), end)]
    return Panel(Group(*parts), title="[bold]trio-sched demo", border_style="blue", width=_WIDTH)


def _host(board: Board, host: HostView) -> list[Text]:
    pooled = host.name in board.path.pool
    # A killed host stays in the pool until its lease lapses; that is worth seeing.
    late = ", still in the pool" if pooled and not host.alive else ""
    decision = Text(style="" if host.alive else "dim")
    if host.chosen is not None:
        decision.append(", ".join(host.chosen)).append(f"  @{host.revision}", "dim")
    return [
        Text(host.name, style="bold" if pooled else "dim"),
        Text(str(host.pid), style="dim"),
        Text(host.state + late, style=_STYLES.get(host.state, "dim")),
        Text("★" if board.path.leader == host.name else "", style="yellow"),
        Text("●" if host.name in board.path.scheduled else "", style="green"),
        decision,
    ]


def _step(board: Board, step: Step, now: float) -> list[Text]:
    if step.seconds is not None:
        text = Text.assemble(step.title, "  ", (step.note, "dim"))
        return [Text("✔", style="green"), Text(f"{step.seconds:.3f} s", style="bold cyan"), text]
    if board.failure is not None:
        return [Text(word, style="red") for word in ("✘", "failed", step.title)]
    return [Text("…"), Text(f"{now - step.began:.1f} s", style="dim"), Text(step.title)]
