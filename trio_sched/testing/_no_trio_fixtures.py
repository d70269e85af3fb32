"""What stands in for the fixtures that wait, where pytest-trio is not loaded."""

from __future__ import annotations

from typing import NoReturn

import pytest

__all__ = ["etcd_client", "scheduled_host"]


def _refuse(name: str) -> NoReturn:
    raise pytest.UsageError(
        f"the fixture {name!r} of trio_sched needs pytest-trio: `pip install pytest-trio`; without "
        "it use `MemoryEtcd` and `open_scheduled_hosts`, see docs/testing.md of trio_sched"
    )


@pytest.fixture
def etcd_client() -> NoReturn:
    """Say what is missing."""
    _refuse("etcd_client")


@pytest.fixture
def scheduled_host() -> NoReturn:
    """Say what is missing."""
    _refuse("scheduled_host")
