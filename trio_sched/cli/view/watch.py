"""``trio-sched watch``: a path as it changes, on a terminal or as JSON lines."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from math import inf

import click
import trio
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.segment import Segment
from rich.text import Text

from trio_sched._support.tasks import open_plain_nursery
from trio_sched._support.text import plain
from trio_sched.cli.common import CODES, reading_options
from trio_sched.cli.connect import Connection
from trio_sched.cli.output import NoAnswer, is_live, perform, show, show_json, terminal
from trio_sched.cli.view.fitting import clip, mark_of
from trio_sched.cli.view.screen import Screen, has_keys
from trio_sched.cli.view.scrolling import HELP, Scroll
from trio_sched.cli.view.silence import OLD, Silence
from trio_sched.cli.view.tables import facts, status_view
from trio_sched.cli.view.words import known_ago
from trio_sched.host.observation import PathObservation
from trio_sched.leader.diagnosis import diagnose
from trio_sched.model.path_state import PathState
from trio_sched.scheduler import observe
from trio_sched.serving.document import document_of

__all__ = ["watch"]

_REDRAWN = 1.0  # seconds after which ages are shown anew
_RECONCILE = OLD / 3  # seconds without a change after which etcd is read

_EXAMPLES = """\b
Examples:
  trio-sched watch /jobs/backup
  # whenever something changes, what is scheduled now
  trio-sched watch /jobs/backup -o json | jq -c --unbuffered .decision.hosts
