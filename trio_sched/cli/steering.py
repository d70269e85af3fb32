"""What the commands that steer a path share: they write a wish, and see what comes of it."""

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

from trio_sched.cli.common import CODES, output_option, path_argument, timeout_option
from trio_sched.cli.connect import Connection, connection_options
from trio_sched.cli.exits import Exit
from trio_sched.cli.output import perform, show, show_json, within
from trio_sched.cli.view.document import control_document
from trio_sched.cli.view.tables import facts
from trio_sched.cli.view.words import control_lines, eviction_line
from trio_sched.control import Control
from trio_sched.etcd_shim import Client
from trio_sched.leader.diagnosis import is_known_to_leader, leader_ignores_control
from trio_sched.model.control_state import ControlState
from trio_sched.model.path_state import PathState
from trio_sched.scheduler import observe

__all__ = ["STEERING_CODES", "Wish", "steer", "steering_options"]

F = TypeVar("F", bound=Callable[..., Any])

Outcome: TypeAlias = Literal[
    "decided", "nobody-there", "not-waited", "ignored", "no-leader", "not-yet", "still-running"
]

STEERING_CODES: Final = CODES.replace(
    "Exit codes:",
    "Exit codes:\n"
    "  0   it is carried out, or nobody is there, or --no-wait\n"
    "  75  it is wanted, and not carried out in time, or by nobody",
)


@dataclass(frozen=True)
class Wish:
    """What an operator wants.

    Attributes:
        act: writes it, and returns all that is wanted then.
        host: whom it is about, if about one.
        leaves: whether that host is to end its work.
        evicts: whether that is to happen only once.
    """

    act: Callable[[Control], Awaitable[ControlState]]
    host: str | None = None
    leaves: bool = False
    evicts: bool = False


@dataclass(frozen=True)
class Steering:
    """The options of a command that steers."""

    path: str
    connection: Connection
    by: str
    wait: float
    output: str
    timeout: float


def steering_options(command: F) -> F:
    """Give a command PATH and the options, which it passes to `steer`."""
    options = (
        path_argument,
        connection_options,
        click.option(
            "--by", default=_operator, show_default="USER@HOST", help="Who you are, for others."
        ),
        click.option(
            "--wait",
            type=click.FloatRange(min=0),
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


def steer(wish: Wish, *, wait: float, no_wait: bool, **options: Any) -> None:
    """Carry out a command, and exit."""
    steering = Steering(wait=0 if no_wait else wait, **options)
    perform(steering.connection, partial(_steer, steering, wish, look=not no_wait))


async def _steer(steering: Steering, wish: Wish, *, look: bool) -> int:
    async with steering.connection.open() as client:
        control = Control(client, steering.path, by=steering.by)
        wanted = await within(steering.timeout, partial(wish.act, control))
        outcome: Outcome = "not-waited"
        state: PathState | None = None
        if look:
            look_on = partial(_look_on, client, steering, wish, wanted)
            outcome, state = await within(steering.timeout + steering.wait, look_on)
    words = _words(outcome, state, steering, wish)
    if steering.output == "json":
        _show_json(steering, wanted, outcome, state, words)
    else:
        now = datetime.now(UTC)
        lines = list(control_lines(wanted, now))
        if wish.evicts and wish.host is not None:
            lines.append(eviction_line(wanted, wish.host, now))
        told = [("" if at else "wanted", line) for at, line in enumerate(lines or ["nothing"])]
        show(facts([*told, (_TITLES[outcome], words)]))
    return 0 if outcome in {"decided", "nobody-there", "not-waited"} else Exit.NOT_SCHEDULED


async def _look_on(
    client: Client, steering: Steering, wish: Wish, wanted: ControlState
) -> tuple[Outcome, PathState]:
    """Look what comes of a wish, for as long as there is something to wait for."""
    async with observe(client, steering.path, pool=True) as seen:
        with trio.move_on_after(steering.wait):
            async for state in seen:
                outcome = _outcome(state, wish, wanted.revision)
                if outcome in {"decided", "nobody-there", "ignored"}:
                    break
        return _outcome(seen.newest, wish, wanted.revision), seen.newest


def _outcome(state: PathState, wish: Wish, revision: int) -> Outcome:
    if not state.pool:
        return "nobody-there"
    if not is_known_to_leader(state, revision):
        if state.leader is None:
            return "no-leader"
        return "ignored" if leader_ignores_control(state) else "not-yet"
    if wish.leaves and wish.host not in state.hosts and _holds_slot(state, wish.host):
        return "still-running"
    return "decided"


def _holds_slot(state: PathState, host: str | None) -> bool:
    return any(slot.name == host for slot in state.slots.values())


_TITLES: Final[dict[Outcome, str]] = {
    "decided": "decided",
    "nobody-there": "note",
    "not-waited": "note",
    "ignored": "warning",
    "no-leader": "warning",
    "not-yet": "warning",
    "still-running": "warning",
}


def _words(outcome: Outcome, state: PathState | None, steering: Steering, wish: Wish) -> str:
    """Say what came of it."""
    seconds = f"within {steering.wait:g} s"
    leader = state.leader.name if state is not None and state.leader is not None else "nobody"
    if outcome == "decided":
        assert state is not None
        words = _decided(state)
        if wish.host is not None and wish.host not in state.pool:
            words += f"; {wish.host} is not there, and it holds when it comes"
        elif wish.leaves and wish.host in state.hosts and state.control.paused:
            words += "; decisions are paused, so it waits for `resume`"
        return words
    return {
        "nobody-there": "nobody has joined the path; it holds for those who come",
        "not-waited": "not waited for; see what comes of it with `trio-sched status`",
        "ignored": f"{leader} leads, and takes no notice: it is a host of the Go package",
        "no-leader": f"nobody leads, and nobody came to lead {seconds}; it holds for who comes",
        "not-yet": f"{leader} leads, and has not decided so {seconds}; see `trio-sched status`",
        "still-running": (
            f"{wish.host} is not scheduled any more, and still held its slot {seconds}: "
            "its work is ending"
        ),
    }[outcome]


def _decided(state: PathState) -> str:
    hosts = ", ".join(state.hosts) or "nobody"
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
    decided = state is not None and outcome in {"decided", "still-running"}
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
