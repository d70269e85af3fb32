"""What is promised names what shows it, and what is named exists: tests, sessions, files."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.places import DOCS, ROOT

README = ROOT.joinpath("README.md").read_text()
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
    *sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts),
]
SHOWS = re.compile(r"`test_\w+`|`tests/[\w/]+\.py`|\bnox -s \w+")
# Pages that promise nothing by themselves.
PROMISE_NOTHING = {
    "index.md": "a table of contents",
    "scheduling.md": "what docstrings say; `reference/` is the same",
}


def sections() -> list[str]:
    return re.split(r"^## ", README, flags=re.MULTILINE)[1:]


@pytest.mark.parametrize("section", sections(), ids=lambda text: text.partition("\n")[0])
def test_each_section_of_the_readme_says_what_shows_it(section: str) -> None:
    assert SHOWS.search(section)


def test_each_guarantee_of_the_readme_says_what_shows_it() -> None:
    (text,) = (text for text in sections() if text.startswith("What is guaranteed"))
    points = text.split("\n- ")[1:]
    assert len(points) >= 7
    assert not [point for point in points if not SHOWS.search(point)]


def test_each_option_in_the_readme_says_what_shows_it() -> None:
    rows = re.findall(r"^\| `\w+`.*$", README, re.MULTILINE)
    assert len(rows) >= 12
    assert not [row for row in rows if not SHOWS.search(row.split(" | ")[-1])]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if DOCS in page.parents], ids=lambda page: page.name
)
def test_each_page_says_what_shows_it(page: Path) -> None:
    if page.name not in PROMISE_NOTHING and "reference" not in page.parts:
        assert SHOWS.search(page.read_text())


def test_each_session_that_is_named_exists() -> None:
    tree = ast.parse(ROOT.joinpath("noxfile.py").read_text())
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    there = {node.name for node in functions if "nox.session" in map(_name, node.decorator_list)}
    assert "tests" in there
    text = "\n".join(file.read_text() for file in [*PAGES, ROOT / "noxfile.py"])
    named = re.findall(r"\bnox -s (\w+)", text)
    assert len(named) > 20
    assert not set(named) - there
    run = re.findall(r"nox -s ((?:[a-z_]+ )+)", ROOT.joinpath(".ci", "run").read_text())
    assert not {name for names in run for name in names.split()} - there
    described = set(re.findall(r"^\| `nox -s (\w+)`", text, re.MULTILINE))
    assert described == there, "CONTRIBUTING.md has a line for each"


def _name(decorator: ast.expr) -> str:
    return ast.unparse(decorator).partition("(")[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_file_that_a_page_names_exists(page: Path) -> None:
    prose = re.sub(r"^ *```.*?```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    named = re.findall(r"`((?:tests|benchmarks|docs|protos|\.ci)/[\w./-]+)`", prose)
    assert not [name for name in named if not ROOT.joinpath(name).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_relative_link_leads_to_a_file(page: Path) -> None:
    prose = re.sub(r"^ *```.*?```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)\s#]+)", prose)
    assert not [link for link in links if not (page.parent / link).exists()]
