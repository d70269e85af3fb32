"""Several leaders' cores on a tiny model of etcd, driven by Hypothesis."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.leader.machine_model import SETTINGS, Model, make_machine
from trio_sched.leader.machine import State, WriteDecision

TestModel = Model.TestCase
TestModel.settings = SETTINGS


class WithoutFence(Model):
    """An etcd that does not compare the fence, as if the driver had left that out."""

    compares_fence = False
    operators = False  # they would only take time from what is looked for


def test_f5_without_the_fence_compare_an_ex_leader_would_write() -> None:
    found = settings(
        SETTINGS,
        max_examples=1000,
        phases=[Phase.generate],
        print_blob=False,
        report_multiple_bugs=False,
    )
    with pytest.raises(AssertionError, match="ex-leader has landed"):
        run_state_machine_as_test(WithoutFence, settings=found)


@pytest.mark.parametrize("fence", [True, False])
def test_f5_a_paused_ex_leader_writes_late(fence: bool) -> None:
    """The same as a story: paused with its write in hand, it wakes up to find another leading."""
    machine = make_machine()
    machine.etcd.compares_fence = fence
    machine.etcd.put_host("a", b"{}")
    paused = machine.candidates["l1"]
    machine.learn_of_the_election("l1")
    machine.carry_out(paused, "ok")
    machine.tell(paused, *paused.answers)
    paused.answers.clear()
    assert isinstance(paused.work[0], WriteDecision)
    machine.candidate_loses_its_key("l1", back=False)
    late: Callable[[], None] = lambda: machine.carry_out(paused, "ok")  # noqa: E731
    if not fence:
        with pytest.raises(AssertionError, match="ex-leader has landed"):
            late()
        return
    late()
    machine.tell(paused, *paused.answers)
    paused.answers.clear()
    assert paused.core.state is State.FOLLOWING
    machine.settle()
