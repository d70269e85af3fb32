"""``drain --everywhere`` and back: one host, or a zone, on all paths at once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Literal, TypeAlias, TypeVar

import click
import trio

from trio_sched._support.tasks import open_plain_nursery
from trio_sched.cli.connect import usage_errors
from trio_sched.cli.exits import NO_HOST, Exit
from trio_sched.cli.output import NoAnswer, perform, show, show_json, within
from trio_sched.cli.paths import check_prefix, complete_host, complete_path, read_paths
from trio_sched.cli.reporter import Reporter
from trio_sched.cli.steering import Change, Outcome, Steering, carry_out, steer, words_of
from trio_sched.etcd_shim import Client
from trio_sched.exceptions import TrioSchedError
from trio_sched.leader.preview import preview
from trio_sched.model.control_state import Note
from trio_sched.model.keys import check_hostname, check_path
from trio_sched.model.path_state import PathState

__all__ = ["Places", "place_arguments", "steer_places"]

F = TypeVar("F", bound=Callable[..., Any])
Verb: TypeAlias = Literal["drain", "undrain"]

_AT_ONCE: Final = 32  # paths


@dataclass(frozen=True)
class Places:
    """Where something is to be done: for a host of a path, or everywhere.

    Attributes:
        path: None for all paths at and below `under`.
        host: None for all hosts of the zone.
        under: a prefix of paths.
        zone: of the hosts; None for any.
        dry_run: only show it.
    """

    path: str | None
    host: str | None
    under: str = ""
    zone: str | None = None
    dry_run: bool = False


@dataclass
class _Place:
    """A host on a path.

    Attributes:
        state: of the path, before.
        host: its name.
        then: who would be chosen after it, as far as that can be said; None if it cannot.
        outcome: what came of it.
        words: the same for people.
    """

    state: PathState
    host: str
    then: tuple[str, ...] | None
    outcome: Outcome | Literal["dry-run", "failed"] = "dry-run"
    words: str = ""


_OPTIONS: Final = (
    click.option("--everywhere", is_flag=True, help="On all paths; then PATH is left out."),
    click.option(
        "--under",
        metavar="PREFIX",
        callback=usage_errors(check_prefix),
        shell_complete=complete_path,
        help="With --everywhere: on the paths at and below PREFIX only.",
    ),
    click.option(
        "--zone", metavar="ZONE", help="With --everywhere: the hosts of this zone; HOST may go."
    ),
    click.option("--dry-run", is_flag=True, help="With --everywhere: only show what moves."),
)


def place_arguments(command: F) -> F:
    """Give a command PATH and HOST, or ``--everywhere`` HOST, and pass it `Places`."""

    @functools.wraps(command)
    def wrapper(**options: Any) -> Any:
        names = ("path", "host", "everywhere", "under", "zone", "dry_run")
        return command(places=_places(**{name: options.pop(name) for name in names}), **options)

    for option in reversed(_OPTIONS):
        wrapper = option(wrapper)
    for name, complete in (("host", _complete_second), ("path", _complete_first)):
        wrapper = click.argument(name, required=False, shell_complete=complete)(wrapper)
    return wrapper  # type: ignore[return-value] # with these options, it is one


def _complete_first(context: click.Context, parameter: click.Parameter, text: str) -> list[str]:
    complete = complete_host if context.params.get("everywhere") else complete_path
    return complete(context, parameter, text)


def _complete_second(context: click.Context, parameter: click.Parameter, text: str) -> list[str]:
    return [] if context.params.get("everywhere") else complete_host(context, parameter, text)


def _places(
    path: str | None,
    host: str | None,
    under: str | None,
    zone: str | None,
    *,
    everywhere: bool,
    dry_run: bool,
) -> Places:
    if everywhere:
        if host is not None:
            raise click.UsageError(
                "give --everywhere HOST without PATH; --under PREFIX for some of the paths"
            )
        if path is None and zone is None:
            raise click.UsageError("give --everywhere HOST, or --everywhere --zone ZONE")
        checked = None if path is None else _checked(check_hostname, path)
        return Places(None, checked, check_prefix(under or "/"), zone, dry_run)
    given = {"--under": under, "--zone": zone, "--dry-run": dry_run or None}
    if wrong := [name for name, value in given.items() if value is not None]:
        raise click.UsageError(f"{wrong[0]} goes with --everywhere")
    for name, value in (("PATH", path), ("HOST", host)):
        if value is None:
            raise click.UsageError(f"Missing argument '{name}'")
    return Places(_checked(check_path, path), _checked(check_hostname, host))


def _checked(check: Callable[[Any], str], value: str | None) -> str:
    try:
        return check(value)
    except (ValueError, TypeError) as exc:
        raise click.UsageError(str(exc)) from exc


def steer_places(
    places: Places, change: Callable[[str], Change], verb: Verb, **options: Any
) -> None:
    """Carry out a command, and exit.

    Args:
        places: where.
        change: gives it for a host.
        verb: what is done.
        **options: as for `steer`.
    """
    if places.path is not None and places.host is not None:
        steer(change(places.host), path=places.path, **options)
    no_wait, wait = options.pop("no_wait"), options.pop("wait")
    steering = Steering(path="/", wait=0 if no_wait else wait, **options)
    work = partial(_steer, places, change, verb, steering, await_outcome=not no_wait)
    perform(steering.connection, work)


async def _steer(
    places: Places,
    change: Callable[[str], Change],
    verb: Verb,
    steering: Steering,
    *,
    await_outcome: bool,
) -> int:
    async with steering.connection.open() as client:
        read = partial(read_paths, client, places.under)
        states = await within(steering.timeout, read)
        found = [_Place(*each) for each in _moving(states, places, verb)]
        if not found and not steering.absent_ok:
            Reporter(as_json=False).error(_nobody(places, verb), NO_HOST)
            return NO_HOST
        if not places.dry_run:
            await _carry_out_all(client, found, change, steering, await_outcome=await_outcome)
    _show(found, verb, steering.output)
    done = {"decided", "nobody-there", "not-waited", "dry-run"}
    return 0 if all(place.outcome in done for place in found) else Exit.NOT_SCHEDULED


def _moving(
    states: Sequence[PathState], places: Places, verb: Verb
) -> list[tuple[PathState, str, tuple[str, ...] | None]]:
    """Return where there is something to do: on which path, for which host, and who is next."""
    moving: list[tuple[PathState, str]] = []
    for state in states:
        names = {*state.pool, *(slot.name for slot in state.slots.values()), *state.control.drained}
        for host in sorted(names):
            known = state.pool.get(host)
            is_drained = host in state.control.drained
            if places.host not in {None, host} or is_drained is (verb == "drain"):
                continue
            if places.zone is not None and (known is None or known.zone != places.zone):
                continue
            moving.append((state, host))
    return [(state, host, _then(state, _hosts_of(state, moving), verb)) for state, host in moving]


def _hosts_of(state: PathState, moving: Iterable[tuple[PathState, str]]) -> list[str]:
    return [host for other, host in moving if other is state]


def _then(state: PathState, hosts: Sequence[str], verb: Verb) -> tuple[str, ...] | None:
    """Return who would be chosen when that is done for these hosts of a path."""
    control = state.control
    if control.paused:
        return tuple(state.hosts)
    try:
        for host in hosts:
            control = control.drain(host, Note()) if verb == "drain" else control.undrain(host)
        return tuple(sorted(preview(replace(state, control=control), None, None).hosts))
    except (ValueError, TrioSchedError):  # a strategy that is not here, or fails; or an odd name
        return None


async def _carry_out_all(
    client: Client,
    found: Sequence[_Place],
    change: Callable[[str], Change],
    steering: Steering,
    *,
    await_outcome: bool,
) -> None:
    """Do it on all paths at once, and wait for all."""
    limit = trio.CapacityLimiter(_AT_ONCE)

    async def carry(place: _Place) -> None:
        try:
            own, this = replace(steering, path=place.state.path), change(place.host)
            async with limit:
                _, place.outcome, state = await carry_out(
                    client, own, this, await_outcome=await_outcome
                )
            place.words = words_of(place.outcome, state, own, this)
        except NoAnswer:
            place.outcome, place.words = "failed", "etcd did not answer in time"
        except (TrioSchedError, ValueError) as exc:  # a name or a path that another has put there
            place.outcome, place.words = "failed", str(exc)

    async with open_plain_nursery() as nursery:
        for place in found:
            nursery.start_soon(carry, place)


def _nobody(places: Places, verb: Verb) -> str:
    who = "no host" if places.host is None else f"no host {places.host!r}"
    zone = "" if places.zone is None else f" of zone {places.zone!r}"
    where = places.under or "/"
    what = "that is not drained already" if verb == "drain" else "that is drained"
    return f"{who}{zone} {what} is on any path below {where}; see `trio-sched ls`"


def _show(found: Sequence[_Place], verb: Verb, output: str) -> None:
    if output == "json":
        show_json([_document(place) for place in found])
        return
    from trio_sched._support.text import plain  # noqa: PLC0415 # as above
    from trio_sched.cli.view.tables import table  # noqa: PLC0415 # brings rich

    title = "WOULD BE" if all(place.outcome == "dry-run" for place in found) else "OUTCOME"
    drawn = table("PATH", "HOST", "NOW", "SCHEDULED", title)
    for place in found:
        then = "?" if place.then is None else ", ".join(place.then) or "none"
        words = then if place.outcome == "dry-run" else f"{place.outcome}: {place.words}"
        now = "scheduled" if place.host in place.state.hosts else "waiting"
        if verb == "undrain":
            now = "drained"
        chosen = ", ".join(place.state.hosts) or "none"
        drawn.add_row(*map(plain, (place.state.path, place.host, now, chosen, words)))
    show(drawn)


def _document(place: _Place) -> dict[str, object]:
    return {
        "path": place.state.path,
        "host": place.host,
        "was_scheduled": place.host in place.state.hosts,
        "scheduled": [*place.state.hosts],
        "would_be": None if place.then is None else [*place.then],
        "outcome": place.outcome,
        "message": place.words,
    }
