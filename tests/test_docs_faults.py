"""docs/faults.md has each fault once, and the tests that show it; and what pages name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.places import DOCS, ROOT, TESTS

PAGE = DOCS.joinpath("faults.md").read_text()
ROWS = dict(re.findall(r"^\| F(\d+) \|.*\| ([^|]*) \|$", PAGE, re.MULTILINE))
NAMES = {
    name
    for file in TESTS.rglob("test_*.py")
    for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text(), re.MULTILINE)
}


def numbers(name: str) -> set[str]:
    """Return the numbers of the faults that a test's name speaks of."""
    return set(re.findall(r"(?<=_)f(\d+)(?=_)", name))


def test_the_numbers_are_complete() -> None:
    assert list(ROWS) == [str(number) for number in range(1, 77)]
    assert len(re.findall(r"^\| F\d", PAGE, re.MULTILINE)) == len(ROWS)


def test_each_number_in_a_tests_name_is_a_row() -> None:
    assert not {number for name in NAMES for number in numbers(name)} - ROWS.keys()


FILES = {file.stem for file in TESTS.rglob("test_*.py")}
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_each_test_that_a_page_names_exists(page: Path) -> None:
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    assert not set(re.findall(r"\btest_\w+", prose)) - NAMES - FILES


def test_each_row_has_tests_of_its_number_or_says_that_there_are_none() -> None:
    tested = {number for name in NAMES for number in numbers(name)}
    for number, cell in ROWS.items():
        named = re.findall(r"`(test_\w+)`", cell)
        assert (cell == "not yet") is (number not in tested), f"F{number}"
        assert all(number in numbers(name) for name in named), f"F{number}"
        assert named or cell == "not yet", f"F{number}"
