"""A host as the Go package has it."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import trio

from trio_sched.etcd_shim import Client, Compare, Put
from trio_sched.etcd_shim.opening import client_block
from trio_sched.exceptions import TrioSchedError
from trio_sched.simulation.surroundings import PATH, Surroundings

__all__ = ["GO_TTL", "GoHost"]

GO_TTL: Final = 10


class GoHost:
    """A host as the Go package has it: it decides unguarded, sorted, and without a record.

    It does not work: the Go package has no slots, so nothing could be promised of it.
    """

    def __init__(self, world: Surroundings, number: int) -> None:
        self._world = world
        self.name: str = f"go-{number}"

    async def run(self, seconds: float) -> None:
        """Be there for a while."""
        world = self._world
        transport = world.connect(self.name)
        with suppress(TrioSchedError):
            async with client_block(world.endpoints, transport=transport) as client:
                lease = (await client.lease_grant(GO_TTL)).id
                with trio.move_on_after(seconds):
                    await self._stay(client, lease)
                with trio.move_on_after(GO_TTL):
                    await client.delete(f"{PATH}/election/{lease:x}")
                    await client.lease_revoke(lease)

    async def _stay(self, client: Client, lease: int) -> None:
        await client.put(f"{PATH}/exchange/{self.name}", "TODO", lease=lease)
        candidate = f"{PATH}/election/{lease:x}"
        await client.txn(
            [Compare.create_revision(candidate, "==", 0)], [Put(candidate, self.name, lease)]
        )
        while True:
            await client.lease_renew(lease)
            leaders = (await client.get_prefix(f"{PATH}/election/")).kvs
            oldest = min(leaders, key=lambda kv: kv.create_revision, default=None)
            if oldest is not None and oldest.lease == lease:
                await self._decide(client)
            await trio.sleep(0.3)

    async def _decide(self, client: Client) -> None:
        found = (await client.get_prefix(f"{PATH}/exchange/")).kvs
        names = sorted(kv.key.decode().rpartition("/")[2] for kv in found)
        value = ",".join(names[: self._world.plan.max_count]).encode()
        stored = (await client.get(f"{PATH}/scheduled")).value
        if value and value != stored:
            await client.put(f"{PATH}/scheduled", value)
