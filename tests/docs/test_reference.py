"""Each public name is on a page of the reference, once; and nothing else is, but what is said."""

from __future__ import annotations

import importlib
import inspect
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.places import DOCS

PUBLIC = (
    "trio_sched",
    "trio_sched.aio",
    "trio_sched.cli",
    "trio_sched.etcd_shim",
    "trio_sched.etcd_shim.concurrency",
    "trio_sched.etcd_shim.errors",
    "trio_sched.exceptions",
    "trio_sched.metrics",
    "trio_sched.metrics.otel",
    "trio_sched.metrics.prometheus",
    "trio_sched.serving",
    "trio_sched.simulation",
    "trio_sched.strategies",
    "trio_sched.sync",
    "trio_sched.testing",
)
# For modules of ours, though they stand in an `__all__`.
OURS = {"trio_sched.etcd_shim.errors.again", "trio_sched.etcd_shim.errors.rpc_error"}
# What comes with public names, and is imported from nowhere.
GIVEN = {
    "trio_sched.host.result.HostChanges",
    "trio_sched.model.control_state.Eviction",
    "trio_sched.model.control_state.Note",
    "trio_sched.model.records.DecisionRecord",
    "trio_sched.model.records.HostData",
    "trio_sched.reaper.helper.tree.Work",
    "trio_sched.simulation.diary.Change",
    "trio_sched.simulation.diary.Entry",
    "trio_sched.simulation.diary.Reading",
    "trio_sched.simulation.diary.Work",
}
PAGES = sorted(DOCS.rglob("*.md"))


def found(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def home(name: str) -> str:
    """Where it was made: the same for all names by which it can be imported."""
    thing = found(name)
    is_made = inspect.isclass(thing) or inspect.isfunction(thing)
    return f"{thing.__module__}.{thing.__qualname__}" if is_made else name


def on_pages() -> Iterator[tuple[str, str]]:
    """Return the directives of autodoc, each with the full name that it stands for."""
    for page in PAGES:
        module = ""
        lines = re.finditer(r"^\.\. ([\w:]+):: ([\w.]+)", page.read_text(), re.MULTILINE)
        for directive, name in (each.groups() for each in lines):
            if directive in {"py:module", "automodule", "currentmodule"}:
                module = name
            elif directive.startswith("auto"):
                yield directive, name if name in GIVEN else f"{module}.{name}"


def test_each_public_name_is_on_a_page_once() -> None:
    names = {f"{module}.{name}" for module in PUBLIC for name in found_all(module)} - OURS
    count = Counter(home(name) for _, name in on_pages())
    assert {name for name in names if not count[home(name)]} == set()
    assert {name for name, number in count.items() if number > 1} == set()
    assert {name for _, name in on_pages()} - names == GIVEN


def found_all(module: str) -> list[str]:
    names: list[str] = importlib.import_module(module).__all__
    return names


def test_each_is_described_as_what_it_is() -> None:
    for directive, name in on_pages():
        thing = found(name)
        if directive == "autoexception":
            assert issubclass(thing, BaseException)
        elif directive == "autoclass":
            assert inspect.isclass(thing)
            assert not issubclass(thing, BaseException)
        elif directive == "autofunction":
            assert inspect.isfunction(thing)
        else:
            assert directive == "autodata"


@pytest.mark.parametrize("module", PUBLIC)
def test_each_public_module_is_in_the_table_of_the_reference(module: str) -> None:
    table = DOCS.joinpath("reference", "index.md").read_text()
    extra = module.removesuffix(".otel").removesuffix(".prometheus")
    assert f"`{extra}`" in table
