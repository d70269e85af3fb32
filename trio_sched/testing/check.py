"""The laws that every strategy should keep, tried on made-up pools.

The cases come from a seed, so a failure is the same again, and the one that is shown is
as small as it gets by leaving things out one after the other. No other package is needed, unless
data comes from a strategy of Hypothesis: then Hypothesis makes the pools, and makes them small.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from trio_sched._support.arguments import check_bools, check_int
from trio_sched.exceptions import StrategyError
from trio_sched.strategies import Strategy, StrategyFactory, StrategyFunction, get_strategy
from trio_sched.strategies.base import track
from trio_sched.testing.cases import Case, MakeData, made_up, smaller

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

    from trio_sched.model.records import Host

__all__ = ["check_strategy"]

_Make: TypeAlias = Callable[[], Strategy]


@dataclass(frozen=True, slots=True)
class _Law:
    """A law in words, and what is wrong with a case, if anything."""

    words: str
    objection: Callable[[_Make, Case], str | None]

    def objects(self, make: _Make, case: Case) -> str | None:
        try:
            return self.objection(make, case)
        except StrategyError as error:
            # If it fails at this very case, that is what the first law is for.
            only = self is _LAWS[0] or _LAWS[0].objects(make, case) is None
            return f"it {error.reason}" if only else None


def check_strategy(
    strategy: str | Strategy | StrategyFactory | StrategyFunction,
    *,
    full: bool = True,
    sticky: bool = False,
    data: MakeData | SearchStrategy[Mapping[str, object]] | None = None,
    examples: int = 300,
    seed: int = 0,
) -> None:
    """Try on made-up pools whether a strategy keeps the laws.

    It has to name known hosts only, each once and at most ``max_count``; to answer the
    same when it is asked the same, also if it is made anew and the hosts come in another
    order; and to stand by what it chose: asked again with that as the last decision, it
    must not change it, or the leader would write without end. If it tracks its hosts, its tracker
    has to choose the same while hosts come and go.

    Args:
        strategy: its name, itself, a class or function that makes it, or a plain
            function of ``(hosts, options)``.
        full: it has to choose ``max_count`` hosts if there are as many.
        sticky: it has to keep the hosts of the last decision, unless there are too many.
        data: what hosts publish as their data: a function that makes that of a host from a
            `random.Random`, or a strategy of Hypothesis, for what `schedule` takes as ``data``.
            None for no data.
        examples: how many pools to try.
        seed: of the pools.

    Raises:
        AssertionError: it breaks a law. The message has the law, and shows the smallest
            case that was found, as code to paste.
        TypeError: `strategy` is none, `data` is neither, or what it makes cannot be published.
        ValueError: no strategy has this name, `examples` is less than 1, or what `data` makes
            cannot be published.
    """
    check_bools(full=full, sticky=sticky)
    check_int("examples", examples, 1)
    check_int("seed", seed)
    make = _maker(strategy)
    laws = [*_LAWS, *[_FULL] * full, *[_STICKY] * sticky]

    def attempt(case: Case) -> _Broken | None:
        return next(((law, case) for law in laws if law.objects(make, case) is not None), None)

    broken = _search(data)(attempt, data, examples, seed)
    if broken is not None:
        _report(make, *broken)


_Broken: TypeAlias = tuple["_Law", Case]
_Try: TypeAlias = Callable[[Case], "_Broken | None"]


def _search(data: object) -> Callable[[_Try, Any, int, int], _Broken | None]:
    """Return how to search for a case that breaks a law."""
    module = sys.modules.get("hypothesis.strategies")  # who has a strategy of it has it
    if module is not None and isinstance(data, module.SearchStrategy):
        return _by_hypothesis
    if data is None or callable(data):
        return _by_chance
    raise TypeError(
        "data must be a function of a random.Random, or a strategy of Hypothesis, "
        f"not {type(data).__name__}"
    )


def _by_chance(attempt: _Try, data: Any, examples: int, seed: int) -> _Broken | None:
    """Try pools that are made up; return what the first that breaks a law does."""
    chance = Random(seed)  # noqa: S311 # the same for the same seed is the point
    return next(filter(None, (attempt(made_up(chance, data)) for _ in range(examples))), None)


def _by_hypothesis(attempt: _Try, data: Any, examples: int, seed: int) -> _Broken | None:
    """Try pools that Hypothesis makes; return what the smallest that breaks a law does."""
    from trio_sched.testing import hypothesis_cases  # noqa: PLC0415 # it may not be installed

    return hypothesis_cases.find(attempt, data, examples, seed)


def _maker(strategy: str | Strategy | StrategyFactory | StrategyFunction) -> _Make:
    """Return what makes the strategy, anew if that can be done."""

    def from_class() -> Any:
        return cast(Any, strategy)()

    found = cast(Any, from_class if isinstance(strategy, type) else strategy)
    get_strategy(found)
    return lambda: get_strategy(found)


# The laws: each returns what is wrong with a case, or None.


def _of_rules(make: _Make, case: Case) -> str | None:
    case.ask(make())
    return None


def _of_purity(make: _Make, case: Case) -> str | None:
    strategy = make()
    first, second, anew = case.ask(strategy), case.ask(strategy), case.ask(make())
    if first != second:
        return f"it chose {list(first)}, and asked the same again {list(second)}"
    return None if first == anew else f"it chose {list(first)}, and made anew {list(anew)}"


def _of_order(make: _Make, case: Case) -> str | None:
    first = case.ask(make())
    half = len(case.hosts) // 2
    for hosts in (case.hosts[::-1], case.hosts[half:] + case.hosts[:half]):
        other = replace(case, hosts=hosts).ask(make())
        if first != other:
            order = [host.name for host in hosts]
            return f"it chose {list(first)}, and {list(other)} when the hosts came as {order}"
    return None


def _of_settling(make: _Make, case: Case) -> str | None:
    strategy = make()
    first = case.ask(strategy)
    again = replace(case, options=replace(case.options, last=first)).ask(strategy)
    if first == again:
        return None
    return f"it chose {list(first)}, and with that as the last decision {list(again)}"


def _of_use(make: _Make, case: Case) -> str | None:
    chosen, due = case.ask(make()), min(len(case.hosts), case.options.max_count)
    if len(chosen) == due:
        return None
    return f"it chose {list(chosen)}, where {due} of {len(case.hosts)} hosts could be chosen"


def _of_stickiness(make: _Make, case: Case) -> str | None:
    chosen, there = case.ask(make()), {host.name for host in case.hosts}
    kept = [name for name in case.options.last if name in there]
    dropped = [name for name in kept if name not in chosen]
    if len(dropped) <= max(0, len(kept) - case.options.max_count):
        return None
    return f"it chose {list(chosen)}, and dropped {dropped}, though there was room"


def _of_tracking(make: _Make, case: Case) -> str | None:
    strategy = make()
    tracker = track(strategy, case.options.path)
    if tracker is None:
        return None
    half = case.hosts[len(case.hosts) // 2 :]
    known: tuple[Host, ...] = ()
    for hosts in (case.hosts[::-1], half, case.hosts):
        now = replace(case, hosts=hosts)
        chosen, known = now.ask_tracked(strategy, tracker, known), hosts
        expected = now.ask(strategy)
        if chosen != expected:
            names = [host.name for host in hosts]
            return f"of {names} it chose {list(expected)}, and by its tracker {list(chosen)}"
    return None


_LAWS = (
    _Law("it names known hosts only, each once, and at most max_count", _of_rules),
    _Law("it answers the same when it is asked the same", _of_purity),
    _Law("it does not depend on the order in which the hosts come", _of_order),
    _Law("it stands by what it chose when nothing has changed", _of_settling),
    _Law("it chooses the same by its tracker", _of_tracking),
)
_FULL = _Law("it chooses max_count hosts if there are as many", _of_use)
_STICKY = _Law("it keeps the hosts of the last decision, unless there are too many", _of_stickiness)


def _report(make: _Make, law: _Law, case: Case) -> None:
    """Raise an AssertionError with the smallest case that breaks the law."""
    less: Case | None = case
    while less is not None:
        case = less
        less = next((each for each in smaller(case) if law.objects(make, each)), None)
    words = f"strategy {make().name!r} breaks the law that {law.words}"
    message = f"{words}\n{law.objects(make, case)}\n\n{case}"
    try:
        law.objection(make, case)
    except StrategyError as error:
        raise AssertionError(message) from (error.__cause__ or error)
    raise AssertionError(message)
