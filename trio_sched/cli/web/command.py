"""``trio-sched web``: all paths below some prefixes, live in a browser; nothing can be changed."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from functools import partial

import click
import trio

from trio_sched._support.tasks import open_plain_nursery
from trio_sched._support.wall_time import wall_time
from trio_sched.cli.common import CODES, complete_place, timeout_option
from trio_sched.cli.connect import Connection, connection_options
from trio_sched.cli.exits import Exit
from trio_sched.cli.output import perform, within
from trio_sched.cli.reporter import Reporter
from trio_sched.cli.run.seen import address_option
from trio_sched.cli.view.silence import OLD
from trio_sched.cli.web.board import Board
from trio_sched.cli.web.pages import BoardPages
from trio_sched.etcd_shim import Client
from trio_sched.etcd_shim._following import Follower
from trio_sched.etcd_shim.watch import EventType
from trio_sched.serving.address import Address, CannotListen
from trio_sched.serving.server import open_server

__all__ = ["web"]

_EXAMPLES = """\b
Examples:
  # then open http://127.0.0.1:8765/
  trio-sched web /jobs
  # etcd holds nothing else, or little
  trio-sched web
"""


def _check_prefix(_context: click.Context, _parameter: click.Parameter, values: object) -> object:
    for text in values if isinstance(values, tuple) else ():
        if not text.startswith("/"):
            raise click.BadParameter(f"a path starts with '/', not {text!r}")
    return values


@click.command(short_help="Show paths in a browser, live.", epilog=f"{_EXAMPLES}\n{CODES}")
@click.argument(
    "paths",
    nargs=-1,
    metavar="[PATH]...",
    callback=_check_prefix,
    shell_complete=complete_place("path"),
)
@connection_options
@address_option("--listen", default="127.0.0.1:8765", help="Where to serve it: [HOST:]PORT.")
@timeout_option
def web(paths: tuple[str, ...], connection: Connection, listen: Address, timeout: float) -> None:
    """Serve a page that shows each PATH, and all paths below it, as they change.

    Without PATH these are all paths. Whatever else has keys below them in etcd is read, too,
    and not shown. The page is for reading only. Who can connect to it sees it; there is no
    password.

    It goes on while etcd is away, and shows how old it is.
    """
    perform(connection, partial(_web, paths or ("/",), connection, listen, timeout))


async def _web(
    paths: Sequence[str], connection: Connection, listen: Address, timeout: float
) -> int:
    board = Board()
    pages = BoardPages(board, listen)
    try:
        async with (
            connection.open() as client,
            open_server(listen, pages) as found,
            open_plain_nursery() as nursery,
        ):
            pages.where = found
            followed = partial(_start_all, nursery, client, paths, board, pages)
            await within(timeout, followed)
            sys.stdout.write(f"http://{found}/\n")
            sys.stdout.flush()
            await trio.sleep_forever()
    except CannotListen as error:
        Reporter(as_json=False).error(str(error), Exit.USAGE)
    return Exit.USAGE


def _prefixes(paths: Iterable[str]) -> list[str]:
    """Return what keys start with, without those that are below others."""
    found = sorted({f"{path.rstrip('/')}/" for path in paths})
    return [each for each in found if not any(o != each and each.startswith(o) for o in found)]


async def _start_all(
    nursery: trio.Nursery,
    client: Client,
    paths: Sequence[str],
    board: Board,
    pages: BoardPages,
) -> None:
    followers: list[Follower] = []
    for prefix in _prefixes(paths):
        await nursery.start(_follow, client, prefix, board, pages, followers)


async def _follow(
    client: Client,
    prefix: str,
    board: Board,
    pages: BoardPages,
    followers: list[Follower],
    *,
    task_status: trio.TaskStatus[None],
) -> None:
    """Keep the board up to date below one prefix."""
    async with client.follow(prefix, reconcile=OLD / 3) as follower:
        followers.append(follower)
        first = follower.first
        board.update({kv.key: kv for kv in first.kvs}, first.revision, wall_time())
        task_status.started()
        async with open_plain_nursery() as nursery:
            nursery.start_soon(_watch_age, followers, pages)
            while True:
                batch = await follower.receive()
                deleted = EventType.DELETE
                changed = {
                    event.kv.key: None if event.type is deleted else event.kv
                    for event in batch.events
                }
                if board.update(changed, batch.revision, wall_time()):
                    pages.notify()


async def _watch_age(followers: Sequence[Follower], pages: BoardPages) -> None:
    """Note when etcd has answered, for the prefix that is known worst."""
    while True:
        pages.answered_at = min(follower.answered_at for follower in followers)
        await trio.sleep(1)
