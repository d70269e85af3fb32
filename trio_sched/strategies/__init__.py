"""How hosts are chosen: what a strategy is, the built-in ones, the registry.

A strategy is a pure function of the hosts that may be chosen, the options, and the
last decision. Whatever a strategy needs to remember is in that last decision, which
lies in etcd, so a new leader goes on where the old one stopped. What a strategy
returns is checked before it is stored.

It is written as a subclass of `Strategy`, or as a plain function of ``(hosts,
options)``. Whatever can be called with two arguments is such a function; a class,
and whatever can be called without any, is a factory of strategies.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from trio_sched._support.arguments import check_text, shown
from trio_sched.strategies.base import (
    Strategy as Strategy,
    StrategyFunction as StrategyFunction,
    StrategyOptions as StrategyOptions,
    StrategyTracker as StrategyTracker,
    choose as choose,
    described,
)
from trio_sched.strategies.built_in import BUILT_IN

if TYPE_CHECKING:
    from trio_sched.model.records import Host

__all__ = [
    "Strategy",
    "StrategyFactory",
    "StrategyFunction",
    "StrategyOptions",
    "StrategyTracker",
    "choose",
    "get_strategy",
    "known_strategies",
    "register",
]

StrategyFactory: TypeAlias = Callable[[], Strategy]
"""A subclass of `Strategy`, or a function without arguments that makes a strategy."""

_MAX_NAME: Final = 255  # bytes; it is in each decision, and in what each host publishes
_ENTRY_POINTS = "trio_sched.strategies"

# The one piece of state of the process: names must mean the same to all of it.
_registry: dict[str, Callable[..., Any]] = dict(BUILT_IN)


class _Function(Strategy):
    """A plain function, as a strategy."""

    def __init__(self, name: str, function: StrategyFunction) -> None:
        self.name = name
        self.__doc__ = function.__doc__
        self._function = function

    def __repr__(self) -> str:
        return f"<strategy {self.name!r}: {self._function!r}>"

    def schedule(self, hosts: Mapping[str, Host], options: StrategyOptions) -> Sequence[str]:
        return self._function(hosts, options)


def register(name: str, strategy: StrategyFactory | StrategyFunction) -> None:
    """Make a strategy known by a name, for this process.

    A package can do the same for every process that it is installed in, by an
    entry point in the group ``trio_sched.strategies``. A registered name goes
    before an entry point of the same name.

    Args:
        name: the name; not empty.
        strategy: a subclass of `Strategy`, or what makes one when it is called
            without arguments, as it is whenever the name is looked up; or a
            plain function of ``(hosts, options)`` that returns names.

    Raises:
        TypeError: `name` is not a string, or `strategy` cannot be called in one
            of these ways.
        ValueError: `name` is empty, or taken already.
    """
    check_text("a strategy's name", name, least=1, most=_MAX_NAME)
    _takes_hosts(strategy, f"strategy {name!r}")
    if name in _registry:
        raise ValueError(f"strategy {name!r} is registered already")
    _registry[name] = strategy


def get_strategy(strategy: str | Strategy | StrategyFunction) -> Strategy:
    """Return the strategy of this name; a `Strategy` is returned as it is.

    The registry is asked first; entry points are searched only for a name that
    it does not know. What a factory raises, or the import that an entry point
    stands for, passes through.

    Args:
        strategy: a name, a `Strategy`, or a plain function of ``(hosts,
            options)``, which then goes by its own name.

    Raises:
        TypeError: it is none of these; or what it names is neither a factory of
            strategies nor a function.
        ValueError: no strategy has this name; the message lists those that are
            known.
    """
    if isinstance(strategy, Strategy):
        return _checked(strategy, "it")
    if isinstance(strategy, str):
        return _find(strategy)
    allowed = (
        "strategy must be a name or an instance of Strategy, or a function of (hosts, options)"
    )
    if isinstance(strategy, type):
        raise TypeError(f"{allowed}, not {described(strategy)}; call it")
    if not callable(strategy):
        raise TypeError(f"{allowed}, not {described(strategy)}")
    return _made(_name_of(strategy), strategy, f"strategy {_name_of(strategy)!r}")


def _find(name: str) -> Strategy:
    if name in _registry:
        return _made(name, _registry[name], f"strategy {name!r}")
    import importlib.metadata  # noqa: PLC0415 # slow to load, and seldom needed

    for entry in importlib.metadata.entry_points(group=_ENTRY_POINTS, name=name):
        return _made(name, entry.load(), f"entry point {name!r}")
    known = ", ".join(map(repr, known_strategies()))
    raise ValueError(f"unknown strategy {shown(name)}; known are {known}")


def _made(name: str, found: Any, what: str) -> Strategy:
    if _takes_hosts(found, what):
        return _Function(name, found)
    return _checked(found(), f"the factory of {name!r}")


def _takes_hosts(found: object, what: str) -> bool:
    """Return whether this is a plain function, not a factory of strategies.

    Raises:
        TypeError: it is neither, or could be both.
    """
    if isinstance(found, type):
        return False
    if not callable(found):
        raise TypeError(
            f"{what} gives {described(found)}, not a factory of strategies or a function of "
            "(hosts, options)"
        )
    if inspect.iscoroutinefunction(found) or inspect.iscoroutinefunction(
        getattr(found, "__call__", None)  # noqa: B004 # of an object of its own class
    ):
        raise TypeError(f"{what} must not be async: it decides between two checkpoints")
    try:
        signature = inspect.signature(found)
    except ValueError:
        raise TypeError(f"{what} has no signature: wrap it in a def") from None
    return _takes_two(signature, what)


def _takes_two(signature: inspect.Signature, what: str) -> bool:
    none, two = _accepts(signature), _accepts(signature, "hosts", "options")
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    if none and two and inspect.Parameter.VAR_POSITIONAL in kinds:
        raise TypeError(f"{what} takes any arguments, {signature}: name them (hosts, options)")
    if not none and not two:
        raise TypeError(
            f"{what} must take (hosts, options), or nothing and make a Strategy; "
            f"it takes {signature}"
        )
    return not none  # whose arguments all have defaults is a factory with settings


def _accepts(signature: inspect.Signature, *arguments: str) -> bool:
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True


def _name_of(function: object) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__name__", None)
    return name if isinstance(name, str) and name else type(function).__name__


def _checked(made: object, maker: str) -> Strategy:
    if not isinstance(made, Strategy):
        raise TypeError(f"{maker} gave {described(made)}, not a Strategy")
    name = getattr(made, "name", None)
    if not isinstance(name, str) or not name:
        raise TypeError(f"{type(made).__name__}.name must be a non-empty str, not {shown(name)}")
    check_text("a strategy's name", name, most=_MAX_NAME)
    return made


def known_strategies() -> tuple[str, ...]:
    """Return the names that `get_strategy` would find, sorted; nothing is loaded."""
    import importlib.metadata  # noqa: PLC0415 # as above

    entries = importlib.metadata.entry_points(group=_ENTRY_POINTS)
    return tuple(sorted({*_registry, *entries.names}))
