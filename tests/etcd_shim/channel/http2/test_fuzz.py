"""Our HTTP/2 and h2 make the same of any tape that `tapes` plays to them.

The same ten thousand in each run, so that a run says something of the change that it is run for;
``nox -s fuzz`` plays others, and many more.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from tests.etcd_shim.channel.http2.tapes import play

EXAMPLES = int(os.environ.get("TAPES", "10000"))
ENDED_BY_BOTH = bytes.fromhex("010003") + bytes(45) + b"N\xcd\xc6|\x00Z\x00\x00\xcd\x01\xe8\r"
WINDOW_OF_A_CLOSED_STREAM = bytes.fromhex(
    "000003000000a100010000000000000000005a00000000000000005a000000000000000000"
    "0000000000000000000000000000000000eb00cd2c0043"
)


@pytest.mark.usefixtures("untraced")
@pytest.mark.timeout(3600)  # it is bounded by the number of examples
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="TAPES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
@example(ENDED_BY_BOTH)  # a fault in the last DATA of a stream that both sides have ended
@example(WINDOW_OF_A_CLOSED_STREAM)  # SETTINGS would make it too large, if it counted still
@given(st.binary(min_size=60, max_size=240))
def test_any_tape_gives_the_same(tape: bytes) -> None:
    """RFC 9113 as h2 understands it: see `tapes`."""
    play(tape)
