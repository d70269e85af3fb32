"""Trio under a seed: the same order each time, in one thread, and nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from threading import get_ident
from typing import Any

import pytest
import trio

from trio_sched.simulation.seeded import rare_collections, run_apart, seeded_scheduler

CORE: Any = trio._core._run  # there is no public name for it


async def order_of_tasks() -> list[int]:
    order: list[int] = []

    async def work(number: int) -> None:
        for _ in range(5):
            await trio.lowlevel.checkpoint()
            order.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(work, number)
    return order


@pytest.fixture
def trio_state() -> Iterator[None]:
    """Fail if trio's scheduler is not left as it was."""
    before, state = CORE._r, CORE._r.getstate()
    allowed = CORE._ALLOW_DETERMINISTIC_SCHEDULING
    yield
    assert CORE._r is before
    assert CORE._r.getstate() == state
    assert allowed == CORE._ALLOW_DETERMINISTIC_SCHEDULING


def seeded(seed: object) -> list[int]:
    with seeded_scheduler(seed):
        return trio.run(order_of_tasks)


@pytest.mark.usefixtures("trio_state")
def test_a_seed_gives_the_same_order_each_time() -> None:
    assert seeded(1) == seeded(1)
    assert len({tuple(seeded(seed)) for seed in range(9)}) == 9


@pytest.mark.usefixtures("trio_state")
def test_seeds_may_be_nested() -> None:
    with seeded_scheduler(1):
        inner = seeded(2)
        outer = trio.run(order_of_tasks)
    assert (outer, inner) == (seeded(1), seeded(2))


def test_a_run_in_another_thread_changes_nothing() -> None:
    async def both() -> tuple[list[int], list[int]]:
        """One seeded run waits in the middle of another; they take turns in two threads."""
        one: list[int] = []
        other: list[int] = []
        async with trio.open_nursery() as nursery:

            async def run(into: list[int], seed: int) -> None:
                into += await trio.to_thread.run_sync(seeded, seed)

            nursery.start_soon(run, one, 1)
            nursery.start_soon(run, other, 2)
            for _ in range(100):
                await trio.lowlevel.checkpoint()
        return one, other

    assert trio.run(both) == (seeded(1), seeded(2))


def test_garbage_is_collected_as_before_when_all_runs_are_over() -> None:
    before = gc.get_threshold()
    one, other = rare_collections(), rare_collections()
    with one:
        other.__enter__()
        assert gc.get_threshold() > before
    assert gc.get_threshold() > before  # the other goes on
    other.__exit__(None, None, None)
    assert gc.get_threshold() == before


def test_it_runs_here_unless_a_loop_does() -> None:
    assert run_apart(get_ident) == get_ident()

    async def elsewhere() -> bool:  # noqa: ASYNC124 # it is run by trio and by asyncio
        return run_apart(get_ident) != get_ident()

    assert trio.run(elsewhere)
    assert asyncio.run(elsewhere())


async def test_what_is_raised_in_a_thread_is_raised_here() -> None:
    await trio.lowlevel.checkpoint()

    def fail() -> None:
        raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        run_apart(fail)
