"""Replaying a trace: what happens in it, what is reported, and how it is drawn."""

from __future__ import annotations

import asyncio
import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import trio

from trio_sched.exceptions import StrategyError
from trio_sched.model.records import Host, HostData
from trio_sched.simulation import Replay, Trace, TraceEvent, simulate, svg_chart, text_chart
from trio_sched.strategies import StrategyOptions, known_strategies

SVG = "{http://www.w3.org/2000/svg}"


def trace(*events: TraceEvent, **options: Any) -> Trace:
    return Trace(events, **options)


def join(at: float, host: str, **data: Any) -> TraceEvent:
    return TraceEvent(at, "join", host, HostData(**data))


def decided(replay: Replay) -> list[tuple[int, tuple[str, ...], str]]:
    """Return the decisions, by whole seconds."""
    return [(int(each.at), each.hosts, each.leader) for each in replay.decisions]


def states(replay: Replay, host: str) -> list[tuple[str, int, int]]:
    """Return what a host did, without the time that messages take."""
    spans = [span for span in replay.spans if span.host == host and span.end - span.start > 0.1]
    return [(span.state, round(span.start), round(span.end)) for span in spans]


# What happens


def test_a_host_that_leaves_hands_over_at_once() -> None:
    replay = simulate(
        "rr", trace(join(0, "a"), join(1, "b"), TraceEvent(20, "leave", "a"), seconds=40)
    )
    assert decided(replay) == [(0, ("a",), "a"), (20, ("b",), "b")]
    assert states(replay, "a") == [("scheduled", 0, 20)]
    assert states(replay, "b") == [("waiting", 1, 20), ("scheduled", 20, 40)]
    assert replay.scheduled["b"] == pytest.approx(20, abs=0.1)
    assert replay.unscheduled < 0.1
    assert (replay.placements, replay.churn) == (2, 0)


def test_a_host_that_fails_holds_its_place_until_its_lease_lapses() -> None:
    replay = simulate(
        "rr",
        trace(join(0, "a"), join(1, "b"), TraceEvent(20, "fail", "b"), seconds=60, max_count=2),
    )
    (_, _, lapsed) = states(replay, "b")[-1]
    assert states(replay, "b") == [("scheduled", 1, 20), ("dead and scheduled", 20, lapsed)]
    assert 20 + 10 * 2 / 3 <= lapsed <= 30  # it was renewed a third of a TTL ago at most
    assert replay.unscheduled == pytest.approx(0, abs=0.1)
    assert replay.unfilled == pytest.approx(0, abs=0.1)  # no host was waiting for the place


@pytest.mark.parametrize("ttl", [6.0, 30.0])
def test_nobody_decides_between_a_leaders_failure_and_the_end_of_its_lease(ttl: float) -> None:
    events = (join(0, "a"), join(1, "b"), TraceEvent(20, "fail", "a"))
    replay = simulate("rr", trace(*events, seconds=100, ttl=ttl))
    assert [hosts for _, hosts, _ in decided(replay)] == [("a",), ("b",)]
    assert ttl * 2 / 3 <= replay.unscheduled <= ttl + 0.1
    assert replay.unfilled == pytest.approx(replay.unscheduled)


def test_a_host_that_comes_back_within_its_ttl_waits_for_its_old_keys() -> None:
    events = (join(0, "a"), join(1, "b"), TraceEvent(20, "fail", "b"), join(21, "b"))
    replay = simulate("rr", trace(*events, seconds=60, max_count=2))
    first, dead, again = states(replay, "b")
    assert (first[0], dead[0], again[0]) == ("scheduled", "dead and scheduled", "scheduled")
    assert dead[2] > 26


@pytest.mark.parametrize("end", ["fail", "leave"])
def test_a_host_that_ends_while_it_waits_for_its_old_keys_never_joined(end: Any) -> None:
    events = (join(0, "a"), TraceEvent(20, "fail", "a"), join(21, "a"), TraceEvent(22, end, "a"))
    replay = simulate("rr", trace(*events, seconds=60))
    assert [state for state, _, _ in states(replay, "a")] == ["scheduled", "dead and scheduled"]


