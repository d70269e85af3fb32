"""What several test files need."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from trio_sched import Client, Hosts, Observation, open_client

__all__ = ["Leftovers", "until", "watch_leftovers"]


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
