"""Ticks: their names, when they begin, and what is recorded. Pure."""

from __future__ import annotations

import json
from datetime import UTC, datetime, time, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, strategies as st

from trio_sched.model.ticks import MAX_PERIOD, Tick, TickSchedule, check_tick_name, zone_named

BERLIN = ZoneInfo("Europe/Berlin")
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia"]
DAY = 86400


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


@pytest.mark.parametrize(
    ("schedule", "moment", "name", "end"),
    [
        (TickSchedule(3600), "2026-12-01T03:00:00Z", "2026-12-01T03:00:00Z", "04:00:00"),
        (TickSchedule(3600), "2026-12-01T03:59:59.999999Z", "2026-12-01T03:00:00Z", "04:00:00"),
        (TickSchedule(3600, time(0, 15)), "2026-12-01T03:14Z", "2026-12-01T02:15:00Z", "03:15:00"),
        (TickSchedule(90), "2026-12-01T00:02Z", "2026-12-01T00:01:30Z", "00:03:00"),
        # 7 hours are no part of a day: they are counted since 1970
        (TickSchedule(25200), "1970-01-02T06:00Z", "1970-01-02T04:00:00Z", "11:00:00"),
    ],
)
def test_a_period_is_counted_since_1970(
    schedule: TickSchedule, moment: str, name: str, end: str
) -> None:
    due = schedule.due(at(moment))
    assert due.name == name
    assert due.end.strftime("%H:%M:%S") == end
    assert due.next_name == schedule.due(due.end).name


@pytest.mark.parametrize(
    ("moment", "name"),
    [
        ("2026-12-01T01:59:59Z", "2026-11-30T03:00:00"),
        ("2026-12-01T02:00:00Z", "2026-12-01T03:00:00"),  # in Berlin it is three
        ("2026-07-01T00:59:59Z", "2026-06-30T03:00:00"),
        ("2026-07-01T01:00:00Z", "2026-07-01T03:00:00"),  # and in summer, too
    ],
)
def test_days_are_those_of_the_calendar(moment: str, name: str) -> None:
    assert TickSchedule(DAY, time(3), BERLIN).due(at(moment)).name == name


def test_an_hour_that_does_not_occur_is_counted_from_before_the_gap() -> None:
    due = TickSchedule(DAY, time(2, 30), BERLIN).due(at("2026-03-29T12:00Z"))
    assert (due.name, due.begin) == ("2026-03-29T02:30:00", at("2026-03-29T01:30Z"))  # 03:30 there
    assert due.end - due.begin == timedelta(hours=23)


def test_an_hour_that_occurs_twice_is_the_first() -> None:
    schedule = TickSchedule(DAY, time(2, 30), BERLIN)
    due = schedule.due(at("2026-10-25T12:00Z"))
    assert (due.name, due.begin) == ("2026-10-25T02:30:00", at("2026-10-25T00:30Z"))
    assert schedule.due(at("2026-10-25T01:30Z")) == due, "the second time it is the same tick"
    assert due.end - due.begin == timedelta(hours=25)


def test_a_day_that_a_country_left_out_is_no_second_tick() -> None:
    """Samoa had no 2011-12-30."""
    schedule = TickSchedule(DAY, time(3), ZoneInfo("Pacific/Apia"))
    first = schedule.due(at("2011-12-29T23:00Z"))
    names = []
    due = first
    while due.begin < at("2012-01-02T00:00Z"):
        names.append(due.name)
        after = schedule.due(due.end)
        assert after.begin >= due.end
        due = after
    assert names == sorted(set(names))


def test_a_week_begins_on_a_monday() -> None:
    due = TickSchedule(7 * DAY, time(6)).due(at("2026-12-03T00:00Z"))
    assert due.name == "2026-11-30T06:00:00"
    assert due.begin.strftime("%A") == "Monday"


moments = st.datetimes(timezones=st.just(UTC)).filter(lambda found: 1980 < found.year < 2100)


