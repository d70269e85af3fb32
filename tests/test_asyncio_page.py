"""docs/asyncio_and_threads.md is true: its programs run, and its tests exist."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.pages import run_program
from tests.places import DOCS, ROOT

PAGE = DOCS.joinpath("asyncio_and_threads.md").read_text()
PROGRAMS: dict[str, str] = dict(
    re.findall(r"^## (.*?)$\n\n```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
)
PRINTED = {
    "asyncio": "chosen: host-a\nthis host runs, with token True\n",
    "Code that blocks": "chosen: host-a\n" + "".join(f"host-a does {n}\n" for n in range(3)),
}


def test_each_kind_of_program_is_there() -> None:
    assert PROGRAMS.keys() == PRINTED.keys()


@pytest.mark.parametrize("kind", PROGRAMS)
def test_its_programs_run(kind: str, endpoint: str, tmp_path: Path) -> None:
    done = run_program(PROGRAMS[kind], tmp_path, {**os.environ, "ETCDCTL_ENDPOINTS": endpoint})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == PRINTED[kind]


@pytest.mark.parametrize(("kind", "folder"), [("## asyncio", "aio"), ("## Code", "sync")])
def test_its_tests_exist(kind: str, folder: str) -> None:
    section = PAGE.partition(kind)[2].partition("\n## ")[0]
    text = "".join(file.read_text() for file in (ROOT / "tests" / folder).glob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", section))
    assert named
    assert named <= set(re.findall(r"def (test_\w+)", text))
