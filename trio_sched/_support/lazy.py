"""Names that are imported when they are asked for first (PEP 562).

``import trio_sched`` costs next to nothing; ``from trio_sched import open_client``
loads the client, and not the scheduler. Type checkers see plain imports.
"""

import sys
from importlib import import_module

TYPE_CHECKING = False  # typing's own costs as much as all the rest
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["homes", "lazy"]


def homes(modules: "Mapping[str, str]") -> "dict[str, str]":
    """Return for each name the module that defines it; `modules` has the names of each."""
    return {name: module for module, names in modules.items() for name in names.split()}


def lazy(
    package: str, homes: "Mapping[str, str]"
) -> "tuple[Callable[[str], object], Callable[[], list[str]]]":
    """Return ``__getattr__`` and ``__dir__`` for a package.

    Args:
        package: its name.
        homes: for each name, the module that defines it.
    """

    def __getattr__(name: str) -> object:  # noqa: N807 # what PEP 562 calls it
        if name in homes:
            value: object = getattr(import_module(homes[name]), name)
            setattr(sys.modules[package], name, value)  # it is asked for once
            return value
        if not name.startswith("_"):
            try:
                return import_module(f"{package}.{name}")
            except ModuleNotFoundError as exc:
                if exc.name != f"{package}.{name}":
                    raise
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def __dir__() -> list[str]:  # noqa: N807 # likewise
        return sorted({*vars(sys.modules[package]), *homes})

    return __getattr__, __dir__
