"""etcd's election recipe, with the client's own calls: the oldest candidate leads."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio
import trio.testing

from tests.simulation.servers import Server
from trio_sched.etcd_shim import Client, Compare, Delete, EventType, Get, KeyValue, Put

WAIT = 30  # seconds until a wait is given up


@dataclass
class Candidate:
    """A candidate of an election.

    Attributes:
        key: its key, below the election's prefix.
        fence: the create_revision of its key.
        elected: set when it leads.
    """

    client: Client
    prefix: str
    lease: int
    key: str
    fence: int
    elected: trio.Event

    async def campaign(self) -> None:
        """Wait until no older candidate is left."""
        while (before := await self._before()) is not None:
            found, revision = before
            async with self.client.watch(found.key, start_revision=revision + 1) as events:
                async for event in events:
                    if event.type is EventType.DELETE:
                        break
        self.elected.set()

    async def _before(self) -> tuple[KeyValue, int] | None:
        found = await self.client.get_prefix(
            self.prefix,
            limit=1,
            sort_order="descending",
            sort_target="create_revision",
            max_create_revision=self.fence - 1,
        )
        return None if found.kv is None else (found.kv, found.revision)

    async def proclaim(self, value: str) -> bool:
        """Write a value, if it still leads."""
        done = await self.client.txn(
            [Compare.create_revision(self.key, "==", self.fence)],
            [Put(self.key, value, lease=self.lease)],
        )
        return done.succeeded

    async def resign(self) -> bool:
        done = await self.client.txn(
            [Compare.create_revision(self.key, "==", self.fence)], [Delete(self.key)]
        )
        return done.succeeded


async def stand(client: Client, prefix: str, value: str, ttl: int = 60) -> Candidate:
    """Put up a candidate, on a lease of its own."""
    lease = (await client.lease_grant(ttl)).id
    key = f"{prefix}{lease:x}"
    done = await client.txn(
        [Compare.create_revision(key, "==", 0)], [Put(key, value, lease=lease)], [Get(key)]
    )
    assert done.succeeded
    return Candidate(client, prefix, lease, key, done.revision, trio.Event())


async def leader(client: Client, prefix: str) -> bytes | None:
    found = await client.get_prefix(
        prefix, limit=1, sort_order="ascending", sort_target="create_revision"
    )
    return found.value


@asynccontextmanager
async def campaigning(*candidates: Candidate) -> AsyncIterator[trio.Nursery]:
    with trio.fail_after(WAIT):
        async with trio.open_nursery() as nursery:
            for candidate in candidates:
                nursery.start_soon(candidate.campaign)
            yield nursery
            nursery.cancel_scope.cancel()


async def test_the_only_candidate_leads(client: Client, path: str) -> None:
    prefix = f"{path}/"
    candidate = await stand(client, prefix, "a")
    with trio.fail_after(WAIT):
        await candidate.campaign()
    assert await leader(client, prefix) == b"a"
    assert await candidate.resign()
    assert await leader(client, prefix) is None


async def test_they_lead_in_the_order_in_which_they_came(
    server: Server, client: Client, path: str
) -> None:
    prefix = f"{path}/"
    async with server.open_client() as second, server.open_client() as third:
        candidates = [
            await stand(one, prefix, name)
            for one, name in ((client, "z"), (second, "a"), (third, "m"))
        ]
        async with campaigning(*candidates):
            for index, candidate in enumerate(candidates):
                await candidate.elected.wait()
                assert await leader(client, prefix) == b"zam"[index : index + 1]
                await trio.testing.wait_all_tasks_blocked()
                assert [one.elected.is_set() for one in candidates].count(True) == index + 1
                assert await candidate.resign()


async def test_a_candidate_in_the_middle_may_go(client: Client, path: str) -> None:
    prefix = f"{path}/"
    first, second, third = [await stand(client, prefix, name) for name in "abc"]
    async with campaigning(first, second, third):
        await first.elected.wait()
        await second.resign()
        assert await leader(client, prefix) == b"a"
        await first.resign()
        await third.elected.wait()
        assert await leader(client, prefix) == b"c"


@pytest.mark.parametrize("revoke", [True, False])
async def test_the_end_of_its_lease_ends_a_leader(
    client: Client, path: str, *, revoke: bool
) -> None:
    prefix = f"{path}/"
    first = await stand(client, prefix, "a", ttl=60 if revoke else 2)
    second = await stand(client, prefix, "b")
    async with campaigning(second):
        if revoke:
            await client.lease_revoke(first.lease)
        await second.elected.wait()
        assert await leader(client, prefix) == b"b"
        assert not await first.proclaim("late")
        assert not await first.resign()
        assert await second.proclaim("c")
    assert await leader(client, prefix) == b"c"


async def test_the_fence_stays_when_a_leader_proclaims(client: Client, path: str) -> None:
    candidate = await stand(client, f"{path}/", "a")
    assert await candidate.proclaim("b")
    kv = (await client.get(candidate.key)).kv
    assert kv is not None
    assert (kv.create_revision, kv.version, kv.lease) == (candidate.fence, 2, candidate.lease)


async def test_a_leader_that_was_replaced_writes_nothing(client: Client, path: str) -> None:
    candidate = await stand(client, f"{path}/", "a")
    await client.delete(candidate.key)
    await client.put(candidate.key, "another's")
    assert not await candidate.proclaim("late")
    assert not await candidate.resign()
    assert (await client.get(candidate.key)).value == b"another's"


async def test_observing_an_election(client: Client, path: str) -> None:
    prefix = f"{path}/"
    first = await stand(client, prefix, "a")
    seen: list[bytes] = []
    async with client.watch(prefix, prefix=True, start_revision=first.fence) as events:
        second = await stand(client, prefix, "b")
        await first.proclaim("a again")
        await first.resign()
        await second.resign()
        with trio.fail_after(WAIT):
            for _ in range(5):
                event = await events.__anext__()
                seen.append(event.kv.value or b"gone " + event.kv.key)
    gone = [f"gone {candidate.key}".encode() for candidate in (first, second)]
    assert seen == [b"a", b"b", b"a again", *gone]


async def test_a_campaign_that_is_cancelled(client: Client, path: str) -> None:
    prefix = f"{path}/"
    first, second = [await stand(client, prefix, name) for name in "ab"]
    with trio.move_on_after(0.1):
        await second.campaign()
    assert not second.elected.is_set()
    await second.resign()
    assert await leader(client, prefix) == b"a"
    await first.resign()
    assert await leader(client, prefix) is None
