"""Hosts as processes, some of which are killed."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from tests.helpers import watch_leftovers
from trio_sched import open_client, schedule

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PROGRAM = Path(__file__).with_name("host_process.py")
TTL = 2


class HostProcess:
    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self._buffer = b""

    async def read(self) -> dict[str, Any]:
        """Return the next decision that the host printed."""
        assert self.process.stdout is not None
        while b"\n" not in self._buffer:
            data = await self.process.stdout.receive_some()
            assert data, "the host ended"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        decision: dict[str, Any] = json.loads(line)
        return decision

    async def read_until(self, *hosts: str) -> dict[str, Any]:
        while True:
            decision = await self.read()
            if decision["hosts"] == list(hosts):
                return decision


@asynccontextmanager
async def open_host(endpoint: str, path: str, name: str) -> AsyncIterator[HostProcess]:
    command = [sys.executable, str(PROGRAM), endpoint, path, name, str(TTL), "2"]
    run = partial(
        trio.run_process, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, check=False
    )
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(run)
        yield HostProcess(process)
        assert process.stdin is not None
        await process.stdin.aclose()


async def test_f25_the_leader_is_killed_and_rr_keeps_its_choice(endpoint: str, path: str) -> None:
    async with (
        watch_leftovers(endpoint, path) as left,
        open_host(endpoint, path, "z-leader") as leader,
    ):
        await leader.read_until("z-leader")
        async with open_host(endpoint, path, "y-chosen") as chosen:
            await chosen.read_until("y-chosen", "z-leader")
            async with open_host(endpoint, path, "a-waiting") as waiting:
                await waiting.read_until("y-chosen", "z-leader")
                leader.process.kill()
                with trio.fail_after(TTL + 1 + 2):  # 2 s for a machine that is busy
                    decisions = [
                        await host.read_until("a-waiting", "y-chosen") for host in (chosen, waiting)
                    ]
        assert decisions[0] == decisions[1]
        assert decisions[0]["leader"] == "y-chosen"
    assert left.nothing


async def test_a_host_in_another_process_and_one_in_this_agree(endpoint: str, path: str) -> None:
    async with (
        watch_leftovers(endpoint, path) as left,
        open_host(endpoint, path, "there") as there,
        open_client(endpoint) as client,
        schedule(client, path, "here", max_count=2) as here,
    ):
        decision = await there.read_until("here", "there")
        async for hosts in here:
            if hosts == ("here", "there"):
                break
        assert here.newest is not None
        assert here.newest.revision == decision["revision"]
    assert left.nothing
