"""What both halves of a decision say together, whatever was written into them."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, strategies as st

from trio_sched.model.records import DecisionRecord, encode_scheduled
from trio_sched.model.stored_decision import StoredDecision


@dataclass(frozen=True)
class Key:
    value: bytes
    mod_revision: int
    key: bytes = b"/p/any"
    create_revision: int = 1
    lease: int = 7


names = st.lists(st.sampled_from("abc"), max_size=3, unique=True)
values = st.binary(max_size=8) | names.map(
    lambda hosts: DecisionRecord(dict.fromkeys(hosts, 7), "l", 1, "", {}).encode()
)
halves = st.none() | st.builds(Key, values, st.integers(1, 3))


@given(halves, halves)
def test_nothing_that_is_stored_makes_it_raise(scheduled: Key | None, record: Key | None) -> None:
    stored = StoredDecision.pair(scheduled, record, 9)
    assert stored.mod_revision == (0 if scheduled is None else scheduled.mod_revision)
    assert stored.revision == 9
    if stored.record is not None:
        assert record is not None
        if scheduled is None:
            assert not stored.record.hosts
        else:
            assert record.mod_revision == scheduled.mod_revision


@given(names)
def test_what_a_leader_writes_is_what_is_read(hosts: list[str]) -> None:
    record = DecisionRecord(dict.fromkeys(hosts, 7), "l", 5, "why", {})
    scheduled = Key(encode_scheduled(hosts), 4) if hosts else None
    stored = StoredDecision.pair(scheduled, Key(record.encode(), 4), 9)
    assert set(stored.hosts) == set(hosts)
    assert stored.record == record
    shown = stored.for_readers(4)
    assert (shown.leader, shown.fence, shown.revision) == ("l", 5, 4)
