"""docs/operations.md, docs/comparison.md and the README are true of what there is."""

from __future__ import annotations

import json
import re

import click
import pytest

from tests.cli.ops_tools import EXAMPLES
from tests.places import DOCS, ROOT, TESTS
from trio_sched.cli.exits import NO_HOST, NO_PATH, Exit
from trio_sched.cli.group import _COMMANDS, command

OPERATIONS = DOCS.joinpath("operations.md").read_text()
COMPARISON = DOCS.joinpath("comparison.md").read_text()
README = ROOT.joinpath("README.md").read_text()


@pytest.mark.parametrize("page", [COMPARISON, OPERATIONS, README])
def test_every_test_that_is_named_exists(page: str) -> None:
    there = {
        name
        for file in TESTS.rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text(), re.MULTILINE)
    }
    named = set(re.findall(r"\btest_[a-z]\w+", page))
    assert len(named) > 5
    assert not named - there


@pytest.mark.parametrize("page", [COMPARISON, README.partition("## Beside others")[2]])
def test_every_cell_has_a_test_or_a_source(page: str) -> None:
    lines = [line.strip("|").split("|") for line in page.splitlines() if line.startswith("| ")]
    tables: dict[int, list[list[str]]] = {}
    for line in lines:
        tables.setdefault(len(line), []).append(line)  # each has a width of its own
    assert all(len(rows) > 8 for rows in tables.values())
    for heads, row in ((rows[0], row) for rows in tables.values() for row in rows[1:]):
        if row[0].strip() in {"what it is", "what it needs"}:
            continue
        for head, cell in zip(heads[1:], row[1:], strict=True):
            backed = re.search(r"\[\d+\]|\]\[\w+\]|`test_|not documented|n\.d\.|not apply", cell)
            assert backed, (row[0], head, cell)


def test_every_source_is_there_and_used() -> None:
    table, _, sources = COMPARISON.partition("Sources:")
    found = {int(number) for number in re.findall(r"\[(\d+)\]", table)}
    assert found == {int(number) for number in re.findall(r"^(\d+)\. ", sources, re.MULTILINE)}
    short = README.partition("## Beside others")[2]
    assert set(re.findall(r"\]\[(\w+)\]", short)) == set(
        re.findall(r"^\[(\w+)\]:", short, re.MULTILINE)
    )


@pytest.mark.parametrize("name", sorted(set(_COMMANDS) - {"demo", "run"}))
def test_every_command_is_described(name: str) -> None:
    assert f"`{name}" in OPERATIONS
    assert name in README


@pytest.mark.parametrize(
    "code", [NO_HOST, NO_PATH, *(set(Exit) - {Exit.NOT_SCHEDULED, Exit.LOST}), 75]
)
def test_every_exit_code_is_described(code: int) -> None:
    assert f"| {int(code)} |" in OPERATIONS


def test_every_kind_of_finding_is_described() -> None:
    schema = json.loads(DOCS.joinpath("status.schema.json").read_text())
    kinds = schema["$defs"]["warning"]["properties"]["kind"]["examples"]
    assert set(kinds) <= set(re.findall(r"`([a-z-]+)`", OPERATIONS))


def test_every_option_on_the_page_exists() -> None:
    known = {"--user", "--cacert", "--cert", "--key", "--unbuffered"}
    for name in _COMMANDS:
        found = command.get_command(click.Context(command), name)
        assert found is not None
        known |= {option for each in found.params for option in each.opts}
    assert set(re.findall(r"(?<![\w-])--[a-z][\w-]+", OPERATIONS)) <= known | {"--help"}


def test_what_the_page_shows_is_what_is_printed() -> None:
    """Words and their order; numbers and names of leases are others each time."""
    for block in re.findall(r"```text\n(.*?)```", OPERATIONS, re.DOTALL):
        kind = re.search(r"\$ trio-sched (\w+)", block)
        assert kind is not None
        example = EXAMPLES / ("steering.txt" if kind[1] == "drain" else f"{kind[1]}.txt")
        printed = example.read_text()
        for line in block.splitlines()[1:]:
            words = [word for word in line.split() if re.fullmatch(r"[a-zA-Z-]{3,}", word)]
            pattern = r"\W(?:.*\W)?".join(map(re.escape, words))
            assert re.search(pattern, printed), line


@pytest.mark.parametrize(("danger", "code"), [("paused", 75), ("mistyped", 68)])
def test_poweroff_after_a_drain_comes_with_its_dangers(danger: str, code: int) -> None:
    (found,) = re.findall(r"^- \*\*drain\*\*.*?(?=^- )", OPERATIONS, re.MULTILINE | re.DOTALL)
    assert "poweroff" in found
    said = " ".join(found.split())
    assert re.search(rf"\*\*[^*]*{danger}\*\*[^*]* with {code}\.", said)
