"""The group of commands. Each is imported when it is asked for, as no two need the same."""

from __future__ import annotations

import importlib
import importlib.metadata

import click

__all__ = ["command"]

_COMMANDS = ("demo", "run")


class _Commands(click.Group):
    """Finds the command ``NAME`` in the module of that name."""

    def list_commands(self, _context: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        found = getattr(importlib.import_module(f"{__package__}.{name}"), name)
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
