"""The documentation is true: each recipe of the client's page runs."""

from __future__ import annotations

import ast
import re
from inspect import CO_COROUTINE
from types import CodeType, FunctionType
from typing import Any

import pytest
import trio

import trio_sched.etcd_shim
from tests.places import DOCS
from trio_sched.etcd_shim import concurrency, open_client
from trio_sched.testing import open_etcd

PAGE = DOCS.joinpath("etcd_client.md").read_text()
RECIPES: dict[str, str] = dict(
    re.findall(r"^### \d+\. (.*?)$\n\n```python\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE)
)

SECTION = PAGE.partition("## Locks, elections and the like")[2].partition("\n## ")[0]
EXAMPLES: dict[str, str] = dict(
    re.findall(r"^### (.*?)$\n\n```python\n(.*?)```", SECTION, re.DOTALL | re.MULTILINE)
)


def compiled(source: str) -> CodeType:
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code: CodeType = compile(source, "etcd_client.md", "exec", flags=flags)
    return code


def test_there_are_eleven() -> None:
    assert len(RECIPES) == 11


def test_each_part_of_concurrency_has_an_example() -> None:
    assert len(EXAMPLES) == SECTION.count("\n### ") == 7


@pytest.mark.parametrize("title", [*RECIPES, *EXAMPLES])
async def test_the_recipe_runs(title: str) -> None:
    """Each on an etcd of its own, as they use any keys."""
    async with open_etcd() as server, open_client(server.endpoint) as client:
        shim = trio_sched.etcd_shim
        names: dict[str, Any] = {name: getattr(shim, name) for name in dir(shim)} | {
            "client": client,
            "trio": trio,
        }
        if title in EXAMPLES:
            names |= {name: getattr(concurrency, name) for name in concurrency.__all__}
        code = compiled((RECIPES | EXAMPLES)[title])
        assert code.co_flags & CO_COROUTINE
        with trio.fail_after(20):
            await FunctionType(code, names)()
