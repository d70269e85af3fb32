"""Names by OpenMetrics' rules, and docs/metrics.md has each."""

from __future__ import annotations

import re
from math import inf

import pytest

from tests.places import DOCS, TESTS
from trio_sched import ResultStatistics
from trio_sched.etcd_shim import ChannelStatistics
from trio_sched.metrics import Family, Kind
from trio_sched.metrics.families import CLIENTS, HOSTS, WRITES, HostNumbers, families_of

PAGE = DOCS.joinpath("metrics.md").read_text()
NAMES = [*(m.name for m in HOSTS), *(m.name for m in CLIENTS), WRITES[0]]


def numbers(**fields: object) -> ResultStatistics:
    """Statistics of a host that has just joined, but for some fields."""
    plain: dict[str, object] = {"decisions": 0, "returned": 0, "sessions": 1, "leading": False}
    return ResultStatistics(**(plain | {"healed": 0, "deadline": -inf} | fields))  # type: ignore[arg-type] # checked by the tests


def of_host(now: float = 100.0, **fields: object) -> dict[str, Family]:
    found = families_of([HostNumbers("/p", "a", numbers(**fields), now)], [])
    return {family.name: family for family in found}


@pytest.mark.parametrize("name", NAMES)
def test_names_are_by_the_rules(name: str) -> None:
    assert re.fullmatch(r"trio_sched(_[a-z]+)+", name)
    # These are given to samples, and belong to no family's name.
    assert not re.search(r"_(total|created|count|sum|bucket|info)$", name)


def test_no_name_is_there_twice() -> None:
    assert len(NAMES) == len(set(NAMES))


def test_a_unit_ends_the_name() -> None:
    for metric in HOSTS:
        assert metric.name.endswith("_seconds") == (metric.unit == "seconds")


def test_the_page_has_each_name() -> None:
    counters = {m.name for m in HOSTS if m.kind is Kind.COUNTER}
    counters |= {m.name for m in CLIENTS if m.kind is Kind.COUNTER}
    there = {f"{name}_total" if name in counters else name for name in NAMES}
    assert set(re.findall(r"^\| `(trio_sched_\w+)`", PAGE, re.MULTILINE)) == there


def test_every_test_that_the_page_names_exists() -> None:
    there = {
        name
        for file in TESTS.rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text(), re.MULTILINE)
    }
    named = set(re.findall(r"\btest_\w+", PAGE))
    assert len(named) > 3
    assert not named - there


@pytest.mark.parametrize(("deadline", "value"), [(100.5, 1), (100.0, 0), (-inf, 0)])
def test_scheduled_asks_the_clock(deadline: float, value: int) -> None:
    assert of_host(deadline=deadline)["trio_sched_scheduled"].samples[0].value == value


def test_causes_are_labels() -> None:
    samples = of_host(losses={"key_gone": 2, "deadline": 1})["trio_sched_session_losses"].samples
    assert [(s.labels["cause"], s.value) for s in samples] == [("deadline", 1), ("key_gone", 2)]
    assert {(s.labels["path"], s.labels["host"]) for s in samples} == {("/p", "a")}


def test_what_has_no_sample_is_left_out() -> None:
    assert not {"trio_sched_renewal_age_seconds", "trio_sched_works_ended"} & of_host().keys()
    assert families_of([], []) == []


def test_the_age_of_a_renewal_is_never_negative() -> None:
    family = of_host(renewed_at=101.0)["trio_sched_renewal_age_seconds"]
    assert family.samples[0].value == 0


def test_clients_differ_by_a_number() -> None:
    channel = ChannelStatistics((), 3, "http://x:1", (), 7, 2, 5)
    found = families_of([], [({"client": "0"}, channel), ({"client": "1"}, channel)])
    by_name = {family.name: [s.value for s in family.samples] for family in found}
    assert by_name["trio_sched_etcd_calls"] == [7, 7]
    assert by_name["trio_sched_etcd_reconnections"] == [2, 2]
    assert "http" not in repr([s.labels for family in found for s in family.samples])
