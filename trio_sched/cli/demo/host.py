"""One host of the demo: a process that joins, and tells on stdout what it learns.

Run by the demo as ``python -m trio_sched.cli.demo.host`` with JSON settings as its argument. Each
line is a JSON object with ``event`` and ``t``, the seconds of CLOCK_MONOTONIC, which all processes
of a machine share. It leaves on SIGTERM, and when its stdin ends, which is when the demo is gone.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time

import trio

from trio_sched import open_client, schedule
from trio_sched._support.tasks import open_plain_nursery

__all__ = ["main"]


def say(event: str, **fields: object) -> None:
    """Write a line. It fits into the pipe's buffer, so this does not block."""
    line = json.dumps({"event": event, "t": time.monotonic(), **fields})
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def host(
    *, endpoint: str, path: str, hostname: str, strategy: str, max_count: int, session_ttl: int
) -> None:
    """Join, report decisions, and leave when told to."""
    async with open_plain_nursery() as nursery:
        await nursery.start(_leave_on_sigterm, nursery.cancel_scope)
        nursery.start_soon(_leave_when_alone, nursery.cancel_scope)
        async with open_client(endpoint) as client:
            say("joining")
            async with schedule(
                client,
                path,
                hostname,
                strategy=strategy,
                max_count=max_count,
                session_ttl=session_ttl,
            ) as result:
                say("joined")
                async for hosts in result:
                    say(
                        "decision",
                        hosts=list(hosts),
                        revision=hosts.revision,
                        leader=hosts.leader,
                        fence=hosts.fence,
                    )
    say("left")


async def _leave_on_sigterm(
    scope: trio.CancelScope, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            scope.cancel()


async def _leave_when_alone(scope: trio.CancelScope) -> None:
    async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as stdin:
        async for _ in stdin:
            pass
    scope.cancel()


def main() -> None:
    """Run one host with the settings in the first argument."""
    settings = json.loads(sys.argv[1])

    async def run() -> None:
        await host(**settings)

    trio.run(run)


if __name__ == "__main__":
    main()
