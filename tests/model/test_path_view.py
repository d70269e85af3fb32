"""What a view shows, from reads and events in any order that can come."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, strategies as st

from trio_sched.model.keys import KeyRange, PathKeys
from trio_sched.model.path_view import PathView
from trio_sched.model.records import DecisionRecord, Options

KEYS = PathKeys("/p")


@dataclass(frozen=True)
class Key:
    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    lease: int = 7


def kv(key: bytes, value: bytes = b"", revision: int = 1, lease: int = 7) -> Key:
    return Key(key, value, revision, revision, lease)


def record(*names: str, leader: str = "l", fence: int = 1) -> bytes:
    hosts = dict.fromkeys(names, 7)
    return DecisionRecord(hosts, leader, fence, "", Options(2).as_json()).encode()


def view_of(*found: Key, revision: int = 5, covered: KeyRange = KEYS.everything) -> PathView:
    view = PathView(KEYS)
    view.load(covered, found, revision)
    return view


# ---- the decision ------------------------------------------------------------------------


def test_both_halves_of_one_write_are_one_decision() -> None:
    view = view_of(kv(KEYS.scheduled, b"a,b", 4), kv(KEYS.record, record("a", "b"), 4))
    assert view.decision.hosts == ("a", "b")
    assert view.decision.record is not None
    assert (view.hosts.leader, view.hosts.fence, view.hosts.revision) == ("l", 1, 4)
    assert view.decision.revision == 5
    assert view.known


def test_a_record_of_another_write_does_not_count() -> None:
    view = view_of(kv(KEYS.scheduled, b"b", 4, lease=0), kv(KEYS.record, record("a"), 3))
    assert (view.decision.hosts, view.decision.record) == (("b",), None)
    assert view.hosts.leader is None


def test_a_record_alone_is_an_empty_decision_if_it_names_no_host() -> None:
    assert view_of(kv(KEYS.record, record(), 4)).decision.record is not None
    assert view_of(kv(KEYS.record, record("a"), 4)).decision.record is None


def test_nothing_is_known_of_a_path_without_a_decision() -> None:
    view = view_of(kv(KEYS.host("a")))
    assert not view.known
    assert not view.hosts
    assert view.hosts.revision == 5


def test_a_decision_that_is_deleted_is_empty_as_of_its_deletion() -> None:
    view = view_of(kv(KEYS.scheduled, b"a", 4), kv(KEYS.record, record("a"), 4))
    view.delete(KEYS.scheduled, 9)
    view.delete(KEYS.record, 9)
    view.advance(KEYS.everything, 9)
    assert (view.hosts, view.hosts.revision) == ((), 9)
    assert view.known


def test_a_neighbour_between_both_halves_is_neither() -> None:
    view = view_of(kv(KEYS.scheduled + b"-x", b"z", 3), covered=KEYS.decision)
    assert view.hosts == ()
    assert not view.known
    assert view.decision_lease == 0


# ---- ranges ------------------------------------------------------------------------------


def test_an_older_read_is_ignored() -> None:
    view = view_of(kv(KEYS.scheduled, b"b", 8), revision=9, covered=KEYS.decision)
    view.load(KEYS.decision, [kv(KEYS.scheduled, b"a", 4)], 5)
    assert view.hosts == ("b",)
    assert view.revision == 9


def test_ranges_are_known_each_up_to_its_own_revision() -> None:
    view = PathView(KEYS)
    own = KeyRange.of(KEYS.host("a"))
    view.load(KEYS.decision, [], 5)
    view.load(own, [kv(KEYS.host("a"), revision=5)], 8)
    assert view.covered == {KEYS.decision: 5, own: 8}
    assert view.revision == 8
    assert view.decision.revision == 5, "what is known of another key says nothing of it"
    view.load(KEYS.decision, [kv(KEYS.scheduled, b"a", 6)], 6)  # newer than what was known of it
    assert view.hosts == ("a",)


def test_a_range_is_given_up_but_for_what_another_one_covers() -> None:
    view = view_of(kv(KEYS.scheduled, b"a", 4), covered=KEYS.decision)
    view.load(KEYS.leading, [kv(KEYS.scheduled, b"a", 4), kv(KEYS.host("a"))], 6)
    view.uncover(KEYS.decision)
    assert view.hosts == ("a",)
    assert view.covers(KEYS.host("a"))
    view.uncover(KEYS.leading)
    assert view.get(KEYS.scheduled) is None
    assert not view.covers(KEYS.scheduled)


# ---- tracking ----------------------------------------------------------------------------


def test_changes_are_kept_only_once_they_are_tracked_and_each_key_once() -> None:
    view = view_of(kv(KEYS.host("a")))
    assert view.take_changes() == {}
    view.track()
    for revision in (6, 7, 8):
        view.put(kv(KEYS.host("b"), b"%d" % revision, revision), revision)
    view.delete(KEYS.host("a"), 8)
    assert view.take_changes() == {KEYS.host("b"): 8, KEYS.host("a"): 8}
    assert view.take_changes() == {}


def test_what_a_read_heals_is_a_change_as_of_the_read() -> None:
    view = view_of(kv(KEYS.host("a"), revision=2), kv(KEYS.host("b"), revision=3))
    view.track()
    view.load(KEYS.everything, [kv(KEYS.host("b"), revision=3), kv(KEYS.host("c"), revision=4)], 9)
    assert view.take_changes() == {KEYS.host("a"): 9, KEYS.host("c"): 9}


# ---- all of it ---------------------------------------------------------------------------

NAMES = [KEYS.scheduled, KEYS.record, KEYS.control, KEYS.host("a"), KEYS.host("b"), KEYS.slot(0)]
steps = st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from([None, b"a", b"a,b", b"{}", record("a")])),
    max_size=30,
)


@given(steps, st.integers(0, 30))
def test_events_lead_to_what_a_read_finds(
    history: list[tuple[bytes, bytes | None]], read: int
) -> None:
    """Begin with a read somewhere in a history, and apply the rest of it, batch by batch."""
    store: dict[bytes, Key] = {}
    view = PathView(KEYS)
    for revision, (key, value) in enumerate(history, start=2):
        if revision - 2 == min(read, len(history) - 1):
            view.load(KEYS.everything, store.values(), revision - 1)
        if value is None:
            store.pop(key, None)
        else:
            store[key] = kv(key, value, revision)
        if KEYS.everything in view.covered:
            if value is None:
                view.delete(key, revision)
            else:
                view.put(store[key], revision)
            view.advance(KEYS.everything, revision)
    if not history:
        return
    fresh = PathView(KEYS)
    fresh.load(KEYS.everything, store.values(), len(history) + 1)
    assert view.state() == fresh.state()
    assert view.decision == fresh.decision
    assert view.within(KEYS.everything) == fresh.within(KEYS.everything)
