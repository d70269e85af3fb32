"""Our HTTP/2 and h2 make the same of any tape that `tapes` plays to them.

``nox -s fuzz`` plays many more tapes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from tests.etcd_shim.channel.http2.tapes import play

EXAMPLES = int(os.environ.get("TAPES", "10000"))


@pytest.fixture(scope="module")
def untraced() -> Iterator[None]:
    """Do without coverage, which would take as long again; the other tests show it."""
    tracer = sys.gettrace()
    sys.settrace(None)
    yield
    sys.settrace(tracer)


@pytest.mark.usefixtures("untraced")
@pytest.mark.timeout(3600)  # it is bounded by the number of examples
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(st.binary(min_size=60, max_size=240))
def test_any_tape_gives_the_same(tape: bytes) -> None:
    """RFC 9113 as h2 understands it: see `tapes`."""
    play(tape)
