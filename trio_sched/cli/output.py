"""How the commands write, tables for people and JSON for programs, and how they end."""

from __future__ import annotations

import io
import json
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, NoReturn, TextIO, TypeVar

import trio

from trio_sched._support.tasks import open_plain_nursery
from trio_sched.cli.connect import Connection
from trio_sched.cli.exits import Exit, explain
from trio_sched.cli.reporter import Reporter
from trio_sched.exceptions import TrioSchedError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = [
    "NoAnswer",
    "drawn",
    "is_live",
    "perform",
    "result_of",
    "run_until_signal",
    "show",
    "show_json",
    "terminal",
    "within",
]

T = TypeVar("T")


class NoAnswer(Exception):
    """Etcd did not answer within these seconds."""


_ENDLESS = 100_000  # columns of what is not a terminal: its lines are not broken


def terminal(file: TextIO | None = None) -> Console:
    """Return a console for standard output: colour and width are the terminal's.

    Where there is none, nor with NO_COLOR or TERM=dumb, there is no colour; and what is
    no terminal has lines of any length.
    """
    from rich.console import Console  # noqa: PLC0415 # what is for programs needs none of rich

    file = file or sys.stdout
    if isinstance(file, io.TextIOWrapper):
        file.reconfigure(errors="backslashreplace")  # a terminal may have less than UTF-8
    return Console(
        file=file,
        width=None if file.isatty() else _ENDLESS,
        # Environment variables that make rich take a pipe for a terminal are for others.
        force_terminal=file.isatty(),
        highlight=False,
        markup=False,
        emoji=False,
    )


def is_live(console: Console) -> bool:
    """Return whether what is shown can be drawn anew in place."""
    return console.is_terminal and not console.is_dumb_terminal


def show(what: RenderableType) -> None:
    """Write it for people; without the blanks that fill up a table."""
    sys.stdout.write(drawn(what, terminal()))
    sys.stdout.flush()


def drawn(what: RenderableType, console: Console) -> str:
    """Return what `show` writes."""
    with console.capture() as captured:
        console.print(what, soft_wrap=isinstance(what, str))
    text = captured.get()
    if not console.is_terminal:
        text = "".join(f"{line.rstrip()}\n" for line in text.splitlines())
    return text


def show_json(document: object, *, on_one_line: bool = False) -> None:
    """Write it for programs."""
    sys.stdout.write(json.dumps(document, indent=None if on_one_line else 2) + "\n")
    sys.stdout.flush()


def perform(connection: Connection, work: Callable[[], Awaitable[int]]) -> NoReturn:
    """Do it, and exit; an error is one line that helps.

    Args:
        connection: that it uses, for the text of errors.
        work: returns the exit code.
    """
    code, done = result_of(connection, partial(run_until_signal, work))
    sys.exit(code if done is None else done)


def result_of(connection: Connection, work: Callable[[], Awaitable[T]]) -> tuple[int, T | None]:
    """Run it in a trio of its own; return 0 and the result, or an exit code and None.

    An error is one line that helps. Arguments as for `perform`.
    """
    code: int
    try:
        return 0, trio.run(work)
    except TrioSchedError as error:
        code, words = explain(error, connection)
        Reporter(as_json=False).error(words, code)
    except NoAnswer as error:
        where, code = ",".join(connection.endpoints), Exit.UNAVAILABLE
        words = f"etcd at {where} did not answer within {error.args[0]:g} s; see --timeout"
        Reporter(as_json=False).error(words, code)
    except KeyboardInterrupt:  # before or after the signals were listened to
        code = 128 + signal.SIGINT
    return code, None


async def run_until_signal(work: Callable[[], Awaitable[int]]) -> int:
    """Return what `work` returns; SIGINT and SIGTERM cancel it, and give the exit code."""
    if threading.current_thread() is not threading.main_thread():
        return await work()  # no signal ever comes here
    codes: list[int] = []
    async with open_plain_nursery() as nursery:
        await nursery.start(_end_on_signal, nursery.cancel_scope, codes)
        codes.append(await work())
        nursery.cancel_scope.cancel()
    return codes[0]


async def _end_on_signal(
    scope: trio.CancelScope,
    codes: list[int],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as numbers:
        task_status.started()
        async for number in numbers:
            codes.append(128 + number)  # as a shell has it
            scope.cancel()


async def within(seconds: float, work: Callable[[], Awaitable[T]]) -> T:
    """Return what `work` does; if that takes longer, it is because etcd does not answer.

    Raises:
        NoAnswer: it took longer.
    """
    with trio.move_on_after(seconds):
        return await work()
    raise NoAnswer(seconds)