@given(
    st.integers(1, MAX_PERIOD) | st.integers(1, 366).map(lambda days: days * DAY),
    st.times().map(lambda found: found.replace(microsecond=0, tzinfo=None)),
    st.sampled_from(ZONES),
    moments,
)
def test_each_moment_is_in_one_tick_and_ticks_are_in_order(
    period: int, time_of_day: time, zone: str, moment: datetime
) -> None:
    if period % DAY:
        seconds = (time_of_day.hour * 60 + time_of_day.minute) * 60 + time_of_day.second
        if seconds >= period:
            return
        schedule = TickSchedule(period, time_of_day)
    else:
        schedule = TickSchedule(period, time_of_day, ZoneInfo(zone))
    due = schedule.due(moment)
    assert due.begin <= moment < due.end
    assert schedule.due(due.begin) == due
    after = schedule.due(due.end)
    assert (after.name, after.begin) == (due.next_name, due.end)
    assert due.name < after.name
    assert schedule.due(moment.astimezone(timezone(timedelta(hours=9)))) == due
    check_tick_name(due.name)
    assert schedule.may_name(due.name)
    assert not TickSchedule(DAY if period % DAY else 60).may_name(due.name)


@pytest.mark.parametrize("name", ["17", "order-17", "2026-12-01", "12026-12-01T03:00:00", "\u0662"])
def test_a_key_of_ones_own_is_no_tick(name: str) -> None:
    assert not TickSchedule(60).may_name(name)
    assert not TickSchedule(DAY).may_name(name)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0,), "1 or more"),
        ((MAX_PERIOD + 1,), "at most"),
        ((3600, time(1)), "less than the period"),
        ((3600, time(0, 5), BERLIN), "whole days"),
        ((DAY, time(3, tzinfo=UTC)), "no time zone"),
        ((DAY, time(3, 0, 0, 5)), "whole seconds"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments: tuple[int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TickSchedule(*arguments)


def test_a_moment_without_a_time_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        TickSchedule(60).due(datetime(2026, 1, 1))  # noqa: DTZ001 # that is what is refused


@pytest.mark.parametrize("zone", [zone_named("UTC"), ZoneInfo("UTC")])
def test_utc_may_be_said_where_it_is_what_counts(zone: tzinfo) -> None:
    now = at("2026-12-01T03:00:00Z")
    assert TickSchedule(3600, zone=zone).due(now) == TickSchedule(3600).due(now)
    assert TickSchedule(DAY, zone=zone).due(now) == TickSchedule(DAY).due(now)


@pytest.mark.parametrize("name", ["Mars/Base", "", "../etc/passwd", "\0"])
def test_a_zone_that_there_is_not(name: str) -> None:
    with pytest.raises(ValueError, match="no time zone"):
        zone_named(name)


@pytest.mark.parametrize("name", ["", "a/b", "a\nb", "x" * 256, "\ud800"])
def test_a_name_that_is_no_part_of_a_key(name: str) -> None:
    with pytest.raises(ValueError):
        check_tick_name(name)


TICK = Tick(
    "t", "running", "host-a", 17, 2, "2026-12-01T03:00:00+00:00", slot="/p/slots/0", lease=5
)


def test_a_record_is_read_as_it_was_written() -> None:
    assert Tick.decode("t", TICK.encode()) == TICK


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"no",
        b"[]",
        b"{}",
        json.dumps({**json.loads(TICK.encode()), "state": "odd"}).encode(),
        json.dumps({**json.loads(TICK.encode()), "token": True}).encode(),
        json.dumps({**json.loads(TICK.encode()), "host": None}).encode(),
        json.dumps({**json.loads(TICK.encode()), "slot": "/p/slots/\udc80"}).encode(),
        json.dumps({**json.loads(TICK.encode()), "token": 1 << 63}).encode(),
        json.dumps({**json.loads(TICK.encode()), "token": -1}).encode(),
        json.dumps({**json.loads(TICK.encode()), "lease": 10**20}).encode(),
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_what_another_has_written_counts_as_done(value: bytes) -> None:
    tick = Tick.decode("t", value)
    assert tick.over
    assert tick.host == ""
