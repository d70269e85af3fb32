"""A roster refuses the tokens of slots that are gone, and of no other."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from trio_sched import Roster


@pytest.mark.parametrize("roster", [Roster(), Roster(7), Roster(12, frozenset({12, 3, 9}))])
def test_it_is_read_back_from_its_text(roster: Roster) -> None:
    assert Roster.parse(str(roster)) == roster


def test_its_text_is_the_revision_and_the_tokens() -> None:
    assert str(Roster(12, frozenset({12, 3, 9}))) == "12 3 9 12"


@pytest.mark.parametrize("text", ["", " ", "x", "1 2 x", "-1", "1  2", "1\n2", "1 2 ", "¹", "1.5"])
def test_another_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a revision and tokens"):
        Roster.parse(text)


@pytest.mark.parametrize("text", [None, 5, b"1 2", ["1"]])
def test_what_is_no_text_is_a_type_error(text: object) -> None:
    with pytest.raises(TypeError, match="text must be"):
        Roster.parse(text)  # type: ignore[arg-type]


@pytest.mark.parametrize("token", [None, "5", 5.0, True])
def test_a_token_is_a_number(token: object) -> None:
    with pytest.raises(TypeError, match="token must be"):
        Roster(3).admits(token)  # type: ignore[arg-type]


class Store:
    """What is written to outside of etcd, as docs/guarantees.md has it."""

    def __init__(self) -> None:
        self._newest = Roster()

    def accepts(self, token: int, roster: Roster) -> bool:
        if roster.revision > self._newest.revision:
            self._newest = roster
        return self._newest.admits(token)


@given(st.lists(st.tuples(st.sampled_from("tfrw"), st.integers(0, 9))))
def test_f59_what_is_held_is_accepted_and_what_a_roster_has_seen_gone_is_not(
    plan: list[tuple[str, int]],
) -> None:
    """Any of those that ever held a slot writes, with the newest roster that it has read."""
    revision, held = 1, set[int]()
    rosters: dict[int, Roster] = {}  # of each holder, also of those that are frozen
    store, seen = Store(), Roster()
    for action, choice in plan:
        revision += 1
        if action == "t":
            held.add(revision)
            rosters[revision] = Roster(revision, frozenset(held))
        elif action == "f" and held:
            held.remove(sorted(held)[choice % len(held)])
        elif action == "r" and held:
            rosters[sorted(held)[choice % len(held)]] = Roster(revision, frozenset(held))
        elif action == "w" and rosters:
            token = sorted(rosters)[choice % len(rosters)]
            seen = max(seen, rosters[token], key=lambda roster: roster.revision)
            accepted = store.accepts(token, rosters[token])
            assert accepted or token not in held
            assert not accepted or token in seen.tokens or token > seen.revision
            if len(seen.tokens) == len(held) and seen.tokens == held:
                assert accepted is (token in held), "at rest it is exact"
