"""The real etcd that the one in memory is compared with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.simulation.servers import RealServer
from trio_sched.testing import etcd_in_a_thread


@pytest.fixture(scope="session")
def real_server() -> Iterator[RealServer]:
    """A server of its own: with etcd's own timing, and a history that tests may compact."""
    progress = "--experimental-watch-progress-notify-interval=100ms"
    with etcd_in_a_thread(heartbeat_ms=100, election_ms=1000, extra_args=[progress]) as etcd:
        yield RealServer(etcd.endpoint)
