"""Fixtures that do not wait."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from trio.testing import MockClock

    from trio_sched.simulation import MemoryEtcd
    from trio_sched.testing.etcd import Etcd

__all__ = ["autojump_clock", "etcd", "memory_etcd", "trio_sched_etcd"]


@pytest.fixture(scope="session")
def etcd() -> Iterator[Etcd]:
    """A real etcd for the whole run; use keys and paths of your own in each test.

    A test that asks for it is skipped if there is no etcd on this machine.
    """
    from trio_sched.testing import EtcdNotFound, etcd_in_a_thread, find_etcd  # noqa: PLC0415

    try:
        find_etcd()
    except EtcdNotFound as error:
        pytest.skip(str(error))
    with etcd_in_a_thread() as server:
        yield server


@pytest.fixture
def memory_etcd() -> MemoryEtcd:
    """An etcd in memory, a new one for each test."""
    from trio_sched.simulation import MemoryEtcd  # noqa: PLC0415

    return MemoryEtcd()


@pytest.fixture
def autojump_clock() -> MockClock:
    """A clock that jumps when all tasks wait, but for those that wait for a real etcd."""
    from trio_sched.testing.clock import autojump_clock  # noqa: PLC0415

    return autojump_clock()


@pytest.fixture
def trio_sched_etcd(request: pytest.FixtureRequest) -> MemoryEtcd | str:
    """What clients and hosts of a test connect to: the real etcd if it asks for that one, too."""
    if "etcd" in request.fixturenames:
        server: Etcd = request.getfixturevalue("etcd")
        return server.endpoint
    memory: MemoryEtcd = request.getfixturevalue("memory_etcd")
    return memory
