"""What a slot guards: `Slot.txn`, on a real etcd and on the one in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

from trio_sched import Client, Slot, SlotLost, open_client, schedule
from trio_sched.etcd_shim import Compare, Delete, Get, Put, Txn
from trio_sched.simulation import MemoryEtcd


@pytest.fixture(params=["real", "memory"])
async def client(request: pytest.FixtureRequest, endpoint: str) -> AsyncIterator[Client]:
    opened = open_client(endpoint) if request.param == "real" else MemoryEtcd().open_client()
    async with opened as client:
        yield client


async def test_f59_a_transaction_of_a_slot_says_whether_your_conditions_held(
    client: Client, path: str
) -> None:
    mine = f"{path}-mine"

    async def work(slot: Slot) -> None:
        absent = Compare.create_revision(mine, "==", 0)
        first = await slot.txn([absent], [Put(mine, "x"), Get(mine)], [Get(mine)])
        assert first.succeeded
        assert (first.revision, first.get(1).value) == ((await client.get(mine)).revision, b"x")
        second = await slot.txn([absent], [Put(mine, "y")], [Get(mine)])
        assert not second.succeeded
        assert second.get(0).value == b"x", "yours did not hold; the slot is held"
        assert (await slot.txn(success=[Txn([absent], [], [Delete(mine)])])).succeeded
        assert (await client.get(mine)).kv is None
        assert (await slot.txn()).succeeded

    async with schedule(client, path, "a") as result:
        await result.run_while_scheduled(work)


async def test_f59_nothing_of_a_transaction_is_done_once_its_slot_is_lost(
    client: Client, path: str
) -> None:
    mine = f"{path}-mine"

    async def work(slot: Slot) -> Slot:
        with trio.CancelScope(shield=True):  # it goes on, as if it were frozen
            await client.delete(slot.key)
            for compare in ([], [Compare.create_revision(mine, ">", 0)]):
                with pytest.raises(SlotLost, match=f"token {slot.token}") as caught:
                    await slot.txn(compare, [Put(mine, "x")], [Put(mine, "y")])
                assert (caught.value.key, caught.value.token) == (slot.key, slot.token)
        return slot

    async with schedule(client, path, "a") as result:
        slots: list[Slot] = []

        async def note(slot: Slot) -> None:
            slots.append(slot)
            if len(slots) == 1:
                await work(slot)

        await result.run_while_scheduled(note)
        assert (await client.get(mine)).kv is None
    with pytest.raises(SlotLost):
        await slots[0].txn(success=[Put(mine, "x")])


async def test_f59_a_bad_transaction_is_refused_before_the_slot_is_asked_about(
    client: Client, path: str
) -> None:
    async def work(slot: Slot) -> None:
        with pytest.raises(TypeError):
            await slot.txn(["x"])  # type: ignore[list-item]
        with pytest.raises(TypeError):
            await slot.txn([], "x")  # type: ignore[arg-type]

    async with schedule(client, path, "a") as result:
        await result.run_while_scheduled(work)
