"""``trio-sched members``: the hosts of a path, one line for each."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial

import click

from trio_sched.cli.common import CODES, read_with_ttls, reading_options
from trio_sched.cli.connect import Connection
from trio_sched.cli.output import perform, show, show_json, within
from trio_sched.serving.document import host_document

__all__ = ["members"]

_EXAMPLES = """\b
Examples:
  trio-sched members /jobs/backup
  # the hosts that may be chosen
  trio-sched members /jobs/backup -o json |
    jq -r 'select(.available and (.drained | not)) | .name'
"""


@click.command(short_help="Show a line for each host.", epilog=f"{_EXAMPLES}\n{CODES}")
@reading_options
def members(path: str, connection: Connection, output: str, timeout: float) -> None:
    """Show a line for each host of PATH; as JSON, an object on each line."""
    perform(connection, partial(_members, path, connection, output, timeout))


async def _members(path: str, connection: Connection, output: str, timeout: float) -> int:
    state, ttls = await within(timeout, partial(read_with_ttls, connection, path))
    if output == "json":
        for host in state.pool.values():
            show_json(host_document(state, host, ttls), on_one_line=True)
    elif state.pool:
        from trio_sched.cli.view.tables import PoolView  # noqa: PLC0415 # brings rich

        show(PoolView(state, ttls, datetime.now(UTC)))
    else:
        click.echo(f"no host has joined {path}", err=True)
    return 0
