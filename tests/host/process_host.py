"""A host whose work is a process, as a process: its one argument is a JSON object.

It says ``joined``, runs the command whenever it is scheduled, and leaves when its standard input
is closed.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import Any

import trio

from trio_sched import Slot, open_client, schedule


async def live(order: dict[str, Any]) -> None:
    async def work(slot: Slot) -> None:
        await slot.run_process(order["command"], check=False, grace=order["grace"])

    async with (
        open_client(order["endpoint"]) as client,
        schedule(
            client.namespace(order["namespace"]) if "namespace" in order else client,
            order["path"],
            order["name"],
            session_ttl=order["ttl"],
            reaper=order["reaper"],
            strategy="alpha",
        ) as result,
        trio.open_nursery() as nursery,
    ):
        sys.stdout.write("joined\n")
        sys.stdout.flush()
        nursery.start_soon(partial(result.run_while_scheduled, work, restart=True))
        await trio.lowlevel.FdStream(0).receive_some()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(live, json.loads(sys.argv[1]))
