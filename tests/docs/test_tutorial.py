"""docs/tutorial.md is true: each step is done as the page says, and prints what it shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.terminals import blocks, open_reader
from tests.places import DOCS
from trio_sched.testing import open_etcd

PAGE = DOCS.joinpath("tutorial.md").read_text()


@pytest.mark.timeout(120)
async def test_each_step_prints_what_the_page_shows(tmp_path: Path) -> None:
    async with open_etcd() as etcd, open_reader(tmp_path, etcd.endpoint) as reader:
        for block in blocks(PAGE):
            if block.terminal != "etcd":  # the test's own is used
                await reader.do(block)
