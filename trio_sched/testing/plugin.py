"""The pytest plugin: fixtures for tests of services. See ``docs/testing.md``.

pytest loads it in each run where this library is installed, so it imports neither trio nor
grpclib: the fixtures do, when they are asked for.

The fixtures are registered when all other plugins are there. Of two fixtures of one name the later
one counts, and `autojump_clock` is to be the one that works with etcd rather than pytest-trio's,
of which it is a variety.
"""

from __future__ import annotations

import importlib

import pytest

__all__ = ["pytest_configure"]

_NAMES = ("trio", "pytest_trio.plugin")  # as an entry point, and by `-p`


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Register the fixtures; those that wait need pytest-trio, and say so if it is not there."""
    plugins = config.pluginmanager
    has_trio = any(plugins.hasplugin(name) for name in _NAMES)
    for name in ("_fixtures", "_trio_fixtures" if has_trio else "_no_trio_fixtures"):
        module = importlib.import_module(f"trio_sched.testing.{name}")
        plugins.register(module, f"trio_sched{name}")
