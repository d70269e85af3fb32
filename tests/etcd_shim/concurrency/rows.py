"""What tests of locks and elections see of those that take turns."""

from __future__ import annotations

import trio

from trio_sched.etcd_shim import Client

__all__ = ["WAIT", "row", "wait_row"]

WAIT = 30  # seconds until a wait is given up


async def row(client: Client, name: str) -> list[bytes]:
    """Return the keys of those that take turns, the oldest first."""
    found = await client.get_prefix(
        f"{name}/", sort_order="ascending", sort_target="create_revision"
    )
    return [kv.key for kv in found]


async def wait_row(client: Client, name: str, length: int) -> list[bytes]:
    """Wait until so many take turns."""
    with trio.fail_after(WAIT):
        async with client.follow(f"{name}/") as follower:
            while len(follower.state) != length:
                await follower.receive()
    return await row(client, name)
