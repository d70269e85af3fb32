"""The hosts of a path, as its leader sees them, and the strategy that chooses among them. Pure.

What a change costs does not depend on how many hosts there are: of each, it is known already
whether it may be chosen, and a strategy that tracks its hosts is given only what has changed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from trio_sched.model.control_state import ControlState
from trio_sched.strategies import Strategy, StrategyOptions, choose
from trio_sched.strategies.base import StrategyTracker, choose_tracked, track

if TYPE_CHECKING:
    from trio_sched.model.records import Host, Options

__all__ = ["Pool", "barred"]

_MANY: Final = 100  # hosts; with fewer, what tracks them costs more than it saves
_NOTHING_WANTED: Final = ControlState()


def barred(host: Host, leader_options: Options, control: ControlState) -> str | None:
    """Return why a host may not be chosen, in a few words; None if it may.

    Args:
        host: a host that is registered.
        leader_options: the leader's options.
        control: what operators want.
    """
    name, allowed = host.name, leader_options.hosts_filter
    if not host.available:
        return f"unavailable: {host.reason}" if host.reason else "unavailable"
    if name in control.drained:
        return "drained"
    if allowed is not None and name not in allowed:
        return "not in hosts_filter"
    # Others may have put a key that no value of `scheduled` could name.
    return None if name and "," not in name else "its name does not fit into 'scheduled'"


class Pool:
    """The hosts that are registered on a path, and which of them may be chosen.

    Args:
        strategy: chooses.
        leader_options: of the leader.
        path: that the hosts share.

    Attributes:
        leader_options: as given.
        control: what operators want.
    """

    def __init__(self, strategy: Strategy, leader_options: Options, path: str) -> None:
        self._strategy = strategy
        self._path = path
        self._hosts: dict[str, Host] = {}
        self._offered: dict[str, Host] = {}
        self._tracker: StrategyTracker | None = None
        self._changed: dict[str, bool] = {}  # since it was asked: whether it had such a host
        self.leader_options: Options = leader_options
        self.control: ControlState = _NOTHING_WANTED

    @property
    def hosts(self) -> Mapping[str, Host]:
        """Those that are registered, by name; a read-only live view."""
        return MappingProxyType(self._hosts)

    @property
    def offered(self) -> Mapping[str, Host]:
        """Those that may be chosen, by name; a read-only live view."""
        return MappingProxyType(self._offered)

    # ---- what comes and goes -----------------------------------------------------------

    def put(self, host: Host) -> None:
        """Take in a host: a new one, or one in place of that of its name."""
        self._hosts[host.name] = host
        self._offer(host)

    def remove(self, name: str) -> None:
        """Forget a host, which is there."""
        del self._hosts[name]
        self._withhold(name)

    def replace(self, hosts: Mapping[str, Host]) -> None:
        """Take in all the hosts that there are now."""
        for name in self._hosts.keys() - hosts.keys():
            self.remove(name)
        for host in hosts.values():
            self.put(host)

    def steer(self, control: ControlState) -> None:
        """Take in what operators want."""
        known, self.control = self.control, control
        for name in known.drained ^ control.drained:
            if name in self._hosts:
                self._offer(self._hosts[name])

    def _offer(self, host: Host) -> None:
        """Let a host be chosen, if it may be."""
        if barred(host, self.leader_options, self.control):
            self._withhold(host.name)
        else:
            if self._offered.get(host.name) != host:
                self._note_change(host.name)
            self._offered[host.name] = host

    def _withhold(self, name: str) -> None:
        if name in self._offered:
            self._note_change(name)
            del self._offered[name]

    def _note_change(self, name: str) -> None:
        if self._tracker is not None:
            self._changed.setdefault(name, name in self._offered)

    # ---- who is chosen -----------------------------------------------------------------

    def choose(
        self, max_count: int, last: tuple[str, ...], without: Collection[str] = ()
    ) -> tuple[str, ...]:
        """Return which hosts the strategy chooses.

        Args:
            max_count: how many at most.
            last: names of the last decision, in its order.
            without: who is not offered this once, though it may be chosen.

        Raises:
            StrategyError: as `trio_sched.strategies.choose` does.
        """
        options = StrategyOptions(max_count, last, self._path)
        offered = self.offered
        if without:
            others = {name: host for name, host in offered.items() if name not in without}
            offered = MappingProxyType(others)
        self._begin_to_track()
        if self._tracker is None:
            return choose(self._strategy, offered, options)
        tracker, changed = self._tracker, dict.fromkeys(without, True) | self._changed
        names = [name for name, was_there in changed.items() if was_there or name in offered]
        self._changed = dict.fromkeys(without, False)  # until it is asked again
        self._tracker = None  # if it fails
        chosen = choose_tracked(self._strategy, tracker, offered, options, names)
        self._tracker = tracker
        return chosen

    def _begin_to_track(self) -> None:
        if self._tracker is None and len(self._offered) >= _MANY:
            self._tracker = track(self._strategy, self._path)
            self._changed = dict.fromkeys(self._offered, False)
