"""The built-in strategies: what each prefers, and what it keeps.

Where one is sticky, a host of the last decision goes before others of the same
rank. Where one draws lots, the lot of a host depends on the path and the host's name
alone, by a hash that is the same in every process; so hosts that come and go leave
the lots of the others as they are, and little moves.

All but `weighted` and `random` track large pools, see ``trackers.py``: what these two draw
changes for every host with each that comes.

How `weighted` draws
--------------------
Of k places a host is due the share ``k * weight / total`` of one. A host that is due a
whole one gets it; the rest is drawn among the others. The lot of each is a uniform u
in (0, 1). For one place the shares come out exactly if the least ``-log(1 - u) /
weight`` wins: a race of exponential clocks. For more places such a race would give
heavy hosts too little, because who has won a place runs for no second one. There the
least ``odds(u) / odds(share)`` win (Rosén's Pareto sampling), which comes within two
or three hundredths of what is due. In both a small lot wins, so little changes hands
when the number of places that are drawn does.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import nsmallest
from typing import TYPE_CHECKING, Final

from trio_sched._support.text import bytewise
from trio_sched.strategies.base import Strategy, StrategyOptions, StrategyTracker
from trio_sched.strategies.trackers import RankTracker, ZoneTracker, even_share

if TYPE_CHECKING:
    from trio_sched.model.records import Host

__all__ = ["BUILT_IN"]


class RoundRobin(Strategy):
    """Keeps the chosen hosts that still live; appends newcomers as they joined."""

    name = "rr"

    def schedule(self, hosts: Mapping[str, Host], options: StrategyOptions) -> Sequence[str]:
        """See `Strategy`."""
        kept = [name for name in dict.fromkeys(options.last) if name in hosts]
        if len(kept) < options.max_count:
            known = set(kept)
            newcomers = (host for host in hosts.values() if host.name not in known)
            kept += _first(options.max_count - len(kept), newcomers, _age)
        return kept[: options.max_count]

    def track(self, path: str) -> StrategyTracker:  # noqa: ARG002 # it matters not
        """See `Strategy`."""
        return RankTracker(_age, keeps=True)


class Alpha(Strategy):
    """Takes the first by name, compared bytewise."""

    name = "alpha"

    def schedule(self, hosts: Mapping[str, Host], options: StrategyOptions) -> Sequence[str]:
        """See `Strategy`."""
        return nsmallest(options.max_count, hosts, key=bytewise)

    def track(self, path: str) -> StrategyTracker:  # noqa: ARG002 # it matters not
        """See `Strategy`."""
        return RankTracker(lambda host: (bytewise(host.name),), keeps=False)


class Priority(Strategy):
    """Takes those of the highest priority; keeps the chosen hosts among equals."""

    name = "priority"

    def schedule(self, hosts: Mapping[str, Host], options: StrategyOptions) -> Sequence[str]:
        """See `Strategy`."""
        seniority = _seniority(options.last)

        def rank(host: Host) -> tuple[int, int, int, bytes]:
            return (-host.priority, *seniority(host))

        return _first(options.max_count, hosts.values(), rank)

    def track(self, path: str) -> StrategyTracker:  # noqa: ARG002 # it matters not
        """See `Strategy`."""
        return RankTracker(_age, lambda host: -host.priority, keeps=True)


class Spread(Strategy):
    """Spreads evenly over zones; keeps the chosen hosts as far as that allows.

    Two zones differ by at most one chosen host, unless the one with fewer has no more.
    Hosts without a zone are one zone together.
    """

    name = "spread"

    def schedule(self, hosts: Mapping[str, Host], options: StrategyOptions) -> Sequence[str]:
        """See `Strategy`."""
        seniority = _seniority(options.last)
        zones: dict[str | None, list[tuple[int, int, bytes, str]]] = {}
        for name, host in hosts.items():
            zones.setdefault(host.zone, []).append((*seniority(host), name))
        by_size = sorted(map(sorted, zones.values()), key=len, reverse=True)
        open_zones, each, more = even_share([*map(len, by_size)], options.max_count)
        chosen = nsmallest(more, (zone[each] for zone in by_size[:open_zones]))
        for at, zone in enumerate(by_size):
            chosen += zone[:each] if at < open_zones else zone
        return [name for *_, name in sorted(chosen)]

    def track(self, path: str) -> StrategyTracker:  # noqa: ARG002 # it matters not
        """See `Strategy`."""
        return ZoneTracker(_age)


class Rendezvous(Strategy):
    """Draws lots by path and host: many paths spread evenly, and a change moves few."""

    name = "rendezvous"

    def schedule(self, hosts: Mapping[str, Host], options: StrategyOptions) -> Sequence[str]:
        """See `Strategy`."""
        return _first(options.max_count, hosts.values(), _lots(options.path))

    def track(self, path: str) -> StrategyTracker:
        """See `Strategy`."""
        return RankTracker(_lots(path), keeps=False)


class Random(Strategy):
    """Draws lots anew whenever a host joins.

    The seed is the path and the newest joined_revision of the hosts, so the choice is
    the same on every leader, and stays until a host joins, or that host leaves.
    """

    name = "random"

    def schedule(self, hosts: Mapping[str, Host], options: StrategyOptions) -> Sequence[str]:
        """See `Strategy`."""
        newest = max((host.joined_revision for host in hosts.values()), default=0)
        return _first(options.max_count, hosts.values(), _lots(f"{newest}@{options.path}"))


class Weighted(Strategy):
    """Draws lots by path and host: over many paths, each host's share is as its weight."""

    name = "weighted"

    def schedule(self, hosts: Mapping[str, Host], options: StrategyOptions) -> Sequence[str]:
        """See `Strategy`."""
        by_weight = sorted(hosts.values(), key=lambda host: (host.weight, bytewise(host.name)))
        totals: list[float] = []  # of each host with all that are lighter
        for host in by_weight:
            totals.append(host.weight + (totals[-1] if totals else 0.0))
        certain: list[str] = []
        places = options.max_count
        while by_weight and places and by_weight[-1].weight * places >= totals[-1]:
            certain.append(by_weight.pop().name)
            totals.pop()
            places -= 1
        if not by_weight or not places:
            return certain
        lots, total = _lots(options.path), totals[-1]

        def race(host: Host) -> tuple[float, bytes]:
            return -math.log1p(-_uniform(lots(host))) / host.weight, bytewise(host.name)

        def odds(host: Host) -> tuple[float, bytes]:
            u, due = _uniform(lots(host)), places * host.weight
            lot = math.log(u) - math.log1p(-u)
            return lot - math.log(due) + math.log(total - due), bytewise(host.name)

        return certain + _first(places, by_weight, race if places == 1 else odds)


