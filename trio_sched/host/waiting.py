"""Waiting until a key is gone."""

from __future__ import annotations

from trio_sched.etcd_shim import Client, EventType

__all__ = ["wait_deleted"]


async def wait_deleted(client: Client, key: bytes, revision: int) -> None:
    """Wait until a key is deleted after `revision`.

    Raises:
        Compacted: the history since `revision` is gone.
    """
    async with client.watch(key, start_revision=revision + 1) as events:
        async for event in events:
            if event.type is EventType.DELETE:
                return
