"""What operators want: written, read again, and what others wrote never raises."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from trio_sched.model.control_state import ControlState, Eviction, Note
from trio_sched.model.records import DecisionRecord

names = st.text("aé日\udcff", min_size=1, max_size=3)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text("aé", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab"), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.text("abc", min_size=1, max_size=3), json_values, max_size=3)
states = st.builds(
    ControlState,
    st.booleans(),
    st.frozensets(names, max_size=3),
    st.none() | st.integers(1, 9),
    st.dictionaries(
        names, st.builds(Eviction, st.integers(1), st.integers(0, 2**63 - 1), objects), max_size=3
    ),
    st.dictionaries(names, objects, max_size=3),
    objects,
)


def decoded(**fields: object) -> ControlState:
    return ControlState.decode(json.dumps(fields).encode())


@given(states)
def test_it_goes_back_and_forth(state: ControlState) -> None:
    read = ControlState.decode(state.encode(), 7)
    assert read == state
    assert read.revision == 7
    assert read.encode() == state.encode()


def test_on_the_wire() -> None:
    state = (
        ControlState()
        .pause(Note("alice", "2026-01-02T03:04:05Z", "upgrade"))
        .drain("b")
        .drain("a", Note(by="bob"))
        .set_count(3)
        .evict("c", revision=12, lease=255)
        .evict("d", revision=13)
    )
    assert json.loads(state.encode()) == {
        "paused": True,
        "drained": ["a", "b"],
        "max_count": 3,
        "evict": {"c": {"revision": 12, "lease": "ff"}, "d": {"revision": 13}},
        "notes": {
            "paused": {"by": "alice", "when": "2026-01-02T03:04:05Z", "why": "upgrade"},
            "drained/a": {"by": "bob"},
        },
    }
    assert ControlState().encode() == b"{}"


@pytest.mark.parametrize("value", [None, b"", b"TODO", b"\xff", b"[1]", b"null", b"[" * 100_000])
def test_what_does_not_parse_wants_nothing(value: bytes | None) -> None:
    assert ControlState.decode(value, 3) == ControlState()
    assert ControlState.decode(value, 3).revision == 3


@pytest.mark.parametrize(
    "junk",
    [
        {"paused": 1},
        {"paused": "true"},
        {"drained": "a"},
        {"drained": {"a": 1}},
        {"drained": [1, None, "", ["a"]]},
        {"max_count": 0},
        {"max_count": True},
        {"max_count": 2.0},
        {"max_count": "2"},
        {"evict": ["a"]},
        {"evict": {"a": 1, "": {"revision": 1}, "b": {}, "c": {"revision": "1"}}},
        {"evict": {"a": {"revision": 1, "lease": 5}, "b": {"revision": 1, "lease": "xyz"}}},
        {"evict": {"a": {"revision": True}}},
        {"notes": [1]},
        {"notes": {"paused": "alice"}},
    ],
)
def test_junk_wants_nothing(junk: dict[str, object]) -> None:
    assert decoded(**junk) == ControlState()


@given(st.binary(max_size=40) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_value_can_be_read_and_written_again(value: bytes) -> None:
    state = ControlState.decode(value)
    assert ControlState.decode(state.encode()) == state


def test_what_a_newer_version_wrote_is_kept() -> None:
    newer = {
        "paused": True,
        "until": {"when": "tomorrow"},
        "evict": {"a": {"revision": 4, "lease": "1f", "to": "b"}},
        "notes": {"paused": {"by": "alice", "ticket": 7}},
    }
    state = decoded(**newer)
    assert json.loads(state.encode()) == newer
    changed = json.loads(state.drain("x").encode())
    assert changed == newer | {"drained": ["x"]}


def test_each_wish_can_be_taken_back_and_so_can_its_note() -> None:
    note = Note("alice")
    state = ControlState().pause(note).drain("a", note).set_count(2, note)
    assert (state.note("paused"), state.note("drained/a"), state.note("max_count")) == (note,) * 3
    assert state.resume().undrain("a").set_count(None) == ControlState()
    assert state.undrain("nobody") == state
    assert state.pause().note("paused") is None  # wanted anew, by an operator who did not say


def test_notes_are_clipped_and_junk_in_them_is_empty() -> None:
    assert decoded(notes={"paused": {"by": 3, "when": "x" * 999}}).note("paused") == Note(
        "", "x" * 199 + "…"
    )
    state = ControlState().pause(Note("bad \udcff\ud800", why="y" * 999))
    assert state.note("paused") == Note("bad ??", "", "y" * 199 + "…")
    assert ControlState().note("paused") is None


def test_only_the_newest_evictions_are_kept_with_their_notes() -> None:
    state = ControlState()
    for at in range(1, 150):
        state = state.evict(f"h{at}", revision=at, note=Note("alice")).pause(Note("bob"))
    assert set(state.evictions) == {f"h{at}" for at in range(50, 150)}
    assert set(state.notes) == {f"evict/h{at}" for at in range(50, 150)} | {"paused"}
    again = state.evict("h60", revision=200, lease=3)
    assert again.evictions["h60"] == Eviction(200, 3)
    assert len(again.evictions) == 100


@pytest.mark.parametrize(
    ("method", "arguments", "error", "words"),
    [
        ("drain", {"name": ""}, ValueError, "must not be empty"),
        ("drain", {"name": 3}, TypeError, "a host's name must be a str, not int"),
        ("drain", {"name": "\ud800"}, ValueError, "surrogates not allowed"),
        ("undrain", {"name": ""}, ValueError, "must not be empty"),
        ("set_count", {"max_count": 0}, ValueError, "max_count must be 1 or more, not 0"),
        ("set_count", {"max_count": True}, TypeError, "max_count must be an int"),
        ("set_count", {"max_count": "2"}, TypeError, "max_count must be an int"),
        ("evict", {"name": "", "revision": 1}, ValueError, "must not be empty"),
        ("evict", {"name": "a", "revision": 0}, ValueError, "revision must be 1 or more"),
        ("evict", {"name": "a", "revision": True}, TypeError, "revision must be an int"),
        ("pause", {"note": Note(by=3)}, TypeError, "by of a note must be a str"),  # type: ignore[arg-type]
    ],
)
def test_what_is_not_allowed_is_refused(
    method: str, arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        getattr(ControlState(), method)(**arguments)


def test_whether_a_leader_knows_it_is_in_the_record() -> None:
    def record(**options: object) -> DecisionRecord:
        return DecisionRecord({}, "a", 1, "", options)

    state, absent = ControlState.decode(b"{}", 7), ControlState.decode(None)
    assert state.known_to(record(control={"revision": 7}))
    assert state.known_to(record(control={"revision": 9}))
    assert not state.known_to(record(control={"revision": 6}))
    assert not state.known_to(record(control={"revision": "x"}))
    assert not state.known_to(record(control=3))
    assert not state.known_to(record())
    assert not state.known_to(None)  # of a Go leader
    assert absent.known_to(record())
    assert not absent.known_to(record(control={"revision": 6}))
    assert not absent.known_to(None)


def test_a_state_that_etcd_would_refuse_is_not_written() -> None:
    state = ControlState(drained=frozenset(f"{at:0200}" for at in range(3000)))
    with pytest.raises(ValueError, match="undrain some hosts"):
        state.encode()
    for levels in (101, 5000, 100_000):
        with pytest.raises(ValueError, match="nested too deeply"):
            ControlState(extra=nested(levels)).encode()


def nested(levels: int) -> dict[str, object]:
    """Return an object of so many levels; something else lies on each."""
    inner: list[object] = [1]
    for _ in range(levels - 2):
        inner = [1, inner]
    return {"deep": inner}


def test_how_deep_a_state_may_be_does_not_depend_on_python() -> None:
    most = ControlState(paused=True, extra=nested(100))
    assert ControlState.decode(most.encode(), 1).extra == nested(100)
    deeper = json.dumps({"paused": True, **nested(101)}).encode()
    assert ControlState.decode(deeper, 1) == ControlState.decode(b"{}", 1)
    flat = ControlState(extra={"many": [[]] * 1000})
    assert ControlState.decode(flat.encode(), 1).extra == flat.extra
