"""What the demo knows: a board that is filled by one stream of events.

Pure: no I/O and no clock. The host processes, the scenario and the watch on etcd post events; the
board keeps what they add up to and passes each on to its listeners. ``--json`` prints them as they
are. Times are seconds of the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Board", "Event", "HostState", "HostView", "PathView", "Step"]


@dataclass(frozen=True)
class Event:
    """Something that happened `t` seconds after the demo began."""

    kind: str
    t: float
    fields: Mapping[str, Any]


class HostState(enum.StrEnum):
    """Where a host process is in its life."""

    STARTING = enum.auto()
    JOINING = enum.auto()
    JOINED = enum.auto()
    LEAVING = enum.auto()
    LEFT = enum.auto()
    KILLED = enum.auto()
    DIED = enum.auto()


@dataclass
class HostView:
    """One host process, as far as it has reported."""

    name: str
    pid: int
    state: HostState = HostState.STARTING
    reached: dict[HostState, float] = field(default_factory=dict)  # when it reached each state
    chosen: tuple[str, ...] | None = None  # the decision that it reported last
    revision: int = 0  # of that decision
    since: float = 0.0  # when it first reported that choice

    @property
    def alive(self) -> bool:
        """True if it is, or will soon be, in the pool."""
        return self.state in {HostState.STARTING, HostState.JOINING, HostState.JOINED}


@dataclass(frozen=True)
class PathView:
    """What etcd holds: the hosts, leader and decision of the path, its keys, and all leases."""

    pool: tuple[str, ...] = ()
    leader: str | None = None
    scheduled: tuple[str, ...] = ()
    keys: int = 0
    leases: int = 0


@dataclass
class Step:
    """One step of the scenario."""

    title: str
    began: float
    seconds: float | None = None  # until every host knew the outcome; None while it runs
    note: str = ""  # the outcome in a few words
    reports: list[tuple[str, ...]] = field(default_factory=list)  # of the hosts, meanwhile


@dataclass
class Board:
    """Everything that is known."""

    began: float
    listeners: list[Callable[[Event], None]] = field(default_factory=list)
    etcd: str = ""  # for the title
    hosts: dict[str, HostView] = field(default_factory=dict)
    path: PathView = PathView()
    steps: list[Step] = field(default_factory=list)
    failure: str | None = None
    total: float | None = None  # seconds that all of it took, once it is over

    @property
    def alive(self) -> list[HostView]:
        """The hosts that are, or will soon be, in the pool."""
        return [host for host in self.hosts.values() if host.alive]

    @property
    def agreed(self) -> tuple[str, ...] | None:
        """The decision, if all hosts alive have joined and know the one that etcd has."""
        same_hosts = sorted(host.name for host in self.alive) == sorted(self.path.pool)
        joined = all(host.state is HostState.JOINED for host in self.alive)
        known = {host.chosen for host in self.alive} == {self.path.scheduled}
        return self.path.scheduled if same_hosts and joined and known else None

    def last_report(self, began: float) -> float:
        """Seconds from `began` until the last host alive first knew what it knows now."""
        return max([began, *(host.since for host in self.alive)]) - began

    def post(self, kind: str, t: float, **fields: Any) -> None:
        """Apply an event that happened at `t`, and pass it on.

        Ignored are a ``path`` event without a change, and every failure but the first.
        """
        if self._apply(kind, t, fields):
            for listener in self.listeners:
                listener(Event(kind, t - self.began, fields))

    def _apply(self, kind: str, t: float, fields: dict[str, Any]) -> bool:
        match kind:
            case "etcd":
                self.etcd = "etcd {version} at {endpoint}, path {path}".format(**fields)
            case "host":
                host = self.hosts.setdefault(
                    fields["host"], HostView(fields["host"], fields["pid"])
                )
                host.state = HostState(fields["state"])
                host.reached[host.state] = t
            case "decision":
                self._apply_decision(self.hosts[fields["host"]], t, fields)
            case "path":
                before, self.path = self.path, PathView(**fields)
                return self.path != before
            case "step":
                self.steps.append(Step(fields["title"], t))
            case "measured":
                self.steps[-1].seconds, self.steps[-1].note = fields["seconds"], fields["note"]
            case "failed":
                first, self.failure = self.failure is None, self.failure or fields["reason"]
                return first
            case "summary":
                self.total = t - self.began
        return True

    def _apply_decision(self, host: HostView, t: float, fields: dict[str, Any]) -> None:
        chosen = tuple(fields["hosts"])
        host.since = host.since if chosen == host.chosen else t
        host.chosen, host.revision = chosen, fields["revision"]
        if self.steps:
            self.steps[-1].reports.append(chosen)
