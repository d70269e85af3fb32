from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio

from trio_sched._support.tracing import Attributes, set_tracer, span


class Recorder:
    def __init__(self) -> None:
        self.spans: list[tuple[str, dict[str, str | int]]] = []

    @contextmanager
    def __call__(self, name: str, attributes: Attributes) -> Iterator[None]:
        self.spans.append((name, dict(attributes)))
        yield


def test_without_a_tracer_nothing_is_made() -> None:
    with span("x", a=1) as found:
        assert found is None
    assert span("x") is span("y")


def test_a_tracer_holds_for_its_block() -> None:
    recorder = Recorder()
    with set_tracer(recorder), span("x", host="a"):
        pass
    with span("y"):
        pass
    assert recorder.spans == [("x", {"trio_sched.host": "a"})]


async def test_it_holds_for_tasks_that_are_started_in_it() -> None:
    recorder = Recorder()

    async def task() -> None:
        with span("x"):
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        with set_tracer(recorder):
            nursery.start_soon(task)
        nursery.start_soon(task)
    assert [name for name, _ in recorder.spans] == ["x"]
