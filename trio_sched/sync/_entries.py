"""The functions that open something."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Literal, overload

import trio

from trio_sched import scheduler
from trio_sched._support.arguments import blocking_value, check_blocking
from trio_sched.etcd_shim import opening
from trio_sched.host.observation import Observation, PathObservation
from trio_sched.sync._objects import (
    SyncClient,
    SyncHost,
    SyncObservation,
    SyncPathObservation,
    SyncResult,
    opened_by,
)
from trio_sched.sync._portal import Block, Portal

__all__ = ["observe", "open_client", "open_host", "schedule"]


def open_client(*endpoints: str, **options: Any) -> AbstractContextManager[SyncClient]:
    """Open a client, with ``with``. Arguments as of `trio_sched.open_client`.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: an argument is not allowed.
    """
    opened = opening.open_client(*endpoints, **options)
    return Block(Portal, lambda: opened, SyncClient, owns=True)


def schedule(
    client: SyncClient,
    path: str,
    hostname: str,
    *,
    health_check: Callable[[], bool] | None = None,
    **options: Any,
) -> AbstractContextManager[SyncResult]:
    """Join `path` as `hostname`, and learn which hosts are chosen.

    As `trio_sched.schedule`: the block is entered when the host has joined, and when it is left, by
    its end, by an exception or cancelled, the host's keys are revoked before it is. If the block
    fails meanwhile, what waits for it raises that, and so does leaving it.

    Args:
        client: an open client; it must stay open longer than this block.
        path: what the hosts share.
        hostname: the name of this host.
        health_check: a function; it is called in a thread.
        options: all others of `trio_sched.schedule`.

    Raises:
        TrioSchedError: as `trio_sched.schedule` does.
        EtcdError: likewise.
    """
    portal, trio_client = opened_by(client)
    check = _blocking_check(health_check)
    return Block(
        lambda: portal,
        lambda: scheduler.schedule(trio_client, path, hostname, health_check=check, **options),
        SyncResult,
    )


def open_host(
    client: SyncClient,
    hostname: str,
    *,
    health_check: Callable[[], bool] | None = None,
    **options: Any,
) -> AbstractContextManager[SyncHost]:
    """Be a host on many paths, under one session. As `trio_sched.open_host`.

    Args:
        client: an open client; it must stay open longer than this block.
        hostname: the name of this host.
        health_check: a function; it is called in a thread.
        options: all others of `trio_sched.open_host`.

    Raises:
        EtcdError: as `trio_sched.open_host` does.
    """
    portal, trio_client = opened_by(client)
    check = _blocking_check(health_check)
    return Block(
        lambda: portal,
        lambda: scheduler.open_host(trio_client, hostname, health_check=check, **options),
        SyncHost,
    )


@overload
def observe(
    client: SyncClient, path: str, *, pool: Literal[False] = False, reconcile: float = 5.0
) -> AbstractContextManager[SyncObservation]: ...


@overload
def observe(
    client: SyncClient, path: str, *, pool: Literal[True], reconcile: float = 5.0
) -> AbstractContextManager[SyncPathObservation]: ...


def observe(
    client: SyncClient, path: str, *, pool: bool = False, reconcile: float = 5.0
) -> AbstractContextManager[SyncObservation | SyncPathObservation]:
    """Learn the decisions of `path` without joining it. As `trio_sched.observe`.

    Raises:
        EtcdError: as `trio_sched.observe` does.
    """
    portal, trio_client = opened_by(client)
    if pool:
        everything: AbstractAsyncContextManager[PathObservation] = scheduler.observe(
            trio_client, path, pool=True, reconcile=reconcile
        )
        return Block(lambda: portal, lambda: everything, SyncPathObservation)
    decisions: AbstractAsyncContextManager[Observation] = scheduler.observe(
        trio_client, path, reconcile=reconcile
    )
    return Block(lambda: portal, lambda: decisions, SyncObservation)


def _blocking_check(
    check: Callable[[], bool] | None,
) -> Callable[[], Awaitable[bool]] | None:
    """Return Trio's health check for one that blocks, which is called in a thread of its own."""
    if check is None:
        return None
    check_blocking("health_check", check)

    async def ask() -> bool:
        healthy = await trio.to_thread.run_sync(check, abandon_on_cancel=True)
        return blocking_value("health_check", healthy)

    return ask
