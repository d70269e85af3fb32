"""The text of OpenMetrics, read by prometheus_client's own parser."""

from __future__ import annotations

from math import inf

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from trio_sched.metrics import Family, Kind, Sample, openmetrics

HOSTILE = ['a"b', "a\\b", "a\nb", 'x"} 1\n# EOF', "ä \u2028 {}", "\x00\x1b[31m", ""]


def parsed(*families: Family) -> list[tuple[str, dict[str, str], float]]:
    found = text_string_to_metric_families(openmetrics(families))  # type: ignore[no-untyped-call] # it has no types
    return [(s.name, s.labels, s.value) for family in found for s in family.samples]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_come_out_as_they_were(name: str) -> None:
    family = Family("x", Kind.GAUGE, 'with "quotes"\nand lines', "", [Sample({"host": name}, 2)])
    assert parsed(family) == [("x", {"host": name}, 2)]


def test_what_is_no_unicode_is_replaced() -> None:
    family = Family("x", Kind.GAUGE, "", "", [Sample({"host": "a\udcff"}, 2)])
    assert parsed(family) == [("x", {"host": "a?"}, 2)]


def test_a_counter_is_a_total() -> None:
    assert parsed(Family("x", Kind.COUNTER, "", "", [Sample({}, 3)])) == [("x_total", {}, 3)]


def test_a_histogram_is_cumulative() -> None:
    buckets = {0.5: 1, inf: 3}
    found = parsed(Family("x_seconds", Kind.HISTOGRAM, "", "seconds", [Sample({}, 4.5, buckets)]))
    assert found == [
        ("x_seconds_bucket", {"le": "0.5"}, 1),
        ("x_seconds_bucket", {"le": "+Inf"}, 3),
        ("x_seconds_count", {}, 3),
        ("x_seconds_sum", {}, 4.5),
    ]


def test_nothing_is_a_text_as_well() -> None:
    assert openmetrics([]) == "# EOF\n"
