"""Ticks of real processes on a real etcd, which are killed and stopped by a seed."""

from __future__ import annotations

import json
import random
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.reaper.process_tools import ended_with_block, eventually
from trio_sched import open_client, read_ticks
from trio_sched.model.keys import PathKeys

PROGRAM = Path(__file__).with_name("tick_host.py")
PATIENCE = 120  # seconds; far more than it takes
FAULTS = 8


class Fleet:
    """Three hosts, of which one or two suffer at a time."""

    def __init__(self, seed: int, endpoint: str, path: str, diary: Path) -> None:
        self._chance = random.Random(seed)
        self._diary = diary
        self._order = {"endpoint": endpoint, "path": path, "diary": str(diary), "seconds": 0.3}
        self._numbers = iter(range(1000))
        self.processes: list[trio.Process] = []

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._diary.read_text().splitlines()]

    async def wait_more(self, number: int) -> None:
        """Wait until so many more ticks have ended; one that is done anew counts once."""

        def ended() -> set[str]:
            return {line["tick"] for line in self.lines() if line["what"] == "ended"}

        before = len(ended())
        await eventually(lambda: len(ended()) >= before + number)

    async def live(self, nursery: trio.Nursery) -> None:
        name = f"host-{next(self._numbers)}"
        order = {**self._order, "name": name, "reaper": self._chance.random() < 0.5}
        process = await trio.lowlevel.open_process(
            [sys.executable, str(PROGRAM), json.dumps(order)]
        )
        self.processes.append(process)

        async def guard() -> None:
            async with ended_with_block(process, PATIENCE):
                await process.wait()

        nursery.start_soon(guard)

    async def suffer(self, nursery: trio.Nursery) -> None:
        """Something happens to a host; a new one comes for one that is gone."""
        process = self._chance.choice(self.processes)
        if self._chance.random() < 0.7:
            process.kill()
        else:  # for longer than its TTL: when it goes on, others have gone on without it
            process.send_signal(signal.SIGSTOP)
            await self.wait_more(2)
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGTERM)
        self.processes.remove(process)
        await self.live(nursery)


@pytest.mark.timeout(PATIENCE + 30)
@pytest.mark.parametrize("seed", range(2))
async def test_never_twice_done_and_none_forgotten(
    endpoint: str, path: str, tmp_path: Path, seed: int
) -> None:
    diary = tmp_path / "diary"
    diary.touch()
    fleet = Fleet(seed, endpoint, path, diary)
    async with open_client(endpoint) as client:
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    await fleet.live(nursery)
                for _ in range(FAULTS):
                    await fleet.wait_more(2)
                    await fleet.suffer(nursery)
                await fleet.wait_more(3)
                before = {line["tick"] for line in fleet.lines()[:-4]}
                nursery.cancel_scope.cancel()
        recorded = {tick.name: tick for tick in await read_ticks(client, path)}
        judge(fleet.lines(), recorded, before)
        await client.delete_prefix(PathKeys(path).path + "/")


def judge(lines: list[dict[str, Any]], recorded: dict[str, Any], before: set[str]) -> None:
    """Every tick that was begun, but for the last ones, is done; by who began it last."""
    assert len(before) >= 2 * FAULTS
    for name in before:
        tick, own = recorded[name], [line for line in lines if line["tick"] == name]
        assert tick.state == "done", tick
        began = [line for line in own if line["what"] == "begun"]
        # Who comes after "done" does nothing: so the last that has begun is the one that is done.
        assert (tick.host, tick.token) == (began[-1]["host"], began[-1]["token"]), own
        assert any(line["what"] == "ended" and line["token"] == tick.token for line in own), own
        # It comes to its end twice only if a host ended it and was lost before it said so.
        ended = [line["token"] for line in own if line["what"] == "ended"]
        assert len(ended) == len(set(ended))
        # One begins only after the other has ended, or was lost.
        assert [line["token"] for line in began] == sorted(line["token"] for line in began)
