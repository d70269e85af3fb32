"""The short way makes no difference but to the cost: what `fast_twins` plays comes out the same.

``nox -s fuzz`` plays many more tapes.
"""

from __future__ import annotations

import os

from fast_twins import play
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("TRIO_SCHED_EXAMPLES", "10000"))


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(st.binary(min_size=60, max_size=400))
def test_any_tape_gives_the_same(tape: bytes) -> None:
    play(tape)
