"""What a strategy is, and how its answer is checked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from trio_sched.exceptions import StrategyError

if TYPE_CHECKING:
    from trio_sched.model.records import Host

__all__ = ["Strategy", "StrategyFunction", "StrategyOptions", "choose", "described"]


@dataclass(frozen=True, slots=True)
class StrategyOptions:
    """What a strategy is given beside the hosts.

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


StrategyFunction: TypeAlias = "Callable[[Mapping[str, Host], StrategyOptions], Sequence[str]]"
"""A plain function that does what `Strategy.schedule` does."""


def choose(
    strategy: Strategy, hosts: Mapping[str, Host], options: StrategyOptions
) -> tuple[str, ...]:
    """Return what a strategy chooses, once it has been found to keep the rules.

    Args:
        strategy: the strategy.
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
        reason = f"returned {described(answer)}, not a sequence of host names"
        raise StrategyError(strategy.name, reason)
    objection = _objection(chosen, hosts, options.max_count)
    if objection is not None:
        raise StrategyError(strategy.name, objection)
    return chosen


def _objection(chosen: tuple[object, ...], hosts: Mapping[str, Host], max_count: int) -> str | None:
    seen: set[str] = set()
    for name in chosen:
        if not isinstance(name, str):
            return f"named {described(name)} where a host name is due"
        if name not in hosts:
            return f"named {name!r}, which is not one of the hosts"
        if name in seen:
            return f"named {name!r} twice"
        seen.add(name)
    if len(chosen) > max_count:
        return f"chose {len(chosen)} hosts where at most {max_count} are allowed"
    return None


def described(value: object) -> str:
    """Say what a value is, for a message."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return f"an object of type {type(value).__name__}"
