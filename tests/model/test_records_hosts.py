"""What hosts say of themselves: what is allowed, published, and read again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from trio_sched.model.records import Host, HostData, Options, encode_host

weights = st.floats(1e-6, 1e6) | st.integers(1, 10**6)
zones = st.none() | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=255)
priorities = st.integers(-(2**31), 2**31 - 1)
reasons = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("aé日")
free = st.dictionaries(
    st.text("abc", max_size=3),
    st.recursive(
        scalars.filter(lambda value: value not in {float("inf"), float("-inf")}),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab"), inner),
        max_leaves=6,
    ),
    max_size=4,
)


def decoded(value: bytes) -> Host:
    return Host.decode("a", value, lease=7, joined_revision=9)


def published(**fields: object) -> Host:
    return decoded(json.dumps(fields).encode())


@given(weights, zones, priorities, free, st.booleans(), reasons)
def test_what_a_host_tells_goes_back_and_forth(
    weight: float,
    zone: str | None,
    priority: int,
    data: dict[str, object],
    available: bool,
    reason: str,
) -> None:
    said = HostData(weight, zone, priority, data, available, reason)
    host = decoded(encode_host(Options(), said))
    assert (host.weight, host.zone, host.priority) == (weight, zone, priority)
    assert (host.data, host.available, host.reason) == (data, available, reason)
    assert host.options == Options().as_json()


def test_defaults_are_left_out() -> None:
    options = Options().as_json()
    assert json.loads(encode_host(Options())) == {"options": options}
    assert json.loads(encode_host(Options(), HostData(1))) == {"options": options}
    said = HostData(2, "z", -3, {"gpu": 1}, available=False, reason="disk full")
    assert json.loads(encode_host(Options(), said)) == {
        "data": {"gpu": 1},
        "weight": 2.0,
        "zone": "z",
        "priority": -3,
        "available": False,
        "reason": "disk full",
        "options": options,
    }


def test_trouble_is_clipped_and_not_compared() -> None:
    well, ill = (decoded(encode_host(Options(), trouble=words)) for words in ("", "x" * 300))
    assert (well.trouble, ill.trouble) == ("", "x" * 199 + "…")
    assert well == ill
    assert decoded(b'{"trouble": 7}').trouble == ""
    assert decoded(encode_host(Options(), trouble="\udcff")).trouble == "?"


def test_a_host_that_tells_nothing_is_like_every_other() -> None:
    host = decoded(b"TODO")
    assert (host.weight, host.zone, host.priority) == (1.0, None, 0)
    assert (host.data, host.available, host.reason) == ({}, True, "")


@pytest.mark.parametrize(
    "junk",
    [
        {"weight": "3"},
        {"weight": True},
        {"weight": 0},
        {"weight": -1},
        {"weight": 10**400},
        {"weight": 2e6},
        {"weight": 1e-7},
        {"weight": [1]},
        {"zone": ""},
        {"zone": 3},
        {"zone": "z" * 256},
        {"zone": ["z"]},
        {"priority": "1"},
        {"priority": 1.0},
        {"priority": True},
        {"priority": 2**31},
        {"priority": -(2**31) - 1},
        {"available": 0},
        {"available": "false"},
        {"available": None},
        {"reason": 3},
        {"data": [1]},
    ],
)
def test_junk_reads_as_the_default(junk: dict[str, object]) -> None:
    assert published(**junk) == decoded(b"{}")


@pytest.mark.parametrize("value", [b'{"weight":NaN}', b'{"weight":Infinity}', b'{"zone":"\xff"}'])
def test_junk_that_only_bytes_can_say(value: bytes) -> None:
    assert decoded(value) == decoded(b"{}")


@given(
    st.dictionaries(st.text("ab"), st.lists(st.floats() | scalars, max_size=3), max_size=3),
    st.sampled_from(["1", "1e999", "-1e999", "[1e400]", '{"a":-Infinity}']),
)
def test_what_no_json_can_say_is_not_shown_either(data: dict[str, object], more: str) -> None:
    """As Python reads and writes it, and other programs, browsers for one, do not."""
    value = f'{{"data":{json.dumps(data | {"c": 0})[:-1]},"d":{more}}},"options":{{"x":{more}}}}}'
    host = decoded(value.encode())
    assert host.data.keys() == data.keys() | {"c", "d"}
    assert json.dumps([dict(host.data), dict(host.options)], allow_nan=False)


def test_a_long_reason_is_clipped_where_it_is_written_and_where_it_is_read() -> None:
    written = HostData(reason="x" * 5000).reason
    assert written == published(reason="x" * 5000).reason == "x" * 199 + "…"
    assert HostData(reason="x" * 200).reason == "x" * 200
    assert HostData(reason="bad \ud800 \udcff").reason == "bad ? ?"


@pytest.mark.parametrize(
    ("bad", "error", "words"),
    [
        ({"weight": "1"}, TypeError, "weight must be a number, not str"),
        ({"weight": True}, TypeError, "weight must be a number, not bool"),
        ({"weight": 0}, ValueError, "weight must be from 1e-06 to 1e\\+06"),
        ({"weight": -1.0}, ValueError, "weight must be from"),
        ({"weight": float("nan")}, ValueError, "weight must be from"),
        ({"weight": float("inf")}, ValueError, "weight must be from"),
        ({"weight": 10**5000}, ValueError, "weight must be from"),
        ({"zone": 3}, TypeError, "zone must be a str or None, not int"),
        ({"zone": ""}, ValueError, "zone must be text of 1 to 255 characters"),
        ({"zone": "z" * 256}, ValueError, "zone must be text of 1 to 255"),
        ({"zone": "\udcff"}, ValueError, "zone must be text"),
        ({"priority": 1.5}, TypeError, "priority must be an int, not float"),
        ({"priority": False}, TypeError, "priority must be an int, not bool"),
        ({"priority": 2**31}, ValueError, "priority must be from -2147483648 to 2147483647"),
        ({"priority": 10**5000}, ValueError, "priority must be from"),
        ({"data": [1]}, TypeError, "data must be a mapping, not list"),
        ({"data": {1: 2}}, TypeError, "keys must be str, not int"),
        ({"data": {"a": [{"b": {None: 1}}]}}, TypeError, "keys must be str, not NoneType"),
        ({"data": {"a": object()}}, TypeError, "data must be what JSON can hold"),
        ({"data": {"a": b"x"}}, TypeError, "data must be what JSON can hold"),
        ({"data": {"a": float("nan")}}, ValueError, "data must be what JSON can hold"),
        ({"data": {"a": "\ud800"}}, ValueError, "data cannot be encoded as UTF-8"),
        ({"data": {"a": "x" * 65_536}}, ValueError, "at most 65536 bytes as JSON, not 65545"),
        ({"available": 1}, TypeError, "available must be a bool, not int"),
        ({"reason": None}, TypeError, "reason must be a str, not NoneType"),
    ],
)
def test_what_is_not_allowed_is_refused(
    bad: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        HostData(**bad)


def test_data_that_is_too_deep_or_holds_itself_is_refused() -> None:
    deep: list[object] = []
    for _ in range(88):
        deep = [deep]
    data: dict[str, object] = {"a": deep}  # ninety levels
    assert decoded(encode_host(Options(), HostData(data=data))).data == data
    deep = [deep]
    circle: dict[str, object] = {}
    circle["me"] = circle
    for too_deep in ({"a": deep}, circle):
        with pytest.raises(ValueError, match="nested too deeply"):
            HostData(data=too_deep)


def test_data_is_a_read_only_copy() -> None:
    mine = {"list": [1]}
    said = HostData(data=mine)
    mine["list"].append(2)
    assert said.data == {"list": [1]}
    with pytest.raises(TypeError):
        said.data["x"] = 1  # type: ignore[index]


def test_a_mapping_alone_is_taken_for_data() -> None:
    assert decoded(encode_host(Options(), {"a": 1})).data == {"a": 1}
    with pytest.raises(TypeError, match="data must be a mapping"):
        encode_host(Options(), ["a"])  # type: ignore[arg-type]
