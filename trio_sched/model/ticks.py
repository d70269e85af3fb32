"""Ticks: moments at which something is due, their names, and what is recorded of each. Pure.

Theory of operation
-------------------
A tick is known by its *name*: hosts that give it the same name mean the same tick, whatever their
clocks say, and so a tick that one of them has claimed is claimed for all. A name never
depends on when a host looks, but on the period alone:

- A period of whole days has ticks by the *calendar*: at a time of the day in a time zone, on each
  N-th day. The name is the local date and time, without an offset; so hosts agree on it even where
  their tables of time zones differ. What such a local time stands for is what RFC 5545, 3.3.5,
  says: a time that occurs twice is the first of the two, and one that does not occur is
  counted by the offset from before the gap. So there is exactly one tick on each day.
- Any other period has ticks at its multiples since 1970, in UTC. The name ends in ``Z``.

Names are in the order of time as long as the options stay the same. What is due is always the
newest tick that has begun: so after a time in which no host was there, one tick is made up for, not
all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Any, Final
from zoneinfo import ZoneInfo

from trio_sched._support.arguments import check_instance, check_int, check_text

__all__ = [
    "MAX_ATTEMPTS",
    "MAX_PERIOD",
    "DueTick",
    "Tick",
    "TickSchedule",
    "check_tick_name",
    "zone_named",
]

_DAY: Final = 86400  # seconds
MAX_PERIOD: Final = 366 * _DAY
"""The longest period, in seconds."""
MAX_ATTEMPTS: Final = 1000
"""How often a tick may be begun at most."""
_MAX_NAME: Final = 255  # bytes
_MAX_INT: Final = 1 << 63
_HALF: Final = re.compile(r"[\ud800-\udfff]")  # of a character; no key can hold it
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f/]")
_TICK: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z?)", re.ASCII)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_STATES: Final = frozenset({"running", "interrupted", "done", "crashed"})


def check_tick_name(key: str) -> str:
    """Return the name of a tick if it can be a part of a key, else raise.

    Raises:
        TypeError: it is not a string.
        ValueError: it is empty, holds ``/`` or a control character, cannot be encoded as UTF-8, or
            is of more than 255 bytes.
    """
    check_text("key", key, least=1, most=_MAX_NAME)
    if _CONTROL.search(key):
        raise ValueError(f"key must hold no '/' and no control characters; got {key!r}")
    return key


# ---- when something is due ---------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DueTick:
    """A tick that is due.

    Attributes:
        name: of it.
        begin: when it began.
        next_name: name of the one after it; None if there is none.
        end: when that begins.
    """

    name: str
    begin: datetime
    next_name: str | None
    end: datetime


@dataclass(frozen=True, slots=True)
class TickSchedule:
    """When something is due, again and again.

    ``TickSchedule(3600)`` is each full hour, in UTC; ``TickSchedule(86400, at=time(3),
    zone=ZoneInfo("Europe/Berlin"))`` is three o'clock in the morning in Berlin, on each day of the
    calendar there.

    Args:
        period: seconds from one tick to the next, from 1 to 366 days.
        at: for whole days, the time of the day; else how long after the multiple of the period.
            Less than the period; without a time zone of its own.
        zone: of `at`, for periods of whole days; others are in UTC.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: an argument is out of bounds, or they do not go together.
    """

    period: int
    at: time = time(0)
    zone: tzinfo = UTC

    def __post_init__(self) -> None:
        check_int("period", self.period, 1, MAX_PERIOD)
        check_instance("at", self.at, time, "a datetime.time")
        check_instance("zone", self.zone, tzinfo, "a datetime.tzinfo, as zoneinfo.ZoneInfo is")
        if self.at.tzinfo is not None:
            raise ValueError("at must have no time zone; give it as zone")
        if self.at.microsecond:
            raise ValueError("at must be of whole seconds")
        if not self.by_calendar and str(self.zone) != "UTC":
            raise ValueError("a time zone goes with a period of whole days; others are in UTC")
        if self._offset >= timedelta(seconds=self.period):
            raise ValueError("at must be less than the period, unless that is of whole days")

    @property
    def by_calendar(self) -> bool:
        """Whether its ticks are on days of the calendar."""
        return self.period % _DAY == 0

    @property
    def keep(self) -> int:
        """The period and a day, in seconds, for which a tick is remembered after its end."""
        return self.period + _DAY

    @property
    def _offset(self) -> timedelta:
        return datetime.combine(date.min, self.at) - datetime.combine(date.min, time(0))

    def due(self, moment: datetime) -> DueTick:
        """Return the newest tick that has begun at a moment, which has a time zone.

        Raises:
            ValueError: the moment has no time zone.
        """
        if moment.tzinfo is None:
            raise ValueError("the moment must have a time zone")
        return self._of_day(moment) if self.by_calendar else self._of_period(moment)

    def may_name(self, name: str) -> bool:
        """Return whether one of its ticks may have this name, perhaps under options of before.

        Else it is a key of `Result.run_once`, or a tick of a schedule of the other kind.
        """
        found = _TICK.fullmatch(name)
        return found is not None and bool(found[1]) is not self.by_calendar

    def _of_period(self, moment: datetime) -> DueTick:
        period, since = timedelta(seconds=self.period), moment - _EPOCH - self._offset
        begin = _EPOCH + self._offset + since // period * period
        end = begin + period
        return DueTick(_name(begin), begin, _name(end), end)

    def _of_day(self, moment: datetime) -> DueTick:
        days = self.period // _DAY
        # With 7 days, ticks are on Mondays, as 0001-01-01 was one.
        number = (moment.astimezone(self.zone).toordinal() - 1) // days + 1
        while self._moment(number * days) > moment:
            number -= 1
        while self._moment((number + 1) * days) <= moment:
            number += 1
        this, after = number * days, (number + 1) * days
        return DueTick(
            self._local(this).isoformat(timespec="seconds"),
            self._moment(this),
            self._local(after).isoformat(timespec="seconds"),
            self._moment(after),
        )

    def _local(self, days: int) -> datetime:
        return datetime.combine(date.min + timedelta(days=days), self.at)

    def _moment(self, days: int) -> datetime:
        return self._local(days).replace(tzinfo=self.zone, fold=0).astimezone(UTC)


def _name(moment: datetime) -> str:
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="seconds") + "Z"


def zone_named(name: str) -> tzinfo:
    """Return a time zone by its IANA name; UTC, as what is counted in UTC has it, by that name.

    Raises:
        ValueError: there is none of this name.
    """
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as exc:
        raise ValueError(
            f"there is no time zone {name!r} on this machine; see `timedatectl list-timezones`"
        ) from exc


# ---- what is recorded --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tick:
    """What is recorded of a tick that was begun. Times are by the host's own clock.

    Attributes:
        name: of it.
        state: ``running``; ``done``, if its work has ended by itself, with whatever exit code;
            ``interrupted``, if the work was ended before it was done, in good order; or
            ``crashed``, if its host was lost and it will not be begun again.
        host: that began it last.
        token: of the slot that it was begun in.
        attempt: how often it was begun; those that were interrupted in good order are not counted.
        begun: when that was, in ISO 8601 and UTC.
        ended: when it ended; None if it has not.
        code: exit code of its command; 1 for work that raised, 0 for work that returned; None if it
            is not done.
        slot: the key of that slot, for us.
        lease: of the session that held it, for us.
    """

    name: str
    state: str
    host: str
    token: int
    attempt: int
    begun: str
    ended: str | None = None
    code: int | None = None
    slot: str = ""
    lease: int = 0

    @property
    def over(self) -> bool:
        """Whether nothing more will be done about it."""
        return self.state in {"done", "crashed"}

    def encode(self) -> bytes:
        """Return what is stored."""
        shown = {name: getattr(self, name) for name in self.__slots__ if name != "name"}
        return json.dumps(shown, ensure_ascii=False).encode(errors="surrogatepass")

    @classmethod
    def decode(cls, name: str, value: bytes) -> Tick:
        """Return what is stored of a tick. What another has written counts as done: never twice."""
        try:
            found: Any = json.loads(value)
            tick = cls(name, **{key: found[key] for key in cls.__slots__ if key != "name"})
        except (ValueError, TypeError, KeyError, RecursionError):
            return cls(name, "done", "", 0, 0, "")
        return tick if tick._is_sound() else cls(name, "done", "", 0, 0, "")

    def _is_sound(self) -> bool:
        kinds: Mapping[str, tuple[type, ...]] = {
            **dict.fromkeys(("state", "host", "begun", "slot"), (str,)),
            **dict.fromkeys(("token", "attempt", "lease"), (int,)),
            "ended": (str, type(None)),
            "code": (int, type(None)),
        }
        return (
            self.state in _STATES
            and all(type(getattr(self, name)) in allowed for name, allowed in kinds.items())
            and all(0 <= getattr(self, name) < _MAX_INT for name in ("token", "attempt", "lease"))
            and not _HALF.search(self.slot)
        )
