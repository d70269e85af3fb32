"""The leader's core: an eviction is carried out once, whatever happens."""

from __future__ import annotations

from typing import cast

from hypothesis import given, settings, strategies as st

from tests.leader.machine_etcd import HOSTS
from tests.leader.machine_model import CANDIDATES, SETTINGS, Model, make_machine

STEPS = (
    "evict",
    "evict",
    "host",
    "host",
    "leader",
    "foreign",
    "pause",
    "ok",
    "lost",
    "gone",
    "late",
)


@settings(SETTINGS, max_examples=100)
@given(
    st.sampled_from(["alpha", "rr"]),
    st.integers(1, 2),
    st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 9)), max_size=40),
)
def test_an_eviction_is_carried_out_once(
    strategy: str, max_count: int, steps: list[tuple[str, int]]
) -> None:
    """Whichever host leads, and whatever becomes of writes; see `what_we_stored_is_sound`."""
    machine = make_machine(strategy, max_count)
    for name in HOSTS[:4]:
        machine.etcd.put_host(name, b"{}")
    machine.settle()
    for step, pick in steps:
        take(machine, step, pick)
        machine.what_we_stored_is_sound()
    machine.etcd.put_control(machine.etcd.control.resume())
    machine.settle()
    machine.what_we_stored_is_sound()
    check_nothing_is_due(machine)


def take(machine: Model, step: str, pick: int) -> None:
    name = HOSTS[pick % 5]
    if step == "evict":
        machine.operator_evicts(pick)
    elif step == "host":
        there = machine.etcd.has_host(name)
        machine.host_changes(name, None if there else b"{}", restart=False)
    elif step == "leader":
        machine.candidate_loses_its_key(CANDIDATES[pick % 2], back=True)
    elif step == "foreign":
        machine.foreign_write({name})
    elif step == "pause":
        machine.operator_steers_all(None, pause=pick < 5)
    else:
        machine.run(CANDIDATES[pick % 2], learns=True, fates=[step, "ok", "ok", "ok", "ok"])


def check_nothing_is_due(machine: Model) -> None:
    """Whatever was wanted is known to be done."""
    record, control = machine.etcd.stored().record, machine.etcd.control
    if control.evictions and record is not None:
        control_read = cast("dict[str, int]", record.options["control"])
        assert control_read["evicted"] == max(each.revision for each in control.evictions.values())