def test_an_update_is_seen_and_takes_an_unavailable_host_out() -> None:
    sick = HostData(available=False, reason="disk full")
    events = (join(0, "a"), join(1, "b"), TraceEvent(10, "update", "a", sick))
    replay = simulate("rr", trace(*events, TraceEvent(30, "update", "a"), seconds=40))
    assert states(replay, "a") == [
        ("scheduled", 0, 10),
        ("unavailable", 10, 30),
        ("waiting", 30, 40),
    ]
    assert [each.reason for each in replay.decisions] == ["elected", "a unavailable, b joined"]
    raised = (join(0, "a"), join(1, "b"), TraceEvent(10, "update", "b", HostData(priority=9)))
    assert decided(simulate("priority", trace(*raised)))[-1] == (10, ("b",), "a")


def test_operators_steer() -> None:
    replay = simulate(
        "rr",
        trace(
            join(0, "a"),
            join(1, "b"),
            join(2, "c"),
            TraceEvent(10, "drain", "a"),
            TraceEvent(20, "set-count", max_count=2),
            TraceEvent(30, "pause"),
            TraceEvent(31, "undrain", "a"),
            TraceEvent(32, "leave", "b"),
            TraceEvent(40, "resume"),
            TraceEvent(50, "set-count"),
            TraceEvent(60, "evict", "c"),
        ),
    )
    assert [(at, hosts) for at, hosts, _ in decided(replay)] == [
        (0, ("a",)),
        (10, ("b",)),
        (20, ("b", "c")),
        (30, ("b", "c")),
        (31, ("b", "c")),
        (32, ("c",)),
        (40, ("c", "a")),
        (50, ("c",)),
        (60, ("a",)),
    ]
    assert states(replay, "a")[1] == ("unavailable", 10, 31)
    assert replay.unfilled == pytest.approx(8, abs=0.2)  # of two places while paused
    assert replay.churn == 1  # the eviction; draining and fewer places are none


def test_churn_counts_those_that_could_have_stayed() -> None:
    events = [join(at, name) for at, name in enumerate("dcba")]
    assert simulate("alpha", trace(*events)).churn == 3
    assert simulate("rr", trace(*events)).churn == 0


def test_balance_is_one_for_all_alike_and_one_nth_for_one_alone() -> None:
    joins = [join(0, name) for name in "abcd"]
    alone = simulate("rr", trace(*joins, seconds=1000))
    assert alone.balance == pytest.approx(1 / 4, abs=0.01)
    assert simulate("rr", trace(*joins, seconds=1000, max_count=4)).balance == pytest.approx(1)


def test_the_path_matters_to_who_draws_lots_by_it() -> None:
    events = [join(0, name) for name in "abcdefgh"]
    last = {
        simulate("rendezvous", trace(*events), path=f"/{n}").decisions[-1].hosts for n in range(9)
    }
    assert len(last) > 3


@pytest.mark.parametrize("name", known_strategies())
def test_the_same_trace_gives_the_same_and_nothing_is_lost(name: str) -> None:
    given = Trace.random(4, hosts=12, seconds=200, max_count=3)
    replay = simulate(name, given)
    assert replay == simulate(name, Trace.from_json(given.as_json()))
    assert all(len(each.hosts) <= 3 for each in replay.decisions)
    assert replay.hosts == given.hosts
    for one, other in zip(replay.spans, replay.spans[1:], strict=False):
        assert one.host != other.host or one.end <= other.start
    assert all(0 <= span.start < span.end <= 200 for span in replay.spans)
    assert replay.unscheduled <= replay.unfilled
    assert json.loads(json.dumps(replay.as_json()))["placements"] == replay.placements


def test_a_plain_function_and_one_that_breaks_the_rules() -> None:
    def last_by_name(hosts: Mapping[str, Host], options: StrategyOptions) -> Sequence[str]:
        return sorted(hosts, reverse=True)[: options.max_count]

    events = trace(join(0, "a"), join(1, "b"))
    replay = simulate(last_by_name, events)
    assert (replay.strategy, decided(replay)[-1][1]) == ("last_by_name", ("b",))
    with pytest.raises(StrategyError, match="at most 1"):
        simulate(lambda hosts, _options: sorted(hosts), events)


