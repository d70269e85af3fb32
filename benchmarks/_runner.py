"""Runs the rounds: one process for each client, and one of them at work at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio
from _blast import Blaster, open_blaster
from _catalogue import BURST, FRESH, WATCHED, Column, Row
from _go import NotInstalled, build

from trio_sched.etcd_shim import open_client
from trio_sched.testing import open_etcd

__all__ = ["Plan", "Results", "measure"]

HERE = Path(__file__).parent
# How long one order may take, in seconds. The longest takes two when the machine is idle.
PATIENCE = 60


class WorkerFailed(Exception):
    """A worker did not carry out its order; the text says why."""


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        columns: which clients.
        rows: which rows.
        rounds: how often.
        quick: fewer operations.
    """

    columns: Sequence[Column]
    rows: Sequence[Row]
    rounds: int
    quick: bool


Sample = dict[str, Any]


@dataclass
class Results:
    """What came out.

    Attributes:
        samples: those of each row and column, one for each round.
        reasons: why there is none, for each row and column that has none.
        etcd: the server's version.
    """

    samples: dict[tuple[str, str], list[Sample]] = field(default_factory=lambda: defaultdict(list))
    reasons: dict[tuple[str, str], str] = field(default_factory=dict)
    etcd: str = ""

    def note(self, row: Row, column: Column, answer: dict[str, Any]) -> None:
        """Keep what a worker said."""
        if "sample" in answer:
            self.samples[row.name, column.name].append(answer["sample"])
        else:
            self.reasons[row.name, column.name] = answer["reason"]


class Worker:
    """A process of `_worker`, which carries out orders."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._stdin = process.stdin
        self._stdout = process.stdout
        self._lines = b""

    def kill(self) -> None:
        """End it, whatever it is at."""
        self._process.kill()

    async def post(self, order: dict[str, Any]) -> None:
        """Give an order."""
        await self._stdin.send_all(json.dumps(order).encode() + b"\n")

    async def receive(self) -> dict[str, Any]:
        """Wait for its next answer."""
        while b"\n" not in self._lines:
            data = await self._stdout.receive_some()
            if not data:
                raise WorkerFailed("its process ended")
            self._lines += data
        line, _, self._lines = self._lines.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer


class Workers:
    """Begins a worker when it is needed first, and ends all."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self._workers: dict[str, Worker] = {}
        self._programs: dict[str, str] = {}

    async def build(self, column: Column) -> None:
        """Make the program of a column that is compiled."""
        folder = self._stack.enter_context(tempfile.TemporaryDirectory())
        try:
            self._programs[column.name] = str(await trio.to_thread.run_sync(build, Path(folder)))
        except NotInstalled as exc:
            raise WorkerFailed(str(exc)) from None

    async def of(self, column: Column) -> Worker:
        """Return the worker of a column."""
        if column.name not in self._workers:
            command = [sys.executable, str(HERE / "_worker.py"), column.module]
            if column.compiled:
                command = [self._programs[column.name]]
            process = await self._stack.enter_async_context(_open_process(command))
            self._workers[column.name] = Worker(process)
        return self._workers[column.name]

    def drop(self, column: Column) -> None:
        """End it; begin a new one next time."""
        self._workers.pop(column.name).kill()


@asynccontextmanager
async def _open_process(command: list[str]) -> AsyncIterator[trio.Process]:
    process = await trio.lowlevel.open_process(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_environment()
    )
    try:
        yield process
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


def _environment() -> dict[str, str]:
    """Without proxies: grpc would go through one to 127.0.0.1."""
    environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    return environment | {"GRPC_VERBOSITY": "ERROR"}


