"""The laws that every strategy should keep, tried on made-up pools.

The cases come from a seed, so a failure is the same again, and the one that is shown is
as small as it gets by leaving things out one after the other. No other package is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from random import Random
from types import MappingProxyType
from typing import Any, Final, TypeAlias, cast

from trio_sched.exceptions import StrategyError
from trio_sched.model.records import Host
from trio_sched.strategies import (
    Strategy,
    StrategyFactory,
    StrategyFunction,
    StrategyOptions,
    choose,
    get_strategy,
)

__all__ = ["check_strategy"]


@dataclass(frozen=True, slots=True)
class _Case:
    """What a strategy is asked: the hosts, in an order, and the options."""

    hosts: tuple[Host, ...]
    options: StrategyOptions

    def ask(self, strategy: Strategy) -> tuple[str, ...]:
        pool = {host.name: host for host in self.hosts}
        return choose(strategy, MappingProxyType(pool), self.options)

    def __str__(self) -> str:
        options = self.options
        lines = [f"    {host.name!r}: {_code(host)}," for host in self.hosts]
        asked = f"StrategyOptions({options.max_count}, {options.last!r}, {options.path!r})"
        pool = "\n".join(["hosts = {", *lines, "}"]) if lines else "hosts = {}"
        return f"{pool}\noptions = {asked}\nchoose(strategy, hosts, options)"


def _code(host: Host) -> str:
    """Return the code that makes a host, without what is the default."""
    plain = Host(host.name)
    fields = [
        f"{name}={getattr(host, name)!r}"
        for name in ("joined_revision", "weight", "zone", "priority")
        if getattr(host, name) != getattr(plain, name)
    ]
    return f"Host({', '.join([repr(host.name), *fields])})"


_Make: TypeAlias = Callable[[], Strategy]


@dataclass(frozen=True, slots=True)
class _Law:
    """A law in words, and what is wrong with a case, if anything."""

    words: str
    objection: Callable[[_Make, _Case], str | None]

    def objects(self, make: _Make, case: _Case) -> str | None:
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
    examples: int = 300,
    seed: int = 0,
) -> None:
    """Try on made-up pools whether a strategy keeps the laws.

    It has to name known hosts only, each once and at most ``max_count``; to answer the
    same when it is asked the same, also if it is made anew and the hosts come in another
    order; and to stand by what it chose: asked again with that as the last decision, it
    must not change it, or the leader would write without end.

    Args:
        strategy: its name, itself, a class or function that makes it, or a plain
            function of ``(hosts, options)``.
        full: it has to choose ``max_count`` hosts if there are as many.
        sticky: it has to keep the hosts of the last decision, unless there are too many.
        examples: how many pools to try.
        seed: of the pools.

    Raises:
        AssertionError: it breaks a law. The message has the law, and shows the smallest
            case that was found, as code to paste.
        TypeError: `strategy` is none.
        ValueError: no strategy has this name, or `examples` is less than 1.
    """
    if examples < 1:
        raise ValueError(f"examples must be 1 or more, not {examples}")
    make = _maker(strategy)
    laws = [*_LAWS, *[_FULL] * full, *[_STICKY] * sticky]
    chance = Random(seed)  # noqa: S311 # the same for the same seed is the point
    for _ in range(examples):
        case = _made_up(chance)
        for law in laws:
            if law.objects(make, case) is not None:
                _report(make, law, case)


def _maker(strategy: str | Strategy | StrategyFactory | StrategyFunction) -> _Make:
    """Return what makes the strategy, anew if that can be done."""

    def from_class() -> Any:
        return cast(Any, strategy)()

    found = cast(Any, from_class if isinstance(strategy, type) else strategy)
    get_strategy(found)
    return lambda: get_strategy(found)


# The laws: each returns what is wrong with a case, or None.


def _of_rules(make: _Make, case: _Case) -> str | None:
    case.ask(make())
    return None


def _of_purity(make: _Make, case: _Case) -> str | None:
    strategy = make()
    first, second, anew = case.ask(strategy), case.ask(strategy), case.ask(make())
    if first != second:
        return f"it chose {list(first)}, and asked the same again {list(second)}"
    return None if first == anew else f"it chose {list(first)}, and made anew {list(anew)}"


def _of_order(make: _Make, case: _Case) -> str | None:
    first = case.ask(make())
    half = len(case.hosts) // 2
    for hosts in (case.hosts[::-1], case.hosts[half:] + case.hosts[:half]):
        other = replace(case, hosts=hosts).ask(make())
        if first != other:
            order = [host.name for host in hosts]
            return f"it chose {list(first)}, and {list(other)} when the hosts came as {order}"
    return None


def _of_settling(make: _Make, case: _Case) -> str | None:
    strategy = make()
    first = case.ask(strategy)
    again = replace(case, options=replace(case.options, last=first)).ask(strategy)
    if first == again:
        return None
    return f"it chose {list(first)}, and with that as the last decision {list(again)}"


def _of_use(make: _Make, case: _Case) -> str | None:
    chosen, due = case.ask(make()), min(len(case.hosts), case.options.max_count)
    if len(chosen) == due:
        return None
    return f"it chose {list(chosen)}, where {due} of {len(case.hosts)} hosts could be chosen"


def _of_stickiness(make: _Make, case: _Case) -> str | None:
    chosen, there = case.ask(make()), {host.name for host in case.hosts}
    kept = [name for name in case.options.last if name in there]
    dropped = [name for name in kept if name not in chosen]
    if len(dropped) <= max(0, len(kept) - case.options.max_count):
        return None
    return f"it chose {list(chosen)}, and dropped {dropped}, though there was room"


_LAWS = (
    _Law("it names known hosts only, each once, and at most max_count", _of_rules),
    _Law("it answers the same when it is asked the same", _of_purity),
    _Law("it does not depend on the order in which the hosts come", _of_order),
    _Law("it stands by what it chose when nothing has changed", _of_settling),
)
_FULL = _Law("it chooses max_count hosts if there are as many", _of_use)
_STICKY = _Law("it keeps the hosts of the last decision, unless there are too many", _of_stickiness)


# Cases

_NAMES: Final = (
    *(f"host-{letter}" for letter in "abcdefghijklmnop"), "Z", "a.b", "a b", "é", "日", "\udcff"
)  # fmt: skip
_PLAIN: Final[dict[str, Any]] = {"weight": 1.0, "zone": None, "priority": 0, "joined_revision": 0}


def _made_up(chance: Random) -> _Case:
    size = chance.choice((0, 1, 2, 3, 4, 6, 9, 14))
    names = chance.sample(_NAMES, size)
    alike = chance.random() < 0.3
    hosts = tuple(
        Host(
            name,
            lease=1000 + at,
            joined_revision=chance.randint(1, 2 * size),
            weight=1.0 if alike else chance.choice((1.0, 1.0, 0.25, 3.0, 1e6)),
            zone=None if alike else chance.choice((None, "north", "south", "west")),
            priority=0 if alike else chance.randint(-1, 1),
        )
        for at, name in enumerate(names)
    )
    last = chance.sample(_NAMES, chance.randint(0, 5)) if chance.random() < 0.5 else names[::2]
    max_count = chance.choice((1, 1, 2, 3, 5, 20))
    return _Case(hosts, StrategyOptions(max_count, tuple(last), chance.choice(("/p", "/q", "/r"))))


def _smaller(case: _Case) -> Iterator[_Case]:
    """Yield what is simpler by one thing."""
    options = case.options
    for at in range(len(case.hosts)):
        yield replace(case, hosts=case.hosts[:at] + case.hosts[at + 1 :])
    for at in range(len(options.last)):
        last = options.last[:at] + options.last[at + 1 :]
        yield replace(case, options=replace(options, last=last))
    for max_count in range(1, options.max_count):
        yield replace(case, options=replace(options, max_count=max_count))
    for at, host in enumerate(case.hosts):
        for name, value in _PLAIN.items():
            if getattr(host, name) != value:
                simpler = replace(host, **{name: value})
                yield replace(case, hosts=(*case.hosts[:at], simpler, *case.hosts[at + 1 :]))


def _report(make: _Make, law: _Law, case: _Case) -> None:
    """Raise an AssertionError with the smallest case that breaks the law."""
    smaller: _Case | None = case
    while smaller is not None:
        case = smaller
        smaller = next((each for each in _smaller(case) if law.objects(make, each)), None)
    words = f"strategy {make().name!r} breaks the law that {law.words}"
    message = f"{words}\n{law.objects(make, case)}\n\n{case}"
    try:
        law.objection(make, case)
    except StrategyError as error:
        raise AssertionError(message) from (error.__cause__ or error)
    raise AssertionError(message)
