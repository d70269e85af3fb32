"""Locks while all kinds of things go wrong: what a holder writes is fenced, and turns go on."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
import trio

from tests.etcd_shim.concurrency.rows import WAIT, row
from trio_sched.etcd_shim import Client, EtcdError, Put, open_client
from trio_sched.etcd_shim.concurrency import HeldLock, KeyDeleted, lock
from trio_sched.etcd_shim.errors import LeaseLost, LeaseNotFound
from trio_sched.testing import FaultyLink, open_etcd, open_faulty_link

CLIENTS = 3
TASKS = 4  # of each client
DEEDS = 60


class Chaos:
    """Takers of turns, and what is done to them.

    Attributes:
        tokens: what was written by holders, as acknowledged, by revision.
        turns: how many ended as they should.
        lost: how many ended with an error that says so.
    """

    def __init__(self, witness: Client, path: str, seed: int) -> None:
        self.tokens: dict[int, int] = {}
        self.turns = 0
        self.lost = 0
        self._witness = witness
        self._path = path
        self._chance = random.Random(seed)
        self._scopes: dict[trio.CancelScope, None] = {}  # the oldest first

    async def take_turns(self, client: Client) -> None:
        """Take turns for ever."""
        while True:
            with trio.CancelScope() as scope:
                self._scopes[scope] = None
                try:
                    async with lock(client, self._path, ttl=30) as held:
                        await self._write(client, held)
                    self.turns += 1
                except (KeyDeleted, LeaseLost):
                    self.lost += 1
                except EtcdError:
                    await trio.lowlevel.checkpoint()  # not let in, or an answer is lost
                finally:
                    del self._scopes[scope]

    async def _write(self, client: Client, held: HeldLock) -> None:
        for _ in range(self._chance.randrange(4)):
            put = Put(f"{self._path}-guarded", str(held.token))
            done = await client.txn([held.guard], [put])
            if done.succeeded:
                self.tokens[done.revision] = held.token

    async def do_something(self, links: list[FaultyLink]) -> None:
        """Do one thing that hurts."""
        deeds: list[Callable[[], Awaitable[object]]] = [
            self._delete_a_key,
            self._revoke_a_lease,
            self._forget,
        ]
        match self._chance.randrange(5):
            case 0:
                self._chance.choice(links).cut()
            case 1:
                for scope in [*self._scopes][:1]:
                    scope.cancel()
            case _:
                await self._chance.choice(deeds)()

    async def _delete_a_key(self) -> None:
        for key in await row(self._witness, self._path):
            if not self._chance.randrange(3):
                await self._witness.delete(key)
                return

    async def _revoke_a_lease(self) -> None:
        for lease in await self._witness.lease_list():
            if not self._chance.randrange(3):
                try:
                    await self._witness.lease_revoke(lease)
                except LeaseNotFound:
                    continue
                return

    async def _forget(self) -> None:
        await self._witness.compact((await self._witness.get(self._path)).revision)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("seed", range(4))
async def test_turns_go_on_and_late_holders_write_nothing(path: str, seed: int) -> None:
    with trio.fail_after(WAIT * 4):
        async with open_etcd() as server, open_client(server.endpoint) as witness:
            chaos = Chaos(witness, path, seed)
            async with AsyncExitStack() as stack:
                links, clients = [], []
                for _ in range(CLIENTS):
                    link = await stack.enter_async_context(open_faulty_link(server.endpoint))
                    links.append(link)
                    clients.append(await stack.enter_async_context(open_client(link.endpoint)))
                async with trio.open_nursery() as nursery:
                    for client in clients * TASKS:
                        nursery.start_soon(chaos.take_turns, client)
                    for _ in range(DEEDS):
                        await chaos.do_something(links)
                        turns = chaos.turns
                        while chaos.turns == turns:
                            await trio.lowlevel.checkpoint()
                    nursery.cancel_scope.cancel()
            assert chaos.lost
            written = [chaos.tokens[revision] for revision in sorted(chaos.tokens)]
            assert written == sorted(written), "none writes after one that came later"
            assert not await row(witness, path)
            assert not await witness.lease_list()
