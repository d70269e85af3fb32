"""docs/testing.md is true: its tests pass, its programs run, its table has each fixture."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.pages import run_program
from tests.places import DOCS
from tests.testing.plugin_tools import install, run_pytest
from trio_sched.testing import _fixtures, _no_trio_fixtures, _trio_fixtures

pytest_plugins = ["pytester"]

PAGE = DOCS.joinpath("testing.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
TESTS = [block for block in BLOCKS if re.search(r"^(async )?def test_", block, re.MULTILINE)]
PROGRAMS = [block for block in BLOCKS if block not in TESTS]


def test_the_page_has_tests_and_programs() -> None:
    assert len(TESTS) == 5
    assert len(PROGRAMS) == 4


def test_its_tests_pass(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    install(pytester, monkeypatch)
    for number, block in enumerate(TESTS):
        (pytester.path / f"test_block_{number}.py").write_text(block)
    result = run_pytest(pytester, "--durations=0", "-vv")
    count = sum(len(re.findall(r"^async def test_", block, re.MULTILINE)) for block in TESTS)
    result.assert_outcomes(passed=count)


@pytest.mark.parametrize("program", PROGRAMS)
def test_its_programs_run(program: str, tmp_path: Path) -> None:
    done = run_program(program, tmp_path)
    assert done.returncode == 0, done.stderr
    assert bool(done.stdout) == ("print(" in program)


def test_its_table_has_each_fixture() -> None:
    named = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))
    made = {*_fixtures.__all__, *_trio_fixtures.__all__} - {"trio_sched_etcd"}
    assert named == made
    assert set(_no_trio_fixtures.__all__) == set(_trio_fixtures.__all__)
