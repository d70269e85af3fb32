"""What hosts, options and decisions are, and how they are written into etcd.

Pure: no I/O and no clock. Whatever is read from etcd may have been written by
somebody else, so decoding never raises: what does not parse is left out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "DecisionRecord",
    "Host",
    "Hosts",
    "Options",
    "decode_scheduled",
    "encode_host",
    "encode_scheduled",
]

_NOTHING: Mapping[str, object] = MappingProxyType({})


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
class Host:
    """A machine or process that offers itself for scheduling.

    Attributes:
        name: the name that it joined under.
        lease: id of its session lease; 0 if its key hangs on none.
        joined_revision: create_revision of its key; the lower, the longer here.
        data: what it published about itself.
        options: the options that it was started with, as published; empty when
            it published none.
    """

    name: str
    lease: int = 0
    joined_revision: int = 0
    data: Mapping[str, object] = field(default_factory=_nothing)
    options: Mapping[str, object] = field(default_factory=_nothing)

    @classmethod
    def decode(cls, name: str, value: bytes, *, lease: int, joined_revision: int) -> Self:
        """Return the host that a key below ``exchange/`` stands for."""
        parsed = _parse_object(value)
        return cls(
            name,
            lease,
            joined_revision,
            data=_object_at(parsed, "data"),
            options=_object_at(parsed, "options"),
        )


def encode_host(options: Options, data: Mapping[str, object] = _NOTHING) -> bytes:
    """Return the value of this host's key below ``exchange/``."""
    return _dump({"data": dict(data), "options": options.as_json()})


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
        self = super().__new__(cls, sorted(names, key=_bytewise))
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
    names = sorted({_encode(name) for name in hosts})
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
    """

    hosts: Mapping[str, int]
    leader: str
    fence: int
    reason: str = ""
    options: Mapping[str, object] = field(default_factory=_nothing)

    def encode(self) -> bytes:
        """Return the record as JSON."""
        return _dump(
            {
                "hosts": {name: f"{lease:x}" for name, lease in self.hosts.items()},
                "leader": self.leader,
                "fence": self.fence,
                "reason": self.reason,
                "options": dict(self.options),
            }
        )

    @classmethod
    def decode(cls, value: bytes) -> Self | None:
        """Return the record, or None if `value` is not one."""
        parsed = _parse_object(value)
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
        return cls(hosts, leader, fence, reason, _object_at(parsed, "options"))


def _bytewise(name: str) -> bytes:
    return _encode(name)


def _encode(name: str) -> bytes:
    return name.encode(errors="surrogateescape")


def _dump(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode(
        errors="surrogateescape"
    )


def _parse_object(value: bytes) -> Mapping[str, object]:
    text = value.decode(errors="surrogateescape")
    try:
        parsed = json.loads(text)
        if "\\u" in text:
            # An escape may stand for half a character, which no key can hold. Refuse
            # it here, so that whatever has been decoded can be encoded, too.
            _encode(json.dumps(parsed, ensure_ascii=False))
    except (ValueError, RecursionError):
        return _NOTHING
    return parsed if isinstance(parsed, dict) else _NOTHING


def _object_at(parsed: Mapping[str, object], key: str) -> Mapping[str, object]:
    found = parsed.get(key)
    return MappingProxyType(found) if isinstance(found, dict) else _NOTHING
