"""A host as a process: ``host_process.py ENDPOINT PATH HOSTNAME TTL MAX_COUNT``.

Prints each decision as a JSON line; leaves when its standard input is closed.
"""

from __future__ import annotations

import json
import sys

import trio

from trio_sched import open_client, schedule


async def live(endpoint: str, path: str, hostname: str, ttl: str, max_count: str) -> None:
    async with (
        open_client(endpoint) as client,
        schedule(client, path, hostname, session_ttl=int(ttl), max_count=int(max_count)) as result,
        trio.open_nursery() as nursery,
    ):

        async def leave_when_asked() -> None:
            await trio.lowlevel.FdStream(0).receive_some()
            nursery.cancel_scope.cancel()

        nursery.start_soon(leave_when_asked)
        async for hosts in result:
            line = {"hosts": list(hosts), "leader": hosts.leader, "revision": hosts.revision}
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    _endpoint, _path, _hostname, _ttl, _max_count = sys.argv[1:]
    trio.run(live, _endpoint, _path, _hostname, _ttl, _max_count)
