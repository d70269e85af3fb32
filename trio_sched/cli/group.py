"""The group of commands. Each is imported when it is asked for, as no two need the same."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, Final

import click

__all__ = ["command"]

# Each with the module that it is in.
_COMMANDS: Final = {
    "completion": "completion",
    "decide": "decide",
    "demo": "demo.command",
    "drain": "steer",
    "evict": "steer",
    "members": "view.members",
    "pause": "steer",
    "resume": "steer",
    "run": "run.command",
    "set-count": "steer",
    "simulate": "simulate",
    "status": "view.status",
    "strategies": "strategies",
    "undrain": "steer",
    "watch": "view.watch",
}


class _WrongUsage(click.ClickException):
    """Wrong usage, on one line, as all errors are."""

    exit_code = 2

    def __init__(self, error: click.UsageError) -> None:
        message = error.format_message().strip().removesuffix(".")
        path = error.ctx.command_path if error.ctx is not None else "trio-sched"
        super().__init__(f"{' '.join(message.split())}; see `{path} --help`")

    def show(self, file: IO[Any] | None = None) -> None:
        """Say so on standard error."""
        click.echo(f"trio-sched: {self.format_message()}", file=file, err=True)


class _Commands(click.Group):
    """Finds a command in its module, whenever it is asked for."""

    def make_context(self, *arguments: Any, **rest: Any) -> click.Context:
        """See `click.Command`."""
        with _on_one_line():
            return super().make_context(*arguments, **rest)

    def invoke(self, ctx: click.Context) -> Any:
        """See `click.Command`."""
        with _on_one_line():
            return super().invoke(ctx)

    def list_commands(self, _context: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        module = importlib.import_module(f"{__package__}.{_COMMANDS[name]}")
        found = getattr(module, name.replace("-", "_"))
        assert isinstance(found, click.Command)
        return found


@contextmanager
def _on_one_line() -> Iterator[None]:
    try:
        yield
    except click.UsageError as error:
        # Click 8.2 and later raise this to show the help where nothing is given.
        if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
            raise
        raise _WrongUsage(error) from error


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
