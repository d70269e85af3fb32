"""Checks of the arguments of `schedule` and `open_host`; a wrong one is an error at the call."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

from trio_sched._support.arguments import check_async, check_instance, check_seconds, shown
from trio_sched.etcd_shim.lease import MAX_TTL
from trio_sched.host.decision_leases import DECISION_TTLS
from trio_sched.host.health import HealthCheck
from trio_sched.model.keys import check_hostname
from trio_sched.reaper.owner import Reaper

__all__ = [
    "MAX_SESSION_TTL",
    "MAX_TAKEOVER_PAUSE",
    "check_filter",
    "check_health",
    "check_logger",
    "check_pause",
    "check_reaper",
    "check_shutdown",
]

MAX_SESSION_TTL: Final = MAX_TTL // DECISION_TTLS
"""Seconds: the decision's lease, which lasts a few times as long, may have that TTL."""

_MIN_SHUTDOWN: Final = 0.2  # seconds: some round trips to an etcd that answers
MAX_TAKEOVER_PAUSE: Final = 3600.0
"""The longest `takeover_pause`, in seconds."""

_MAX_FILTER: Final = 64 * 1024  # letters; all of them are published, and in each decision


def check_health(health_check: HealthCheck | None) -> HealthCheck | None:
    """Return an async function, or None."""
    if health_check is not None:
        check_async("health_check", health_check)
    return health_check


def check_shutdown(shutdown_timeout: float | None, session_ttl: int) -> float:
    """Return how long leaving may take, in seconds; None is a TTL."""
    if shutdown_timeout is None:
        return session_ttl
    return max(_MIN_SHUTDOWN, check_seconds("shutdown_timeout", shutdown_timeout, zero=True))


def check_pause(takeover_pause: float) -> float:
    """Return the pause before a slot is taken over, in seconds."""
    if check_seconds("takeover_pause", takeover_pause, zero=True) > MAX_TAKEOVER_PAUSE:
        raise ValueError(
            f"takeover_pause must be at most {MAX_TAKEOVER_PAUSE:g} s, not {takeover_pause!r}"
        )
    return takeover_pause


def check_logger(logger: logging.Logger | None) -> logging.Logger:
    """Return the logger; None is the one of ours."""
    if logger is None:
        return logging.getLogger("trio_sched")
    kinds = (logging.Logger, logging.LoggerAdapter)
    return check_instance("logger", logger, kinds, "a logging.Logger or None")


def check_reaper(reaper: bool | Reaper) -> None:  # noqa: FBT001 # as given
    """Check that it is a bool, or a Reaper."""
    check_instance("reaper", reaper, (bool, Reaper), "True, False or a Reaper")


def check_filter(hosts_filter: Iterable[str] | None) -> frozenset[str] | None:
    """Return names of hosts; None is all."""
    if hosts_filter is None:
        return None
    if isinstance(hosts_filter, (str, bytes)) or not isinstance(hosts_filter, Iterable):
        words = "a collection of host names, an iterable of str"
        raise TypeError(f"hosts_filter must be {words}, not {shown(hosts_filter)}")
    names = [check_hostname(name) for name in hosts_filter]
    if (size := sum(map(len, names))) > _MAX_FILTER:
        raise ValueError(f"hosts_filter must be at most {_MAX_FILTER} letters, not {size}")
    return frozenset(names)
