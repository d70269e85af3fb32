"""Fixtures that wait, where pytest-trio is loaded."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, ParamSpec, TypeVar, cast

from pytest_trio import trio_fixture

if TYPE_CHECKING:
    from trio_sched.etcd_shim import Client
    from trio_sched.simulation import MemoryEtcd
    from trio_sched.testing.hosts import ScheduledHosts

__all__ = ["etcd_client", "scheduled_host"]

P = ParamSpec("P")
R = TypeVar("R")

_fixture = cast("Callable[[Callable[P, R]], Callable[P, R]]", trio_fixture)  # it has no types


@_fixture
async def etcd_client(  # noqa: ASYNC900 # a fixture, which pytest-trio closes
    trio_sched_etcd: MemoryEtcd | str,
) -> AsyncIterator[Client]:
    """An open client: on `memory_etcd`, or on `etcd` if the test asks for that, too."""
    from trio_sched.etcd_shim import open_client  # noqa: PLC0415

    if isinstance(trio_sched_etcd, str):
        async with open_client(trio_sched_etcd) as client:
            yield client  # noqa: ASYNC119 # as above
    else:
        async with trio_sched_etcd.open_client() as client:
            yield client  # noqa: ASYNC119 # as above


@_fixture
async def scheduled_host(  # noqa: ASYNC900 # as above
    trio_sched_etcd: MemoryEtcd | str,
) -> AsyncIterator[ScheduledHosts]:
    """Makes hosts, on the same etcd as `etcd_client`; see `ScheduledHosts`."""
    from trio_sched.testing.hosts import open_scheduled_hosts  # noqa: PLC0415

    async with open_scheduled_hosts(trio_sched_etcd) as hosts:
        yield hosts  # noqa: ASYNC119 # as above
