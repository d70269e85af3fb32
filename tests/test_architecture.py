"""docs/architecture.md is true: the walks name what exists, the map has each room."""

from __future__ import annotations

import importlib
import re

import pytest

from tests.places import DOCS, PACKAGE

PAGE = DOCS.joinpath("architecture.md").read_text()
STEPS = sorted(set(re.findall(r"^\d+\. `([\w.]+)`", PAGE, re.MULTILINE)))
WALKS = re.findall(r"^## (The walk of .*)$", PAGE, re.MULTILINE)


@pytest.mark.parametrize("name", STEPS)
def test_each_step_of_a_walk_exists(name: str) -> None:
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(["trio_sched", *parts[:length]]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            found = getattr(found, part)
        assert parts[length:], "a step is a function"
        assert callable(found) or isinstance(found, property)
        return
    pytest.fail(f"{name} is in no module")


def test_the_walks_are_those_that_a_stranger_asks_for() -> None:
    for word in ("decision", "lease", "watch", "cancellation", "frame", "command"):
        assert any(word in walk for walk in WALKS)


def test_every_room_is_on_the_map() -> None:
    rooms = {
        folder.relative_to(PACKAGE).as_posix()
        for folder in PACKAGE.rglob("*")
        if folder.is_dir() and folder.name not in {"__pycache__", "_pb"}
    }
    table = PAGE.partition("## Rooms")[2].partition("##")[0]
    assert rooms == {name.rstrip("/") for name in re.findall(r"`([\w/]+/)`", table)}


def test_the_map_is_a_page() -> None:
    assert len(PAGE.splitlines()) < 120
