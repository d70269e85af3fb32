"""What several test files need."""

from __future__ import annotations

import queue
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import trio

from trio_sched import Client, Hosts, Observation, open_client
from trio_sched.testing import Etcd, open_etcd

__all__ = ["Leftovers", "etcd_in_a_thread", "until", "watch_leftovers"]


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


@contextmanager
def etcd_in_a_thread(
    *, heartbeat_ms: int = 50, election_ms: int = 500, extra_args: Sequence[str] = ()
) -> Iterator[Etcd]:
    """Run a server for several tests. Arguments as for `open_etcd`.

    Each test has a Trio of its own, so the server's lives in a thread. Of what it yields use what
    does not wait: endpoints, names, pids.
    """
    opened = open_etcd(heartbeat_ms=heartbeat_ms, election_ms=election_ms, extra_args=extra_args)
    outcome: queue.SimpleQueue[Etcd | BaseException] = queue.SimpleQueue()
    over = trio.Event()
    tokens: list[trio.lowlevel.TrioToken] = []

    async def serve() -> None:
        tokens.append(trio.lowlevel.current_trio_token())
        async with opened as server:
            outcome.put(server)
            await over.wait()

    def run() -> None:
        try:
            trio.run(serve)
        except BaseException as error:  # noqa: BLE001 - raised again by the caller
            outcome.put(error)

    thread = threading.Thread(target=run, name="etcd for several tests")
    thread.start()
    server = outcome.get(timeout=60)
    if isinstance(server, BaseException):
        thread.join()
        raise server
    try:
        yield server
    finally:
        trio.from_thread.run_sync(over.set, trio_token=tokens[0])
        thread.join()
