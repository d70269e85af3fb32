"""`schedule`, `open_host` and `observe`: learn who of a path's hosts is to run.

The arguments are checked here; a host's life is in ``host/membership.py``.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Literal, overload

from trio_sched._support.arguments import (
    check_bool,
    check_bools,
    check_seconds,
)
from trio_sched._support.tasks import open_service_nursery
from trio_sched.etcd_shim.client import Client, check_client
from trio_sched.etcd_shim.lease import check_ttl
from trio_sched.host.checks import (
    MAX_SESSION_TTL,
    MAX_TAKEOVER_PAUSE,
    check_filter,
    check_health,
    check_logger,
    check_pause,
    check_reaper,
    check_shutdown,
)
from trio_sched.host.health import HealthCheck
from trio_sched.host.local import HostSettings, LocalHost, OwnedHost
from trio_sched.host.membership import Membership, Settings
from trio_sched.host.observation import (
    Observation,
    PathObservation,
    observe_decisions,
    observe_everything,
)
from trio_sched.host.result import Result
from trio_sched.model.keys import check_hostname, check_path
from trio_sched.model.records import HostData, Options, check_max_count
from trio_sched.reaper.owner import Reaper, open_reaper
from trio_sched.strategies import Strategy, StrategyFunction, get_strategy

__all__ = ["MAX_SESSION_TTL", "MAX_TAKEOVER_PAUSE", "observe", "open_host", "schedule"]


@asynccontextmanager
async def schedule(
    client: Client,
    path: str,
    hostname: str,
    *,
    strategy: str | Strategy | StrategyFunction = "rr",
    max_count: int = 1,
    session_ttl: int = 10,
    reuse_lease: bool = False,
    hosts_filter: Iterable[str] | None = None,
    weight: float = 1,
    zone: str | None = None,
    priority: int = 0,
    data: Mapping[str, object] | None = None,
    health_check: HealthCheck | None = None,
    health_interval: float = 10,
    shutdown_timeout: float | None = None,
    logger: logging.Logger | None = None,
    debug: bool = False,
    strict: bool = False,
    takeover_pause: float = 0.5,
    reaper: bool | Reaper = False,
) -> AsyncIterator[Result]:
    """Join `path` as `hostname`, and learn which hosts are chosen.

    The block is entered when the host has joined. When it is left, at its end,
    by an exception or cancelled, the host's keys are revoked before it is.

    Args:
        client: an open client; it must stay open longer than this block.
        path: what the hosts share: starts with ``/``, does not end with it.
        hostname: the name of this host; not empty, without ``,`` and ``/``.
        strategy: how hosts are chosen while this host leads: the name of a
            registered strategy, a `Strategy`, or a function of ``(hosts, options)``.
        max_count: how many are chosen at most while this host leads.
        session_ttl: seconds after which the others notice that this host died
            without leaving; etcd gives at least 2.
        reuse_lease: when the block is left, stop renewing but do not revoke: the
            keys stay for a TTL, and the next ``schedule()`` of the same path and
            host in this process, by a client of the same endpoints, takes them over
            if they still live.
        hosts_filter: only these of the discovered hosts may be chosen while this
            host leads; None for all.
        weight: how much this host can take, next to others; from 1e-6 to 1e6.
        zone: where this host is; 1 to 255 characters.
        priority: the higher, the more wanted; 32 bits with a sign.
        data: whatever else it says of itself, as JSON of at most 64 KiB. See
            `Result.update` for changing it, and these, later.
        health_check: an async function that is called now and then. Until it has
            returned true, and while it returns false, raises an `Exception` or
            takes too long, this host is in the pool but not chosen.
        health_interval: seconds from one call of `health_check` to the next, and the longest that
            one may take.
        shutdown_timeout: seconds that leaving may take when etcd does not answer;
            what is not revoked by then lapses by itself. None for the TTL. Less than 0.2
            counts as 0.2, so that an etcd that answers is asked in any case.
        logger: where transitions are logged; None for ``trio_sched``.
        debug: log each event at DEBUG, too.
        strict: leave the block with `StrategyError` when the strategy raises or breaks its
            rules while this host leads. Else the stored decision stays, it is logged, the
            strategy is asked again, and after some failures in a row another host leads.
        takeover_pause: seconds to pause before a slot is taken whose holder's lease has
            ended without the slot having been released, as after a crash. A holder that
            is connected needs that long, at most, to learn of it and to end its work. A
            whole TTL holds for one that is cut off, too, if etcd takes leases away too
            early (etcd issue 15247). At most an hour; 0 for none.
        reaper: True to have a helper process revoke this host's lease should this
            process be killed, so that the others need not wait for a TTL; or one
            that was opened with `open_reaper`, on the same client.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: an argument is not allowed; nothing was sent.
        HostnameInUse: another live process has joined under this name.
        StrategyError: with `strict`, this host leads, and its strategy raised, or broke
            its rules.
        EtcdError: etcd cannot be reached when the block is entered, or refuses
            what cannot heal later, such as for lack of permission.
    """
    check_client(client)
    check_bools(reuse_lease=reuse_lease, debug=debug, strict=strict)
    check_reaper(reaper)
    path, hostname = check_path(path), check_hostname(hostname)
    chosen = get_strategy(strategy)
    settings = Settings(
        path=path,
        hostname=hostname,
        options=Options(check_max_count(max_count), chosen.name, check_filter(hosts_filter)),
        data=HostData(weight, zone, priority, {} if data is None else data),
        strategy=chosen,
        health_check=check_health(health_check),
        health_interval=check_seconds("health_interval", health_interval),
        session_ttl=check_ttl(session_ttl, MAX_SESSION_TTL),
        reuse_lease=reuse_lease,
        shutdown_timeout=check_shutdown(shutdown_timeout, session_ttl),
        logger=check_logger(logger),
        debug=debug,
        strict=strict,
        takeover_pause=check_pause(takeover_pause),
    )
    async with _opened(client, reaper) as found:
        membership = Membership(client, replace(settings, reaper=found))
        async with open_service_nursery() as services:
            services.start_soon(membership.run, name=f"schedule {path} {hostname}")
            await membership.joined.wait()
            yield membership.result


@asynccontextmanager
async def open_host(
    client: Client,
    hostname: str,
    *,
    session_ttl: int = 10,
    weight: float = 1,
    zone: str | None = None,
    priority: int = 0,
    data: Mapping[str, object] | None = None,
    health_check: HealthCheck | None = None,
    health_interval: float = 10,
    shutdown_timeout: float | None = None,
    logger: logging.Logger | None = None,
    debug: bool = False,
    reaper: bool | Reaper = False,
) -> AsyncIterator[LocalHost]:
    """Be a host on many paths, under one session: `LocalHost.schedule` joins each.

    One lease, its renewals, one health check and one reaper serve all paths. So what ends the
    session ends it on all of them: a lease that is gone, a deadline that has passed. All work ends
    then, and begins again under the next session. What is about one path, such as a key that was
    deleted there, ends it there alone.

    The block is entered when the first session has begun. When it is left, by its end, by an
    exception or cancelled, this host leaves all its paths, and the lease is revoked before it is.

    Args:
        client: an open client; it must stay open longer than this block.
        hostname: the name of this host; not empty, without ``,`` and ``/``.
        session_ttl: seconds after which the others notice that this host died
            without leaving; etcd gives at least 2.
        weight: how much this host can take, next to others; from 1e-6 to 1e6.
        zone: where this host is; 1 to 255 characters.
        priority: the higher, the more wanted; 32 bits with a sign.
        data: whatever else it says of itself, as JSON of at most 64 KiB. See
            `LocalHost.update` for changing it, and these, later.
        health_check: as for `schedule`; it is called for all paths together.
        health_interval: seconds from one call of `health_check` to the next, and the longest that
            one may take.
        shutdown_timeout: seconds that leaving may take when etcd does not answer, a path, and the
            host: what is not revoked by then lapses by itself. None for the TTL. Less than 0.2
            counts as 0.2.
        logger: where transitions are logged; None for ``trio_sched``.
        debug: log each event at DEBUG, too.
        reaper: True to have a helper process revoke this host's lease should this
            process be killed; or one that was opened with `open_reaper`, on the same client.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: an argument is not allowed; nothing was sent.
        EtcdError: etcd cannot be reached when the block is entered, or refuses
            what cannot heal later, such as for lack of permission.
    """
    check_client(client)
    check_bools(debug=debug)
    check_reaper(reaper)
    settings = HostSettings(
        hostname=check_hostname(hostname),
        data=HostData(weight, zone, priority, {} if data is None else data),
        health_check=check_health(health_check),
        health_interval=check_seconds("health_interval", health_interval),
        session_ttl=check_ttl(session_ttl, MAX_SESSION_TTL),
        shutdown_timeout=check_shutdown(shutdown_timeout, session_ttl),
        logger=check_logger(logger),
        debug=debug,
        reaper=None,
    )
    async with _opened(client, reaper) as found:
        host = OwnedHost(client, replace(settings, reaper=found))
        async with open_service_nursery() as services:
            services.start_soon(host.run, name=f"host {hostname}")
            await host.wait_begun()
            try:
                yield host
            finally:
                await host.leave()  # noqa: ASYNC102 # shields and bounds itself


@asynccontextmanager
async def _opened(client: Client, reaper: bool | Reaper) -> AsyncIterator[Reaper | None]:  # noqa: FBT001 # as given
    """Return the reaper that is asked for."""
    if isinstance(reaper, Reaper):
        yield reaper
    elif reaper:
        async with open_reaper(client) as ours:
            yield ours
    else:
        yield None


@overload
def observe(
    client: Client, path: str, *, pool: Literal[False] = False, reconcile: float = 5.0
) -> AbstractAsyncContextManager[Observation]: ...


@overload
def observe(
    client: Client, path: str, *, pool: Literal[True], reconcile: float = 5.0
) -> AbstractAsyncContextManager[PathObservation]: ...


def observe(
    client: Client, path: str, *, pool: bool = False, reconcile: float = 5.0
) -> AbstractAsyncContextManager[Observation | PathObservation]:
    """Learn the decisions of `path` without joining it.

    It works before any host exists, and writes nothing. While etcd is away, the
    newest decision stays as it was; what was missed comes afterwards.

    Args:
        client: an open client; it must stay open longer than this block.
        path: what the hosts share.
        pool: deliver the hosts, the slots and what operators want as well: the
            block gives a `PathObservation`, and each item is a `PathState`.
        reconcile: seconds between two reads that make up for what the watch may
            have missed.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: an argument is not allowed; nothing was sent.
        EtcdError: etcd cannot be reached when the block is entered, or refuses
            what cannot heal later, such as for lack of permission.
    """
    check_client(client)
    check_path(path)
    check_bool("pool", pool)
    check_seconds("reconcile", reconcile)
    if pool:
        return observe_everything(client, path, reconcile)
    return observe_decisions(client, path, reconcile)
