"""Where the options of ``trio-sched run`` may stand, and what holds of them.

On the line, in ``TRIO_SCHED_*`` (those for etcd also in ``ETCDCTL_*``), or in a file of TOML; the
first of these that says something holds. That is click's own order, the file being its
`default_map`.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import trio
from click.core import ParameterSource

from trio_sched.cli.common import read_path
from trio_sched.cli.connect import Connection
from trio_sched.cli.exits import CannotRun, Exit, explain
from trio_sched.cli.output import NoAnswer, show, show_json, within
from trio_sched.cli.run.child import check_command
from trio_sched.exceptions import TrioSchedError
from trio_sched.model.path_state import PathState
from trio_sched.serving.address import Address

__all__ = ["ENVIRONMENT", "check_run", "config_option"]

F = TypeVar("F", bound=Callable[..., Any])

ENVIRONMENT: Final = {"auto_envvar_prefix": "TRIO_SCHED"}
"""Settings of the command's context."""

_NO_OPTIONS: Final = frozenset({"config", "check", "help", "path", "command"})
_LISTS: Final = frozenset({"endpoints", "hosts_filter"})
_SECRET: Final = frozenset({"password", "user"})
_PATIENCE: Final = 5.0  # seconds for etcd to answer
_SOURCES: Final = {
    ParameterSource.COMMANDLINE: "line",
    ParameterSource.ENVIRONMENT: "environment",
    ParameterSource.DEFAULT_MAP: "file",
}


# ---- the file ----------------------------------------------------------------------


def _read(context: click.Context, parameter: click.Parameter, file: Path | None) -> Path | None:
    """Take what a file says as the defaults of all other options."""
    if file is None or context.resilient_parsing:
        return file
    import tomllib  # noqa: PLC0415 # not for each command

    try:
        found = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise click.BadParameter(f"{str(file)!r}: {exc}", context, parameter) from exc
    known = dict(_options(context))
    defaults: dict[str, Any] = {}
    for key, value in found.items():
        option = known.get(key.replace("_", "-"))
        if option is None:
            raise click.BadParameter(
                f"{str(file)!r}: there is no option {key!r}", context, parameter
            )
        assert option.name is not None
        try:
            defaults[option.name] = _value(option, value)
        except (TypeError, ValueError) as exc:
            raise click.BadParameter(f"{str(file)!r}: {key!r} {exc}", context, parameter) from exc
    context.default_map = defaults
    return file


def _options(context: click.Context) -> Iterator[tuple[str, click.Parameter]]:
    """Return the options by their names, without dashes before them."""
    for each in context.command.params:
        if each.name not in _NO_OPTIONS:
            yield max(each.opts, key=len).removeprefix("--"), each


def _value(option: click.Parameter, value: object) -> object:
    """Return a value as if it stood on the line; a list with commas, and a table as JSON."""
    match value:
        case str() if "\0" in value:
            raise ValueError("holds NUL, which neither a line nor a variable can")
        case str():
            return value
        case bool() if getattr(option, "is_flag", False):
            return value
        case int() | float() if not isinstance(value, bool):
            return str(value)  # 2.5 is no whole number then
        case list() if option.name in _LISTS and all(isinstance(each, str) for each in value):
            return _value(option, ",".join(value))
        case dict() if option.name == "data":
            return json.dumps(value)
        case _:
            raise TypeError(f"is a {type(value).__name__}")


def config_option(command: F) -> F:
    """Give a command ``--config``."""
    option = click.option(
        "--config",
        type=click.Path(dir_okay=False, path_type=Path),
        is_eager=True,
        expose_value=False,
        callback=_read,
        help="Take options from this file of TOML, unless the line or TRIO_SCHED_* has them.",
    )
    return option(command)


# ---- what holds --------------------------------------------------------------------


@dataclass(frozen=True)
class _Held:
    """An option.

    Attributes:
        name: of it.
        value: that holds.
        source: where that comes from.
    """

    name: str
    value: object
    source: str


def _held(context: click.Context) -> Iterator[_Held]:
    for name, option in sorted(_options(context)):
        assert option.name is not None
        value = context.params.get(option.name)
        if option.name in _SECRET and isinstance(value, str):
            user, colon, _ = value.partition(":")
            value = f"{user}:***" if colon and option.name == "user" else user
            value = "***" if option.name == "password" else value
        if isinstance(value, signal.Signals):
            value = value.name
        if isinstance(value, Address):
            value = str(value)
        source = context.get_parameter_source(option.name)
        yield _Held(name, value, _SOURCES.get(source, "default") if source else "default")


def check_run(path: str, command: tuple[str, ...], connection: Connection, *, as_json: bool) -> int:
    """Show what holds, and whether it would work; return the exit code."""
    context = click.get_current_context()
    findings = [_command(command), _etcd(path, connection)]
    held = list(_held(context))
    if as_json:
        show_json(
            {
                "path": path,
                "command": [*command],
                "options": [vars(each) for each in held],
                "checks": [{"of": of, "code": code, "words": w} for of, code, w in findings],
            }
        )
    else:
        _show(path, command, held, findings)
    return next((code for _, code, _ in findings if code), 0)


def _command(command: tuple[str, ...]) -> tuple[str, int, str]:
    try:
        check_command(command[0])
    except CannotRun as exc:
        return "command", exc.code, str(exc)
    return "command", 0, "can be run"


def _etcd(path: str, connection: Connection) -> tuple[str, int, str]:
    async def read() -> PathState:
        async with connection.open() as client:
            return await read_path(client, path)

    try:
        state = trio.run(within, _PATIENCE, read)
    except TrioSchedError as error:
        return "etcd", *explain(error, connection)
    except NoAnswer:
        return "etcd", Exit.UNAVAILABLE, f"did not answer within {_PATIENCE:g} s"
    leader = "no leader" if state.leader is None else f"{state.leader.name} leads"
    return "etcd", 0, f"answers; {len(state.pool)} hosts on the path, {leader}"


def _show(
    path: str,
    command: tuple[str, ...],
    held: list[_Held],
    findings: list[tuple[str, int, str]],
) -> None:
    from trio_sched._support.text import plain  # noqa: PLC0415 # as above
    from trio_sched.cli.view.tables import facts, table  # noqa: PLC0415 # brings rich

    words = {of: said for of, _, said in findings}
    show(
        facts(
            [
                ("path", path),
                ("command", f"{' '.join(command)} ({words['command']})"),
                ("etcd", words["etcd"]),
            ]
        )
    )
    drawn = table("OPTION", "VALUE", "FROM")
    for each in held:
        value = "-" if each.value is None else str(each.value)
        drawn.add_row(each.name, plain(value), each.source)
    click.echo()
    show(drawn)
