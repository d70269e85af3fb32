"""The pictures that are committed are those that the code draws, and stand on pages."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from tests.docs.pictures import FOLDER, PICTURES
from tests.places import DOCS


@pytest.mark.parametrize("name", PICTURES)
def test_it_is_what_the_code_draws(name: str) -> None:
    """Run ``nox -s screenshots`` when it is meant to change."""
    drawn = PICTURES[name]()
    assert (FOLDER / name).read_text() == drawn
    assert ET.fromstring(drawn).tag.endswith("svg")


def test_each_stands_on_a_page_with_words_for_those_who_do_not_see_it() -> None:
    pages = "".join(page.read_text() for page in DOCS.rglob("*.md"))
    shown = {name: words for words, name in re.findall(r"!\[([^\]]*)\]\(pictures/(.*?)\)", pages)}
    assert shown.keys() == PICTURES.keys() == {file.name for file in FOLDER.iterdir()}
    assert all(shown.values())
