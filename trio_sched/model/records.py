"""What hosts, options and decisions are, and how they are written into etcd.

Pure: no I/O and no clock. Whatever is read from etcd may have been written by
another client, so decoding never raises: what does not parse is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from types import MappingProxyType
from typing import Any, Final, Self, TypeGuard

from trio_sched._support.arguments import check_int
from trio_sched._support.text import bytewise, clip

__all__ = [
    "MAX_COUNT",
    "MAX_WORDS",
    "DecisionRecord",
    "Host",
    "HostData",
    "Hosts",
    "Options",
    "check_max_count",
    "decode_scheduled",
    "encode_host",
    "encode_scheduled",
]

_NOTHING: Mapping[str, object] = MappingProxyType({})
_MIN_WEIGHT, _MAX_WEIGHT = 1e-6, 1e6
_MAX_ZONE = 255  # characters
_MIN_PRIORITY, _MAX_PRIORITY = -(2**31), 2**31 - 1
MAX_WORDS: Final = 200  # characters of a reason, or a trouble
MAX_COUNT: Final = 1_000_000  # hosts that may be chosen: more than etcd has room for in a decision
_MAX_DEPTH: Final = 100  # levels of JSON that are read; Pythons differ in how many they take
_MAX_DATA_DEPTH: Final = 90  # levels of a host's data, which is a part of that
_MAX_DATA = 64 * 1024  # bytes, as JSON
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII)


def _nothing() -> Mapping[str, object]:
    # A factory: before Python 3.12 a mappingproxy is not hashable, and so no default.
    return _NOTHING


@dataclass(frozen=True, slots=True)
class Options:
    """What a decision is made with.

    Attributes:
        max_count: how many hosts may be chosen at most; 1 or more.
        strategy: name of the strategy.
        hosts_filter: if given, only these hosts may be chosen.
    """

    max_count: int = 1
    strategy: str = "rr"
    hosts_filter: frozenset[str] | None = None

    def as_json(self) -> dict[str, object]:
        """Return the options as they are published."""
        shown: dict[str, object] = {"max_count": self.max_count, "strategy": self.strategy}
        if self.hosts_filter is not None:
            shown["hosts_filter"] = sorted(self.hosts_filter)
        return shown


@dataclass(frozen=True, slots=True)
class HostData:
    """What a host says of itself, checked.

    Attributes:
        weight: how much it can take, next to others; from 1e-6 to 1e6.
        zone: where it is; at most 255 characters, or None.
        priority: the higher, the more wanted; 32 bits with a sign.
        data: whatever else it has to say, as JSON of at most 64 KiB and 90 levels; a
            copy.
        available: whether it may be chosen.
        reason: why it may not, in a few words; clipped to 200 characters.

    Raises:
        TypeError: one of them is of a wrong type, or `data` holds what JSON cannot.
        ValueError: one of them is out of its bounds.
    """

    weight: float = 1.0
    zone: str | None = None
    priority: int = 0
    data: Mapping[str, object] = field(default_factory=_nothing)
    available: bool = True
    reason: str = ""

    def __post_init__(self) -> None:
        _check_weight(self.weight)
        _check_zone(self.zone)
        _check_priority(self.priority)
        if not isinstance(self.available, bool):
            raise TypeError(f"available must be a bool, not {type(self.available).__name__}")
        if not isinstance(self.reason, str):
            raise TypeError(f"reason must be a str, not {type(self.reason).__name__}")
        object.__setattr__(self, "weight", float(self.weight))
        object.__setattr__(self, "data", _copied(self.data))
        object.__setattr__(self, "reason", clip(self.reason, MAX_WORDS))

    def as_json(self) -> dict[str, object]:
        """Return what is published of it: whatever is not the default."""
        return {
            name: dict(value) if isinstance(value, Mapping) else value
            for name, default in _DEFAULTS.items()
            if (value := getattr(self, name)) != default
        }


def check_max_count(max_count: int) -> int:
    """Return how many hosts may be chosen: 1 to a million."""
    return check_int("max_count", max_count, 1, MAX_COUNT)


def _check_weight(weight: object) -> None:
    if not _is_number(weight):
        raise TypeError(f"weight must be a number, not {type(weight).__name__}")
    if not _is_weight(weight):
        raise ValueError(f"weight must be from {_MIN_WEIGHT:g} to {_MAX_WEIGHT:g}")


def _is_weight(value: object) -> TypeGuard[float]:
    return _is_number(value) and _MIN_WEIGHT <= value <= _MAX_WEIGHT  # and so not NaN


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_zone(zone: object) -> None:
    if zone is None:
        return
    if not isinstance(zone, str):
        raise TypeError(f"zone must be a str or None, not {type(zone).__name__}")
    if not _is_zone(zone):
        raise ValueError(
            f"zone must be text of 1 to {_MAX_ZONE} characters, or None for no zone; "
            f"got {clip(zone, MAX_WORDS)!r}"
        )


def _is_zone(value: object) -> TypeGuard[str]:
    # A character that is no text comes from a key or value that was no UTF-8.
    return (
        isinstance(value, str)
        and 0 < len(value) <= _MAX_ZONE
        and not any("\ud800" <= letter <= "\udfff" for letter in value)
    )


def _check_priority(priority: object) -> None:
    if isinstance(priority, bool) or not isinstance(priority, int):
        raise TypeError(f"priority must be an int, not {type(priority).__name__}")
    if not _is_priority(priority):
        # The number is not shown: it may be of more digits than Python agrees to print.
        raise ValueError(f"priority must be from {_MIN_PRIORITY} to {_MAX_PRIORITY}")


def _is_priority(value: object) -> TypeGuard[int]:
    if not isinstance(value, int) or isinstance(value, bool):
        return False
    return _MIN_PRIORITY <= value <= _MAX_PRIORITY


def _copied(data: object) -> Mapping[str, object]:
    """Return a read-only copy, as a reader will see it."""
    if not isinstance(data, Mapping):
        raise TypeError(f"data must be a mapping, not {type(data).__name__}")
    try:
        _check_keys(data)
        value = json.dumps(dict(data), ensure_ascii=False, allow_nan=False).encode()
    except RecursionError:
        raise ValueError("data is nested too deeply for JSON") from None
    except UnicodeEncodeError as exc:
        raise ValueError(f"data cannot be encoded as UTF-8: {exc.reason}") from None
    except (TypeError, ValueError) as exc:
        raise type(exc)(f"data must be what JSON can hold: {exc}") from None
    if len(value) > _MAX_DATA:
        raise ValueError(f"data must be at most {_MAX_DATA} bytes as JSON, not {len(value)}")
    copy = json.loads(value)
    if _is_deep(value.decode(), copy, _MAX_DATA_DEPTH):
        raise ValueError(f"data is nested too deeply: more than {_MAX_DATA_DEPTH} levels")
    return MappingProxyType(copy)


def _is_deep(text: str, value: Any, most: int = _MAX_DEPTH) -> bool:
    """Return whether JSON has more levels than these, whatever this version of Python takes."""
    if text.count("[") + text.count("{") <= most:
        return False
    level = [value]
    for _ in range(most):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list, tuple))
        ]
        if not level:
            return False
    return True


def _check_keys(value: object) -> None:
    """Raise TypeError for a key that JSON would silently turn into a string."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise TypeError(f"keys must be str, not {type(key).__name__}")
            _check_keys(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _check_keys(inner)


_DEFAULTS: Mapping[str, object] = {
    "data": {},
    "weight": 1.0,
    "zone": None,
    "priority": 0,
    "available": True,
    "reason": "",
}


@dataclass(frozen=True, slots=True)
class Host:
    """A machine or process that offers itself for scheduling.

    Attributes:
        name: the name that it joined under.
        lease: id of its session lease; 0 if its key hangs on none.
        joined_revision: create_revision of its key; the lower, the longer here.
        data: what else it published about itself.
        options: the options that it was started with, as published; empty when
            it published none.
        weight: how much it can take, next to others; more than 0.
        zone: where it is; None if it did not say.
        priority: the higher, the more wanted.
        available: whether it may be chosen.
        reason: why it may not, in a few words.
        since: when it joined, in ISO 8601, by its own clock; empty if it did not say.
            For people only: `joined_revision` has the order.
        trouble: what it has trouble with, in a few words; empty if nothing. For people
            only, and so not compared: that it changes is no reason to decide anew.
    """

    name: str
    lease: int = 0
    joined_revision: int = 0
    data: Mapping[str, object] = field(default_factory=_nothing)
    options: Mapping[str, object] = field(default_factory=_nothing)
    weight: float = 1.0
    zone: str | None = None
    priority: int = 0
    available: bool = True
    reason: str = ""
    since: str = ""
    trouble: str = field(default="", compare=False)

    def is_news(self, known: Host | None) -> bool:
        """Return whether it says more, next to what was known of it, than another trouble."""
        return known is None or self != known or self.trouble == known.trouble

    @classmethod
    def decode(cls, name: str, value: bytes, *, lease: int, joined_revision: int) -> Self:
        """Return the host that a key below ``exchange/`` stands for.

        What is out of the bounds of `HostData` reads as if it were absent.
        """
        parsed = parse_object(value)
        weight, zone = parsed.get("weight"), parsed.get("zone")
        priority, reason = parsed.get("priority"), parsed.get("reason")
        trouble = parsed.get("trouble")
        return cls(
            name,
            lease,
            joined_revision,
            data=object_at(parsed, "data"),
            options=object_at(parsed, "options"),
            weight=float(weight) if _is_weight(weight) else 1.0,
            zone=zone if _is_zone(zone) else None,
            priority=priority if _is_priority(priority) else 0,
            available=parsed.get("available") is not False,
            reason=clip(reason, MAX_WORDS) if isinstance(reason, str) else "",
            since=_moment(parsed.get("since")),
            trouble=clip(trouble, MAX_WORDS) if isinstance(trouble, str) else "",
        )


def encode_host(
    options: Options,
    data: HostData | Mapping[str, object] = _NOTHING,
    since: str = "",
    trouble: str = "",
) -> bytes:
    """Return the value of this host's key below ``exchange/``.

    Args:
        options: that it was started with.
        data: what it says of itself; a mapping stands for `HostData.data`.
        since: when it joined, in ISO 8601; empty not to say.
        trouble: what it has trouble with; clipped to 200 characters, empty for nothing.

    Raises:
        TypeError: see `HostData`.
        ValueError: see `HostData`.
    """
    said = data if isinstance(data, HostData) else HostData(data=data)
    more = {"since": since, "trouble": clip(trouble, MAX_WORDS)}
    notes = {name: value for name, value in more.items() if value}
    return dump_object({**said.as_json(), **notes, "options": options.as_json()})


class Hosts(tuple[str, ...]):  # noqa: SLOT001 # a tuple's subclass can have no slots
    """A decision as a reader sees it: the chosen hosts' names, sorted.

    It is a tuple, and equal to any tuple of the same names.

    Attributes:
        revision: the revision of etcd's store at which it was decided; for an
            empty decision after a loss, the last revision that was seen.
        leader: name of the leader who decided; None if that is not known.
        fence: create_revision of that leader's key; None if that is not known.
    """

    revision: int
    leader: str | None
    fence: int | None

    def __new__(
        cls,
        names: Iterable[str] = (),
        *,
        revision: int = 0,
        leader: str | None = None,
        fence: int | None = None,
    ) -> Self:
        """Make one from names, in any order."""
        self = super().__new__(cls, sorted(names, key=bytewise))
        self.revision = revision
        self.leader = leader
        self.fence = fence
        return self

    def __repr__(self) -> str:
        """Show the names and who chose them."""
        return (
            f"Hosts({list(self)!r}, revision={self.revision}, "
            f"leader={self.leader!r}, fence={self.fence})"
        )


def encode_scheduled(hosts: Iterable[str]) -> bytes:
    """Return the value of the ``scheduled`` key for these hosts.

    Raises:
        ValueError: there are none. An empty value reads as one host without a
            name to the Go package; delete the key instead. Or one of them is
            empty or holds a ``,``, so that it would read as something else.
    """
    names = sorted({bytewise(name) for name in hosts})
    if not names:
        raise ValueError("an empty decision has no value: delete the key instead")
    for name in names:
        if not name or b"," in name:
            raise ValueError(f"host name {name!r} does not fit into 'scheduled'")
    return b",".join(names)


def decode_scheduled(value: bytes) -> tuple[str, ...]:
    """Return the names in the value of a ``scheduled`` key, sorted, each once."""
    names = sorted({name for name in value.split(b",") if name})
    return tuple(name.decode(errors="surrogateescape") for name in names)


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """Who decided, for which hosts, and why: the value of the ``decision`` key.

    Attributes:
        hosts: the chosen hosts in the strategy's own order, each with the id of
            the lease that it was chosen under.
        leader: name of the leader.
        fence: create_revision of its key.
        reason: one short clause in plain words.
        options: the options that the decision was made with.
        when: the time of the decision, in ISO 8601, by the leader's clock; empty if it
            did not say. For people only: the revision has the order. Not compared.
    """

    hosts: Mapping[str, int]
    leader: str
    fence: int
    reason: str = ""
    options: Mapping[str, object] = field(default_factory=_nothing)
    when: str = field(default="", compare=False)

    def encode(self) -> bytes:
        """Return the record as JSON."""
        return dump_object(
            {
                "hosts": {name: f"{lease:x}" for name, lease in self.hosts.items()},
                "leader": self.leader,
                "fence": self.fence,
                "reason": self.reason,
                "options": dict(self.options),
                **({"when": self.when} if self.when else {}),
            }
        )

    @classmethod
    def decode(cls, value: bytes) -> Self | None:
        """Return the record, or None if `value` is not one."""
        parsed = parse_object(value)
        leader, fence, reason = parsed.get("leader"), parsed.get("fence"), parsed.get("reason", "")
        if not isinstance(leader, str) or type(fence) is not int or not isinstance(reason, str):
            return None
        hosts = parsed.get("hosts")
        if not isinstance(hosts, dict):
            return None
        try:
            hosts = {name: int(lease, 16) for name, lease in hosts.items()}
        except (TypeError, ValueError):
            return None
        when = _moment(parsed.get("when"))
        return cls(hosts, leader, fence, reason, object_at(parsed, "options"), when)


def _moment(value: object) -> str:
    """Return a time as it was stored, if it can be one."""
    return value if isinstance(value, str) and _TIMESTAMP.fullmatch(value) else ""


def dump_object(value: Mapping[str, object]) -> bytes:
    """Return an object as JSON.

    Raises:
        RecursionError: it is nested so deeply that not every host would read it.
    """
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    if _is_deep(text, value):
        raise RecursionError(f"more than {_MAX_DEPTH} levels")
    return bytewise(text)


def _finite(text: str) -> float | None:
    """Return a number; None for what JSON has no way to write, as ``NaN`` and ``1e999``.

    Python reads these. If we passed them on, no other program could read what we show.
    """
    return number if isfinite(number := float(text)) else None


_decoder: Final = json.JSONDecoder(parse_float=_finite, parse_constant=_finite)


def parse_object(value: bytes) -> Mapping[str, object]:
    text = value.decode(errors="surrogateescape")
    try:
        parsed = _decoder.decode(text)
        if "\\u" in text:
            # An escape may stand for half a character, which no key can hold. Refuse
            # it here, so that whatever has been decoded can be encoded, too.
            bytewise(json.dumps(parsed, ensure_ascii=False))
    except (ValueError, RecursionError):
        return _NOTHING
    return parsed if isinstance(parsed, dict) and not _is_deep(text, parsed) else _NOTHING


def object_at(parsed: Mapping[str, object], key: str) -> Mapping[str, object]:
    found = parsed.get(key)
    return MappingProxyType(found) if isinstance(found, dict) else _NOTHING
