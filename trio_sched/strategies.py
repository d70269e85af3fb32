"""How hosts are chosen: what a strategy is, the built-in ones, the registry.

A strategy is a pure function of the hosts that live, the options, and the last
decision. Whatever a strategy needs to remember is in that last decision, which
lies in etcd, so a new leader goes on where the old one stopped. What a strategy
returns is checked here before anybody believes it.
"""

from __future__ import annotations

import importlib.metadata
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trio_sched.exceptions import StrategyError

if TYPE_CHECKING:
    from trio_sched.model import Host

__all__ = [
    "Strategy",
    "StrategyOptions",
    "choose",
    "get_strategy",
    "known_strategies",
    "register",
]

_ENTRY_POINTS = "trio_sched.strategies"


@dataclass(frozen=True, slots=True)
class StrategyOptions:
    """What a strategy is told beside the hosts.

    Attributes:
        max_count: how many hosts may be chosen at most; 1 or more.
        last: names chosen by the last decision, in its own order; some of them
            may be gone by now.
        path: the path that the hosts share.
    """

    max_count: int
    last: tuple[str, ...] = ()
    path: str = ""


class Strategy(ABC):
    """Chooses hosts. Subclass it, set `name`, and write `schedule`.

    Attributes:
        name: the name that it is published and reported under.
    """

    name: str

    @abstractmethod
    def schedule(self, hosts: Mapping[str, Host], options: StrategyOptions) -> Sequence[str]:
        """Return the names of the hosts that shall run, the most wanted first.

        It must be pure: the same arguments give the same choice, and nothing
        else is read or changed. It runs on the leader, between two checkpoints,
        so it must be quick as well.

        Args:
            hosts: the hosts that live and may be chosen, by name, in no
                particular order; read-only.
            options: see `StrategyOptions`.

        Returns:
            At most `options.max_count` names out of `hosts`, each once.
        """


class _RoundRobin(Strategy):
    """Keeps whom it chose and who still lives; appends newcomers as they joined."""

    name = "rr"

    def schedule(self, hosts: Mapping[str, Host], options: StrategyOptions) -> Sequence[str]:
        kept = [name for name in dict.fromkeys(options.last) if name in hosts]
        if len(kept) < options.max_count:
            known = set(kept)
            newcomers = [host for host in hosts.values() if host.name not in known]
            newcomers.sort(key=lambda host: (host.joined_revision, _bytewise(host.name)))
            kept += [host.name for host in newcomers]
        return kept[: options.max_count]


class _Alpha(Strategy):
    """Takes the first by name, compared bytewise."""

    name = "alpha"

    def schedule(self, hosts: Mapping[str, Host], options: StrategyOptions) -> Sequence[str]:
        return sorted(hosts, key=_bytewise)[: options.max_count]


def _bytewise(name: str) -> bytes:
    return name.encode(errors="surrogateescape")


# The one piece of state of the process: names must mean the same to all of it.
_registry: dict[str, Callable[[], Strategy]] = {"rr": _RoundRobin, "alpha": _Alpha}


def register(name: str, factory: Callable[[], Strategy]) -> None:
    """Make a strategy known by a name, for this process.

    A package can do the same for every process that it is installed in, by an
    entry point in the group ``trio_sched.strategies``. A registered name goes
    before an entry point of the same name.

    Args:
        name: the name; not empty.
        factory: called without arguments whenever the name is looked up; a
            subclass of `Strategy` will do.

    Raises:
        TypeError: `name` is not a string, or `factory` cannot be called.
        ValueError: `name` is empty, or taken already.
    """
    if not isinstance(name, str):
        raise TypeError(f"a strategy's name must be a str, not {type(name).__name__}")
    if not name:
        raise ValueError("a strategy's name must not be empty")
    if not callable(factory):
        raise TypeError(
            f"the factory of strategy {name!r} must be callable, not {type(factory).__name__}"
        )
    if name in _registry:
        raise ValueError(f"strategy {name!r} is registered already")
    _registry[name] = factory


def get_strategy(strategy: str | Strategy) -> Strategy:
    """Return the strategy of this name; a `Strategy` is returned as it is.

    The registry is asked first; entry points are searched only for a name that
    it does not know. What a factory raises, or the import that an entry point
    stands for, passes through.

    Raises:
        TypeError: it is neither a string nor a `Strategy`; or what it names is
            not a factory of strategies.
        ValueError: no strategy has this name; the message lists those that are
            known.
    """
    if isinstance(strategy, Strategy):
        return _checked(strategy, "it")
    if not isinstance(strategy, str):
        raise TypeError(
            f"strategy must be a name or an instance of Strategy, not {_described(strategy)}"
        )
    factory = _registry[strategy] if strategy in _registry else _load(strategy)
    if factory is None:
        known = ", ".join(map(repr, known_strategies()))
        raise ValueError(f"unknown strategy {strategy!r}; known are {known}")
    if not callable(factory):
        raise TypeError(f"entry point {strategy!r} gives {_described(factory)}, not a factory")
    return _checked(factory(), f"the factory of {strategy!r}")


def _load(name: str) -> object:
    for entry in importlib.metadata.entry_points(group=_ENTRY_POINTS, name=name):
        return entry.load()
    return None


def _checked(made: object, maker: str) -> Strategy:
    if not isinstance(made, Strategy):
        raise TypeError(f"{maker} gave {_described(made)}, not a Strategy")
    name = getattr(made, "name", None)
    if not isinstance(name, str) or not name:
        raise TypeError(f"{type(made).__name__}.name must be a non-empty str, not {name!r}")
    return made


def _described(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return f"an object of type {type(value).__name__}"


def known_strategies() -> tuple[str, ...]:
    """Return the names that `get_strategy` would find, sorted; nothing is loaded."""
    entries = importlib.metadata.entry_points(group=_ENTRY_POINTS)
    return tuple(sorted({*_registry, *entries.names}))


def choose(
    strategy: Strategy, hosts: Mapping[str, Host], options: StrategyOptions
) -> tuple[str, ...]:
    """Return what a strategy chooses, once it has been found to keep the rules.

    Args:
        strategy: whom to ask.
        hosts: the hosts that may be chosen, by name.
        options: handed to the strategy as they are.

    Raises:
        StrategyError: the strategy raised an `Exception`, which is attached as
            the cause; or it did not return a sequence of strings, named an
            unknown host, named one twice, or chose more than
            `options.max_count`.
    """
    try:
        answer: Any = strategy.schedule(hosts, options)
        # Nothing else is iterated: a generator might never end.
        is_sequence = isinstance(answer, Sequence) and not isinstance(answer, str)
        chosen: tuple[Any, ...] = tuple(answer) if is_sequence else ()
    except Exception as exc:
        raise StrategyError(strategy.name, f"raised {type(exc).__name__}: {exc}") from exc
    if not is_sequence:
        reason = f"returned {_described(answer)}, not a sequence of host names"
        raise StrategyError(strategy.name, reason)
    objection = _objection(chosen, hosts, options.max_count)
    if objection is not None:
        raise StrategyError(strategy.name, objection)
    return chosen


def _objection(chosen: tuple[object, ...], hosts: Mapping[str, Host], max_count: int) -> str | None:
    seen: set[str] = set()
    for name in chosen:
        if not isinstance(name, str):
            return f"named {_described(name)} where a host name is due"
        if name not in hosts:
            return f"named {name!r}, which is not one of the hosts"
        if name in seen:
            return f"named {name!r} twice"
        seen.add(name)
    if len(chosen) > max_count:
        return f"chose {len(chosen)} hosts where at most {max_count} are allowed"
    return None
