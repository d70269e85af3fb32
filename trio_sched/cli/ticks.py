"""``trio-sched ticks``: what was done once for all hosts, where, and how it ended."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final

import click

from trio_sched._support.arguments import MAX_INT64
from trio_sched.cli.common import CODES, reading_options
from trio_sched.cli.connect import Connection
from trio_sched.cli.output import perform, show, show_json, within
from trio_sched.cli.view.words import age_of
from trio_sched.host.ticks import read_ticks
from trio_sched.model.ticks import Tick

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["ticks", "ticks_table"]

_USUAL_NAME: Final = len("2026-12-01T11:00:00Z")
_EXAMPLES = """\b
Examples:
  trio-sched ticks /jobs/backup
  # fail unless the newest has ended well
  trio-sched ticks /jobs/backup -n 1 -o json | jq -e '.[0].code == 0'
"""


@click.command(
    short_help="Show what was done once, where and how it ended.",
    epilog=f"{_EXAMPLES}\n{CODES}",
)
@click.option(
    "-n",
    "--last",
    type=click.IntRange(1, MAX_INT64),
    default=20,
    show_default=True,
    help="How many at most.",
)
@reading_options
def ticks(path: str, connection: Connection, output: str, timeout: float, last: int) -> None:
    """Show the ticks of PATH, the newest first, as long as they are remembered.

    They are those of `trio-sched run --once-per`, and of `Result.run_once`.
    """
    perform(connection, partial(_ticks, path, connection, output, timeout, last))


async def _ticks(path: str, connection: Connection, output: str, timeout: float, last: int) -> int:
    found = await within(timeout, partial(_read, connection, path, last))
    if output == "json":
        show_json([_document(tick) for tick in found])
    elif found:
        show(ticks_table(found))
    else:
        click.echo(f"no tick of {path} is remembered", err=True)
    return 0


def ticks_table(found: Sequence[Tick]) -> Table:
    """Return a line for each, at 80 columns, too; a name too long for that goes on below."""
    from trio_sched._support.text import plain  # noqa: PLC0415 # as above
    from trio_sched.cli.view.tables import table  # noqa: PLC0415 # brings rich

    drawn = table("TICK", "STATE", "CODE", "HOST", "BEGUN", "TOOK", right=["CODE", "TOOK"])
    for tick in found:
        code = "" if tick.code is None else str(tick.code)
        begun = tick.begun.removesuffix("+00:00")
        cells = (tick.name, tick.state, code, tick.host, begun, _took(tick))
        drawn.add_row(*map(plain, cells))
    whole = {"STATE", "CODE", "BEGUN", "TOOK"}
    if all(len(tick.name) <= _USUAL_NAME for tick in found):
        whole.add("TICK")
    for column in drawn.columns:
        column.no_wrap = column.header in whole
    return drawn


def _took(tick: Tick) -> str:
    """Return how long it took, by its host's clock; nothing if it has not ended."""
    try:
        ended = datetime.fromisoformat(tick.ended or "").astimezone(UTC)
    except (ValueError, OverflowError):
        return ""
    return age_of(tick.begun, ended)


async def _read(connection: Connection, path: str, last: int) -> tuple[Tick, ...]:
    async with connection.open() as client:
        return await read_ticks(client, path, last)


def _document(tick: Tick) -> dict[str, object]:
    names = ("name", "state", "host", "token", "attempt", "begun", "ended", "code")
    return {name: getattr(tick, name) for name in names}
