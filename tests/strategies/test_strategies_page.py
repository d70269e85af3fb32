"""The page about strategies is true: its code runs, and prints what it says."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.places import DOCS
from trio_sched import strategies
from trio_sched.simulation import svg_chart

PAGE = DOCS.joinpath("strategies.md").read_text()
BLOCKS = re.findall(r"```(python|text)\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no registration outlive its test."""
    monkeypatch.setattr(strategies, "_registry", dict(strategies._registry))


def test_the_code_runs_and_prints_what_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    for kind, text in BLOCKS:
        if kind == "python":
            capsys.readouterr()
            exec(text, names)
        else:
            assert capsys.readouterr().out.strip() == text.strip()
    assert svg_chart(names["replay"]) == DOCS.joinpath("simulated.svg").read_text()


def test_the_table_has_each_built_in_strategy() -> None:
    named = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert sorted(named) == list(strategies.known_strategies())
