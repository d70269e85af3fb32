from __future__ import annotations

import pytest

from trio_sched._support.text import bytewise, clip, list_names


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", ""), ("abc", "abc"), ("abcd", "ab…"), ("a\udcff", "a?"), ("äöüß", "äö…")],
)
def test_a_text_is_clipped(text: str, expected: str) -> None:
    assert clip(text, 3) == expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("", ""),
        ("a", "a"),
        ("ab", "a, b"),
        ("abc", "a, b and 1 more"),
        ("abcde", "a, b and 3 more"),
    ],
)
def test_names_are_listed(names: str, expected: str) -> None:
    assert list_names(iter(names), 2) == expected


def test_names_are_sorted_as_etcd_sorts_them() -> None:
    names = ["\U00010000", "\uffff", "é", "z", "\udc80"]
    assert sorted(names, key=bytewise) == ["z", "\udc80", "é", "\uffff", "\U00010000"]


def test_a_name_may_have_bytes_that_are_no_text_but_not_half_a_pair() -> None:
    assert bytewise(b"a\xff".decode(errors="surrogateescape")) == b"a\xff"
    with pytest.raises(ValueError, match="surrogates not allowed"):
        bytewise("\ud800")
