"""docs/many_paths.md is true: its program runs, its tests exist, its options are all."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from tests.pages import run_program
from tests.places import DOCS, ROOT
from trio_sched import LocalHost, open_host

PAGE = DOCS.joinpath("many_paths.md").read_text()


def test_its_program_runs(tmp_path: Path) -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    done = run_program(program, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "backup: host-a\nmail: host-a\nreport: host-a\n"


def test_its_tests_exist() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    files = (
        ROOT / "tests" / "host" / f"test_{name}.py"
        for name in ("local", "sharing", "shared_decisions")
    )
    there = {name for file in files for name in re.findall(r"def (test_\w+)", file.read_text())}
    assert named
    assert named <= there


def test_its_options_are_those_of_the_calls() -> None:
    paragraph = PAGE.partition("takes what is about the path")[2].partition("To other hosts")[0]
    of_path, of_host = paragraph.split("it gives the same")
    for text, call in ((of_path, LocalHost.schedule), (of_host, open_host)):
        named = set(re.findall(r"`(\w+)`", text)) - {"Result", "open_host"}
        options = inspect.signature(call).parameters.keys() - {"self", "client", "hostname", "path"}
        assert named == options