async def test_it_runs_where_trio_runs_and_a_strategy_that_fails_is_raised_there() -> None:
    given = trace(join(0, "a"), join(1, "b"), TraceEvent(20, "leave", "a"))
    here = simulate("rr", given)
    assert here == await trio.to_thread.run_sync(simulate, "rr", given)
    with pytest.raises(StrategyError, match="at most 1"):
        simulate(lambda hosts, _options: sorted(hosts), given)


def test_it_runs_where_asyncio_runs() -> None:
    async def main() -> Replay:
        await asyncio.sleep(0)
        return simulate("rr", trace(join(0, "a")))

    assert asyncio.run(main()) == simulate("rr", trace(join(0, "a")))


def test_another_hash_seed_makes_no_difference() -> None:
    program = (
        "from trio_sched.simulation import Trace, simulate;"
        "print(simulate('spread', Trace.random(3, hosts=9, seconds=60, mean=20)))"
    )

    def printed(hash_seed: str) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", program]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True, timeout=30
        )
        return done.stdout.strip()

    here = repr(simulate("spread", Trace.random(3, hosts=9, seconds=60, mean=20)))
    assert printed("1") == printed("4321") == here


@pytest.mark.parametrize("ttl", [0.3, 2.5])
def test_a_ttl_is_rounded_up_to_what_etcd_grants(ttl: float) -> None:
    events = (join(0, "a"), join(1, "b"), TraceEvent(20, "fail", "b"))
    replay = simulate("rr", trace(*events, seconds=60, max_count=2, ttl=ttl))
    granted = max(2, math.ceil(ttl))
    dead = next(span for span in replay.spans if span.state == "dead and scheduled")
    assert granted * 2 / 3 < dead.end - dead.start < granted + 0.1


def test_strategies_see_what_a_host_publishes_when_it_joins_and_later() -> None:
    seen: list[Host] = []

    def chosen(hosts: Mapping[str, Host], options: StrategyOptions) -> Sequence[str]:
        seen.extend(hosts.values())
        return sorted(hosts)[: options.max_count]

    events = (
        join(0, "b", weight=2, zone="x", priority=3, data={"gpu": 1}),
        join(5, "a", available=False, reason="disk full"),
        TraceEvent(10, "update", "a", HostData(7.0, "y", available=False, reason="fan broken")),
        TraceEvent(20, "update", "a", HostData(7.0, "y")),
    )
    replay = simulate(chosen, trace(*events, seconds=30))
    assert states(replay, "a") == [("unavailable", 5, 20), ("scheduled", 20, 30)]
    assert decided(replay) == [(0, ("b",), "b"), (20, ("a",), "b")]
    shown = {(host.name, host.weight, host.zone, host.priority) for host in seen}
    assert shown == {("b", 2.0, "x", 3), ("a", 7.0, "y", 0)}
    assert seen[0].data == {"gpu": 1}


def test_what_operators_ask_at_one_time_is_done_in_its_order() -> None:
    counts = [TraceEvent(10, "set-count", max_count=count) for count in (4, 3, 2)]
    absent = TraceEvent(5, "evict", "z")
    joins = [join(0, name) for name in "abcd"]
    replay = simulate("rr", trace(*joins, absent, *counts))
    assert len(replay.decisions[-1].hosts) == 2


def test_weeks_in_which_nothing_happens_cost_nothing_and_change_nothing() -> None:
    def dead_time(failed: float) -> float:
        events = (join(0, "a"), join(1, "b"), TraceEvent(failed, "fail", "b"))
        replay = simulate("rr", trace(*events, seconds=failed + 1_000_000, max_count=2))
        assert [hosts for _, hosts, _ in decided(replay)] == [("a",), ("a", "b"), ("a",)]
        assert replay.scheduled["a"] == pytest.approx(failed + 1_000_000, abs=0.1)
        (dead,) = [span for span in replay.spans if span.state == "dead and scheduled"]
        assert dead.start == failed
        return dead.end - dead.start

    # Renewals go on in their rhythm, which is a third of the TTL.
    assert dead_time(25 + 600_000) == pytest.approx(dead_time(25), abs=0.05)
    assert dead_time(27 + 600_000) == pytest.approx(dead_time(27), abs=0.05)


