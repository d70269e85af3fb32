"""What a command reports on standard error: one line for an error, and events with --json."""

from __future__ import annotations

import json
import logging
import sys
import time

__all__ = ["Reporter"]


class Reporter(logging.Handler):
    """Writes events as JSON lines, if asked to, and errors as one line.

    It also is the handler of the scheduler's logger, and so writes its warnings.

    Args:
        as_json: write everything as JSON; else only errors and warnings, as text.
    """

    def __init__(self, *, as_json: bool) -> None:
        super().__init__(logging.WARNING)
        self._as_json = as_json
        self._joined = False

    def event(self, event: str, **fields: object) -> None:
        """Report that something happened."""
        self._joined = self._joined or event == "joined"
        if self._as_json:
            line = json.dumps({"event": event, "time": round(time.time(), 3), **fields})
            self._write(line)

    def error(self, text: str, code: int) -> None:
        """Report why the command ends, and with which exit code."""
        if self._as_json:
            self.event("error", reason=text, code=code)
        else:
            self._write(f"trio-sched: {text}")

    def emit(self, record: logging.LogRecord) -> None:
        """Report what the scheduler logs."""
        if self._as_json:
            self.event("log", level=record.levelname.lower(), message=record.getMessage())
        elif self._joined:  # before that, the error that ends the command is enough
            self._write(f"trio-sched: {record.getMessage()}")

    def _write(self, line: str) -> None:
        # At once and whole, as the child may write to the same place.
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
