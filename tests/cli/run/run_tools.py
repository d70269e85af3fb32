"""`trio-sched run` as a process, with what it and its child say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio

from tests.cli.ops_tools import validate
from tests.reaper.process_tools import ended_with_block
from trio_sched.reaper.helper.groups import kill_group

__all__ = ["Run", "done", "open_run"]

COMMAND = [sys.executable, "-m", "trio_sched", "run"]
PATIENCE = 40  # seconds; far more than anything here takes


class Lines:
    """Lines of a pipe."""

    def __init__(self, pipe: trio.abc.ReceiveStream) -> None:
        self._pipe = pipe
        self._buffer = b""

    async def read(self) -> str | None:
        """The next line; None at the end."""
        while b"\n" not in self._buffer:
            chunk = await self._pipe.receive_some()
            if not chunk:
                return None
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()


class Run:
    """A running command."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        self.process = process
        self.events: list[dict[str, Any]] = []  # those that were read
        self.child = 0  # the last one that was reported
        self._out = Lines(process.stdout)
        self._err = Lines(process.stderr)

    async def line(self) -> str:
        """The next line of the child."""
        line = await self._out.read()
        assert line is not None, "there is no more"
        return line

    async def event(self, *kinds: str) -> dict[str, Any]:
        """Wait for an event of one of these kinds."""
        while True:
            line = await self._err.read()
            assert line is not None, f"ended after {self.events}"
            event: dict[str, Any] = json.loads(line)
            validate(event, "commands.schema.json#/$defs/run")
            self.events.append(event)
            if event["event"] == "started":
                self.child = event["pid"]
            if event["event"] in kinds:
                return event

    async def code(self) -> int:
        """Wait for the end."""
        return await self.process.wait()

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


@asynccontextmanager
async def open_run(
    endpoint: str,
    path: str,
    *options: str,
    command: list[str],
    name: str = "host",
    env: dict[str, str] | None = None,
    under: Sequence[str] = (),
    patience: float = PATIENCE,
) -> AsyncIterator[Run]:
    """Run a command with ``--json``, `under` another one; nothing of it outlives the block.

    It may take `patience` seconds; the default is far more than most things here do.
    """
    arguments = ["--json", "--endpoints", endpoint, "--hostname", name, *options]
    process = await trio.lowlevel.open_process(
        [*under, *COMMAND, path, *arguments, "--", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | (env or {}),
    )
    run = Run(process)
    try:
        async with ended_with_block(process, patience):
            yield run
    finally:
        if run.child:
            kill_group(run.child, 5)


async def done(
    *arguments: str, env: dict[str, str] | None = None, stdin: bytes = b""
) -> tuple[int, str, str]:
    """Run it to its end; return its exit code and what was written."""
    with trio.fail_after(PATIENCE):
        ended = await trio.run_process(
            [*COMMAND, *arguments],
            stdin=stdin,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=os.environ | (env or {}),
        )
    return ended.returncode, ended.stdout.decode(), ended.stderr.decode()
