"""Runs pytest in a process of its own, with the plugin and what goes with it."""

from __future__ import annotations

import os

import pytest

from tests.places import ROOT

__all__ = ["ENTRY_POINT", "install", "run_pytest"]

ENTRY_POINT = "trio_sched = trio_sched.testing.plugin"


def install(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the plugin found as an installed one is, whether or not this checkout is installed."""
    site = pytester.mkdir("site")
    metadata = site / "a_checkout_of_trio_sched-0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: a-checkout\nVersion: 0\n")
    (metadata / "entry_points.txt").write_text(f"[pytest11]\n{ENTRY_POINT}\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(site)]))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)


def run_pytest(pytester: pytest.Pytester, *arguments: str, trio: bool = True) -> pytest.RunResult:
    """Run what is in the folder; `trio` loads pytest-trio."""
    pytester.makeini("[pytest]\ntrio_mode = true\n" if trio else "[pytest]\n")
    plugins = ["-p", "trio", "-p", "trio_sched"] if trio else ["-p", "trio_sched"]
    strict = ["-W", "error", "-p", "no:cacheprovider"]
    return pytester.runpytest_subprocess(*plugins, *strict, *arguments, timeout=55)