def _first(
    count: int, hosts: Iterable[Host], rank: Callable[[Host], tuple[object, ...]]
) -> list[str]:
    return [host.name for host in nsmallest(count, hosts, key=rank)]


def _age(host: Host) -> tuple[int, bytes]:
    return host.joined_revision, bytewise(host.name)


def _seniority(last: Sequence[str]) -> Callable[[Host], tuple[int, int, bytes]]:
    """Return a rank: first those of the last decision, in its order, then as they joined."""
    places = {name: at for at, name in enumerate(dict.fromkeys(last))}

    def rank(host: Host) -> tuple[int, int, bytes]:
        return (places.get(host.name, len(places)), *_age(host))

    return rank


_LOT_BITS: Final = 52  # so that a lot and a half is a float, exactly


def _lots(seed: str) -> Callable[[Host], tuple[int, bytes]]:
    """Return a rank that is as good as random, and always the same for a seed and a name."""
    seeded = hashlib.blake2b(bytewise(seed), digest_size=16).digest()

    def rank(host: Host) -> tuple[int, bytes]:
        name = bytewise(host.name)
        digest = hashlib.blake2b(name, key=seeded, digest_size=8).digest()
        return int.from_bytes(digest) >> (64 - _LOT_BITS), name

    return rank


def _uniform(lot: tuple[int, bytes]) -> float:
    """Return a lot as a number between 0 and 1, neither of them included."""
    return (lot[0] + 0.5) / 2.0**_LOT_BITS


_ALL: Final = (RoundRobin, Alpha, Priority, Spread, Weighted, Rendezvous, Random)

BUILT_IN: Final[Mapping[str, type[Strategy]]] = {strategy.name: strategy for strategy in _ALL}
"""The built-in strategies by name; the first line of each docstring says what it does."""
