"""Hosts for tests: each with a client of its own, so that one can leave, or die, alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Concatenate, ParamSpec, cast

import trio

from trio_sched._support.arguments import check_async, check_instance
from trio_sched._support.tasks import ServiceBlock, open_plain_nursery
from trio_sched.etcd_shim.channel import Endpoint
from trio_sched.etcd_shim.client import Client
from trio_sched.etcd_shim.opening import client_block, open_client
from trio_sched.host.result import Result
from trio_sched.model.keys import check_hostname
from trio_sched.scheduler import schedule
from trio_sched.simulation import MemoryEtcd
from trio_sched.simulation.network import MemoryTransport

__all__ = ["ScheduledHosts", "open_scheduled_hosts"]

P = ParamSpec("P")


class _Life:
    """From a host's start to its end.

    Attributes:
        ended: set when nothing of it runs any more.
    """

    def __init__(self, block: ServiceBlock[Client]) -> None:
        self._block = block
        self._scope = trio.CancelScope()
        self._dead = False
        self.ended = trio.Event()

    async def run(self, fn: Callable[[Client], Awaitable[object]]) -> None:
        """Run ``fn(client)`` to its end, or to that of this life."""
        try:
            with self._scope:
                async with self._block as client:
                    await fn(client)
        except Exception:
            if not self._dead:
                raise
        finally:
            self.ended.set()

    def leave(self) -> None:
        """Cancel it."""
        self._scope.cancel()

    def die(self) -> None:
        """Let nothing that it still does reach etcd."""
        self._dead = True
        self._block.cancel()
        self._scope.cancel()


class ScheduledHosts:
    """Made by `open_scheduled_hosts`, and what the fixture ``scheduled_host`` is.

    Each host has a client of its own. Should a host fail, or its service raise something,
    then the block is cancelled, and fails with that.
    """

    def __init__(
        self, nursery: trio.Nursery, open_block: Callable[[str], ServiceBlock[Client]]
    ) -> None:
        self._nursery = nursery
        self._open_block = open_block
        self._lives: dict[str, list[_Life]] = {}

    async def __call__(self, path: str, hostname: str, **options: Any) -> Result:
        """Have a host join `path`, wait until it is scheduled, and return its `Result`.

        A host that is not chosen is waited for: use `join` where there is no place for it yet.
        Cancelled, the host stays as it is.

        Args:
            path: as for `schedule`.
            hostname: of the new host.
            **options: as for `schedule`.

        Raises:
            TypeError, ValueError, HostnameInUse, EtcdError: as `schedule`.
        """
        result = await self.join(path, hostname, **options)
        await result.wait_scheduled()
        return result

    async def join(self, path: str, hostname: str, **options: Any) -> Result:
        """Have a host join `path`, chosen or not, and return its `Result`.

        Arguments and errors as for a call. Cancelled, the host does not join.
        """
        life = self._new_life(hostname)

        async def stay(
            client: Client, task_status: trio.TaskStatus[Result] = trio.TASK_STATUS_IGNORED
        ) -> None:
            async with schedule(client, path, hostname, **options) as result:
                task_status.started(result)
                await trio.sleep_forever()

        async def live(task_status: trio.TaskStatus[Result]) -> None:  # noqa: ASYNC128 # `stay` does
            await life.run(partial(stay, task_status=task_status))

        result: Result = await self._nursery.start(live)
        return result

    def start_soon(
        self,
        hostname: str,
        service: Callable[Concatenate[Client, P], Awaitable[object]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        """Run ``service(client, *args)`` in the background, as what the host `hostname` does.

        For a service that calls `schedule` itself. The client is the host's own.
        """
        check_async("service", service)

        async def serve(client: Client) -> None:
            await service(client, *args, **kwargs)

        self._nursery.start_soon(self._new_life(hostname).run, serve)

    async def leave(self, hostname: str) -> None:
        """Have a host leave in good order, and wait until it has left.

        Raises:
            ValueError: no host of this name runs here.
        """
        await self._end(hostname, _Life.leave)

    async def kill(self, hostname: str) -> None:
        """Have a host end as by SIGKILL: nothing that it still does reaches etcd.

        Its keys stay until its lease lapses: after `session_ttl` seconds of trio's clock on an etcd
        in memory, and real ones on a real etcd. Its tasks are cancelled and waited for, so its
        ``finally`` blocks are run, other than in a process that is killed.

        Raises:
            ValueError: no host of this name runs here.
        """
        await self._end(hostname, _Life.die)

    async def _end(self, hostname: str, end: Callable[[_Life], None]) -> None:
        check_hostname(hostname)
        lives = [life for life in self._lives.get(hostname, ()) if not life.ended.is_set()]
        if not lives:
            raise ValueError(f"no host {hostname!r} runs here")
        for life in lives:
            end(life)
        for life in lives:
            await life.ended.wait()

    def _new_life(self, hostname: str) -> _Life:
        life = _Life(self._open_block(check_hostname(hostname)))
        self._lives.setdefault(hostname, []).append(life)
        return life


@asynccontextmanager
async def open_scheduled_hosts(etcd: MemoryEtcd | str) -> AsyncIterator[ScheduledHosts]:
    """Run hosts beside the body; they leave in good order when the block is left.

    ``result = await hosts("/jobs", "a", max_count=2)`` gives the `Result` of a new host that is
    scheduled. On a `MemoryEtcd`, what is between a host and etcd is
    ``etcd.network.paths(hostname)``.

    Args:
        etcd: an etcd in memory, or a real one's URL.
    """
    check_instance("etcd", etcd, (MemoryEtcd, str), "a MemoryEtcd or a URL")
    if isinstance(etcd, str):
        Endpoint.parse(etcd)
    async with open_plain_nursery() as nursery:
        if isinstance(etcd, MemoryEtcd):
            nursery.start_soon(etcd.cluster.timeline.run)
            yield ScheduledHosts(nursery, partial(_memory_block, etcd))
        else:
            yield ScheduledHosts(nursery, partial(_real_block, etcd))
        nursery.cancel_scope.cancel()


def _memory_block(etcd: MemoryEtcd, hostname: str) -> ServiceBlock[Client]:
    endpoints = [Endpoint.parse(url) for url in etcd.endpoints]
    return client_block(endpoints, transport=MemoryTransport(etcd.network, hostname))


def _real_block(url: str, _hostname: str) -> ServiceBlock[Client]:
    return cast("ServiceBlock[Client]", open_client(url))  # as which it is more than it says
