"""The host processes of the demo, and the demo's side of them.

A host is this module, run with the arguments of `host` as JSON. It writes events of the board to
its stdout, one on a line, and leaves when its stdin ends: because the demo wants so, or is gone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from typing import Any

import trio

from trio_sched import open_client, schedule
from trio_sched._support.tasks import open_plain_nursery
from trio_sched.cli.demo.board import Board, HostState

__all__ = ["DemoFailed", "host", "run_host"]

# A name and not code, so that a test can put a program in its place that fails.
HOST_MODULE = "trio_sched.cli.demo.hosts"


class DemoFailed(Exception):
    """Something did not happen as it had to."""


async def host(hostname: str, endpoint: str, path: str, options: dict[str, Any]) -> None:
    """Be a host: join, report decisions, and leave at the end of stdin."""
    post_state = partial(_post, "host", host=hostname, pid=os.getpid())
    async with open_plain_nursery() as nursery:
        nursery.start_soon(_leave_at_end_of_stdin, nursery.cancel_scope)
        async with open_client(endpoint) as client:
            post_state(state=HostState.JOINING)
            async with schedule(client, path, hostname, **options) as result:
                post_state(state=HostState.JOINED)
                async for hosts in result:
                    decision = {"revision": hosts.revision, "leader": hosts.leader}
                    _post("decision", host=hostname, hosts=list(hosts), **decision)
    post_state(state=HostState.LEFT)


async def _leave_at_end_of_stdin(scope: trio.CancelScope) -> None:
    async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as stdin:
        async for _ in stdin:
            pass
    scope.cancel()


def _post(kind: str, **fields: Any) -> None:
    # A line fits into the pipe's buffer, so this does not block.
    sys.stdout.write(json.dumps({"kind": kind, "t": time.monotonic(), **fields}) + "\n")
    sys.stdout.flush()


async def run_host(
    board: Board,
    hostname: str,
    *arguments: Any,
    task_status: trio.TaskStatus[trio.Process] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a host process to its end, and post its events. Cancelled, it kills the process.

    Raises:
        DemoFailed: it has ended, and neither left nor was killed by us.
    """
    ends: list[subprocess.CompletedProcess[bytes]] = []

    async def run(*, task_status: trio.TaskStatus[trio.Process]) -> None:  # noqa: ASYNC128 # trio does
        command = [sys.executable, "-m", HOST_MODULE, json.dumps([hostname, *arguments])]
        end = await trio.run_process(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            capture_stderr=True,
            check=False,
            start_new_session=True,  # a Ctrl-C is for the demo alone
            deliver_cancel=_kill,
            task_status=task_status,
        )
        ends.append(end)

    async with open_plain_nursery() as nursery:
        process: trio.Process = await nursery.start(run)
        assert process.stdin is not None
        assert process.stdout is not None
        post_state = partial(board.post, "host", host=hostname, pid=process.pid)
        post_state(time.monotonic(), state=HostState.STARTING)
        task_status.started(process)
        async with process.stdin, process.stdout:
            await _pass_on(process.stdout, board)
    (end,) = ends
    state = board.hosts[hostname].state
    if (state, end.returncode) not in {(HostState.KILLED, -signal.SIGKILL), (HostState.LEFT, 0)}:
        post_state(time.monotonic(), state=HostState.DIED)
        words = end.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise DemoFailed(f"{hostname} ended with exit code {end.returncode}: {words}")


async def _kill(process: trio.Process) -> None:  # noqa: ASYNC124 # so deliver_cancel wants it
    process.kill()


async def _pass_on(stdout: trio.abc.ReceiveStream, board: Board) -> None:
    rest = b""
    async for chunk in stdout:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            board.post(**json.loads(line))


if __name__ == "__main__":
    trio.run(host, *json.loads(sys.argv[1]))
