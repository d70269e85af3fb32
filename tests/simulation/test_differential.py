"""The etcd in memory and a real one make the same of any program that `programs` makes.

Each answer is compared field by field, each error by its class and etcd's words, and at the end of
a program all that watches said. The suite plays the same ten thousand steps in each run, so that a
run says something of the change that it is run for; ``nox -s fuzz`` plays others, and many more.
"""

from __future__ import annotations

import os

import pytest
import trio
from hypothesis import HealthCheck, given, settings

from tests.simulation.players import Player, show
from tests.simulation.programs import Program, programs
from tests.simulation.servers import MemoryServer, RealServer, Server
from trio_sched.simulation import MemoryEtcd

STEPS = int(os.environ.get("STEPS", "10000"))
STEPS_OF_A_PROGRAM = 50


async def play(program: Program, real: Server, memory: Server) -> str:
    """Play a program to both; return where they differ, or nothing."""
    async with (
        real.open_client() as real_client,
        memory.open_client() as memory_client,
        trio.open_nursery() as nursery,
    ):
        players = Player(real_client, nursery), Player(memory_client, nursery)
        try:
            found = await compare(program, *players)
        finally:
            nursery.cancel_scope.cancel()
    return found


async def compare(program: Program, real: Player, memory: Player) -> str:
    await real.begin()
    await memory.begin()
    played: list[str] = []
    for step in program:
        expected, found = await real.play(step), await memory.play(step)
        if step is not None:
            played.append(show(step))
        if found != expected:
            return difference(played, expected, found)
    for one, other in zip(await real.finish(), await memory.finish(), strict=True):
        if one != other:
            return difference(played, one, other)
    return ""


def difference(played: list[str], expected: object, found: object) -> str:
    ends = [f"the real etcd: {show(expected)}", f"in memory:     {show(found)}"]
    return "\n".join(["", *played, *ends])


@pytest.mark.usefixtures("untraced")
@pytest.mark.timeout(36000)  # it is bounded by the number of steps
def test_any_program_gives_the_same(real_server: RealServer) -> None:
    @settings(
        max_examples=max(1, STEPS // STEPS_OF_A_PROGRAM),
        deadline=None,
        derandomize="STEPS" not in os.environ,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(programs(STEPS_OF_A_PROGRAM))
    def check(program: Program) -> None:
        found = trio.run(play, program, real_server, MemoryServer(MemoryEtcd()))
        assert not found, found

    check()
