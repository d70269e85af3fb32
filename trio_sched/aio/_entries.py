"""The functions that open something."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, overload

from trio_sched import scheduler
from trio_sched.aio._guest import Block
from trio_sched.aio._objects import (
    AioClient,
    AioHost,
    AioObservation,
    AioPathObservation,
    AioResult,
    async_check,
    opened_by,
)
from trio_sched.etcd_shim import opening
from trio_sched.host.observation import Observation, PathObservation

__all__ = ["observe", "open_client", "open_host", "schedule"]


def open_client(*endpoints: str, **options: Any) -> AbstractAsyncContextManager[AioClient]:
    """Open a client, with ``async with``. Arguments as of `trio_sched.open_client`.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: an argument is not allowed.
        RuntimeError: when the block is entered, if Trio runs in this thread by itself.
    """
    opened = opening.open_client(*endpoints, **options)
    return Block(lambda: opened, AioClient)


def schedule(
    client: AioClient,
    path: str,
    hostname: str,
    *,
    health_check: Callable[[], Awaitable[bool]] | None = None,
    **options: Any,
) -> AbstractAsyncContextManager[AioResult]:
    """Join `path` as `hostname`, and learn which hosts are chosen.

    As `trio_sched.schedule`: the block is entered when the host has joined, and when it is left, by
    its end, by an exception or cancelled, the host's keys are revoked before it is. If the block
    fails meanwhile, its body is cancelled, and the failure leaves the block.

    Args:
        client: an open client; it must stay open longer than this block.
        path: what the hosts share.
        hostname: the name of this host.
        health_check: an async function of asyncio's.
        options: all others of `trio_sched.schedule`.

    Raises:
        TrioSchedError: as `trio_sched.schedule` does.
        EtcdError: likewise.
    """
    guest, trio_client = opened_by(client)
    check = async_check(guest, health_check)
    return Block(
        lambda: scheduler.schedule(trio_client, path, hostname, health_check=check, **options),
        AioResult,
        guest,
    )


def open_host(
    client: AioClient,
    hostname: str,
    *,
    health_check: Callable[[], Awaitable[bool]] | None = None,
    **options: Any,
) -> AbstractAsyncContextManager[AioHost]:
    """Be a host on many paths, under one session. As `trio_sched.open_host`.

    Args:
        client: an open client; it must stay open longer than this block.
        hostname: the name of this host.
        health_check: an async function of asyncio's.
        options: all others of `trio_sched.open_host`.

    Raises:
        EtcdError: as `trio_sched.open_host` does.
    """
    guest, trio_client = opened_by(client)
    check = async_check(guest, health_check)
    return Block(
        lambda: scheduler.open_host(trio_client, hostname, health_check=check, **options),
        AioHost,
        guest,
    )


@overload
def observe(
    client: AioClient, path: str, *, pool: Literal[False] = False, reconcile: float = 5.0
) -> AbstractAsyncContextManager[AioObservation]: ...


@overload
def observe(
    client: AioClient, path: str, *, pool: Literal[True], reconcile: float = 5.0
) -> AbstractAsyncContextManager[AioPathObservation]: ...


def observe(
    client: AioClient, path: str, *, pool: bool = False, reconcile: float = 5.0
) -> AbstractAsyncContextManager[AioObservation | AioPathObservation]:
    """Learn the decisions of `path` without joining it. As `trio_sched.observe`.

    Raises:
        EtcdError: as `trio_sched.observe` does.
    """
    guest, trio_client = opened_by(client)
    if pool:
        everything: AbstractAsyncContextManager[PathObservation] = scheduler.observe(
            trio_client, path, pool=True, reconcile=reconcile
        )
        return Block(lambda: everything, AioPathObservation, guest)
    decisions: AbstractAsyncContextManager[Observation] = scheduler.observe(
        trio_client, path, reconcile=reconcile
    )
    return Block(lambda: decisions, AioObservation, guest)
