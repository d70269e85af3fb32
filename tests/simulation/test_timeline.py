"""A timeline, by a task of its own and by a clock that jumps: the same happens at the same time."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

import pytest
import trio
from trio.testing import MockClock

from trio_sched.simulation.timeline import JumpingClock, Timeline

NAME: ContextVar[str] = ContextVar("name", default="outside")


async def happens(clock: JumpingClock | None) -> list[tuple[float, str]]:
    """Let two tasks and a timeline do something; return what was done, and when."""
    NAME.set("inside")
    timeline, done = Timeline(), list[tuple[float, str]]()

    def note(what: str) -> None:
        done.append((trio.current_time(), what))

    async def work() -> None:
        for _ in range(3):
            await trio.sleep(1.5)
            note("task")

    def go_on(left: int) -> None:
        note(f"timeline {NAME.get()}")
        if left:
            timeline.after(2.0, go_on, left - 1)

    async with trio.open_nursery() as nursery:
        if clock is None:
            nursery.start_soon(timeline.run)
        else:
            clock.drive(timeline)
        nursery.start_soon(work)
        timeline.after(1.0, go_on, 2)
        timeline.at(1.0, note, "second")
        timeline.after(0.25, lambda: nursery.start_soon(child, note))
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    return done


async def child(note: Callable[[str], None]) -> None:
    await trio.lowlevel.checkpoint()
    note(f"child {NAME.get()}")


EXPECTED = [
    (0.25, "child inside"),
    (1.0, "timeline inside"),
    (1.0, "second"),
    (1.5, "task"),
    (3.0, "task"),
    (3.0, "timeline inside"),
    (4.5, "task"),
    (5.0, "timeline inside"),
]


@pytest.mark.parametrize("jumping", [False, True])
def test_it_happens_in_the_order_of_time(jumping: bool) -> None:
    if jumping:
        clock = JumpingClock()
        done = trio.run(happens, clock, clock=clock)
    else:
        done = trio.run(happens, None, clock=MockClock(autojump_threshold=0))
    assert sorted(done, key=lambda item: item[0]) == done
    assert sorted(done) == sorted(EXPECTED)


def test_time_stands_still_while_a_task_can_run() -> None:
    async def main() -> float:
        with trio.move_on_after(5):
            for _ in range(100):
                await trio.lowlevel.checkpoint()
            assert trio.current_time() == 0
            await trio.sleep_forever()
        return trio.current_time()

    assert trio.run(main, clock=JumpingClock()) == 5
