"""A host whose work is a task, for ``failover.py``: it says when its work begins and ends."""

from __future__ import annotations

import sys
import time

import trio

from trio_sched import Slot, open_client, schedule


async def work(_slot: Slot) -> None:
    print("began", flush=True)
    try:
        await trio.sleep_forever()
    finally:
        print(time.perf_counter(), flush=True)  # by a clock that all processes share


async def main(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client, schedule(client, path, "a") as result:
        await result.run_while_scheduled(work)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
