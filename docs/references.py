"""How names in docstrings and types become links: what Sphinx does not find is looked for here.

A public name has one page, and stands there under one of the ways in which it can be imported.
Docstrings and annotations may name it by another: where it was made, or the package that also
exports it. Both are the same object, and that is how the page is found.

Docstrings mark arguments and attributes as they mark names, by single backticks. Those of what is
on the pages are no links. All else that is not found is a warning, and so an error.

Names of other projects come from lists beside this file: a build needs no network.
"""

from __future__ import annotations

import dataclasses
import inspect
import pkgutil
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

__all__ = ["setup", "write_inventory"]

# Where a name without a package may come from, in this order.
_PACKAGES = (
    "trio_sched",
    "trio_sched.etcd_shim",
    "trio_sched.etcd_shim.errors",
    "trio_sched.etcd_shim.concurrency",
    "trio_sched.strategies",
    "trio_sched.metrics",
    "trio_sched.testing",
    "trio_sched.simulation",
)
_HEAD = "# Sphinx inventory version 2\n# Project: {}\n# Version: \n# With zlib.\n"
_words: set[str] = set()  # names of arguments and attributes of what is on the pages


def write_inventory(source: Path, folder: Path) -> str:
    """Make of a list what intersphinx reads; return the file."""
    lines = [line for line in source.read_text().splitlines() if not line.startswith("#")]
    entries = (line.split() for line in lines)
    text = "".join(f"{name} {role} 1 {page}#$ -\n" for role, name, page in entries)
    file = folder / f"{source.stem}.inv"
    file.write_bytes(_HEAD.format(source.stem).encode() + zlib.compress(text.encode()))
    return str(file)


def _found(name: str) -> object | None:
    try:
        return pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError):
        return None


def _made_at(thing: object) -> str | None:
    """Where it was made, as a dotted name; None for what does not know."""
    if isinstance(thing, property):
        thing = thing.fget
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    return f"{module}.{name}" if module and name else None


def _candidates(target: str, node: Any) -> Iterator[str]:
    """The dotted names that a reference may stand for, the nearest first."""
    module, scope = node.get("py:module"), node.get("py:class")
    if module and scope:
        yield f"{module}.{scope}.{target}"
    if module:
        yield f"{module}.{target}"
    yield target
    yield from (f"{package}.{target}" for package in _PACKAGES)


def _pages(env: BuildEnvironment) -> dict[str, str]:
    """Map where things were made to the names under which they stand on a page."""
    known: dict[str, str] = {}
    for name, entry in env.domains.python_domain.objects.items():
        if not entry.aliased and (made := _made_at(_found(name))):
            known[made] = name
    return known


def _resolve(
    app: Sphinx, env: BuildEnvironment, node: Any, text: nodes.Element
) -> nodes.Node | None:
    """Link to the page of a name that Sphinx does not know as such."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    known = _pages(env)
    for name in _candidates(target, node):
        thing = _found(name)
        if isinstance(thing, TypeVar | TypeVarTuple):
            return text  # a type's variable has no page
        page = known.get(_made_at(thing) or "")
        if page is not None:
            entry = env.domains.python_domain.objects[page]
            builder, origin = app.builder, node.get("refdoc", "")
            return make_refnode(builder, origin, entry.docname, entry.node_id, text, page)
    is_word = node.get("reftype") == "obj" and target.split(".")[-1] in _words
    return text if is_word else None


def _learn(_app: Sphinx, _what: str, _name: str, thing: Any, *_rest: object) -> None:
    """Learn the words of something that autodoc puts on a page."""
    _words.update(_arguments(thing))
    if inspect.isclass(thing):
        _words.update(_arguments(thing.__init__))
        _words.update(name for name in _attributes(thing) if not name.startswith("_"))


def _arguments(thing: Any) -> Iterable[str]:
    try:
        return inspect.signature(thing).parameters
    except (TypeError, ValueError):
        return ()


def _attributes(thing: type) -> Iterator[str]:
    yield from vars(thing)
    if dataclasses.is_dataclass(thing):
        yield from (field.name for field in dataclasses.fields(thing))


def setup(app: Sphinx) -> dict[str, bool]:
    """Let Sphinx use it."""
    app.connect("autodoc-process-docstring", _learn)
    app.connect("missing-reference", _resolve)
    return {"parallel_read_safe": True}
