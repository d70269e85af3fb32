"""``trio-sched status``: all that there is to know about a path."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial

import click

from trio_sched.cli.common import CODES, read_with_ttls, reading_options
from trio_sched.cli.connect import Connection
from trio_sched.cli.output import perform, show, show_json, within
from trio_sched.cli.view.document import document_of
from trio_sched.cli.view.tables import status_view

__all__ = ["status"]

_EXAMPLES = """\b
Examples:
  trio-sched status /jobs/backup
  # the names of the hosts that are scheduled
  trio-sched status /jobs/backup -o json | jq -r '.decision.hosts[]'
  # fail if anything is not as it should be
  trio-sched status /jobs/backup -o json |
    jq -e '[.warnings[] | select(.level == "warning")] == []'
"""


@click.command(short_help="Show all there is to know about a path.", epilog=f"{_EXAMPLES}\n{CODES}")
@reading_options
def status(path: str, connection: Connection, output: str, timeout: float) -> None:
    """Show the hosts of PATH, the leader, the decision and why, slots, and what is odd.

    All of it is as of one revision of etcd's store. Ages are by the clocks of those who
    published the times, and for people only; the order is that of revisions.
    """
    perform(connection, partial(_status, path, connection, output, timeout))


async def _status(path: str, connection: Connection, output: str, timeout: float) -> int:
    state, ttls = await within(timeout, partial(read_with_ttls, connection, path))
    if output == "json":
        show_json(document_of(state, ttls))
    else:
        show(status_view(state, ttls, datetime.now(UTC)))
    return 0
