"""A host that does ticks, as a process: its one argument is a JSON object.

Each line that it appends to the diary is whole, in one write: of all hosts, in the order of time.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import trio

from trio_sched import Slot, TickSchedule, open_client, schedule


async def live(order: dict[str, Any]) -> None:
    diary = os.open(order["diary"], os.O_WRONLY | os.O_APPEND)

    async def work(slot: Slot, name: str) -> None:
        line = {"tick": name, "host": order["name"], "token": slot.token}

        def note(what: str) -> None:
            os.write(diary, f"{json.dumps({'what': what, **line})}\n".encode())

        note("begun")
        await trio.sleep(order["seconds"])
        note("ended")

    async with (
        open_client(order["endpoint"]) as client,
        schedule(
            client,
            order["path"],
            order["name"],
            session_ttl=2,
            takeover_pause=2.0,
            reaper=order["reaper"],
        ) as result,
    ):
        await result.run_ticks(TickSchedule(1), work, attempts=1000)


if __name__ == "__main__":
    trio.run(live, json.loads(sys.argv[1]))
