"""What a command reports on standard error: a line for an error, and for each event."""

from __future__ import annotations

import io
import json
import logging
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from trio_sched.cli.run.notify import Notifier

__all__ = ["Reporter"]

_ALWAYS: Final = ("error", "log")


class Reporter(logging.Handler):
    """Writes events as JSON lines, or as text, and errors as one line.

    What cannot be written, as standard error is closed, has no reader any more, or lies on a disk
    that is full, is dropped: it has no part in what the command does, and it raises nothing.

    It also is the handler of the scheduler's logger, and so writes its warnings.

    Args:
        as_json: write as JSON; else as text.
        line_of: returns the text of an event, or None if it is not written; without it none is.
        notifier: is given each event as well.
        quiet: write errors and warnings only, also as JSON.
    """

    def __init__(
        self,
        *,
        as_json: bool,
        line_of: Callable[[str, Mapping[str, Any]], str | None] | None = None,
        notifier: Notifier | None = None,
        quiet: bool = False,
    ) -> None:
        super().__init__(logging.WARNING)
        self.as_json: bool = as_json
        self._line_of = line_of
        self._quiet = quiet
        self.notifier: Notifier | None = notifier
        self._joined = False
        self._about = ""

    def event(self, event: str, **fields: object) -> None:
        """Report that something happened."""
        if event == "joined":
            self._joined, self._about = True, f"{fields['path']} {fields['hostname']}: "
        if self.notifier is not None:
            self.notifier.note(event, fields)
        if self.as_json and not (self._quiet and event not in _ALWAYS):
            self._write(json.dumps({"event": event, "time": round(time.time(), 3), **fields}))
        elif not self.as_json and self._line_of is not None:
            line = self._line_of(event, fields)
            if line is not None:
                self._write(f"trio-sched: {self._about}{line}")

    def error(self, text: str, code: int) -> None:
        """Report why the command ends, and with which exit code."""
        if self.as_json:
            self.event("error", reason=text, code=code)
        else:
            self._write(f"trio-sched: {text}")

    def emit(self, record: logging.LogRecord) -> None:
        """Report what the scheduler logs."""
        if self.as_json:
            self.event("log", level=record.levelname.lower(), message=record.getMessage())
        elif self._joined:  # before that, the error that ends the command is enough
            self._write(f"trio-sched: {record.getMessage()}")

    def _write(self, line: str) -> None:
        # At once and whole, as the child may write to the same place.
        if sys.stderr is None:
            return  # it was closed when we were started
        try:
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()
        except OSError:
            _drop_unwritten()


def _drop_unwritten() -> None:
    """Drop what could not be written: else it comes later, and changes the exit code."""
    if isinstance(sys.stderr, io.TextIOWrapper):
        with suppress(OSError):
            sys.stderr = open(  # noqa: SIM115 # it stays open
                sys.stderr.fileno(), "w", buffering=1, errors="backslashreplace", closefd=False
            )
