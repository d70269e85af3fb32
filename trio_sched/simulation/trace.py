"""What happens to hosts, and when: typed, and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, Literal, Self, TypeAlias, get_args

from trio_sched._support.arguments import (
    check_instance,
    check_int,
    check_seconds,
    check_text,
    check_tuple,
    shown,
)
from trio_sched.model.keys import check_hostname
from trio_sched.model.records import HostData, check_max_count

__all__ = ["Trace", "TraceEvent"]

_Deed: TypeAlias = Literal[
    "join", "leave", "fail", "update", "pause", "resume", "drain", "undrain", "set-count", "evict"
]
_DEEDS: Final = get_args(_Deed)
_OF_HOSTS: Final = ("join", "leave", "fail", "update", "drain", "undrain", "evict")
_TOLD: Final = ("weight", "zone", "priority", "data", "available", "reason")


@dataclass(frozen=True, slots=True)
class TraceEvent:
    """Something happens to a host, or an operator does something.

    Attributes:
        at: when, in seconds since the beginning.
        do: what. A host joins, leaves, fails (it is gone without a word, and its keys
            stay for what is left of its TTL), or publishes something else
            (``update``); or an operator does what the other words say.
        host: the host that it is about; empty for what is about all.
        data: what the host publishes, when it joins or updates that.
        max_count: for ``set-count``; None leaves it to the leader.
    """

    at: float
    do: _Deed
    host: str = ""
    data: HostData = field(default_factory=HostData)
    max_count: int | None = None

    def __post_init__(self) -> None:
        check_seconds("at", self.at, zero=True)
        if check_text("do", self.do) not in _DEEDS:
            raise ValueError(f"unknown event {shown(self.do)}; known are {', '.join(_DEEDS)}")
        if self.do in _OF_HOSTS:
            check_hostname(self.host)
        else:
            check_text("host", self.host)
        check_instance("data", self.data, HostData, "a HostData")
        if self.max_count is not None:
            check_max_count(self.max_count)

    @classmethod
    def from_json(cls, raw: object) -> Self:
        """Return the event that a JSON object stands for; see `Trace.from_json`."""
        if not isinstance(raw, Mapping):
            raise TypeError(f"an event must be an object, not {type(raw).__name__}")
        rest: dict[str, Any] = dict(raw)
        at = rest.pop("at", 0)
        deeds = [name for name in rest if name in _DEEDS]
        if len(deeds) != 1:
            raise ValueError(f"an event needs exactly one of {', '.join(_DEEDS)}")
        do: Any = deeds[0]
        about = rest.pop(do)
        if do in {"pause", "resume"} and about is not True:
            raise ValueError(f"{do!r} takes nothing but true")
        host = about if do in _OF_HOSTS else ""
        data = {name: rest.pop(name) for name in _TOLD if do in {"join", "update"} and name in rest}
        if rest:
            raise ValueError(f"{do!r} does not take {', '.join(map(repr, rest))}")
        return cls(at, do, host, HostData(**data), about if do == "set-count" else None)

    def as_json(self) -> dict[str, object]:
        """Return the event as a JSON object."""
        about: object = True
        if self.do in _OF_HOSTS:
            about = self.host
        elif self.do == "set-count":
            about = self.max_count
        return {"at": self.at, self.do: about, **self.data.as_json()}


@dataclass(frozen=True, slots=True)
class Trace:
    """What happens, in the order in which it does.

    Attributes:
        events: the events, by their time.
        seconds: when the simulation ends; by default, three TTLs after the last event.
        max_count: how many hosts may be chosen at most.
        ttl: seconds that the lease of a host lives that has failed.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: a number is too small, or a host joins that is there, or leaves,
            fails or updates while it is not.
    """

    events: tuple[TraceEvent, ...]
    seconds: float = 0.0
    max_count: int = 1
    ttl: float = 10.0

    def __post_init__(self) -> None:
        check_tuple("events", self.events, TraceEvent, "events, each a TraceEvent,")
        events = tuple(sorted(self.events, key=lambda event: event.at))
        check_max_count(self.max_count)
        check_seconds("ttl", self.ttl)
        check_seconds("seconds", self.seconds, zero=True)
        last = events[-1].at if events else 0.0
        seconds = self.seconds or last + 3 * self.ttl
        if not last <= seconds < math.inf:
            raise ValueError(f"seconds must not end before the last event, at {last:g}")
        _check_lives(events)
        object.__setattr__(self, "events", events)
        object.__setattr__(self, "seconds", float(seconds))

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts that ever join, in the order in which they first do."""
        return tuple(dict.fromkeys(event.host for event in self.events if event.do == "join"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Return the trace of a JSON text.

        It is an object with ``events``, and, if they are not the defaults, ``seconds``,
        ``max_count`` and ``ttl``. Each event has its time ``at``, what happens to which host,
        and for ``join`` and ``update`` what the host publishes: ``{"at": 3,
        "join": "a", "zone": "x"}``, ``{"at": 9, "fail": "a"}``, ``{"at": 20, "pause":
        true}``, ``{"at": 30, "set-count": 2}``.

        Raises:
            TypeError: see `Trace`; the message has the number of the event.
            ValueError: see `Trace`, or `text` is no JSON.
        """
        try:
            raw = json.loads(text)
        except RecursionError:
            raise ValueError("a trace must not be nested deeply") from None
        if not isinstance(raw, dict) or not isinstance(raw.get("events"), list):
            raise TypeError("a trace must be a JSON object with a list of 'events'")
        rest = {name: value for name, value in raw.items() if name != "events"}
        if unknown := rest.keys() - {"seconds", "max_count", "ttl"}:
            raise ValueError(f"a trace does not take {', '.join(map(repr, sorted(unknown)))}")
        events: list[TraceEvent] = []
        for number, event in enumerate(raw["events"], 1):
            try:
                events.append(TraceEvent.from_json(event))
            except (TypeError, ValueError) as exc:
                raise type(exc)(f"event {number}: {exc}") from None
        return cls(tuple(events), **rest)

    def as_json(self) -> str:
        """Return the trace as JSON, one event on a line."""
        head = {"max_count": self.max_count, "ttl": self.ttl, "seconds": self.seconds}
        fields = "".join(f"  {json.dumps(name)}: {value},\n" for name, value in head.items())
        lines = [json.dumps(event.as_json(), ensure_ascii=False) for event in self.events]
        events = ",\n".join(f"    {line}" for line in lines)
        return f'{{\n{fields}  "events": [\n{events}\n  ]\n}}\n'

    @classmethod
    def random(
        cls,
        seed: int,
        *,
        hosts: int = 8,
        seconds: float = 300.0,
        max_count: int = 2,
        zones: int = 3,
        mean: float = 60.0,
    ) -> Self:
        """Return a trace in which hosts come and go by chance.

        Args:
            seed: of all chance.
            hosts: how many there are; all join within the first seconds.
            seconds: for how long.
            max_count: how many may be chosen at most.
            zones: over how many zones they are spread; 0 for none.
            mean: seconds for which a host stays, on average; it is away for a third
                of that. It fails as often as it leaves.
        """
        check_int("seed", seed)
        check_int("hosts", hosts, 1)
        check_seconds("seconds", seconds)
        check_max_count(max_count)
        check_int("zones", zones, 0)
        check_seconds("mean", mean)
        chance = Random(seed)  # noqa: S311 # the same for the same seed is the point
        events: list[TraceEvent] = []
        for at in range(hosts):
            zone = f"zone-{at % zones + 1}" if zones else None
            data = HostData(weight=float(chance.choice((1, 1, 2, 4))), zone=zone)
            events += _life(chance, f"host-{at + 1}", data, seconds, mean)
        return cls(tuple(events), seconds, max_count)


def _life(
    chance: Random, host: str, data: HostData, seconds: float, mean: float
) -> Iterable[TraceEvent]:
    at = chance.uniform(0.0, min(5.0, seconds / 10))
    while at < seconds:
        yield TraceEvent(round(at, 2), "join", host, data)
        at += 1.0 + chance.expovariate(1 / mean)
        if at < seconds:
            end: _Deed = "fail" if chance.random() < 0.5 else "leave"
            yield TraceEvent(round(at, 2), end, host)
        at += 1.0 + chance.expovariate(3 / mean)


def _check_lives(events: Iterable[TraceEvent]) -> None:
    there: set[str] = set()
    for event in events:
        what = f"{event.host!r} cannot {event.do} at {event.at:g}"
        if event.do == "join":
            if event.host in there:
                raise ValueError(f"{what}: it is there already")
            there.add(event.host)
        elif event.do in {"leave", "fail", "update"}:
            if event.host not in there:
                raise ValueError(f"{what}: it is not there")
            if event.do != "update":
                there.remove(event.host)
