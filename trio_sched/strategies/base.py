"""What a strategy is, and how its answer is checked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from trio_sched.exceptions import StrategyError

if TYPE_CHECKING:
    from trio_sched.model.records import Host

__all__ = [
    "Strategy",
    "StrategyFunction",
    "StrategyOptions",
    "StrategyTracker",
    "choose",
    "choose_tracked",
    "described",
    "track",
]


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

    def track(self, path: str) -> StrategyTracker | None:  # noqa: ARG002 # for those that do
        """Return what chooses as `schedule` does, and is given only what changes.

        For strategies of large pools, where going through all hosts for each that comes or
        goes takes too long. A leader asks for one when there are a hundred hosts or more, and for
        another one after a failure; `schedule` is asked else. A subclass that has a `schedule` of
        its own, and no `track`, is asked by `schedule`.

        Args:
            path: that the hosts share.

        Returns:
            What tracks the hosts of this path; None if the strategy has none.
        """
        return None


class StrategyTracker(ABC):
    """Chooses among hosts that come and go. See `Strategy.track`.

    It is asked between two checkpoints, as a strategy is. What it chooses depends on the hosts
    that are there and the options alone, not on how they came, and is what `Strategy.schedule`
    would choose: `trio_sched.testing.check_strategy` compares them.
    """

    @abstractmethod
    def put(self, host: Host) -> None:
        """Take in a host that may be chosen: a new one, or one in place of that of its name."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Forget a host: it is gone, or may not be chosen. It was `put` before."""

    @abstractmethod
    def schedule(self, options: StrategyOptions) -> Sequence[str]:
        """Return the names of the hosts that shall run, as `Strategy.schedule` does."""


def track(strategy: Strategy, path: str) -> StrategyTracker | None:
    """Return what tracks the hosts of a path for a strategy; None if nothing does.

    Raises:
        StrategyError: `Strategy.track` raised, or returned something else.
    """
    if not _tracks_what_it_schedules(strategy):
        return None
    try:
        tracker: Any = strategy.track(path)
    except Exception as exc:
        raise _raised(strategy, exc) from exc
    if tracker is None or isinstance(tracker, StrategyTracker):
        return tracker
    reason = f"'track' returned {described(tracker)}, not a StrategyTracker"
    raise StrategyError(strategy.name, reason)


def _tracks_what_it_schedules(strategy: Strategy) -> bool:
    """Return whether `track` is not older than `schedule`, which a subclass may have changed."""
    for attributes in (getattr(strategy, "__dict__", {}), *map(vars, type(strategy).__mro__)):
        if "track" in attributes or "schedule" in attributes:
            return "track" in attributes
    return False


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
    return _checked(strategy, lambda: strategy.schedule(hosts, options), hosts, options)


def choose_tracked(
    strategy: Strategy,
    tracker: StrategyTracker,
    hosts: Mapping[str, Host],
    options: StrategyOptions,
    changed: Iterable[str],
) -> tuple[str, ...]:
    """Return what a strategy chooses by its tracker, as `choose` does.

    Args:
        strategy: the strategy.
        tracker: of it, of the same hosts but for `changed`.
        hosts: the hosts that may be chosen, by name.
        options: handed to the tracker as they are.
        changed: names of those that came, changed or went.

    Raises:
        StrategyError: as `choose` does. The tracker is of no use then.
    """

    def ask() -> Sequence[str]:
        for name in changed:
            if name in hosts:
                tracker.put(hosts[name])
            else:
                tracker.remove(name)
        return tracker.schedule(options)

    return _checked(strategy, ask, hosts, options)


def _raised(strategy: Strategy, exc: Exception) -> StrategyError:
    return StrategyError(strategy.name, f"raised {type(exc).__name__}: {exc}")


def _checked(
    strategy: Strategy,
    ask: Callable[[], object],
    hosts: Mapping[str, Host],
    options: StrategyOptions,
) -> tuple[str, ...]:
    try:
        answer: Any = ask()
        # Nothing else is iterated: a generator might never end.
        is_sequence = isinstance(answer, Sequence) and not isinstance(answer, str)
        chosen: tuple[Any, ...] = tuple(answer) if is_sequence else ()
    except Exception as exc:
        raise _raised(strategy, exc) from exc
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
