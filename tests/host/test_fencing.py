"""What a slot guards, in etcd and outside, on a real etcd and on the one in memory."""

from __future__ import annotations

import re
import textwrap
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio

from tests.helpers import until
from tests.places import DOCS
from trio_sched import Client, Control, Roster, Slot, SlotLost, open_client, schedule
from trio_sched.etcd_shim import Compare, Delete, Get, Put, Txn
from trio_sched.simulation import MemoryEtcd

HANG = 20  # seconds until a test that has failed ends

PAGE = DOCS.joinpath("guarantees.md").read_text()


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


# ---- what is outside of etcd ---------------------------------------------------------------


def the_store_of_the_docs() -> Any:
    (source,) = re.findall(r"```python\n( *class Store:.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {"Roster": Roster}
    exec(textwrap.dedent(source), names)  # the page has it
    return names["Store"]()


class Frozen:
    """Work that does not notice that it is cancelled, until it is let go."""

    def __init__(self) -> None:
        self.slot: Slot | None = None
        self.roster = Roster()
        self.began = trio.Event()
        self.thaw = trio.Event()

    async def __call__(self, slot: Slot) -> None:
        self.slot, self.roster = slot, await slot.read_roster()
        self.began.set()
        with trio.move_on_after(HANG, shield=True):
            await self.thaw.wait()

    @property
    def token(self) -> int:
        assert self.slot is not None
        return self.slot.token


@pytest.mark.parametrize("newcomer", [True, False])
async def test_f59_an_outside_store_refuses_the_frozen_holder_of_a_number_that_is_used_no_more(
    client: Client, path: str, newcomer: bool
) -> None:
    """Three run, then one may; the holder of slot 2 is frozen, and its slot lapses."""
    store, old_rule = the_store_of_the_docs(), dict[int, int]()
    works = [Frozen() for _ in range(3)]
    async with AsyncExitStack() as stack:
        results = [
            await stack.enter_async_context(schedule(client, path, name, max_count=3))
            for name in "abc"
        ]
        nursery = await stack.enter_async_context(trio.open_nursery())
        for work, result in zip(works, results, strict=True):
            nursery.start_soon(result.run_while_scheduled, work)
            await work.began.wait()
            assert store.accepts(work.token, work.roster)
            assert work.slot is not None
            old_rule[work.slot.index] = work.token
        first, second, frozen = works
        assert [work.slot.index for work in works if work.slot] == [0, 1, 2]
        assert store.accepts(frozen.token, frozen.roster)

        await Control(client, path).set_count(1)
        await until(results[0], "a")
        second.thaw.set()
        assert frozen.slot is not None
        await client.delete(frozen.slot.key)  # as if its lease had lapsed
        if newcomer:  # the next one takes slot 0
            first.thaw.set()
            nursery.start_soon(results[0].shutdown)
            await until(results[1], "b")
            works[1] = third = Frozen()
            nursery.start_soon(results[1].run_while_scheduled, third)
            await third.began.wait()
            assert third.slot is not None
            assert third.slot.index == 0
            assert store.accepts(third.token, third.roster)
            assert not store.accepts(first.token, first.roster)
        else:  # the one that goes on asks anew
            assert first.slot is not None
            assert store.accepts(first.token, await first.slot.read_roster())
        assert frozen.token >= old_rule[2], "the newest token of each number does not refuse it"
        assert not store.accepts(frozen.token, frozen.roster)
        with pytest.raises(SlotLost):
            await frozen.slot.read_roster()
        for work in works:
            work.thaw.set()
        nursery.cancel_scope.cancel()
        await client.delete(f"{path}/control")
