"""What the soak of the client is judged by finds what it is made for."""

from __future__ import annotations

import pytest

from tests.etcd_shim.client_checker import (
    Change,
    Fate,
    Lapse,
    Write,
    judge_lapses,
    judge_watch,
    judge_writes,
)

A, B = b"/a", b"/b"
HISTORY = [Change(5, A, 1), Change(6, A, 2), Change(6, B, 2), Change(7, A, None)]
ONE = Write(1, (A,), Fate.ACKNOWLEDGED, 5)
TWO = Write(2, (A, B), Fate.ACKNOWLEDGED, 6)


def test_all_is_well() -> None:
    unknown = [Write(3, (A,), Fate.UNKNOWN), Write(4, (A,), Fate.NOT_DONE)]
    assert judge_writes([ONE, TWO, *unknown], HISTORY) == []
    assert judge_writes([ONE, Write(2, (A, B), Fate.UNKNOWN)], HISTORY) == []


@pytest.mark.parametrize(
    ("write", "history", "words"),
    [
        (ONE, [], "lost"),
        (ONE, [Change(5, A, 1), Change(8, A, 1)], r"there 2 times, at \[5, 8\]"),
        (ONE, [Change(6, A, 1)], "there at 6"),
        (TWO, [Change(6, A, 2)], "of its keys"),
        (Write(1, (A,), Fate.NOT_DONE), [Change(5, A, 1)], "not processed: there, at 5"),
        (Write(1, (A,), Fate.UNKNOWN), [Change(5, A, 1), Change(6, A, 1)], "there 2 times"),
        (Write(2, (A, B), Fate.UNKNOWN), [Change(6, B, 2)], "of its keys"),
    ],
)
def test_a_write_that_is_not_as_its_client_said(
    write: Write, history: list[Change], words: str
) -> None:
    (violation,) = judge_writes([write], history)
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(violation)


def test_a_write_of_no_client() -> None:
    assert judge_writes([TWO], HISTORY) == ["write 1 is of no client, or came before"]


def test_a_watch_that_brings_all() -> None:
    assert judge_watch("w", HISTORY, list(HISTORY)) == []
    assert judge_watch("w", [], []) == []


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        ([*HISTORY[:1], *HISTORY], "came 2 times"),
        ([HISTORY[0], HISTORY[3]], "did not come"),
        (HISTORY[:3], "did not come"),
        ([*HISTORY, Change(8, A, 9)], "was not to come"),
        ([HISTORY[3], *HISTORY[:3]], "came before"),
    ],
)
def test_a_watch_with_a_fault(seen: list[Change], words: str) -> None:
    violations = judge_watch("w", HISTORY, seen)
    assert violations
    assert all(words in violation for violation in violations)


def test_leases_that_are_said_to_live() -> None:
    lapses = [Lapse("/a", 1.0, alive=False), Lapse("/b", 2.0, alive=True)]
    violations, predicted = judge_lapses(lapses)
    assert (len(violations), predicted) == (1, [])
    assert "/b" in violations[0]
    violations, predicted = judge_lapses(lapses, [(1.5, 2.5)])
    assert (violations, len(predicted)) == ([], 1)