def test_nobody_at_all() -> None:
    replay = simulate("rr", trace(seconds=10))
    assert (replay.spans, replay.decisions, replay.balance) == ((), (), 1.0)
    assert text_chart(replay).endswith("\n")
    ET.fromstring(svg_chart(replay))


# Traces


def test_a_trace_from_json() -> None:
    given = Trace.from_json(
        """{"max_count": 2, "events": [
            {"at": 3, "join": "b", "zone": "x", "weight": 2, "data": {"gpu": 1}},
            {"join": "a"},
            {"at": 9, "fail": "a"},
            {"at": 20, "pause": true},
            {"at": 30, "set-count": 4},
            {"at": 31, "set-count": null}
        ]}"""
    )
    assert given.events == (
        TraceEvent(0, "join", "a"),
        TraceEvent(3, "join", "b", HostData(2.0, "x", data={"gpu": 1})),
        TraceEvent(9, "fail", "a"),
        TraceEvent(20, "pause"),
        TraceEvent(30, "set-count", max_count=4),
        TraceEvent(31, "set-count"),
    )
    assert (given.hosts, given.max_count, given.ttl, given.seconds) == (("a", "b"), 2, 10.0, 61.0)
    assert Trace.from_json(given.as_json()) == given


@pytest.mark.parametrize(
    ("events", "error", "words"),
    [
        ([3], TypeError, "event 1: an event must be an object, not int"),
        ([{"at": 1}], ValueError, "event 1: an event needs exactly one of join, leave"),
        ([{"join": "a", "leave": "a"}], ValueError, "exactly one of"),
        ([{"join": "a"}, {"join": "b", "colour": 3}], ValueError, "event 2: 'join' .* 'colour'"),
        ([{"leave": "a", "zone": "x"}], ValueError, "'leave' does not take 'zone'"),
        ([{"join": "a,b"}], ValueError, "hostname must not hold ','"),
        ([{"join": 3}], TypeError, "hostname must be a str"),
        ([{"join": "a", "weight": 0}], ValueError, "event 1: weight must be from"),
        ([{"at": -1, "join": "a"}], ValueError, "at must be 0 or more"),
        ([{"at": "1", "join": "a"}], TypeError, "at must be a number"),
        ([{"set-count": 0}], ValueError, "max_count must be 1 or more"),
        ([{"set-count": 1.5}], TypeError, "max_count must be an int"),
        ([{"pause": False}], ValueError, "'pause' takes nothing but true"),
        ([{"leave": "a"}], ValueError, "'a' cannot leave at 0: it is not there"),
        ([{"join": "a"}, {"at": 2, "join": "a"}], ValueError, "'a' cannot join at 2: it is there"),
        ([{"join": "a"}, {"fail": "a"}, {"update": "a"}], ValueError, "cannot update at 0"),
    ],
)
def test_bad_events(events: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Trace.from_json(json.dumps({"events": events}))


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("[", ValueError, "Expecting value"),
        ("[" * 100_000, ValueError, "nested deeply"),
        ("[]", TypeError, "object with a list of 'events'"),
        ('{"events": 3}', TypeError, "object with a list of 'events'"),
        ('{"events": [], "colour": 3}', ValueError, "does not take 'colour'"),
        ('{"events": [], "ttl": "x"}', TypeError, "ttl must be a number"),
        ('{"events": [], "ttl": 0}', ValueError, "ttl must be more than 0"),
        ('{"events": [], "max_count": 0}', ValueError, "max_count must be 1 or more"),
        ('{"events": [], "max_count": 2.0}', TypeError, "max_count must be an int"),
        ('{"events": [{"at": 9, "join": "a"}], "seconds": 5}', ValueError, "last event, at 9"),
    ],
)
def test_bad_traces(text: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Trace.from_json(text)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"do must be one of .*, not 'explode'"):
        TraceEvent(0, "explode", "a")  # type: ignore[arg-type] # wrong on purpose
    with pytest.raises(ValueError, match="hosts must be 1 or more"):
        Trace.random(1, hosts=0)
    with pytest.raises(ValueError, match="unknown strategy"):
        simulate("nobody", trace())
    with pytest.raises(ValueError, match="path must start"):
        simulate("rr", trace(), path="x")
    with pytest.raises(ValueError, match="width must be 40"):
        text_chart(simulate("rr", trace()), width=39)


