"""What the commands that steer a path share: they write a change, and report its outcome."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, Literal, TypeAlias, TypeVar

import click
import trio

from trio_sched.cli.common import CODES, output_option, path_argument, read_path, timeout_option
from trio_sched.cli.connect import Connection, Seconds, connection_options
from trio_sched.cli.exits import NO_HOST, Exit
from trio_sched.cli.output import perform, show, show_json, within
from trio_sched.cli.reporter import Reporter
from trio_sched.cli.view.tables import facts
from trio_sched.cli.view.words import control_lines, eviction_line
from trio_sched.control import Control
from trio_sched.etcd_shim import Client
from trio_sched.leader.diagnosis import is_known_to_leader, is_pending, leader_ignores_control
from trio_sched.model.control_state import ControlState
from trio_sched.model.path_state import PathState
from trio_sched.scheduler import observe
from trio_sched.serving.document import control_document

__all__ = [
    "STEERING_CODES",
    "Change",
    "Outcome",
    "Steering",
    "absent_option",
    "carry_out",
    "steer",
    "steering_options",
    "steering_options_without_path",
    "words_of",
]

F = TypeVar("F", bound=Callable[..., Any])

Outcome: TypeAlias = Literal[
    "decided",
    "nobody-there",
    "not-waited",
    "ignored",
    "no-leader",
    "not-yet",
    "paused",
    "still-running",
]

STEERING_CODES: Final = CODES.replace(
    "Exit codes:",
    "Exit codes:\n"
    "  0   it is carried out, or no host is there, or --no-wait\n"
    "  68  no such host, or no host at all, has joined; nothing was written\n"
    "  75  it is wanted, and was not carried out in time, or there is no leader",
)


@dataclass(frozen=True)
class Change:
    """What an operator wants to change.

    Attributes:
        act: writes it, and returns the new wanted state.
        host: the host that it is about, if about one.
        leaves: whether that host is to end its work.
        evicts: whether that is to happen only once.
        takes_back: whether it ends what was wanted of that host before.
    """

    act: Callable[[Control], Awaitable[ControlState]]
    host: str | None = None
    leaves: bool = False
    evicts: bool = False
    takes_back: bool = False


@dataclass(frozen=True)
class Steering:
    """The options of a command that steers."""

    path: str
    connection: Connection
    by: str
    wait: float
    output: str
    timeout: float
    absent_ok: bool = False


def absent_option(command: F) -> F:
    """Give a command ``--absent-ok``."""
    return click.option(
        "--absent-ok", is_flag=True, help="Go on although the host, or any host, is not there yet."
    )(command)


def steering_options(command: F) -> F:
    """Give a command PATH and the options, which it passes to `steer`."""
    return path_argument(steering_options_without_path(command))


def steering_options_without_path(command: F) -> F:
    """Give a command the options alone."""
    options = (
        connection_options,
        click.option(
            "--by", default=_operator, show_default="USER@HOST", help="Who you are, for others."
        ),
        click.option(
            "--wait",
            type=Seconds(min=0),
            default=5,
            show_default=True,
            metavar="SECONDS",
            help="How long to wait until the leader has decided so.",
        ),
        click.option("--no-wait", is_flag=True, help="Write down what is wanted, and go."),
        output_option,
        timeout_option,
    )
    for option in reversed(options):
        command = option(command)
    return command


def _operator() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # it has no name here
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def steer(change: Change, *, wait: float, no_wait: bool, **options: Any) -> None:
    """Carry out a command, and exit."""
    steering = Steering(wait=0 if no_wait else wait, **options)
    perform(steering.connection, partial(_steer, steering, change, await_outcome=not no_wait))


async def _steer(steering: Steering, change: Change, *, await_outcome: bool) -> int:
    async with steering.connection.open() as client:
        if not steering.absent_ok:
            absent = await within(steering.timeout, partial(_absent, client, steering.path, change))
            if absent:
                Reporter(as_json=False).error(absent, NO_HOST)
                return NO_HOST
        wanted, outcome, state = await carry_out(
            client, steering, change, await_outcome=await_outcome
        )
    words = words_of(outcome, state, steering, change)
    if steering.output == "json":
        _show_json(steering, wanted, outcome, state, words)
    else:
        now = datetime.now(UTC)
        lines = list(control_lines(wanted, now))
        if change.evicts and change.host is not None:
            lines.append(eviction_line(wanted, change.host, now))
        rows = [("" if at else "wanted", line) for at, line in enumerate(lines or ["nothing"])]
        show(facts([*rows, (_TITLES[outcome], words)]))
    return 0 if outcome in {"decided", "nobody-there", "not-waited"} else Exit.NOT_SCHEDULED


async def carry_out(
    client: Client, steering: Steering, change: Change, *, await_outcome: bool
) -> tuple[ControlState, Outcome, PathState | None]:
    """Write a change, and wait for what comes of it; return what is wanted then, too.

    Raises:
        NoAnswer: etcd did not answer in time.
        TrioSchedError: etcd refused.
    """
    control = Control(client, steering.path, by=steering.by)
    wanted = await within(steering.timeout, partial(change.act, control))
    if not await_outcome:
        return wanted, "not-waited", None
    follow = partial(_follow, client, steering, change, wanted)
    return wanted, *await within(steering.timeout + steering.wait, follow)


async def _absent(client: Client, path: str, change: Change) -> str:
    """Return why a name may be mistyped; empty if what is to be changed is there.

    What an operator wanted before is there too, though its hosts may have left since.
    """
    state = await read_path(client, path)
    host, known = change.host, state.control
    if change.evicts or host in state.pool or _holds_slot(state, host):
        return ""  # an eviction looks for itself
    if change.takes_back and host in known.drained:
        return ""
    hint = "or give --absent-ok"
    if host is not None:
        return f"no host {host!r} has joined {path!r}; see `trio-sched members {path}`, {hint}"
    if state.pool or known.revision:
        return ""
    return f"no host has joined {path!r}; look whether the path is right, {hint}"


async def _follow(
    client: Client, steering: Steering, change: Change, wanted: ControlState
) -> tuple[Outcome, PathState]:
    """Wait for the outcome of a change, and return it."""
    async with observe(client, steering.path, pool=True) as seen:
        with trio.move_on_after(steering.wait):
            async for state in seen:
                outcome = _outcome(state, change, wanted.revision)
                if outcome in {"decided", "nobody-there", "ignored"}:
                    break
        return _outcome(seen.newest, change, wanted.revision), seen.newest


def _outcome(state: PathState, change: Change, revision: int) -> Outcome:
    holds_slot = change.leaves and _holds_slot(state, change.host)
    if not state.pool and not holds_slot:
        return "nobody-there"
    if not is_known_to_leader(state, revision):
        if state.leader is None:
            return "still-running" if holds_slot else "no-leader"
        return "ignored" if leader_ignores_control(state) else "not-yet"
    if change.leaves and change.host in state.hosts:
        return _outcome_for_chosen(state, change)
    return "still-running" if holds_slot else "decided"


def _outcome_for_chosen(state: PathState, change: Change) -> Outcome:
    """Return what came of a change for a host that is to end its work, and is chosen still."""
    evictions = state.control.evictions
    if state.control.paused:
        return "paused"
    pending = any(name == change.host and is_pending(state, name) for name in evictions)
    if change.evicts and not pending:
        return "decided"  # no other host could take its place
    return "not-yet"  # as just after a pause: who leads decides in a moment


def _holds_slot(state: PathState, host: str | None) -> bool:
    return any(slot.name == host for slot in state.slots.values())


_TITLES: Final[dict[Outcome, str]] = {
    "decided": "decided",
    "nobody-there": "note",
    "not-waited": "note",
    "ignored": "warning",
    "no-leader": "warning",
    "not-yet": "warning",
    "paused": "warning",
    "still-running": "warning",
}


def words_of(outcome: Outcome, state: PathState | None, steering: Steering, change: Change) -> str:
    """Describe the outcome."""
    seconds = f"within {steering.wait:g} s"
    leader = state.leader.name if state is not None and state.leader is not None else "none"
    if outcome == "decided":
        assert state is not None
        words = _decided(state)
        if change.host is not None and change.host not in state.pool:
            words += f"; {change.host} is not there, and it holds when it comes"
        return words
    return {
        "nobody-there": "no host has joined the path; the change holds for those that join",
        "not-waited": "not waited for; see the outcome with `trio-sched status`",
        "ignored": f"{leader} leads, and takes no notice: it is a host of the Go package",
        "no-leader": f"there is no leader, nor was one elected {seconds}; the next one decides so",
        "not-yet": f"{leader} leads, and has not decided so {seconds}; see `trio-sched status`",
        "paused": (
            f"decisions are paused, and were {seconds}: {change.host} stays chosen, and goes on, "
            f"until `trio-sched resume {steering.path}`"
        ),
        "still-running": (
            f"{change.host} is not scheduled any more, and still held its slot {seconds}: "
            "its work has not ended"
        ),
    }[outcome]


def _decided(state: PathState) -> str:
    hosts = ", ".join(state.hosts) or "none"
    assert state.record is not None
    by = f"by {state.record.leader}: {state.record.reason}"
    return f"{hosts} (revision {state.hosts.revision}, {by})"


def _show_json(
    steering: Steering,
    wanted: ControlState,
    outcome: Outcome,
    state: PathState | None,
    words: str,
) -> None:
    decided = state is not None and outcome in {"decided", "paused", "still-running"}
    show_json(
        {
            "path": steering.path,
            "control": control_document(wanted),
            "outcome": outcome,
            "message": words,
            "decision": {
                "hosts": [*state.hosts],
                "revision": state.hosts.revision,
                "leader": state.record.leader,
                "reason": state.record.reason,
            }
            if decided and state is not None and state.record is not None
            else None,
        }
    )
