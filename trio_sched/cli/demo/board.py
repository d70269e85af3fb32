"""What the demo knows: a board that is filled by one stream of events.

Pure: no I/O and no clock. The host processes and the scenario post events; the board keeps what
they add up to and passes each on to its listeners. ``--json`` prints them as they are. Times are
seconds of the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Board", "Event", "HostState", "HostView", "PathView", "Step"]

HostState = Literal["starting", "joining", "joined", "leaving", "left", "killed", "died"]
_ENDED = {"left", "killed", "died"}


@dataclass(frozen=True)
class Event:
    """Something that happened `t` seconds after the demo began."""

    kind: str
    t: float
    fields: Mapping[str, Any]


@dataclass
class HostView:
    """One host process, as far as it has reported."""

    name: str
    pid: int
    state: HostState = "starting"
    reached: dict[HostState, float] = field(default_factory=dict)  # when it reached each state
    chosen: tuple[str, ...] | None = None  # the decision that it reported last
    revision: int = 0  # of that decision
    since: float = 0.0  # when it first reported that choice

    @property
    def alive(self) -> bool:
        """True if it is, or will soon be, in the pool."""
        return self.state in {"starting", "joining", "joined"}


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
    lease_left: int | None = None  # seconds; what it would have taken without a reaper
    reports: list[tuple[str, ...]] = field(default_factory=list)  # of the hosts, meanwhile


@dataclass
class Board:
    """Everything that is known."""

    began: float
    listeners: list[Callable[[Event], None]] = field(default_factory=list)
    etcd: Mapping[str, str] | None = None  # its version, endpoint and path
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
        """The decision that etcd has, if all hosts in the pool know it and all others ended."""
        pool, leader, scheduled = self.path.pool, self.path.leader, self.path.scheduled
        running = [host for host in self.hosts.values() if host.state not in _ENDED]
        same_hosts = sorted(host.name for host in running) == sorted(pool)
        known = all((host.state, host.chosen) == ("joined", scheduled) for host in running)
        there = not pool or {leader, *scheduled} <= {*pool}
        return scheduled if same_hosts and known and there else None

    def last(self, state: HostState) -> float:
        """When the last host that reached a state did so; 0 if none has."""
        return max(host.reached.get(state, 0.0) for host in self.hosts.values())

    def last_report(self, began: float) -> float:
        """Seconds from `began` until all hosts alive knew what they know; if none is, had left."""
        known = max((host.since for host in self.alive), default=self.last("left"))
        return max(began, known) - began

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
                self.etcd = fields
            case "host":
                name, state = fields["host"], fields["state"]
                host = self.hosts.setdefault(name, HostView(name, fields["pid"]))
                host.state, host.reached[state] = state, t
            case "decision":
                host, chosen = self.hosts[fields["host"]], tuple(fields["hosts"])
                host.since = host.since if chosen == host.chosen else t
                host.chosen, host.revision = chosen, fields["revision"]
                self.steps[-1].reports.append(chosen)
            case "path":
                before, self.path = self.path, PathView(**fields)
                return self.path != before
            case "step":
                self.steps.append(Step(fields["title"], t))
            case "measured":
                step = self.steps[-1]
                step.seconds, step.note = fields["seconds"], fields["note"]
                step.lease_left = fields["lease_left"]
            case "failed" if self.failure is not None:
                return False
            case "failed":
                self.failure = fields["reason"]
            case "summary":
                self.total = t - self.began
        return True
