"""How a command connects: its options, or the environment's variables, etcdctl's or ours."""

from __future__ import annotations

import functools
import math
import ssl
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import click

from trio_sched._support.arguments import check_text
from trio_sched.etcd_shim import Client, open_client, tls_context
from trio_sched.etcd_shim.channel import Endpoint

__all__ = ["Connection", "Seconds", "connection_options", "usage_errors"]

F = TypeVar("F", bound=Callable[..., Any])

_PREFIXES: Final = ("TRIO_SCHED", "ETCDCTL")
_FILE = click.Path(exists=True, dir_okay=False, readable=True)


def _option(name: str, **rest: Any) -> Callable[[F], F]:
    """Make an option that environment variables give, too; the first that is set counts.

    `run` has ``TRIO_SCHED_*`` for each option; for these, so do all others, that no command talks
    to another etcd than it.
    """
    variables = [f"{prefix}_{name.removeprefix('--').upper()}" for prefix in _PREFIXES]
    return click.option(name, envvar=variables, show_envvar=True, **rest)


_OPTIONS = (
    _option(
        "--endpoints",
        default="127.0.0.1:2379",
        metavar="URLS",
        show_default=True,
        help="Members of the etcd cluster, joined with commas.",
    ),
    _option("--user", metavar="NAME[:PASSWORD]", help="Who we are to etcd."),
    _option(
        "--password",
        metavar="PASSWORD",
        help="Goes with --user. Others see it in a command line, but not in the environment.",
    ),
    _option("--cacert", type=_FILE, help="Authorities to trust, for https."),
    _option("--cert", type=_FILE, help="Our certificate, for https."),
    _option("--key", type=_FILE, help="The key of our certificate."),
)


@dataclass(frozen=True)
class Connection:
    """Where to connect to, and as which user.

    Attributes:
        endpoints: URLs.
        user: None if there is none.
        password: goes with it; in no repr.
        ssl_context: None if no endpoint needs one.
    """

    endpoints: tuple[str, ...]
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    ssl_context: ssl.SSLContext | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls,
        endpoints: str,
        user: str | None,
        password: str | None,
        cacert: str | None,
        cert: str | None,
        key: str | None,
    ) -> Connection:
        """Make sense of the options.

        Raises:
            click.UsageError: they do not go together.
        """
        secure = any((cacert, cert, key))
        urls = tuple(_url(text.strip(), secure=secure) for text in endpoints.split(","))
        context = None
        if any(url.startswith("https:") for url in urls):
            try:
                context = tls_context(cacert=cacert or "", cert=cert or "", key=key or "")
            except (OSError, ValueError) as exc:
                raise click.UsageError(f"cannot use --cacert, --cert and --key: {exc}") from exc
        who = _who(user, password)
        try:
            for name, text in zip(("user", "password"), who, strict=True):
                check_text(name, text or "")
        except ValueError as exc:
            raise click.UsageError(f"--user: {exc}") from exc
        return cls(urls, *who, context)

    def open(self) -> AbstractAsyncContextManager[Client]:
        """Open a client, as `open_client` does."""
        return open_client(
            *self.endpoints, user=self.user, password=self.password, ssl_context=self.ssl_context
        )

    def open_member(self, url: str) -> AbstractAsyncContextManager[Client]:
        """Open a client of one member, as nobody; for what any client may ask it."""
        return open_client(url, ssl_context=self.ssl_context)


def connection_options(command: F) -> F:
    """Give a command the options, and pass it a `Connection` as ``connection``."""

    @functools.wraps(command)
    def wrapper(**options: Any) -> Any:
        names = ("endpoints", "user", "password", "cacert", "cert", "key")
        connection = Connection.of(**{name: options.pop(name) for name in names})
        return command(connection=connection, **options)

    for option in reversed(_OPTIONS):
        wrapper = option(wrapper)
    return wrapper  # type: ignore[return-value] # with these options, it is one


class Seconds(click.FloatRange):
    """A time in seconds, from 0 on; NaN, which compares with nothing, is none."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number; fail with usage if it is none, or out of range."""
        seconds = float(super().convert(value, param, ctx))
        if math.isnan(seconds):
            self.fail(f"{value!r} is not a number of seconds", param, ctx)
        return seconds


def usage_errors(check: Callable[..., Any]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """Make a callback for an option of a check that raises ValueError or TypeError."""

    def callback(_context: click.Context, _parameter: click.Parameter, value: Any) -> Any:
        if value is None:  # it was left out, and may be
            return value
        try:
            check(value)
        except (ValueError, TypeError) as exc:
            raise click.BadParameter(str(exc)) from exc
        return value

    return callback


def _url(text: str, *, secure: bool) -> str:
    """Complete an endpoint without a scheme as etcdctl does: files for TLS ask for TLS."""
    if "://" not in text and not text.startswith("unix:"):
        text = f"{'https' if secure else 'http'}://{text}"
    try:
        return Endpoint.parse(text).url
    except ValueError as exc:
        raise click.UsageError(f"--endpoints: {exc}") from exc


def _who(user: str | None, password: str | None) -> tuple[str | None, str | None]:
    """Take a name and a password apart, and ask for a password that is missing."""
    if not user:
        return None, None  # a password alone is of no use, and etcdctl does not mind it
    if password is not None:
        return user, password
    name, colon, password = user.partition(":")
    if not colon:
        try:
            password = click.prompt(f"Password of {name}", hide_input=True, err=True)
        except click.Abort as exc:
            words = "--user needs a password: NAME:PASSWORD, --password or ETCDCTL_PASSWORD"
            raise click.UsageError(words) from exc
    return name, password
