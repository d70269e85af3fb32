"""Names of keys, and the checks of paths and host names."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from trio_sched.model.keys import KeyRange, PathKeys, check_hostname, check_path

KEYS = PathKeys("/jobs/backup")


def within(key: bytes, prefix: bytes) -> bool:
    """Whether the range below this prefix holds the key."""
    return key in KeyRange.below(prefix)


def test_the_range_of_one_key_holds_that_key_alone() -> None:
    one = KeyRange.of(b"/a/scheduled")
    assert b"/a/scheduled" in one
    assert b"/a/scheduled.record" not in one
    assert b"/a/schedule" not in one


def test_both_halves_of_a_decision_lie_in_one_range() -> None:
    assert KEYS.scheduled in KEYS.decision
    assert KEYS.record in KEYS.decision
    assert KEYS.exchange + b"z" not in KEYS.decision
    assert KEYS.slot(0) not in KEYS.decision


def test_a_leader_covers_all_but_the_slots() -> None:
    for key in (KEYS.control, KEYS.candidate(5), KEYS.host("a"), KEYS.scheduled, KEYS.record):
        assert key in KEYS.leading
        assert key in KEYS.everything
    assert KEYS.slot(10**9) not in KEYS.leading
    assert KEYS.slot(10**9) in KEYS.everything


# Few distinct bytes, so that keys meet the prefix, and 0xff often.
some_bytes = st.lists(st.sampled_from([0, 1, 0x61, 0xFE, 0xFF]), max_size=5).map(bytes)


@given(some_bytes, some_bytes)
def test_the_range_holds_exactly_the_keys_with_the_prefix(prefix: bytes, other: bytes) -> None:
    prefix += b"/"  # as all of ours end
    assert within(prefix + other, prefix)
    assert within(other, prefix) == other.startswith(prefix)


def test_the_layout() -> None:
    assert KEYS.exchange == b"/jobs/backup/exchange/"
    assert KEYS.election == b"/jobs/backup/election/"
    assert KEYS.scheduled == b"/jobs/backup/scheduled"
    assert KEYS.record == b"/jobs/backup/scheduled.record"
    assert KEYS.control == b"/jobs/backup/control"
    assert KEYS.slots == b"/jobs/backup/slots/"
    assert KEYS.host("a") == b"/jobs/backup/exchange/a"
    assert PathKeys("/é").host("ü") == "/é/exchange/ü".encode()


@pytest.mark.parametrize(
    ("lease", "name"),
    [(0x694D8, b"694d8"), (1, b"1"), (2**63 - 1, b"7" + b"f" * 15), (-1, b"f" * 16)],
)
def test_a_candidates_key_is_its_lease_in_plain_hex(lease: int, name: bytes) -> None:
    assert KEYS.candidate(lease) == KEYS.election + name


@given(st.binary(max_size=12))
def test_names_of_hosts_go_back_and_forth_whatever_their_bytes(name: bytes) -> None:
    key = KEYS.exchange + name
    assert KEYS.host(KEYS.hostname(key)) == key


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_proper_names_go_back_and_forth(name: str) -> None:
    assert KEYS.hostname(KEYS.host(name)) == name


@given(st.binary(max_size=4), st.binary(max_size=4))
def test_no_two_keys_give_the_same_name(one: bytes, other: bytes) -> None:
    names = [KEYS.hostname(KEYS.exchange + name) for name in (one, other)]
    assert (names[0] == names[1]) == (one == other)


@pytest.mark.parametrize("neighbour", ["/ab", "/a0", "/a-b", "/a.b", "/a/b"])
def test_f29_neighbours_never_see_each_other(neighbour: str) -> None:
    one, other = PathKeys("/a"), PathKeys(neighbour)
    for prefix in (one.exchange, one.election, one.slots):
        for key in (other.host("h"), other.candidate(7), other.slots + b"0", other.scheduled):
            assert not within(key, prefix)
    for prefix in (other.exchange, other.election, other.slots):
        for key in (one.host("h"), one.candidate(7), one.slots + b"0", one.scheduled):
            assert not within(key, prefix)


def test_our_own_keys_are_no_hosts_and_no_candidates() -> None:
    for key in (KEYS.scheduled, KEYS.record, KEYS.control, KEYS.slots + b"0"):
        assert not within(key, KEYS.exchange)
        assert not within(key, KEYS.election)


@pytest.mark.parametrize("path", ["/a", "/a/b", "/é", "/a b", "/a,b"])
def test_good_paths(path: str) -> None:
    assert check_path(path) == path


@pytest.mark.parametrize("path", ["", "/", "a", "a/b", "/a/", "//", "/\udcff", "/a\ud800"])
def test_f29_bad_paths_are_value_errors(path: str) -> None:
    with pytest.raises(ValueError, match="path"):
        check_path(path)


@pytest.mark.parametrize("name", ["a", "host-a.example.org", "ü", "日本", "a b", "[::1]:80"])
def test_good_host_names(name: str) -> None:
    assert check_hostname(name) == name


@pytest.mark.parametrize("name", ["", ",", "a,b", "/", "a/b", "\udcff", "a\ud800"])
def test_f29_bad_host_names_are_value_errors(name: str) -> None:
    with pytest.raises(ValueError, match="hostname"):
        check_hostname(name)


@pytest.mark.parametrize("junk", [None, 1, b"/a", ["/a"], object()])
def test_f29_what_is_no_string_is_a_type_error(junk: str) -> None:
    with pytest.raises(TypeError, match="path must be a str"):
        check_path(junk)
    with pytest.raises(TypeError, match="hostname must be a str"):
        check_hostname(junk)


@pytest.mark.parametrize("number", ["", "x", "-1", "1_0", "9" * 19, "9" * 5000])
def test_f64_what_is_no_number_of_a_slot_harms_nobody(number: str) -> None:
    keys = PathKeys("/a")
    assert keys.slot_number(keys.slots + number.encode()) is None
    assert keys.slot_number(keys.slot(10**6)) == 10**6
