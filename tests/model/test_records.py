"""What is written into etcd can be read again; what others wrote never raises."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, strategies as st

from trio_sched.model import records
from trio_sched.model.records import (
    DecisionRecord,
    Host,
    Hosts,
    Options,
    decode_scheduled,
    encode_host,
    encode_scheduled,
)

# Names as they come out of keys: any bytes but the comma, decoded with surrogateescape.
raw_names = st.binary(min_size=1, max_size=6).filter(lambda raw: b"," not in raw)
names = raw_names.map(lambda raw: raw.decode(errors="surrogateescape"))
leases = st.integers(0, 2**63 - 1)
scalars = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text("aé\u2028日", max_size=4)
)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab"), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.text("abc", max_size=3), json_values, max_size=4)
json_junk = json_values.map(lambda value: json.dumps(value).encode())
junk = st.binary(max_size=40) | json_junk


def raw(name: str) -> bytes:
    return name.encode(errors="surrogateescape")


# scheduled


@given(st.sets(names, min_size=1))
def test_scheduled_goes_back_and_forth(chosen: set[str]) -> None:
    value = encode_scheduled(chosen)
    assert decode_scheduled(value) == tuple(sorted(chosen, key=raw))
    assert value == b",".join(sorted(raw(name) for name in chosen))


def test_scheduled_is_sorted_bytewise_each_once_without_spaces() -> None:
    assert encode_scheduled(["\uffff", "b", "B", "\U00010000", "b"]) == (
        "B,b,\uffff,\U00010000".encode()
    )
    assert decode_scheduled(b"b,a,b") == ("a", "b")


def test_an_empty_decision_has_no_value() -> None:
    with pytest.raises(ValueError, match="delete the key instead"):
        encode_scheduled([])


@pytest.mark.parametrize("name", ["", "a,b", ","])
def test_f29_names_that_would_read_as_others_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        encode_scheduled(["a", name])


@pytest.mark.parametrize("value", [b"", b",", b",,,"])
def test_nobody_is_read_as_nobody(value: bytes) -> None:
    assert decode_scheduled(value) == ()


@given(st.binary())
def test_any_scheduled_can_be_read(value: bytes) -> None:
    read = decode_scheduled(value)
    assert list(map(raw, read)) == sorted({name for name in value.split(b",") if name})


# hosts


@given(objects, st.integers(1, 99), st.none() | st.frozensets(names))
def test_a_hosts_value_goes_back_and_forth(
    data: dict[str, object], max_count: int, hosts_filter: frozenset[str] | None
) -> None:
    options = Options(max_count, "alpha", hosts_filter)
    host = Host.decode("a", encode_host(options, data), lease=7, joined_revision=9)
    assert (host.name, host.lease, host.joined_revision) == ("a", 7, 9)
    assert host.data == data
    assert host.options == options.as_json()


def test_a_host_without_data() -> None:
    host = Host.decode("a", encode_host(Options()), lease=7, joined_revision=9)
    assert host.data == {}
    assert host.options == {"max_count": 1, "strategy": "rr"}
    assert Host("a") == Host.decode("a", b"TODO", lease=0, joined_revision=0)


def test_a_time_is_told_and_nothing_else_in_its_place() -> None:
    when = "2026-01-02T03:04:05+00:00"
    value = encode_host(Options(), {}, when)
    assert Host.decode("a", value, lease=0, joined_revision=0).since == when
    record = DecisionRecord({"a": 1}, "a", 2, when=when)
    found = DecisionRecord.decode(record.encode())
    assert found is not None
    assert found.when == when
    assert found == DecisionRecord({"a": 1}, "a", 2), "who compares decisions does not mind"
    for since in ("now", "2026-01-02", when + "\x1b[2J", 12, None, ["x"]):
        value = json.dumps({"since": since}).encode()
        assert Host.decode("a", value, lease=0, joined_revision=0).since == ""


def test_what_a_host_published_is_read_only() -> None:
    host = Host.decode("a", b'{"data":{"x":1}}', lease=0, joined_revision=0)
    with pytest.raises(TypeError):
        host.data["x"] = 2  # type: ignore[index]
    with pytest.raises(TypeError):
        Host("a").options["x"] = 2  # type: ignore[index]


half_junk = st.fixed_dictionaries(
    {},
    optional={
        "data": json_values,
        "options": json_values,
        "hosts": json_values,
        "leader": json_values,
        "fence": json_values,
        "reason": json_values,
        "since": json_values,
        "when": json_values,
    },
).map(lambda value: json.dumps(value).encode())


@given(junk | half_junk)
def test_junk_never_raises(value: bytes) -> None:
    host = Host.decode("a", value, lease=1, joined_revision=2)
    assert isinstance(dict(host.data), dict)
    assert isinstance(dict(host.options), dict)
    DecisionRecord.decode(value)


@pytest.mark.parametrize(
    "value",
    [
        b"TODO",
        b"",
        b"\xff\xfe",
        b"\xef\xbb\xbf{}",
        b"[" * 100_000,
        b'{"data":' * 100_000,
        b'{"data":{"n":' + b"9" * 5000 + b"}}",
        b'{"data":{"x":"\\ud800"}}',  # half a character
        b'{"data":[1]}',
        b"null",
    ],
)
def test_what_does_not_parse_is_a_host_without_data(value: bytes) -> None:
    assert Host.decode("a", value, lease=1, joined_revision=2) == Host("a", 1, 2)


# records


@given(st.dictionaries(names, leases, max_size=4), names, leases, st.text("ab, "), objects)
def test_a_record_goes_back_and_forth(
    hosts: dict[str, int], leader: str, fence: int, reason: str, options: dict[str, object]
) -> None:
    record = DecisionRecord(hosts, leader, fence, reason, options)
    read = DecisionRecord.decode(record.encode())
    assert read == record
    assert read is not None
    assert list(read.hosts) == list(hosts)  # in the strategy's own order


def test_a_record_on_the_wire() -> None:
    record = DecisionRecord({"b": 255, "a": 1}, "l", 7, "elected", Options(2).as_json())
    assert json.loads(record.encode()) == {
        "hosts": {"b": "ff", "a": "1"},
        "leader": "l",
        "fence": 7,
        "reason": "elected",
        "options": {"max_count": 2, "strategy": "rr"},
    }


GOOD: dict[str, object] = {"hosts": {"a": "ff"}, "leader": "l", "fence": 7, "reason": "r"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hosts", None),
        ("hosts", ["a"]),
        ("hosts", "a"),
        ("hosts", {"a": "xyz"}),
        ("hosts", {"a": None}),
        ("hosts", {"a": 10}),  # ten or sixteen?
        ("hosts", {"a": [[]]}),
        ("hosts", {"\ud800": "1"}),
        ("leader", 3),
        ("leader", None),
        ("leader", "\udbff"),
        ("fence", "7"),
        ("fence", 7.0),
        ("fence", True),
        ("reason", 3),
        ("reason", None),
    ],
)
def test_what_is_not_a_record(field: str, value: object) -> None:
    assert DecisionRecord.decode(json.dumps(GOOD).encode()) is not None
    assert DecisionRecord.decode(json.dumps(GOOD | {field: value}).encode()) is None


@pytest.mark.parametrize("field", ["hosts", "leader", "fence"])
def test_a_record_lacks_something(field: str) -> None:
    rest = {key: value for key, value in GOOD.items() if key != field}
    assert DecisionRecord.decode(json.dumps(rest).encode()) is None


def test_reason_and_options_may_be_missing() -> None:
    rest = {key: value for key, value in GOOD.items() if key != "reason"}
    read = DecisionRecord.decode(json.dumps(rest).encode())
    assert read == DecisionRecord({"a": 255}, "l", 7)


def test_deep_nesting_in_a_record_never_raises() -> None:
    """Also where the parser has just enough stack left and what comes after it has not."""
    for depth in range(1, 1200):
        value = b'{"leader":"l","fence":1,"hosts":{"a":' + b"[" * depth + b"]" * depth + b"}}"
        assert DecisionRecord.decode(value) is None
        assert DecisionRecord.decode(value.replace(b"[]", b'["\\u0061"]')) is None


@given(st.text(max_size=20), st.text(max_size=5))
def test_what_was_decoded_can_be_encoded(text: str, name: str) -> None:
    value = json.dumps(GOOD | {"reason": text, "hosts": {name: "1"}}).encode()
    read = DecisionRecord.decode(value)
    assert read is not None
    assert DecisionRecord.decode(read.encode()) == read


# decisions as readers see them


def test_hosts_is_a_sorted_tuple_with_attributes() -> None:
    hosts = Hosts(["\U00010000", "\uffff", "b"], revision=3, leader="l", fence=7)
    assert (hosts.revision, hosts.leader, hosts.fence) == (3, "l", 7)
    assert hash(hosts) == hash(tuple(hosts))
    assert hosts == ("b", "\uffff", "\U00010000")
    assert repr(Hosts(["a"], revision=1)) == "Hosts(['a'], revision=1, leader=None, fence=None)"
    assert Hosts() == ()
    assert not Hosts()


@given(st.sets(names))
def test_hosts_sorts_as_scheduled_does(chosen: set[str]) -> None:
    assert Hosts(chosen) == (decode_scheduled(encode_scheduled(chosen)) if chosen else ())


def test_options_as_published() -> None:
    assert Options().as_json() == {"max_count": 1, "strategy": "rr"}
    assert Options(2, "alpha", frozenset("ba")).as_json() == {
        "max_count": 2,
        "strategy": "alpha",
        "hosts_filter": ["a", "b"],
    }


def test_the_public_names_exist() -> None:
    assert all(hasattr(records, name) for name in records.__all__)