"""


@click.command(short_help="Show a path as it changes.", epilog=f"{_EXAMPLES}\n{CODES}")
@reading_options
def watch(path: str, connection: Connection, output: str, timeout: float) -> None:
    """Show PATH as `status` does, and each change, until interrupted.

    On a terminal it is drawn anew in place, and keys scroll and sort it: `?` shows which,
    and `q` leaves. Else there is a line for each change. As JSON, each line is a document as
    `status` prints it, without the TTLs of leases. A slow reader gets the newest state and
    misses some between.

    It goes on while etcd is away, and says so on standard error; the last state is shown
    again, with its age. What was missed is shown when etcd is back.
    """
    perform(connection, partial(_watch, path, connection, output, timeout))


async def _watch(path: str, connection: Connection, output: str, timeout: float) -> int:
    with trio.move_on_after(timeout) as scope:
        async with (
            connection.open() as client,
            observe(client, path, pool=True, reconcile=_RECONCILE) as seen,
        ):
            scope.deadline = inf  # etcd has answered
            await _show_all(seen, output)
            return 0
    raise NoAnswer(timeout)


async def _show_all(seen: PathObservation, output: str) -> None:
    """Show it until cancelled, or until the user leaves."""
    console = terminal()
    silence = Silence(lambda: seen.answered_at)
    if output == "json":
        await _show_states(seen, silence, partial(_show_document, silence))
    elif is_live(console):
        await (_draw_with_keys if has_keys() else _draw)(seen, silence, console)
    else:
        await _show_states(seen, silence, partial(_show_line, silence))


def _show_document(silence: Silence, state: PathState) -> None:
    show_json(document_of(state, {}, age=silence.age, trouble=None), on_one_line=True)


def _show_line(silence: Silence, state: PathState) -> None:
    show(line_of(state, datetime.now(UTC), silence.age))


async def _show_states(
    seen: PathObservation, silence: Silence, show_state: Callable[[PathState], None]
) -> None:
    """Show each change; and the last one again when it gets old, and when it is no longer."""
    async with open_plain_nursery() as nursery:
        nursery.start_soon(silence.report, lambda: show_state(seen.newest))
        shown: object = None
        async for state in seen:
            says = replace(state, revision=0), state.hosts.revision
            if says != shown:
                show_state(state)
            shown = says


def line_of(state: PathState, now: datetime, age: float = 0.0) -> str:
    """Return the state on one line; with its age in seconds, if it is old."""
    leader = state.leader
    parts = [known_ago(age)] if age >= OLD else []
    parts += [
        f"leader {leader.name}" if leader is not None else "no leader",
        f"pool {', '.join(state.pool) or 'empty'}",
        f"scheduled {', '.join(state.hosts) or 'none'}",
    ]
    if state.record is not None and state.record.reason:
        parts.append(state.record.reason)
    parts += [f"warning: {each.message}" for each in diagnose(state) if each.level == "warning"]
    return plain(f"{now:%H:%M:%S} revision {state.revision}: {'; '.join(parts)}")


async def _draw(seen: PathObservation, silence: Silence, console: Console) -> None:
    view = _View(seen, silence)
    on_screen = sys.stderr.isatty()  # what goes to a file stays out of the picture
    with Live(view, console=console, auto_refresh=False, redirect_stderr=on_screen) as live:
        async with open_plain_nursery() as nursery:
            nursery.start_soon(silence.report)
            nursery.start_soon(_redraw, live)
            async for _state in seen:
                live.refresh()


async def _draw_with_keys(seen: PathObservation, silence: Silence, console: Console) -> None:
    scroll = Scroll()
    screen = Screen(_View(seen, silence, scroll), console)
    async with open_plain_nursery() as nursery:
        await nursery.start(screen.run)
        nursery.start_soon(silence.report)
        nursery.start_soon(_redraw, screen)
        nursery.start_soon(_follow_keys, seen, screen, scroll, nursery.cancel_scope)
        async for _state in seen:
            screen.refresh()


async def _follow_keys(
    seen: PathObservation, screen: Screen, scroll: Scroll, scope: trio.CancelScope
) -> None:
    while keys := await screen.read_keys():
        for key in keys:
            scroll.press(key, len(seen.newest.pool))
        if scroll.left:
            scope.cancel()
            return
        screen.refresh()


async def _redraw(picture: Live | Screen) -> None:
    while True:
        await trio.sleep(_REDRAWN)
        picture.refresh()


class _View:
    """The newest state, as many lines of it as the terminal has, and how many more there are."""

    def __init__(
        self, seen: PathObservation, silence: Silence, scroll: Scroll | None = None
    ) -> None:
        self._seen = seen
        self._silence = silence
        self._scroll = scroll

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        silence = self._silence.words()
        room = max(2, console.height - 1) - bool(silence)
        if self._scroll is None:
            yield from self._begin(console, options, room)
        else:
            yield from self._part(self._scroll, console, options, room)
        if silence:
            yield Text(silence, style="bold red")

    def _begin(self, console: Console, options: ConsoleOptions, room: int) -> RenderResult:
        shown = status_view(self._seen.newest, None, datetime.now(UTC), self._silence.age)
        lines = console.render_lines(shown, options.update(height=None), pad=False)
        more = len(lines) - (room - 1) if len(lines) > room else 0
        for line in lines[: room - 1] if more else lines:
            yield from line
            yield Segment.line()
        if more:
            yield Text(f"and {more} lines more, for which this terminal is not high enough")

    def _part(
        self, scroll: Scroll, console: Console, options: ConsoleOptions, room: int
    ) -> RenderResult:
        """Show the part that was scrolled to, and a line that says which it is."""
        state = self._seen.newest
        shown: RenderableType = facts(HELP)
        if not scroll.helping:
            shown = status_view(
                state,
                None,
                datetime.now(UTC),
                self._silence.age,
                selection=scroll.selection(len(state.pool)),
                wide=scroll.wide,
            )
        lines = console.render_lines(shown, options.update(height=None), pad=False)
        window = scroll.window(len(lines), room - 1)
        for line in lines[window]:
            yield from line
            yield Segment.line()
        where = f"lines {window.start + 1}-{window.stop} of {len(lines)}"
        words = f"{where}, by {scroll.sort(len(state.pool))}; s sorts, q leaves, ? helps"
        yield clip(Text(words, style="reverse"), options.max_width, mark_of(options))
