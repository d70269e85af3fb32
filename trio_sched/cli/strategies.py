"""``trio-sched strategies``: how hosts can be chosen."""

from __future__ import annotations

import click

from trio_sched._support.text import plain
from trio_sched.cli.common import output_option
from trio_sched.cli.output import show, show_json
from trio_sched.cli.view.tables import table
from trio_sched.strategies import get_strategy, known_strategies

__all__ = ["strategies"]


@click.command(
    short_help="Show how hosts can be chosen.",
    epilog="""\b
Examples:
  trio-sched strategies
  trio-sched strategies -o json | jq -r '.[].name'
""",
)
@output_option
def strategies(output: str) -> None:
    """Show the strategies that are known here, with a line about each.

    Those that come with this package, and those that others have installed by an entry
    point in the group trio_sched.strategies.
    """
    abouts = {name: _line_about(name) for name in known_strategies()}
    if output == "json":
        show_json([{"name": name, "about": about} for name, about in abouts.items()])
        return
    made = table("STRATEGY", "ABOUT")
    for name, about in abouts.items():
        made.add_row(plain(name), plain(about))
    show(made)


def _line_about(name: str) -> str:
    try:
        strategy = get_strategy(name)
    except Exception as exc:  # noqa: BLE001 # a strategy from outside may raise anything; the line shows it
        return f"cannot be used: {type(exc).__name__}: {exc}"
    text = (strategy.__doc__ or "").strip()
    return text.splitlines()[0] if text else "says nothing about itself"
