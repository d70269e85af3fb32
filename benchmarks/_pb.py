"""Our messages and stubs without the rest of our package.

Importing ``trio_sched.etcd_shim._pb`` the plain way runs the ``__init__`` of the packages above it,
and so imports Trio and the whole client. A column that only borrows the messages must not pay for
that, in time or in memory. So empty packages stand in for the two above.
"""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

__all__ = ["stand_in"]


def stand_in() -> None:
    """Put empty packages where ``trio_sched`` and ``trio_sched.etcd_shim`` would be, once."""
    if "trio_sched" in sys.modules:
        return
    above = _empty_package("trio_sched", None)
    above.etcd_shim = _empty_package("trio_sched.etcd_shim", above.__path__)  # type: ignore[attr-defined]


def _empty_package(name: str, path: Sequence[str] | None) -> ModuleType:
    spec = importlib.machinery.PathFinder.find_spec(name, path)
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    module = sys.modules[name] = ModuleType(name)
    module.__path__ = list(spec.submodule_search_locations)
    return module
