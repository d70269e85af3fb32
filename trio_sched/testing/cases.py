"""Pools for `check_strategy`: what a strategy is asked, made up, made smaller, shown as code."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from random import Random
from types import MappingProxyType
from typing import Any, Final, TypeAlias, cast

from trio_sched.model.records import Host, HostData
from trio_sched.strategies import Strategy, StrategyOptions, StrategyTracker, choose
from trio_sched.strategies.base import choose_tracked

__all__ = [
    "LAST_COUNT",
    "MAX_COUNTS",
    "NAMES",
    "PATHS",
    "WEIGHTS",
    "ZONES",
    "Case",
    "MakeData",
    "made_up",
    "published",
    "smaller",
]

MakeData: TypeAlias = Callable[[Random], Mapping[str, object]]


@dataclass(frozen=True, slots=True)
class Case:
    """What a strategy is asked: the hosts, in an order, and the options."""

    hosts: tuple[Host, ...]
    options: StrategyOptions

    def ask(self, strategy: Strategy) -> tuple[str, ...]:
        """Return what a strategy chooses."""
        pool = {host.name: host for host in self.hosts}
        return choose(strategy, MappingProxyType(pool), self.options)

    def ask_tracked(
        self, strategy: Strategy, tracker: StrategyTracker, known: Iterable[Host]
    ) -> tuple[str, ...]:
        """Return what it chooses by a tracker, which knows other hosts."""
        pool = {host.name: host for host in self.hosts}
        before = {host.name: host for host in known}
        names = pool.keys() | before.keys()
        changed = sorted(name for name in names if pool.get(name) != before.get(name))
        return choose_tracked(strategy, tracker, MappingProxyType(pool), self.options, changed)

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
    if host.data:
        fields.append(f"data={dict(host.data)!r}")
    return f"Host({', '.join([repr(host.name), *fields])})"


NAMES: Final = (
    *(f"host-{letter}" for letter in "abcdefghijklmnop"), "Z", "a.b", "a b", "é", "日", "\udcff"
)  # fmt: skip
WEIGHTS: Final = (1.0, 1.0, 0.25, 3.0, 1e6)
ZONES: Final = (None, "north", "south", "west")
MAX_COUNTS: Final = (1, 1, 2, 3, 5, 20)
PATHS: Final = ("/p", "/q", "/r")
LAST_COUNT: Final = 5  # hosts that the last decision chose, at most
_PLAIN: Final[dict[str, Any]] = {
    "weight": 1.0,
    "zone": None,
    "priority": 0,
    "joined_revision": 0,
    "data": {},
}


def made_up(chance: Random, make_data: MakeData | None) -> Case:
    """Return a case by chance; `make_data` makes the data of a host, None for none."""
    size = chance.choice((0, 1, 2, 3, 4, 6, 9, 14))
    names = chance.sample(NAMES, size)
    alike = chance.random() < 0.3
    hosts = tuple(
        Host(
            name,
            lease=1000 + at,
            joined_revision=chance.randint(1, 2 * size),
            weight=1.0 if alike else chance.choice(WEIGHTS),
            zone=None if alike else chance.choice(ZONES),
            priority=0 if alike else chance.randint(-1, 1),
            data={} if make_data is None else published(make_data(chance)),
        )
        for at, name in enumerate(names)
    )
    some = chance.random() < 0.5
    last = chance.sample(NAMES, chance.randint(0, LAST_COUNT)) if some else names[::2]
    max_count = chance.choice(MAX_COUNTS)
    return Case(hosts, StrategyOptions(max_count, tuple(last), chance.choice(PATHS)))


def published(data: object) -> Mapping[str, object]:
    """Return data as others read it.

    Raises:
        TypeError: it is no mapping, or holds what JSON cannot.
        ValueError: it is too large.
    """
    return HostData(data=cast("Mapping[str, object]", data)).data


def smaller(case: Case) -> Iterator[Case]:
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
        for key in host.data:
            less = {name: value for name, value in host.data.items() if name != key}
            simpler = replace(host, data=less)
            yield replace(case, hosts=(*case.hosts[:at], simpler, *case.hosts[at + 1 :]))
