"""``trio-sched decide --dry-run``: a preview of the next decision, with reasons."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import partial
from typing import TextIO

import click

from trio_sched._support.text import plain
from trio_sched.cli.common import (
    CODES,
    complete_strategy,
    max_count_option,
    output_option,
    read_path,
    timeout_option,
)
from trio_sched.cli.connect import Connection, connection_options, usage_errors
from trio_sched.cli.exits import strategy_failed
from trio_sched.cli.output import perform, show, show_json, within
from trio_sched.cli.view.tables import facts, table
from trio_sched.exceptions import StrategyError
from trio_sched.leader.preview import Preview, preview
from trio_sched.model.keys import check_path
from trio_sched.model.path_state import PathState
from trio_sched.serving.document import state_of
from trio_sched.strategies import get_strategy

__all__ = ["decide"]

_EXAMPLES = """\b
Examples:
  # what another strategy would choose, and which hosts would have to move
  trio-sched decide --dry-run /jobs/backup --strategy spread -n 3
  # the same without etcd, from what was there before
  trio-sched status /jobs/backup -o json > before.json
  trio-sched decide --dry-run --from before.json --strategy spread
"""

_CODES = CODES.replace("  2 ", "  70  the strategy raised, or broke its rules\n  2 ")


@click.command(
    short_help="Preview the next decision, with reasons.", epilog=f"{_EXAMPLES}\n{_CODES}"
)
@click.argument(
    "path",
    required=False,
    callback=usage_errors(check_path),
)
@click.option("--dry-run", is_flag=True, help="Has to be given: only the leader really decides.")
@click.option(
    "--from",
    "file",
    type=click.File(encoding="utf-8"),
    help="Take what is there from a file, as `status -o json` prints it.",
)
@click.option(
    "--strategy",
    show_default="the leader's",
    shell_complete=complete_strategy,
    callback=usage_errors(get_strategy),
    help="How hosts are chosen.",
)
@max_count_option("what holds", "How many may be chosen, whatever the leader and operators say.")
@connection_options
@output_option
@timeout_option
def decide(
    path: str | None,
    connection: Connection,
    file: TextIO | None,
    strategy: str | None,
    max_count: int | None,
    output: str,
    timeout: float,
    *,
    dry_run: bool,
) -> None:
    """Show which hosts of PATH would be chosen now, and why each would be or not.

    Nothing is written. What a leader of ours would find is read from etcd, or from a
    file; with PATH and --from, the hosts are those of the file.
    """
    if not dry_run:
        raise click.UsageError("give --dry-run: only the leader of a path really decides")
    if file is not None:
        state = _read(file)
        if path is not None:
            state = replace(state, path=path)
        sys.exit(_show_preview(state, strategy, max_count, output))
    if path is None:
        raise click.UsageError("give PATH, or --from FILE")
    perform(connection, partial(_decide, path, connection, strategy, max_count, output, timeout))


async def _decide(
    path: str,
    connection: Connection,
    strategy: str | None,
    max_count: int | None,
    output: str,
    timeout: float,
) -> int:
    async def read() -> PathState:
        async with connection.open() as client:
            return await read_path(client, path)

    return _show_preview(await within(timeout, read), strategy, max_count, output)


def _read(file: TextIO) -> PathState:
    try:
        return state_of(json.load(file))
    except RecursionError:
        words = "it is nested too deeply"
    except ValueError as exc:
        words = str(exc)
    raise click.BadParameter(f"{file.name!r}: {words}", param_hint="--from")


def _show_preview(
    state: PathState, strategy: str | None, max_count: int | None, output: str
) -> int:
    try:
        found = preview(state, strategy, max_count)
    except ValueError as exc:  # the leader's strategy; one that was given is known to be there
        raise click.UsageError(f"{exc}; the leader goes by it, so give --strategy") from exc
    except StrategyError as exc:
        return strategy_failed(exc)
    if output == "json":
        show_json(_document(state, found))
    else:
        _show(state, found)
    return 0


def _show(state: PathState, found: Preview) -> None:
    lines = [
        ("path", f"{state.path} (revision {state.revision})"),
        ("now", ", ".join(state.hosts) or "none"),
        ("would be", ", ".join(sorted(found.hosts)) or "none"),
        ("by", f"strategy {found.strategy}, max_count {found.max_count}"),
        ("reason", found.reason if found.changes else "nothing would change"),
        *(("note", note) for note in found.notes),
    ]
    show(facts(lines))
    if found.verdicts:
        made = table("HOST", "", "WHY")
        for verdict in found.verdicts:
            sign = _sign(was=verdict.was, chosen=verdict.chosen)
            made.add_row(plain(verdict.name), sign, plain(verdict.why))
        click.echo()
        show(made)


def _sign(*, was: bool, chosen: bool) -> str:
    if was == chosen:
        return "chosen" if chosen else "-"
    return "would come" if chosen else "would go"


def _document(state: PathState, found: Preview) -> dict[str, object]:
    return {
        "path": state.path,
        "revision": state.revision,
        "strategy": found.strategy,
        "max_count": found.max_count,
        "now": [*state.hosts],
        "would_be": [*found.hosts],
        "changes": found.changes,
        "reason": found.reason,
        "hosts": [
            {"name": each.name, "chosen": each.chosen, "was": each.was, "why": each.why}
            for each in found.verdicts
        ],
        "notes": [*found.notes],
    }
