"""What tracks the hosts of large pools for the built-in strategies. See `Strategy.track`.

Hosts are kept in the order of a rank, which depends on a host alone. Of those that were not
chosen last, only the first `max_count` can be chosen now: so what a choice costs depends on
`max_count`, and what a change costs on the logarithm of their number, but for memory that moves.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Container, Iterator, Sequence
from heapq import nsmallest
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from trio_sched.strategies.base import StrategyOptions, StrategyTracker

if TYPE_CHECKING:
    from trio_sched.model.records import Host

__all__ = ["RankTracker", "Share", "ZoneTracker", "even_share"]

_Rank: TypeAlias = "Callable[[Host], tuple[Any, ...]]"  # no two hosts have the same

_FEW: Final = 8  # this part of a list may be inserted one by one, until sorting is quicker


class _Ranked:
    """Names in the order of their ranks."""

    def __init__(self) -> None:
        self._ranks: dict[str, tuple[Any, ...]] = {}
        self._sorted: list[tuple[tuple[Any, ...], str]] = []
        self._new: list[tuple[tuple[Any, ...], str]] = []  # not among them yet

    def __len__(self) -> int:
        return len(self._ranks)

    def __contains__(self, name: object) -> bool:
        return name in self._ranks

    def put(self, name: str, rank: tuple[Any, ...]) -> None:
        """Take in a name, or give it another rank."""
        known = self._ranks.get(name)
        if known == rank:
            return
        if known is not None:
            self.remove(name)
        self._ranks[name] = rank
        self._new.append((rank, name))

    def remove(self, name: str) -> None:
        """Forget a name, which is there."""
        self._settle()
        del self._sorted[bisect_left(self._sorted, (self._ranks.pop(name), name))]

    def rank(self, name: str) -> tuple[Any, ...]:
        """Return the rank of a name, which is there."""
        return self._ranks[name]

    def first(self, count: int, without: Container[str]) -> Iterator[str]:
        """Yield so many of the first, leaving some out."""
        self._settle()
        return islice((name for _, name in self._sorted if name not in without), count)

    def _settle(self) -> None:
        new, self._new = self._new, []
        if len(new) * _FEW > len(self._sorted):
            self._sorted += new
            self._sorted.sort()
        else:
            for entry in new:
                insort(self._sorted, entry)


def _places(last: Sequence[str], there: Container[str]) -> dict[str, int]:
    """Return where those that are there stood in the last decision."""
    return {name: at for at, name in enumerate(dict.fromkeys(last)) if name in there}


class RankTracker(StrategyTracker):
    """Chooses the first by a class, within one those of the last decision, and then by a rank.

    Args:
        rank: of a host; no two have the same.
        of_class: the class of a host, the least first; None if all are of one.
        keeps: whether those of the last decision go before others.
    """

    def __init__(
        self, rank: _Rank, of_class: Callable[[Host], int] | None = None, *, keeps: bool
    ) -> None:
        self._rank = rank
        self._class = of_class or _one_class
        self._keeps = keeps
        self._hosts = _Ranked()

    def put(self, host: Host) -> None:
        """See `StrategyTracker`."""
        self._hosts.put(host.name, (self._class(host), self._rank(host)))

    def remove(self, name: str) -> None:
        """See `StrategyTracker`."""
        self._hosts.remove(name)

    def schedule(self, options: StrategyOptions) -> Sequence[str]:
        """See `StrategyTracker`."""
        count, hosts = options.max_count, self._hosts
        kept = _places(options.last, hosts) if self._keeps else {}
        new = hosts.first(count, kept)

        def seniority(name: str) -> tuple[Any, ...]:
            of_class, rank = hosts.rank(name)
            return of_class, kept.get(name, len(options.last)), rank

        return sorted([*kept, *new], key=seniority)[:count]


def _one_class(_host: Host) -> int:
    return 0


class ZoneTracker(StrategyTracker):
    """Spreads evenly over zones; in one, takes those of the last decision, and then by a rank.

    Args:
        rank: of a host; no two have the same.
    """

    def __init__(self, rank: _Rank) -> None:
        self._rank = rank
        self._zones: dict[str | None, _Ranked] = {}
        self._zone_of: dict[str, str | None] = {}

    def put(self, host: Host) -> None:
        """See `StrategyTracker`."""
        name, zone = host.name, host.zone
        if self._zone_of.get(name, zone) != zone:
            self.remove(name)
        self._zone_of[name] = zone
        self._zones.setdefault(zone, _Ranked()).put(name, self._rank(host))

    def remove(self, name: str) -> None:
        """See `StrategyTracker`."""
        zone = self._zone_of.pop(name)
        self._zones[zone].remove(name)
        if not self._zones[zone]:
            del self._zones[zone]

    def schedule(self, options: StrategyOptions) -> Sequence[str]:
        """See `StrategyTracker`."""
        kept = _places(options.last, self._zone_of)
        kept_in: dict[str | None, list[str]] = {}
        for name in kept:
            kept_in.setdefault(self._zone_of[name], []).append(name)

        def seniority(name: str) -> tuple[Any, ...]:
            rank = self._zones[self._zone_of[name]].rank(name)
            return kept.get(name, len(options.last)), rank

        zones = sorted(self._zones, key=lambda zone: len(self._zones[zone]), reverse=True)
        share = even_share([len(self._zones[zone]) for zone in zones], options.max_count)
        chosen: list[str] = []
        next_ones: list[str] = []
        for at, zone in enumerate(zones):
            is_open = at < share.open_zones
            count = share.each + 1 if is_open else len(self._zones[zone])
            first = kept_in.get(zone, [])[:count]
            first += self._zones[zone].first(count - len(first), kept)
            next_ones += first[share.each :] if is_open else ()
            chosen += first[: share.each] if is_open else first
        chosen += nsmallest(share.more, next_ones, key=seniority)
        return sorted(chosen, key=seniority)


class Share(NamedTuple):
    """How places are spread over zones: the smallest, if need be, are chosen whole.

    Attributes:
        open_zones: how many of the largest are not chosen whole.
        each: how many of each of these are chosen.
        more: how many of these have one more chosen.
    """

    open_zones: int
    each: int
    more: int


def even_share(sizes: Sequence[int], places: int) -> Share:
    """Return how to spread places.

    Args:
        sizes: how many hosts each zone has, the largest first.
        places: how many hosts are chosen at most.
    """
    open_zones = len(sizes)
    while open_zones and sizes[open_zones - 1] * open_zones <= places:
        open_zones -= 1  # it is due more than it has
        places -= sizes[open_zones]
    return Share(open_zones, *divmod(places, open_zones)) if open_zones else Share(0, 0, 0)
