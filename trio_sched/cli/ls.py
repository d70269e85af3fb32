"""``trio-sched ls``: the paths that there are."""

from __future__ import annotations

from functools import partial

import click

from trio_sched.cli.common import CODES, output_option, timeout_option
from trio_sched.cli.connect import Connection, connection_options, usage_errors
from trio_sched.cli.output import perform, show, show_json, within
from trio_sched.cli.paths import check_prefix, complete_path, read_paths
from trio_sched.leader.diagnosis import Finding, diagnose
from trio_sched.leader.preview import leader_options
from trio_sched.model.path_state import PathState

__all__ = ["ls"]

_EXAMPLES = """\b
Examples:
  trio-sched ls
  trio-sched ls /jobs
  # the paths that something is wrong with
  trio-sched ls -o json | jq -r '.[] | select(.warnings != []) | .path'
"""


@click.command(short_help="Show the paths that there are.", epilog=f"{_EXAMPLES}\n{CODES}")
@click.argument(
    "prefix", default="/", callback=usage_errors(check_prefix), shell_complete=complete_path
)
@connection_options
@output_option
@timeout_option
def ls(prefix: str, connection: Connection, output: str, timeout: float) -> None:
    """Show the paths at and below PREFIX, or all of them, with their hosts and what is wrong.

    To find them it reads the names of all keys below PREFIX.
    """
    prefix = check_prefix(prefix)
    perform(connection, partial(_ls, prefix, connection, output, timeout))


async def _ls(prefix: str, connection: Connection, output: str, timeout: float) -> int:
    async def read() -> list[PathState]:
        async with connection.open() as client:
            return await read_paths(client, prefix)

    states = await within(timeout, read)
    if output == "json":
        show_json([_document(state) for state in states])
    elif states:
        from trio_sched._support.text import plain  # noqa: PLC0415 # as above
        from trio_sched.cli.view.tables import table  # noqa: PLC0415 # brings rich

        drawn = table("PATH", "HOSTS", "LEADER", "SCHEDULED", "TROUBLE", right=["HOSTS"])
        for state in states:
            drawn.add_row(*map(plain, _row(state)))
        show(drawn)
    else:
        click.echo(f"there is no path below {prefix or '/'}", err=True)
    return 0


def _warnings(state: PathState) -> list[Finding]:
    return [found for found in diagnose(state) if found.level == "warning"]


def _row(state: PathState) -> tuple[str, ...]:
    leader = "none" if state.leader is None else state.leader.name
    warnings = [found.kind for found in _warnings(state)]
    if state.control.paused:
        warnings.insert(0, "paused")
    return (
        state.path,
        str(len(state.pool)),
        leader,
        ", ".join(state.hosts) or "none",
        ", ".join(warnings) or "-",
    )


def _document(state: PathState) -> dict[str, object]:
    return {
        "path": state.path,
        "revision": state.revision,
        "hosts": len(state.pool),
        "leader": None if state.leader is None else state.leader.name,
        "scheduled": [*state.hosts],
        "max_count": state.control.max_count or leader_options(state).max_count,
        "paused": state.control.paused,
        "drained": sorted(state.control.drained),
        "warnings": [
            {"kind": found.kind, "message": found.message, "hosts": [*found.hosts]}
            for found in _warnings(state)
        ],
    }
