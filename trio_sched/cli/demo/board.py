"""What the demo knows: the board that the scenario writes on and the views draw.

Pure: no I/O and no clock. Every change is also an `Event`, which is what ``--json`` prints.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

__all__ = ["Board", "Event", "HostState", "HostView", "Step"]


@dataclass(frozen=True)
class Event:
    """Something that happened.

    Attributes:
        kind: what.
        t: when, in seconds since the demo began.
        fields: the rest, fit for JSON.
    """

    kind: str
    t: float
    fields: dict[str, object]


class HostState(enum.Enum):
    """Where a host process is in its life."""

    STARTING = "starting"
    JOINING = "joining"
    JOINED = "joined"
    LEAVING = "leaving"
    LEFT = "left"
    KILLED = "killed"
    DIED = "died"


ALIVE = (HostState.STARTING, HostState.JOINING, HostState.JOINED)


@dataclass
class HostView:
    """One host process, as far as it has told.

    Attributes:
        name: its host name.
        pid: its process id.
        state: where it is in its life.
        chosen: the decision that it learnt last; None before the first.
        since: when it first reported that choice.
        revision: of that decision.
        called: when it called ``schedule()``.
        ended: when it said that it had left.
    """

    name: str
    pid: int
    state: HostState = HostState.STARTING
    chosen: tuple[str, ...] | None = None
    since: float = 0.0
    revision: int = 0
    called: float = 0.0
    ended: float = 0.0


@dataclass
class Step:
    """One act of the demo.

    Attributes:
        title: what is done.
        began: when, on the monotonic clock.
        seconds: how long it took until it had come true everywhere; None while it runs.
        note: what was found, in a few words.
        reports: the choices that hosts reported meanwhile.
    """

    title: str
    began: float
    seconds: float | None = None
    note: str = ""
    reports: list[tuple[str, ...]] = field(default_factory=list)


class Board:
    """All that is known, and who wants to hear of changes.

    Times are seconds of the monotonic clock, as the host processes report them.

    Attributes:
        began: when the demo began.
        etcd: what etcd it runs on, for the title.
        hosts: by name, in the order in which they were started.
        pool: the hosts that etcd lists.
        leader: who leads, by the election keys.
        scheduled: the decision, by its key.
        keys: how many keys there are under the path.
        leases: how many leases the server has.
        steps: what was done so far.
        failure: why the demo failed, if it did.
        total: seconds that all of it took, once it is over.
        listeners: called with each event, after the board has changed.
    """

    def __init__(self, began: float) -> None:
        self.began = began
        self.etcd = ""
        self.hosts: dict[str, HostView] = {}
        self.pool: tuple[str, ...] = ()
        self.leader: str | None = None
        self.scheduled: tuple[str, ...] = ()
        self.keys = 0
        self.leases = 0
        self.steps: list[Step] = []
        self.failure: str | None = None
        self.total: float | None = None
        self.listeners: list[Callable[[Event], None]] = []

    # ---- questions -------------------------------------------------------------------------

    @property
    def alive(self) -> list[HostView]:
        """The hosts that are, or will soon be, in the pool."""
        return [host for host in self.hosts.values() if host.state in ALIVE]

    @property
    def agreed(self) -> tuple[str, ...] | None:
        """The choice, if all hosts alive are in the pool and know the same one, and etcd has it."""
        alive = self.alive
        known = {host.chosen for host in alive}
        everyone = sorted(host.name for host in alive) == sorted(self.pool)
        joined = all(host.state is HostState.JOINED for host in alive)
        return self.scheduled if everyone and joined and known == {self.scheduled} else None

    def last_report(self, began: float) -> float:
        """Seconds from `began` until the last host alive first knew what it knows now."""
        return (
            max([host.since for host in self.alive if host.since >= began], default=began) - began
        )

    # ---- changes ---------------------------------------------------------------------------

    def note_etcd(self, now: float, endpoint: str, version: str, path: str) -> None:
        """A server answers."""
        self.etcd = f"etcd {version} at {endpoint}, path {path}"
        self._emit("etcd", now, endpoint=endpoint, version=version, path=path)

    def note_started(self, now: float, name: str, pid: int) -> None:
        """A host process was started."""
        self.hosts[name] = HostView(name, pid)
        self._emit("host", now, host=name, state="starting", pid=pid)

    def note_state(self, now: float, name: str, state: HostState) -> None:
        """A host came further in its life."""
        host = self.hosts[name]
        host.state = state
        if state is HostState.JOINING:
            host.called = now
        elif state is HostState.LEFT:
            host.ended = now
        self._emit("host", now, host=name, state=state.value, pid=host.pid)

    def note_decision(
        self, now: float, name: str, chosen: Iterable[str], revision: int, leader: str | None
    ) -> None:
        """A host reported a decision."""
        host, chosen = self.hosts[name], tuple(chosen)
        if chosen != host.chosen:
            host.since = now
        host.chosen, host.revision = chosen, revision
        if self.steps:
            self.steps[-1].reports.append(chosen)
        self._emit("decision", now, host=name, hosts=list(chosen), revision=revision, leader=leader)

    def note_path(
        self,
        now: float,
        *,
        pool: Iterable[str],
        leader: str | None,
        scheduled: Iterable[str],
        keys: int,
        leases: int,
    ) -> None:
        """What etcd holds was looked at. No event if nothing has changed."""
        seen = (tuple(pool), leader, tuple(scheduled), keys, leases)
        if seen != (self.pool, self.leader, self.scheduled, self.keys, self.leases):
            self.pool, self.leader, self.scheduled, self.keys, self.leases = seen
            self._emit(
                "path",
                now,
                pool=list(self.pool),
                leader=leader,
                scheduled=list(self.scheduled),
                keys=keys,
                leases=leases,
            )

    def note_step(self, now: float, title: str) -> Step:
        """A step begins."""
        step = Step(title, now)
        self.steps.append(step)
        self._emit("step", now, title=title)
        return step

    def note_measured(self, now: float, step: Step, seconds: float, note: str) -> None:
        """A step has come true."""
        step.seconds, step.note = seconds, note
        self._emit("measured", now, title=step.title, seconds=round(seconds, 4), note=note)

    def note_failure(self, now: float, reason: str) -> None:
        """Something did not come true. Only the first reason counts."""
        if self.failure is None:
            self.failure = reason
            self._emit("failed", now, reason=reason)

    def note_end(self, now: float) -> None:
        """It is over."""
        self.total = now - self.began
        steps = [
            {"title": step.title, "seconds": step.seconds and round(step.seconds, 4)}
            for step in self.steps
        ]
        self._emit(
            "summary",
            now,
            ok=self.failure is None,
            reason=self.failure,
            steps=steps,
            keys=self.keys,
            leases=self.leases,
        )

    def _emit(self, kind: str, now: float, **fields: object) -> None:
        event = Event(kind, now - self.began, fields)
        for listener in self.listeners:
            listener(event)
