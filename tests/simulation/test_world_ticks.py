"""Ticks in worlds: never done twice, never forgotten; and what breaks that is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf

import pytest
import trio

from tests.simulation.test_planted_faults import SECONDS, _ComparesNothing
from trio_sched.host import ticks
from trio_sched.host.ticks import TickClaims
from trio_sched.simulation.diary import Change, Diary, Entry, Work
from trio_sched.simulation.explore import explore
from trio_sched.simulation.plan import KINDS, Plan
from trio_sched.simulation.world import World
from trio_sched.simulation.world_tick_checks import check_ticks

pytestmark = pytest.mark.usefixtures("untraced")

PLAN = Plan(1, ticks=10, seconds=30.0)


@pytest.mark.parametrize("seed", range(24))
def test_ticks_in_worlds(seed: int) -> None:
    report = World(replace(Plan.random(seed), ticks=10)).run()
    assert report.violations == ()
    assert len({work.tick for work in report.diary.works}) > 2


@pytest.mark.parametrize("kind", KINDS)
def test_ticks_whatever_happens_most(kind: str) -> None:
    plan = replace(Plan.random(2, seconds=60, kinds=[kind]), ticks=5)
    assert World(plan).run().violations == ()


# ---- broken on purpose -------------------------------------------------------------


def tick_without_compare(patch: pytest.MonkeyPatch) -> None:
    """A tick is claimed whatever is there."""
    patch.setattr(ticks, "Compare", _ComparesNothing)


def no_sweep(patch: pytest.MonkeyPatch) -> None:
    """What was begun by a host that is lost is forgotten when the next is due."""

    async def none(*_: object) -> list[str]:
        await trio.lowlevel.checkpoint()
        return []

    patch.setattr(TickClaims, "open_names", none)


def all_are_dead(patch: pytest.MonkeyPatch) -> None:
    """A claim is taken over though its host lives, as far as the transaction lets it."""

    async def dead(*_: object) -> bool:
        await trio.lowlevel.checkpoint()
        return True

    patch.setattr(TickClaims, "_is_dead", dead)
    patch.setattr(ticks, "Compare", _ComparesNothing)


FAULTS: tuple[Callable[[pytest.MonkeyPatch], None], ...] = (
    tick_without_compare,
    no_sweep,
    all_are_dead,
)


@pytest.mark.timeout(600)  # it is bounded by CPU time
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_it_is_found(
    monkeypatch: pytest.MonkeyPatch, fault: Callable[[pytest.MonkeyPatch], None]
) -> None:
    fault(monkeypatch)
    failure = explore(0, SECONDS, ticks=3).failure
    assert failure is not None
    assert any("2026-01-01T" in violation for violation in failure.violations), "it is of a tick"


# ---- the checker -------------------------------------------------------------------

NAME = "2026-01-01T00:00:10Z"


def entry(at: float, state: str, host: str = "a", token: int = 5, name: str = NAME) -> Entry:
    value = f'{{"state": "{state}", "host": "{host}", "token": {token}}}'.encode()
    return Entry(at, int(at), (Change(f"/world/ticks/{name}".encode(), value, 1, 1),))


def work(begin: float, end: float, host: str = "a", token: int = 5) -> Work:
    return Work(host, b"s", token, begin, end, tick=NAME, returned=end < inf)


@pytest.mark.parametrize(
    ("entries", "works", "words"),
    [
        ([entry(11, "running"), entry(13, "done")], [work(12, 13)], ""),
        ([entry(13, "done")], [work(12, 13)], "has not claimed"),
        (
            [entry(11, "running"), entry(13, "done"), entry(14, "running", "b", 9)],
            [work(12, 13), work(15, 16, "b", 9)],
            "done at 13",
        ),
        (
            [entry(11, "running"), entry(12, "running", "b", 9), entry(20, "done", "b", 9)],
            [work(12, 15), work(13, 16, "b", 9)],
            "beside a",
        ),
        ([entry(11, "running"), entry(13, "done")], [work(12, inf)], "which did not"),
        ([entry(11, "running")], [work(12, 13)], "is running since"),
        ([], [], "never begun"),
    ],
)
def test_the_checker(entries: list[Entry], works: list[Work], words: str) -> None:
    found = list(check_ticks(PLAN, Diary(entries=entries, works=works), 60.0))
    if not words:
        assert "never begun" in found.pop()  # the one after it
    assert bool(found) is bool(words)
    assert any(words in violation for violation in found) or not words


def test_without_ticks_there_is_nothing_to_check() -> None:
    assert not list(check_ticks(replace(PLAN, ticks=0), Diary(), 60.0))
