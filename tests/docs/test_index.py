"""docs/index.md is true: its program runs; and each page is in one of the four parts, once."""

from __future__ import annotations

import re
from pathlib import Path

from tests.pages import run_program
from tests.places import DOCS

PAGE = DOCS.joinpath("index.md").read_text()


def test_its_program_prints_what_it_shows(tmp_path: Path) -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    (shown,) = re.findall(r"^```text\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    done = run_program(program, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == shown


def below(page: Path) -> list[Path]:
    """Return the pages that a page's tables of contents name."""
    tables = re.findall(r"^```\{toctree\}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    names = [line for table in tables for line in table.splitlines() if re.match(r"[\w./]", line)]
    return [(page.parent / f"{name}.md").resolve() for name in names]


def test_each_page_is_in_one_of_four_parts_once() -> None:
    parts = below(DOCS / "index.md")
    assert [part.relative_to(DOCS).as_posix() for part in parts] == [
        "tutorial.md",
        "howto/index.md",
        "reference/index.md",
        "explanation/index.md",
    ]
    found = [*parts, *(page for part in parts for page in below(part))]
    pages = {page for page in DOCS.rglob("*.md") if "_build" not in page.parts}
    assert sorted(found) == sorted(pages - {DOCS / "index.md"})
    for part in parts[1:]:  # the index of a part has a word about each of its pages
        text = part.read_text().partition("```{toctree}")[0]
        for page in below(part):
            name = Path(page.name) if page.parent == part.parent else Path("..") / page.name
            assert f"]({name})" in text
