"""Once per key, and once per tick, from asyncio; on a real etcd."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from trio_sched import TickOutcome, TickSchedule
from trio_sched.aio import AioSlot, open_client, schedule


def test_a_key_is_done_once_on_one_of_two_hosts(endpoint: str, path: str) -> None:
    done: list[str] = []

    async def work(slot: AioSlot, name: str) -> str:
        await asyncio.sleep(0)
        done.append(name)
        return f"token {slot.token}"

    async def main() -> None:
        async with (
            open_client(endpoint) as client,
            schedule(client, path, "a") as one,
            schedule(client, path, "b") as other,
        ):
            results = [result.run_once("order-7", work, "it") for result in (one, other)]
            outcomes = await asyncio.gather(*results)
            assert done == ["it"]
            assert sorted(outcome.ran for outcome in outcomes) == [False, True]
            assert {outcome.tick.state for outcome in outcomes if outcome.tick} == {"done"}
            again = await one.run_once("order-7", work, "again")
            assert not again.ran
            with pytest.raises(TypeError):
                await one.run_once("order-8", len)  # type: ignore[arg-type] # that is the point
            await client.delete_prefix(f"{path}/ticks")

    asyncio.run(asyncio.wait_for(main(), 30))


def test_what_is_cancelled_is_not_done(endpoint: str, path: str) -> None:
    begun = asyncio.Event()

    async def work(_slot: AioSlot) -> None:
        begun.set()
        await asyncio.sleep(3600)

    async def main() -> None:
        async with open_client(endpoint) as client, schedule(client, path, "a") as result:
            running = asyncio.create_task(result.run_once("key", work))
            await begun.wait()
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running

            async def at_last(_slot: AioSlot) -> int:
                await asyncio.sleep(0)
                return 1

            assert (await result.run_once("key", at_last)).ran
            await client.delete_prefix(f"{path}/ticks")

    asyncio.run(asyncio.wait_for(main(), 30))


def test_ticks_one_after_the_other(endpoint: str, path: str) -> None:
    names: list[str] = []
    came: list[TickOutcome[int]] = []

    async def work(_slot: AioSlot, name: str) -> int:
        await asyncio.sleep(0)
        names.append(name)
        if len(names) == 3:
            raise KeyError("enough")
        return len(names)

    async def main() -> None:
        async with open_client(endpoint) as client, schedule(client, path, "a") as result:
            with pytest.raises(KeyError, match="enough"):
                await result.run_ticks(TickSchedule(1), work, each=came.append)
            await client.delete_prefix(f"{path}/ticks")

    asyncio.run(asyncio.wait_for(main(), 30))
    assert names == sorted(set(names))
    assert [outcome.name for outcome in came] == names[:2]
    assert all(datetime.fromisoformat(name).tzinfo == UTC for name in names)
