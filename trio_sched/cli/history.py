"""``trio-sched history``: who was scheduled when, decided by whom, and why."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

import click

from trio_sched.cli.common import CODES, reading_options
from trio_sched.cli.connect import Connection, usage_errors
from trio_sched.cli.exits import NO_PATH
from trio_sched.cli.output import perform, show, show_json, within
from trio_sched.cli.past import Past, PastDecision, read_past
from trio_sched.cli.reporter import Reporter
from trio_sched.cli.run.ticks import period_of

__all__ = ["history"]

_EXAMPLES = """\b
Examples:
  trio-sched history /jobs/backup --since 12h
  # who was scheduled at a revision
  trio-sched status /jobs/backup --at 4711
  # last night, with another strategy
  trio-sched simulate --from-history /jobs/backup --since 12h --strategy spread
"""


@click.command(short_help="Show who was scheduled when, and why.", epilog=f"{_EXAMPLES}\n{CODES}")
@click.option(
    "--since",
    metavar="PERIOD",
    callback=usage_errors(period_of),
    show_default="all that is kept",
    help="As in 30m, 12h or 2d: decisions of that time.",
)
@reading_options
def history(
    path: str, connection: Connection, output: str, timeout: float, since: str | None
) -> None:
    """Show the decisions of PATH, as far as etcd keeps its history, the newest last.

    Times are by the clocks of the leaders; the order is that of revisions. What was compacted
    is said. Exits with 66 if nothing is known of PATH.
    """
    perform(connection, partial(_history, path, connection, output, timeout, since))


async def _history(
    path: str, connection: Connection, output: str, timeout: float, since: str | None
) -> int:
    async def read() -> Past:
        async with connection.open() as client:
            return await read_past(client, path)

    past = await within(timeout, read)
    decisions = list(past.decisions())
    if since is not None:
        begin = datetime.now(UTC) - timedelta(seconds=period_of(since))
        decisions = [decision for decision in decisions if _is_of(decision, begin)]
    if output == "json":
        show_json(_document(past, decisions))
    elif decisions:
        _show(decisions)
    if not (past.events or past.before):
        Reporter(as_json=False).error(f"etcd knows nothing of {path!r}", NO_PATH)
        return NO_PATH
    if output != "json" and past.first_revision > 1:
        click.echo(f"history before revision {past.first_revision} is compacted", err=True)
    return 0


def _is_of(decision: PastDecision, begin: datetime) -> bool:
    """Return whether a decision is of a time; one that does not say when is."""
    try:
        return datetime.fromisoformat(decision.when) >= begin
    except ValueError:
        return True


def _show(decisions: Sequence[PastDecision]) -> None:
    from trio_sched._support.text import plain  # noqa: PLC0415 # as above
    from trio_sched.cli.view.tables import table  # noqa: PLC0415 # brings rich

    drawn = table("WHEN", "REVISION", "SCHEDULED", "BY", "WHY", right=["REVISION"])
    for each in decisions:
        hosts = ", ".join(each.hosts) or "none"
        cells = (each.when or "?", str(each.revision), hosts, each.leader or "-", each.reason)
        drawn.add_row(*map(plain, cells))
    show(drawn)


def _document(past: Past, decisions: Sequence[PastDecision]) -> dict[str, object]:
    return {
        "path": past.path,
        "first_revision": past.first_revision,
        "last_revision": past.last_revision,
        "decisions": [
            {
                "revision": each.revision,
                "when": each.when or None,
                "hosts": [*each.hosts],
                "leader": each.leader,
                "reason": each.reason,
            }
            for each in decisions
        ],
    }
