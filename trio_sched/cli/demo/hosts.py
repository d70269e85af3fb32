"""The host processes of the demo: start them, read what they tell, see them end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

import trio

from trio_sched._support.tasks import open_plain_nursery
from trio_sched.cli.demo.board import Board, HostState

__all__ = ["HostSettings", "run_host"]

# A name and not code, so that a test can put a program in its place that fails.
HOST_MODULE = "trio_sched.cli.demo.host"

_STDERR_TAIL = 2_000  # bytes
_KILL_SECONDS = 5.0  # SIGKILL cannot be refused; only a sick kernel needs longer


@dataclass(frozen=True)
class HostSettings:
    """What a host process is told."""

    endpoint: str
    path: str
    hostname: str
    strategy: str
    max_count: int
    session_ttl: int


async def run_host(
    board: Board,
    settings: HostSettings,
    *,
    task_status: trio.TaskStatus[trio.Process] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run one host process to its end, and write on the board what it tells.

    An end that nobody asked for is the demo's failure. Cancelled, it kills the process.
    """
    process = await _start(settings)
    name = settings.hostname
    board.note_started(time.monotonic(), name, process.pid)
    stderr = bytearray()
    try:
        task_status.started(process)
        async with open_plain_nursery() as nursery:
            nursery.start_soon(_collect, process, stderr)
            nursery.start_soon(_listen, process, board, name)
        await process.wait()
    finally:
        process.kill()
        with trio.move_on_after(_KILL_SECONDS, shield=True):
            await process.wait()
            await _close(process)
    _judge(board, name, process.returncode, bytes(stderr))


async def _start(settings: HostSettings) -> trio.Process:
    """Start the process, in a session of its own: a Ctrl-C is for the demo alone."""
    return await trio.lowlevel.open_process(
        [sys.executable, "-m", HOST_MODULE, json.dumps(asdict(settings))],
        stdin=subprocess.PIPE,  # held open for as long as the demo lives; a host leaves at its end
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


async def _listen(process: trio.Process, board: Board, name: str) -> None:
    assert process.stdout is not None
    rest = b""
    async for chunk in process.stdout:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            _note(board, name, json.loads(line))


def _note(board: Board, name: str, told: dict[str, object]) -> None:
    """Write one line of a host on the board."""
    match told:
        case {"event": "joining", "t": float(t)}:
            board.note_state(t, name, HostState.JOINING)
        case {"event": "joined", "t": float(t)}:
            board.note_state(t, name, HostState.JOINED)
        case {"event": "left", "t": float(t)}:
            board.note_state(t, name, HostState.LEFT)
        case {"event": "decision", "t": float(t), "hosts": [*hosts], "revision": int(revision)}:
            leader = told.get("leader")
            leader = leader if isinstance(leader, str) else None
            board.note_decision(t, name, [str(host) for host in hosts], revision, leader)
        case _:
            raise ValueError(f"{name} said {told!r}")


async def _collect(process: trio.Process, tail: bytearray) -> None:
    """Keep the end of what it complains about."""
    assert process.stderr is not None
    async for chunk in process.stderr:
        tail += chunk
        del tail[:-_STDERR_TAIL]


async def _close(process: trio.Process) -> None:
    """Close our ends of its pipes."""
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            await pipe.aclose()


def _judge(board: Board, name: str, code: int | None, stderr: bytes) -> None:
    state = board.hosts[name].state
    if state is HostState.KILLED and code == -signal.SIGKILL:
        return
    if state is HostState.LEFT and code == 0:
        return
    now = time.monotonic()
    words = stderr.decode(errors="replace").strip().rpartition("\n")[2] or "and said nothing"
    board.note_state(now, name, HostState.DIED)
    board.note_failure(now, f"{name} ended with exit code {code}: {words}")
