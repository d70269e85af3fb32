"""The views of the demo that write lines: JSON for programs, plain text for logs."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, nullcontext
from typing import TextIO

from trio_sched.cli.demo.board import Board, Event

__all__ = ["JsonView", "PlainView", "View"]


class View:
    """How the board is shown.

    Attributes:
        period: seconds after which `refresh` wants to be called again; None for never.
    """

    period: float | None = None

    def opened(self) -> AbstractContextManager[object]:
        """Enter for as long as anything is shown."""
        return nullcontext()

    def show(self, event: Event) -> None:
        """Show what has just happened."""
        raise NotImplementedError

    def refresh(self) -> None:
        """Show that time goes by."""


class JsonView(View):
    """Each event as a JSON object on a line of its own."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def show(self, event: Event) -> None:
        """Write the event."""
        fields = {"event": event.kind, "t": round(event.t, 4), **event.fields}
        self._out.write(json.dumps(fields) + "\n")
        self._out.flush()


class PlainView(View):
    """What a person wants to read in a log."""

    def __init__(self, board: Board, out: TextIO) -> None:
        self._board = board
        self._out = out

    def show(self, event: Event) -> None:
        """Write a line, or nothing."""
        text = self._summary() if event.kind == "summary" else _line(event)
        self._out.write("".join(f"{event.t:7.3f}  {line}\n" for line in text))
        self._out.flush()

    def _summary(self) -> list[str]:
        board = self._board
        lines = ["", "measured:"]
        lines += [
            f"  {step.seconds:7.3f} s  {step.title}"
            for step in board.steps
            if step.seconds is not None
        ]
        lines += [f"left in etcd: {board.keys} keys, {board.leases} leases"]
        return [*lines, f"FAILED: {board.failure}" if board.failure else "all of it came true"]


def _line(event: Event) -> list[str]:
    """The text for an event: one line, or none."""
    match event.kind, event.fields:
        case "etcd", {"version": version, "endpoint": endpoint, "path": path}:
            text = f"etcd {version} at {endpoint}, path {path}"
        case "step", {"title": title}:
            text = f"== {title}"
        case "host", {"host": host, "state": state, "pid": pid}:
            text = f"{host} (process {pid}): {state}"
        case "decision", {"host": host, "hosts": [*hosts], "revision": revision}:
            text = f"{host} knows: {_names(hosts)} (revision {revision})"
        case "path", {"pool": [*pool], "leader": leader, "scheduled": [*scheduled]}:
            chosen = _names(scheduled)
            text = f"pool: {_names(pool)} | leader: {leader or 'nobody'} | scheduled: {chosen}"
        case "measured", {"seconds": float(seconds), "note": note}:
            text = f"-- came true everywhere in {seconds:.3f} s: {note}"
        case "failed", {"reason": reason}:
            text = f"failed: {reason}"
        case _:
            return []
    return [text]


def _names(names: list[object]) -> str:
    return ", ".join(str(name) for name in names) or "nobody"
