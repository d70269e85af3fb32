"""What several test files need."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import trio

from trio_sched import Client, Hosts, Observation, open_client
from trio_sched.testing import Etcd

__all__ = ["PASSWORD", "Leftovers", "guard", "listens", "until", "watch_leftovers"]

PASSWORD: Final = "horse-battery"  # of each user


async def guard(server: Etcd) -> None:
    """Have the users root, and app, who may touch ``/app/`` only."""
    for command in (
        f"user add root:{PASSWORD}",
        f"user add app:{PASSWORD}",
        "role add app",
        "role grant-permission app --prefix=true readwrite /app/",
        "user grant-role app app",
        "user grant-role root root",
        "auth enable",
    ):
        await server.etcdctl(*command.split())


async def listens(port: int) -> bool:
    """Return whether a process listens on a port of loopback."""
    try:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
    except OSError:
        return False
    await stream.aclose()
    return True


@dataclass
class Leftovers:
    """What a second client found that was not there before."""

    keys: list[bytes] = field(default_factory=list)
    leases: set[int] = field(default_factory=set)

    @property
    def nothing(self) -> bool:
        return not self.keys and not self.leases


@asynccontextmanager
async def watch_leftovers(endpoint: str, path: str) -> AsyncIterator[Leftovers]:
    """Return, after the block, which keys below `path` and which new leases there are."""
    found = Leftovers()
    async with open_client(endpoint) as client:
        before = await _leases(client)
        yield found
        found.keys = [kv.key for kv in await client.get_prefix(f"{path}/")]
        found.leases = await _leases(client) - before


async def _leases(client: Client) -> set[int]:
    return set(await client.lease_list())


async def until(result: Observation, *names: str) -> Hosts:
    """Read decisions until one chooses exactly these hosts."""
    async for hosts in result:
        if hosts == names:
            return hosts
    raise AssertionError("the results ended")
