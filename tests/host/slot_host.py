"""A host as a process, for the soak test. Its one argument is a JSON object.

It runs a piece of work whenever it is scheduled. The work writes down when it begins and ends,
makes guarded writes, and takes a while to end; or it is a tree of processes, see ``tree_work.py``.
Closing standard input makes the host leave. SIGUSR1 tells its clock that the machine has slept.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import trio

from trio_sched import Client, EtcdError, Slot, open_client, schedule
from trio_sched._support.suspension import SystemSuspension, set_suspension
from trio_sched.etcd_shim import Put
from trio_sched.host.session import Session
from trio_sched.host.slot import SlotHold
from trio_sched.host.slots import SlotKeys

WRITE_EVERY = 0.05  # seconds
SLOWEST_END = 0.3  # seconds
TREE = [sys.executable, "-I", "-S", str(Path(__file__).with_name("tree_work.py"))]


class SlotsSwitchedOff(SlotKeys):
    """Gives a slot to any host that asks: what the checker has to catch."""

    async def _create(
        self, session: Session, number: int, _decision: int, _former: bytes | None, _lease: int
    ) -> tuple[Slot | None, bool]:
        answer = await self._client.put(f"{self._keys.path}-none", "")
        hold = SlotHold(session, b"", 0)
        return self._held(Slot(number, answer.revision, b"none", hold), hold), True

    async def wait_lost(self, _slot: Slot) -> None:
        await trio.sleep_forever()


class SuspendableClock(trio.abc.Clock):
    """Trio's clock, on a machine that was suspended since the clock was last read, by a signal."""

    def __init__(self) -> None:
        self._suspended = 0.0
        self._read = time.monotonic()

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        self._read = time.monotonic()
        return self._read - self._suspended

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return deadline - self.current_time()

    def wake_up(self, _number: int, _frame: object) -> None:
        self._suspended += time.monotonic() - self._read


async def live(order: dict[str, Any]) -> None:
    log = os.open(order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    dice = random.Random(order["seed"])

    def note(event: str, slot: Slot) -> None:
        line = {"life": order["life"], "event": event, "token": slot.token, "index": slot.index}
        line["at"] = time.monotonic()
        os.write(log, json.dumps(line).encode() + b"\n")  # at once and whole

    async def work(slot: Slot, client: Client) -> None:
        note("begin", slot)
        try:
            while True:
                try:
                    mine = Put(order["data"], str(slot.token))
                    await client.txn(slot.guard(), [mine])
                except EtcdError:
                    pass  # etcd is away; whether we may go on is not ours to judge
                await trio.sleep(WRITE_EVERY)
        finally:
            with trio.move_on_after(dice.random() * SLOWEST_END, shield=True):
                await trio.sleep_forever()
            note("end", slot)

    async def tree(slot: Slot, _client: Client) -> None:
        name = f"{order['life']}-{slot.token}"
        words = {"life": order["life"], "event": "begin", "token": slot.token, "index": slot.index}
        arguments = [order["log"], f"{order['log']}-{name}", json.dumps(words | {"tree": True})]
        await slot.run_process([*TREE, *arguments], check=False, grace=dice.random() * SLOWEST_END)

    async with (
        open_client(*order["endpoints"]) as client,
        schedule(
            client,
            order["path"],
            order["name"],
            session_ttl=order["ttl"],
            max_count=order["max_count"],
            strategy=order["strategy"],
            reaper=order["tree"],
        ) as result,
        trio.open_nursery() as nursery,
    ):
        sys.stdout.write("joined\n")
        sys.stdout.flush()
        fn = tree if order["tree"] else work
        nursery.start_soon(lambda: result.run_while_scheduled(fn, client, grace=0.4, restart=True))
        await trio.lowlevel.FdStream(0).receive_some()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    orders = json.loads(sys.argv[1])
    if orders["no_slots"]:
        for method in ("_create", "wait_lost"):
            setattr(SlotKeys, method, getattr(SlotsSwitchedOff, method))
    clock = SuspendableClock()
    set_suspension(SystemSuspension(monotonic=clock.current_time))
    signal.signal(signal.SIGUSR1, clock.wake_up)
    trio.run(live, orders, clock=clock)
