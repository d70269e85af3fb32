"""Pools for `check_strategy` that Hypothesis makes, as the data of their hosts comes from it.

Imported only if a strategy of Hypothesis is given: this library does not need it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings, strategies as st
from hypothesis.errors import Flaky
from hypothesis.strategies import DrawFn, SearchStrategy

from trio_sched.model.records import Host
from trio_sched.strategies import StrategyOptions
from trio_sched.testing import cases

__all__ = ["find"]

T = TypeVar("T")


class _Found(Exception):
    """Makes Hypothesis search for a smaller case."""


def find(
    attempt: Callable[[cases.Case], T | None],
    data: SearchStrategy[Mapping[str, object]],
    examples: int,
    number: int,
) -> T | None:
    """Return what `attempt` returns of the smallest case of which that is not None.

    Args:
        attempt: what is tried on each case.
        data: of the hosts.
        examples: how many cases to try.
        number: seed of the cases.
    """
    found: list[T] = []

    @seed(number)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        derandomize=False,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=tuple(HealthCheck),
        verbosity=Verbosity.quiet,
    )
    @given(_made(data))
    def search(case: cases.Case) -> None:
        outcome = attempt(case)
        if outcome is not None:
            found.append(outcome)
            raise _Found

    try:
        search()
    except (_Found, Flaky):  # flaky: it is no function of what it is asked, which is found, too
        return found[-1]
    return None


@st.composite
def _made(draw: DrawFn, data: SearchStrategy[Mapping[str, object]]) -> cases.Case:
    names = draw(st.lists(st.sampled_from(cases.NAMES), unique=True, max_size=14))
    hosts = tuple(_host(draw, name, number, data) for number, name in enumerate(names, 1000))
    some = st.lists(st.sampled_from(cases.NAMES), unique=True, max_size=cases.LAST_COUNT)
    last = draw(st.one_of(some, st.just(names[::2])))
    max_count = draw(st.sampled_from(cases.MAX_COUNTS))
    path = draw(st.sampled_from(cases.PATHS))
    return cases.Case(hosts, StrategyOptions(max_count, tuple(last), path))


def _host(draw: DrawFn, name: str, lease: int, data: SearchStrategy[Mapping[str, object]]) -> Host:
    return Host(
        name,
        lease=lease,
        joined_revision=draw(st.integers(1, 28)),
        weight=draw(st.sampled_from(cases.WEIGHTS)),
        zone=draw(st.sampled_from(cases.ZONES)),
        priority=draw(st.integers(-1, 1)),
        data=cases.published(draw(data)),
    )
