"""``trio-sched completion``: what makes a shell complete our commands."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

__all__ = ["completion"]

_PROGRAM, _VARIABLE = "trio-sched", "_TRIO_SCHED_COMPLETE"  # as click makes the one of the other


@click.command(
    short_help="Print a shell's completion script.",
    epilog="""\b
Examples:
  # bash, in ~/.bashrc
  eval "$(trio-sched completion bash)"
  # zsh, in ~/.zshrc
  eval "$(trio-sched completion zsh)"
  # fish
  trio-sched completion fish > ~/.config/fish/completions/trio-sched.fish
""",
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes commands and options in SHELL."""
    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(context.find_root().command, {}, _PROGRAM, _VARIABLE).source())
