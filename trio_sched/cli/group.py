"""The group of commands. Each is imported when it is asked for, as no two need the same.

The list of all is shown without importing any, nor Trio: a test compares it with what they say.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

__all__ = ["command"]

# Each with the module that it is in, and what it is for.
_COMMANDS: Final = {
    "completion": ("completion", "Print a shell's completion script."),
    "decide": ("decide", "Preview the next decision, with reasons."),
    "demo": ("demo.command", "Watch hosts join, leave and crash, on a real etcd."),
    "drain": ("steer", "Let a host not be chosen any more."),
    "evict": ("steer", "Move a host's place elsewhere, once."),
    "history": ("history", "Show who was scheduled when, and why."),
    "ls": ("ls", "Show the paths that there are."),
    "members": ("view.members", "Show a line for each host."),
    "pause": ("steer", "Freeze decisions."),
    "resume": ("steer", "Let the leader decide again."),
    "run": ("run.command", "Run a command while this host is one of those chosen."),
    "set-count": ("steer", "Say how many may be chosen."),
    "simulate": ("simulate", "Replay a trace of hosts, and draw it."),
    "status": ("view.status", "Show all there is to know about a path."),
    "strategies": ("strategies", "Show how hosts can be chosen."),
    "ticks": ("ticks", "Show what was done once, where and how it ended."),
    "undrain": ("steer", "Let a host be chosen again."),
    "watch": ("view.watch", "Show a path as it changes."),
    "web": ("web.command", "Show paths in a browser, live."),
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
        module = importlib.import_module(f"{__package__}.{_COMMANDS[name][0]}")
        found = getattr(module, name.replace("-", "_"))
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, _context: click.Context, formatter: click.HelpFormatter) -> None:
        """See `click.Group`."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, words) for name, (_, words) in _COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """See `click.Command`."""
        from click.shell_completion import CompletionItem  # noqa: PLC0415 # few need it

        found = [
            CompletionItem(name, help=words)
            for name, (_, words) in _COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]


@contextmanager
def _on_one_line() -> Iterator[None]:
    try:
        yield
    except click.UsageError as error:
        # Click 8.2 and later raise this to show the help where nothing is given.
        if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
            raise
        raise _WrongUsage(error) from error


def _show_version(context: click.Context, _parameter: click.Parameter, asked: bool) -> None:  # noqa: FBT001 # click's
    if not asked or context.resilient_parsing:
        return
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 # few ask for it

    try:
        found = version("trio-sched")
    except PackageNotFoundError:
        found = "(not installed)"  # run from a checkout
    click.echo(f"{context.find_root().info_name} {found}")
    context.exit()


@click.group(
    name="trio-sched",
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
def command() -> None:
    """Which of us should run this, now? A host scheduler on etcd."""
