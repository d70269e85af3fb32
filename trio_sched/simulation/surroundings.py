"""What those who live in a world need of it."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Final

import trio

from trio_sched.etcd_shim.channel import Endpoint
from trio_sched.simulation.diary import Diary
from trio_sched.simulation.memory_cluster import Cluster
from trio_sched.simulation.network import MemoryTransport, Network
from trio_sched.simulation.plan import Plan

__all__ = ["PATH", "Surroundings"]

PATH: Final = "/world"


@dataclass(slots=True)
class Surroundings:
    """What those who live in a world need of it.

    Attributes:
        plan: what happens in it.
        cluster: its etcd.
        network: its network.
        diary: where all is written down.
        nursery: where they live.
        chance: of their work.
    """

    plan: Plan
    cluster: Cluster
    network: Network
    diary: Diary
    nursery: trio.Nursery
    chance: Random

    def connect(self, label: str) -> MemoryTransport:
        """Return what a client of this label connects by."""
        return MemoryTransport(self.network, label)

    @property
    def endpoints(self) -> list[Endpoint]:
        """Where etcd is."""
        return [Endpoint.parse(member.url) for member in self.cluster.members]

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return trio.current_time()
