"""A path of 300 hosts, by its keys: with long names, much data, and trouble here and there."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from trio_sched import Client, open_client
from trio_sched.etcd_shim import Put
from trio_sched.model.keys import PathKeys
from trio_sched.model.records import HostData, Options, encode_host, encode_scheduled

__all__ = ["HOSTS", "SCHEDULED", "Fleet", "name_of", "open_fleet"]

HOSTS = 300
SCHEDULED = 60
WHY = "its disk is full, and so is the other one, as somebody has to see to it at once"


def name_of(at: int) -> str:
    return f"h{at:03}.row-{at % 7}.north.datacentre.example.org"


@dataclass
class Fleet:
    client: Client
    keys: PathKeys
    lease: int

    async def change(self, at: int, *, zone: str = "north", reason: str = "") -> None:
        """Let a host publish something else."""
        await self.client.txn([], [self.host(at, zone=zone, reason=reason)])

    def host(self, at: int, *, zone: str = "", reason: str = "") -> Put:
        said = HostData(
            weight=1 + at % 5,
            zone=zone or f"zone-{at % 3}",
            priority=at % 11,
            data={"rack": at, "note": "x" * 60},
            available=not reason,
            reason=reason,
        )
        value = encode_host(Options(SCHEDULED), said, "2026-01-02T03:04:05+00:00")
        return Put(self.keys.host(name_of(at)), value, self.lease)


@asynccontextmanager
async def open_fleet(endpoint: str, path: str) -> AsyncIterator[Fleet]:
    keys = PathKeys(path)
    async with open_client(endpoint) as client:
        lease = (await client.lease_grant(600)).id
        fleet = Fleet(client, keys, lease)
        for begin in range(0, HOSTS, 100):
            hosts = range(begin, begin + 100)
            await client.txn([], [fleet.host(at, reason=WHY * (at == 250)) for at in hosts])
        drained = {"drained": [name_of(270)], "notes": {f"drained/{name_of(270)}": {"why": WHY}}}
        scheduled = encode_scheduled(name_of(at) for at in range(100, 100 + SCHEDULED))
        puts = [
            Put(keys.candidate(lease), name_of(290), lease),
            Put(keys.scheduled, scheduled),
            Put(keys.control, json.dumps(drained)),
            Put(keys.slot(0), name_of(100), lease),
        ]
        await client.txn([], puts)
        yield fleet
        await client.lease_revoke(lease)
        await client.delete_prefix(f"{path}/")
