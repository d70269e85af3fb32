"""The group of commands. Each is imported when it is asked for, as no two need the same."""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import Final

import click

__all__ = ["command"]

# Each with the module that it is in.
_COMMANDS: Final = {
    "completion": "completion",
    "decide": "decide",
    "demo": "demo",
    "drain": "steer",
    "evict": "steer",
    "members": "members",
    "pause": "steer",
    "resume": "steer",
    "run": "run",
    "set-count": "steer",
    "simulate": "simulate",
    "status": "status",
    "strategies": "strategies",
    "undrain": "steer",
    "watch": "watch",
}


class _Commands(click.Group):
    """Finds a command in its module, whenever it is asked for."""

    def list_commands(self, _context: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        module = importlib.import_module(f"{__package__}.{_COMMANDS[name]}")
        found = getattr(module, name.replace("-", "_"))
        assert isinstance(found, click.Command)
        return found


def _version() -> str:
    try:
        return importlib.metadata.version("trio-sched")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"  # run from a checkout


@click.group(
    name="trio-sched",
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(_version(), message="%(prog)s %(version)s")
def command() -> None:
    """Which of us should run this, now? A host scheduler on etcd."""