# Charts

STORY = trace(
    join(0, "a"),
    join(0.5, "bb"),
    TraceEvent(20, "fail", "a"),
    join(40, "a"),
    TraceEvent(50, "drain", "bb"),
    seconds=60,
)


def test_a_chart_as_text() -> None:
    lines = text_chart(simulate("rr", STORY), width=63).splitlines()
    assert lines[0] == "rr, max_count 1, 2 hosts, 60 s: 3 decisions"
    assert lines[1] == "3 places given, 0 taken from hosts that could stay, balance 0.95"
    assert lines[3:] == [
        "a  ████████████████████XXXXXXX             ──────────██████████",
        "bb  ──────────────────────────███████████████████████░░░░░░░░░░",
        "   ┬───────────────────┬───────────────────┬──────────────────┬",
        "   0                   20                  40                60 s",
        "█ scheduled  ─ waiting  ░ unavailable  X dead and scheduled",
    ]


def test_what_is_shorter_than_half_a_character_is_not_drawn() -> None:
    events = (join(0, "a"), join(10, "b"), TraceEvent(10.4, "leave", "b"))
    row = text_chart(simulate("rr", trace(*events, seconds=60)), width=62).splitlines()[4]
    assert row == "b"


def test_a_chart_for_a_terminal_that_has_ascii_only() -> None:
    weird = simulate("rr", trace(join(0, "日-" + "x" * 50), seconds=60))
    chart = text_chart(weird, width=60, ascii_only=True)
    assert chart.isascii()
    assert chart.splitlines()[3] == "?-xxxxxxxxxxxxxxxxxxxxx? " + "#" * 35
    assert all(len(line) <= 62 for line in chart.splitlines()[3:])


def bars(svg: ET.Element) -> list[tuple[str, float, float]]:
    """Return what each bar says, where it begins, and its width."""
    found = [each for each in svg.iter(f"{SVG}rect") if each.find(f"{SVG}title") is not None]
    return [
        (each.findtext(f"{SVG}title", ""), float(each.attrib["x"]), float(each.attrib["width"]))
        for each in found
    ]


def test_a_chart_as_svg() -> None:
    replay = simulate("rr", STORY)
    svg = ET.fromstring(svg_chart(replay))
    said = bars(svg)
    assert [text.split(",")[0] for text, _, _ in said] == [
        "a: scheduled",
        "a: dead and scheduled",
        "a: waiting",
        "a: scheduled",
        "bb: waiting",
        "bb: scheduled",
        "bb: unavailable",
    ]
    first, _, _, last = [each for each in said if each[0].startswith("a:")]
    assert first[2] == pytest.approx(20 / 60 * 840, abs=1)
    assert last[1] + last[2] == pytest.approx(first[1] + 840, abs=1)
    texts = [each.text for each in svg.iter(f"{SVG}text")]
    assert {"a", "bb", "0 s", "60 s", "decision", "unavailable"} <= set(texts)
    assert "dead" not in texts  # of that there was none
    titles = [each.findtext(f"{SVG}title", "") for each in svg.iter(f"{SVG}path")]
    assert any(text.endswith("bb: a joined, bb drained") for text in titles)


def test_names_that_xml_cannot_hold_are_shown_all_the_same() -> None:
    replay = simulate("rr", trace(join(0, "<a&\x00\x1b\uffff>"), join(0, "b" * 99), seconds=20))
    texts = [each.text for each in ET.fromstring(svg_chart(replay)).iter(f"{SVG}text")]
    assert "<a&???>" in texts
    assert "b" * 23 + "…" in texts


def test_a_chart_of_many_hosts_stays_small_and_leaves_the_names_out() -> None:
    many = [join(at / 10, f"h{at}") for at in range(200)]
    svg = ET.fromstring(svg_chart(simulate("rr", trace(*many, seconds=60, max_count=9))))
    assert float(svg.attrib["height"]) < 1800
    assert "h7" not in [each.text for each in svg.iter(f"{SVG}text")]
    assert len(bars(svg)) >= 200