class Bench:
    """One run."""

    def __init__(
        self, plan: Plan, address: str, lease: int, blaster: Blaster, workers: Workers
    ) -> None:
        self._plan = plan
        self._address = address
        self._lease = lease
        self._blaster = blaster
        self._workers = workers
        self.results = Results()

    async def run(self, progress: Callable[[str], None]) -> None:
        """All rounds."""
        columns = await self._installed()
        for number in range(self._plan.rounds):
            turn = number % len(columns) if columns else 0
            for row in self._rows(lives_on=True):
                progress(f"round {number + 1} of {self._plan.rounds}: {row.title}")
                for column in (*columns[turn:], *columns[:turn]):
                    await self._repeated(row, column)
            if self._rows(lives_on=False):
                progress(f"round {number + 1} of {self._plan.rounds}: new processes")
                for column in (*columns[turn:], *columns[:turn]):
                    await self._fresh(column)

    def _rows(self, *, lives_on: bool) -> list[Row]:
        return [row for row in self._plan.rows if (row not in FRESH) is lives_on]

    async def _installed(self) -> list[Column]:
        """Return those that can be imported. Also warms the caches of modules and of the disk."""
        columns = []
        for column in self._plan.columns:
            try:
                if column.compiled:
                    await self._workers.build(column)
                else:
                    await self._begin(column, memory=False)
                columns.append(column)
            except WorkerFailed as exc:
                for row in self._plan.rows:
                    self.results.reasons[row.name, column.name] = str(exc)
        return columns

    # ---- rows of a process that has just begun ---------------------------------

    async def _fresh(self, column: Column) -> None:
        if column.compiled:
            for row in self._rows(lives_on=False):
                self.results.note(row, column, {"reason": "a compiled program imports nothing"})
            return
        try:
            memory = any(row.name == "memory" for row in self._plan.rows)
            figures = await self._begin(column, memory=memory)
        except WorkerFailed as exc:
            for row in self._rows(lives_on=False):
                self.results.note(row, column, {"reason": str(exc)})
        else:
            for row in self._rows(lives_on=False):
                self.results.note(row, column, {"sample": figures[row.name]})

    async def _begin(self, column: Column, *, memory: bool) -> dict[str, Any]:
        try:
            with trio.fail_after(PATIENCE):
                return await self._run_fresh(column, memory=memory)
        except trio.TooSlowError:
            raise WorkerFailed(f"not done in {PATIENCE} s") from None

    async def _run_fresh(self, column: Column, *, memory: bool) -> dict[str, Any]:
        flags = ("borrows " if column.borrows else "") + ("memory" if memory else "")
        arguments = [column.module, self._address, flags, *column.imports]
        done = await trio.run_process(
            [sys.executable, str(HERE / "_fresh.py"), *arguments],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=_environment(),
        )
        if done.returncode:
            last = done.stderr.decode().strip().rpartition("\n")[2]
            if "ModuleNotFoundError" in last:
                raise WorkerFailed(f"not installed: {last.partition(': ')[2]}")
            raise WorkerFailed(f"failed: {last}")
        figures: dict[str, Any] = json.loads(done.stdout)
        return figures

    # ---- rows of a process that lives on ---------------------------------------

    async def _repeated(self, row: Row, column: Column) -> None:
        if (row.name, column.name) in self.results.reasons:
            return
        try:
            with trio.fail_after(PATIENCE):
                answer = await self._order(row, await self._workers.of(column))
        except trio.TooSlowError:
            answer = {"reason": f"not done in {PATIENCE} s"}
            self._workers.drop(column)
        except (WorkerFailed, trio.BrokenResourceError) as exc:
            answer = {"reason": f"failed: {exc}"}
            self._workers.drop(column)
        self.results.note(row, column, answer)

    async def _order(self, row: Row, worker: Worker) -> dict[str, Any]:
        count = row.quick if self._plan.quick else row.count
        warm = 3 * BURST if row.name == "watch" else max(count // 10, 5)
        await worker.post(
            {
                "row": row.name,
                "address": self._address,
                "count": count,
                "warm": warm,
                "lease": self._lease,
            }
        )
        while "burst" in (answer := await worker.receive()):
            await self._blaster.put(WATCHED, answer["burst"])
        return answer


async def measure(plan: Plan, progress: Callable[[str], None]) -> Results:
    """Start an etcd, run all rounds, end all processes."""
    async with open_etcd() as etcd, AsyncExitStack() as stack:
        address = etcd.endpoint.removeprefix("http://")
        blaster = await stack.enter_async_context(open_blaster(address))
        async with open_client(etcd.endpoint) as client:
            version = (await client.status()).version
            lease = await client.lease_grant(3600)
        bench = Bench(plan, address, lease.id, blaster, Workers(stack))
        await bench.run(progress)
        bench.results.etcd = version
        return bench.results
