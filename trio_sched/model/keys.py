"""The names of the keys under a path, and the checks of what goes into them.

The layout is shared with a Go package of 2018, so none of it is ours to change;
see ``docs/`` for what each key holds. Pure: no I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from trio_sched._support.arguments import check_text, shown

__all__ = ["KeyRange", "PathKeys", "check_hostname", "check_path"]


# Bytes. Each path is in the keys of all watches, and each name in the decision, for all hosts.
_MAX_PATH: Final = 4096
_MAX_HOSTNAME: Final = 1024

_MAX_DIGITS: Final = 18  # of a number of a slot; Python refuses to read thousands


def check_path(path: str) -> str:
    """Return `path` if hosts can share it, else raise.

    Raises:
        TypeError: it is not a string.
        ValueError: it does not start with ``/``, ends with ``/``, cannot be
            encoded as UTF-8, or is of more than 4096 bytes.
    """
    check_text("path", path, most=_MAX_PATH)
    if not path.startswith("/") or path.endswith("/"):
        raise ValueError(
            "path must start with '/' and not end with '/', as in '/jobs/backup'; "
            f"got {shown(path)}"
        )
    return path


def check_hostname(hostname: str) -> str:
    """Return `hostname` if a host can join under it, else raise.

    Raises:
        TypeError: it is not a string.
        ValueError: it is empty, holds ``,`` or ``/``, cannot be encoded as UTF-8,
            or is of more than 1024 bytes.
    """
    check_text("hostname", hostname, least=1, most=_MAX_HOSTNAME)
    for forbidden in ",/":
        if forbidden in hostname:
            raise ValueError(f"hostname must not hold {forbidden!r}; got {shown(hostname)}")
    return hostname


@dataclass(frozen=True, slots=True)
class KeyRange:
    """The keys from `first` up to, but not including, `end`.

    Attributes:
        first: the first key.
        end: the first key behind the range.
    """

    first: bytes
    end: bytes

    @classmethod
    def of(cls, key: bytes) -> Self:
        """Return the range that holds one key."""
        return cls(key, key + b"\0")

    @classmethod
    def below(cls, prefix: bytes) -> Self:
        """Return the range of all keys that start with `prefix`, which ends with ``/``."""
        return cls(prefix, prefix[:-1] + bytes([prefix[-1] + 1]))

    def __contains__(self, key: bytes) -> bool:
        return self.first <= key < self.end

    def within(self, other: KeyRange) -> bool:
        """Return whether another range holds all keys of this one."""
        return other.first <= self.first and self.end <= other.end


@dataclass(frozen=True, slots=True)
class PathKeys:
    """The keys under one path.

    Args:
        path: a path that `check_path` accepts.
    """

    path: str

    @property
    def exchange(self) -> bytes:
        """Prefix of the keys by which hosts are discovered."""
        return f"{self.path}/exchange/".encode()

    @property
    def election(self) -> bytes:
        """Prefix of the keys of candidates."""
        return f"{self.path}/election/".encode()

    @property
    def scheduled(self) -> bytes:
        """The key that holds the chosen hosts."""
        return f"{self.path}/scheduled".encode()

    @property
    def record(self) -> bytes:
        """The key that holds who chose them, and why; in etcd's order right behind `scheduled`."""
        return f"{self.path}/scheduled.record".encode()

    @property
    def decision(self) -> KeyRange:
        """The range of `scheduled` and `record`, which are written together."""
        return KeyRange(self.scheduled, self.record + b"\0")

    @property
    def leading(self) -> KeyRange:
        """The range of all that a leader has to know; see `parts`.

        In etcd's order: ``control``, ``election/``, ``exchange/``, ``scheduled``,
        ``scheduled.record``.
        """
        return KeyRange(self.control, self.record + b"\0")

    @property
    def everything(self) -> KeyRange:
        """The range of all that hosts, leaders and operators put below the path; see `parts`."""
        return KeyRange(self.control, KeyRange.below(self.slots).end)

    @property
    def _ours(self) -> tuple[KeyRange, ...]:
        """All that is ours below the path, in etcd's order."""
        return (
            KeyRange.of(self.control),
            KeyRange.below(self.election),
            KeyRange.below(self.exchange),
            KeyRange.of(self.scheduled),
            KeyRange.of(self.record),
            KeyRange.below(self.marks),
            KeyRange.below(self.slots),
        )

    def parts(self, covered: KeyRange) -> tuple[KeyRange, ...]:
        """Return what of a range is ours.

        Between our keys there may be any number of others': of another path that begins with
        this one, as ``/jobs/mail`` begins with ``/jobs``.
        """
        return tuple(part for part in self._ours if part.within(covered)) or (covered,)

    def is_ours(self, key: bytes) -> bool:
        """Return whether a key is one of this path's, by its name."""
        return key in {self.control, self.scheduled, self.record} or key.startswith(
            (self.exchange, self.election, self.slots, self.marks)
        )

    @property
    def control(self) -> bytes:
        """The key by which operators steer."""
        return f"{self.path}/control".encode()

    @property
    def slots(self) -> bytes:
        """Prefix of the keys that stand for the right to run."""
        return f"{self.path}/slots/".encode()

    @property
    def marks(self) -> bytes:
        """Prefix of the marks of slots that were taken and are not released.

        A mark is put and deleted together with the slot's key, but outlives the session: so
        it tells of a slot that went with its lease. In etcd's order right before `slots`.
        """
        return f"{self.path}/slots.taken/".encode()

    @property
    def slots_and_marks(self) -> KeyRange:
        """The range of slots and their marks; see `parts`."""
        return KeyRange(self.marks, KeyRange.below(self.slots).end)

    @property
    def ticks(self) -> bytes:
        """Prefix of what is recorded of ticks. In etcd's order behind all others."""
        return f"{self.path}/ticks/".encode()

    @property
    def open_ticks(self) -> bytes:
        """Prefix of the names of ticks that were begun and are not over: few, as they are read."""
        return f"{self.path}/ticks.open/".encode()

    def tick(self, name: str) -> bytes:
        """Return the key of what is recorded of a tick."""
        return self.ticks + name.encode()

    def open_tick(self, name: str) -> bytes:
        """Return the key that is there as long as a tick is not over."""
        return self.open_ticks + name.encode()

    def slot(self, number: int) -> bytes:
        """Return the key of the slot of this number."""
        return self.slots + b"%d" % number

    def mark(self, number: int) -> bytes:
        """Return the key of the mark of the slot of this number."""
        return self.marks + b"%d" % number

    def mark_number(self, key: bytes) -> int | None:
        """Return the number in the key of a mark; None if it is the key of none."""
        return _number(key, self.marks)

    def slot_number(self, key: bytes) -> int | None:
        """Return the number in the key of a slot; None if it is the key of none."""
        return _number(key, self.slots)

    def host(self, hostname: str) -> bytes:
        """Return the key under which `hostname` is discovered.

        It undoes `hostname`, also for names that only others would register.
        """
        return self.exchange + hostname.encode(errors="surrogateescape")

    def candidate(self, lease: int) -> bytes:
        """Return the key of the candidate whose session has this lease.

        The id is read as unsigned, in lower-case hex without prefix or padding.
        """
        return self.election + f"{lease & 0xFFFF_FFFF_FFFF_FFFF:x}".encode()

    def hostname(self, key: bytes) -> str:
        """Return the host name in a key below `exchange`.

        Bytes that are not UTF-8 come back as surrogate escapes, so that no two
        keys give the same name.
        """
        return key.removeprefix(self.exchange).decode(errors="surrogateescape")


def _number(key: bytes, prefix: bytes) -> int | None:
    number = key.removeprefix(prefix)
    is_one = key.startswith(prefix) and number.isdigit() and len(number) <= _MAX_DIGITS
    return int(number) if is_one else None
