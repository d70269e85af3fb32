"""A host that is on many paths under one session: what `open_host` gives."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from typing import Unpack

import trio

from trio_sched._support.arguments import check_bool, check_instance
from trio_sched._support.tasks import open_plain_nursery, open_service_nursery
from trio_sched.etcd_shim import Client, EtcdError
from trio_sched.exceptions import EndOfResults, HostnameInUse, TrioSchedError
from trio_sched.host.checks import check_filter, check_pause
from trio_sched.host.health import NOT_YET, HealthCheck, HealthWatch
from trio_sched.host.membership import Membership, Settings
from trio_sched.host.publishing import HostPublisher
from trio_sched.host.result import HostChanges, Result, check_changes
from trio_sched.host.sharing import PathSessions, SharedSessions
from trio_sched.model.keys import check_path
from trio_sched.model.records import HostData, Options, check_max_count
from trio_sched.reaper.owner import Reaper
from trio_sched.strategies import Strategy, StrategyFunction, get_strategy

__all__ = ["HostSettings", "HostStatistics", "LocalHost", "OwnedHost"]

_CLOSED = "the host's block was left"


@dataclass(frozen=True, slots=True)
class HostSettings:
    """The arguments of `open_host`, checked."""

    hostname: str
    data: HostData
    health_check: HealthCheck | None
    health_interval: float
    session_ttl: int
    shutdown_timeout: float
    logger: logging.Logger
    debug: bool
    reaper: Reaper | None


@dataclass(frozen=True, slots=True)
class HostStatistics:
    """How a host's life goes on all its paths. See `LocalHost.statistics`.

    Attributes:
        paths: how many it is on, or about to be.
        sessions: how many sessions it has begun.
        deadline: by trio's clock, until when its lease is certain to live; minus infinity while
            there is none.
        owed: how many paths it has left that may hold keys of it still; this is seen to.
        trouble: what is waited out between two sessions; None if nothing is.
    """

    paths: int
    sessions: int
    deadline: float
    owed: int
    trouble: str | None


class LocalHost:
    """This process on many paths, under one session. Made by `open_host`.

    Attributes:
        hostname: the name of this host on all its paths.
    """

    def __init__(self, client: Client, settings: HostSettings) -> None:
        self.hostname: str = settings.hostname
        self._client = client
        self._settings = settings
        self._data = settings.data
        self._unhealthy = None if settings.health_check is None else NOT_YET
        self._drained: str | None = None
        self._paths: dict[str, Membership] = {}
        self._is_closed = False
        self._shared = SharedSessions(
            *(client, settings.session_ttl, settings.shutdown_timeout, settings.reaper), self._log
        )

    def _log(self, level: int, message: str, **extra: object) -> None:
        words = ", ".join(f"{key}={value}" for key, value in extra.items())
        text = f"{message} ({words})" if words else message
        fields = {"host": self.hostname, **extra}
        self._settings.logger.log(level, "%s: %s", self.hostname, text, extra=fields)

    # ---- paths -------------------------------------------------------------------------

    @asynccontextmanager
    async def schedule(
        self,
        path: str,
        *,
        strategy: str | Strategy | StrategyFunction = "rr",
        max_count: int = 1,
        hosts_filter: Iterable[str] | None = None,
        strict: bool = False,
        takeover_pause: float = 0.5,
    ) -> AsyncIterator[Result]:
        """Join `path` under the session of this host, and learn which hosts are chosen.

        As `trio_sched.schedule` for all that is not about the session. When the block is left, by
        its end, by an exception or cancelled, this host's keys of the path are deleted before it
        is, and the session goes on for the other paths. What etcd does not let us delete within
        the host's `shutdown_timeout` is deleted as soon as it does, and before this host joins
        the path again.

        Args:
            path: what the hosts share: starts with ``/``, does not end with it.
            strategy: how hosts are chosen while this host leads: the name of a
                registered strategy, a `Strategy`, or a function of ``(hosts, options)``.
            max_count: how many are chosen at most while this host leads.
            hosts_filter: only these of the discovered hosts may be chosen while this
                host leads; None for all.
            strict: leave the block with `StrategyError` when the strategy raises or breaks its
                rules while this host leads.
            takeover_pause: seconds to pause before a slot is taken whose holder's lease has
                ended without the slot having been released. At most an hour; 0 for none.

        Raises:
            TypeError: an argument is of a wrong type.
            ValueError: an argument is not allowed; nothing was sent.
            HostnameInUse: another live process has joined under this name; or this host is on the
                path already.
            EndOfResults: the host's block was left.
            StrategyError: as of `trio_sched.schedule`.
            EtcdError: etcd refuses what cannot heal later, such as for lack of permission.
        """
        path, chosen = check_path(path), get_strategy(strategy)
        settings = Settings(
            path=path,
            hostname=self.hostname,
            options=Options(check_max_count(max_count), chosen.name, check_filter(hosts_filter)),
            data=self._data,
            strategy=chosen,
            health_check=None,
            health_interval=0,
            session_ttl=self._settings.session_ttl,
            reuse_lease=False,
            shutdown_timeout=self._settings.shutdown_timeout,
            logger=self._settings.logger,
            debug=self._settings.debug,
            strict=check_bool("strict", strict),
            takeover_pause=check_pause(takeover_pause),
            reaper=self._settings.reaper,
        )
        membership = self._enter(settings)
        try:
            async with open_service_nursery() as services:
                services.start_soon(membership.run, name=f"schedule {path} {self.hostname}")
                await membership.joined.wait()
                if membership.has_left:
                    raise EndOfResults(_CLOSED)
                yield membership.result
        finally:
            del self._paths[path]

    def _enter(self, settings: Settings) -> Membership:
        """Return the life on a path that is about to begin."""
        path = settings.path
        if self._is_closed:
            raise EndOfResults(_CLOSED)
        if path in self._paths:
            session = self._shared.current
            raise HostnameInUse(path, self.hostname, 0 if session is None else session.lease)
        membership = Membership(self._client, settings, PathSessions(self._shared, path))
        membership.publisher.note_health(self._unhealthy)
        membership.publisher.drain_host(self._drained)
        self._paths[path] = membership
        return membership

    # ---- what it says of itself ----------------------------------------------------------

    async def update(self, **changes: Unpack[HostChanges]) -> None:
        """Change what this host says of itself on all its paths, those to come included.

        Returns when it is published on each; a lost session is waited for. Cancelled, it is
        published all the same. `Result.update` is for one path.

        Args:
            changes: any of `weight`, `zone`, `priority` and `data`, as for `open_host`.

        Raises:
            TypeError: one of them is of a wrong type; nothing has changed.
            ValueError: one of them is out of its bounds; nothing has changed.
            EndOfResults: the block was left.
        """
        check_changes(changes)
        self._data = replace(self._data, **changes)
        await self._publish(lambda publisher: publisher.change(changes))

    async def drain(self, reason: str = "drained by itself") -> None:
        """Let this host not be chosen on any path any more; it stays in the pools.

        Returns when that is published on each; decisions without it follow.

        Args:
            reason: why, to be shown to others; clipped to 200 characters.

        Raises:
            TypeError: `reason` is not a text.
            EndOfResults: the block was left.
        """
        self._drained = check_instance("reason", reason, str, "a str")
        await self._publish(partial(HostPublisher.drain_host, reason=reason))

    async def undrain(self) -> None:
        """End what `drain` began. What was drained on one path, or by an operator, stays so.

        Raises:
            EndOfResults: the block was left.
        """
        self._drained = None
        await self._publish(partial(HostPublisher.drain_host, reason=None))

    def _note_health(self, unhealthy: str | None) -> None:
        self._unhealthy = unhealthy
        for membership in self._paths.values():
            membership.publisher.note_health(unhealthy)

    async def _publish(self, change: Callable[[HostPublisher], int]) -> None:
        """Change something on all paths, and wait until it is published on each."""
        if self._is_closed:
            raise EndOfResults(_CLOSED)
        publishers = [membership.publisher for membership in self._paths.values()]
        changed = [(publisher, change(publisher)) for publisher in publishers]
        await trio.lowlevel.checkpoint()
        for publisher, version in changed:
            with suppress(TrioSchedError, EtcdError):  # it has left that path
                await publisher.wait_published(version)
        if self._is_closed:
            raise EndOfResults(_CLOSED)

    def statistics(self) -> HostStatistics:
        """Return how this host's life goes on all its paths."""
        session = self._shared.current
        return HostStatistics(
            paths=len(self._paths),
            sessions=self._shared.count,
            deadline=-inf if session is None else session.deadline,
            owed=self._shared.owed,
            trouble=self._shared.patience.trouble,
        )


class OwnedHost(LocalHost):
    """A `LocalHost` with its life, which `open_host` alone sees."""

    async def run(self) -> None:
        """Live until cancelled, or until something cannot heal. A service task."""
        settings = self._settings
        async with open_plain_nursery() as nursery:
            if settings.health_check is not None:
                watch = HealthWatch(
                    settings.health_check, settings.health_interval, self._note_health
                )
                nursery.start_soon(watch.run)
            await self._shared.run()

    async def wait_begun(self) -> None:
        """Wait for the first session."""
        await self._shared.begun.wait()

    async def leave(self) -> None:
        """Leave all paths. Shielded; each path bounds its own leaving."""
        self._is_closed = True
        leaving = list(self._paths.values())
        for membership in leaving:
            membership.leave()
        with trio.CancelScope(shield=True):
            for membership in leaving:
                await membership.wait_left()
