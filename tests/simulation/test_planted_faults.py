"""The scheduler broken on purpose, one way at a time: all kinds of worlds find each in a minute."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import pytest
import trio

from trio_sched.etcd_shim import Compare, _keep
from trio_sched.host import following, leading, sharing, slots, state, work
from trio_sched.host.expectations import Expectation
from trio_sched.host.marks import Marks
from trio_sched.host.session import Session
from trio_sched.simulation.explore import command_of, describe, explore, shrink
from trio_sched.simulation.plan import Plan
from trio_sched.simulation.world import World

SECONDS = 60.0  # of CPU time
# From where they are found well within that on a busy machine, too.
FIRST_SEEDS = {"no_margin": 2000, "loss_is_of_one_path": 2000}


pytestmark = pytest.mark.usefixtures("untraced")


def _always(*_: object) -> Compare:
    """Return a compare that holds: of a key that is never there."""
    return Compare.version(b"/never", "==", 0)


class _ComparesNoFence:
    create_revision = staticmethod(_always)
    mod_revision = staticmethod(Compare.mod_revision)


class _ComparesNothing:
    create_revision = staticmethod(_always)
    mod_revision = staticmethod(_always)
    value = staticmethod(_always)


def no_fence(patch: pytest.MonkeyPatch) -> None:
    """A leader writes without comparing its candidate key."""
    patch.setattr(leading, "Compare", _ComparesNoFence)


def slot_without_compare(patch: pytest.MonkeyPatch) -> None:
    """A slot is taken whatever is there."""
    patch.setattr(slots, "Compare", _ComparesNothing)


def no_margin(patch: pytest.MonkeyPatch) -> None:
    """Work may go on until the very deadline, and comes to its end after it."""
    for module in (_keep, work, state):
        patch.setattr(module, "margin_of", lambda _ttl: 0.0)


def no_proof(patch: pytest.MonkeyPatch) -> None:
    """What a watch brings is believed for ever."""

    async def never(_follower: following.PathFollower) -> None:
        await trio.sleep_forever()

    patch.setattr(following.PathFollower, "keep_fresh", never)
    patch.setattr(state.HostState, "provable_until", property(lambda _: inf))


def revoke_before_the_end(patch: pytest.MonkeyPatch) -> None:
    """The lease is revoked while work goes on."""

    async def at_once(_worker: work.Worker, _session: Session) -> bool:
        await trio.lowlevel.checkpoint()
        return True

    patch.setattr(work.Worker, "wait_ended", at_once)


def predecessor_once(patch: pytest.MonkeyPatch) -> None:
    """The candidate before ours is watched, and never read again."""
    expected = following.PathFollower.expected

    def without(follower: following.PathFollower) -> dict[bytes, Expectation]:
        return {k: v for k, v in expected(follower).items() if k in follower._proven}

    patch.setattr(following.PathFollower, "expected", without)


def no_takeover_pause(patch: pytest.MonkeyPatch) -> None:
    """A slot that went with its lease is taken at once."""
    patch.setattr(Marks, "over_at", lambda _marks, _mark: -inf)


def back_is_ignored(patch: pytest.MonkeyPatch) -> None:
    """A store whose revision goes back is taken for the same."""
    patch.setattr(following, "_check_revision", lambda *_: None)
    patch.setattr(following.PathFollower, "_check_key", lambda *_: None)


def path_is_not_left(patch: pytest.MonkeyPatch) -> None:
    """A host whose session goes on leaves its keys where it was."""

    async def nothing(*_: object) -> None:
        await trio.lowlevel.checkpoint()

    patch.setattr(sharing, "withdraw", nothing)


def loss_is_of_one_path(patch: pytest.MonkeyPatch) -> None:
    """That the shared session is lost is not noticed by the other paths."""

    async def never(_session: Session) -> None:
        await trio.sleep_forever()

    patch.setattr(Session, "wait_lost", never)


FAULTS: tuple[Callable[[pytest.MonkeyPatch], None], ...] = (
    no_fence,
    slot_without_compare,
    no_margin,
    no_proof,
    revoke_before_the_end,
    predecessor_once,
    back_is_ignored,
    no_takeover_pause,
    path_is_not_left,
    loss_is_of_one_path,
)


@pytest.mark.timeout(600)  # it is bounded by CPU time
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_it_is_found(
    monkeypatch: pytest.MonkeyPatch, fault: Callable[[pytest.MonkeyPatch], None]
) -> None:
    fault(monkeypatch)
    first = FIRST_SEEDS.get(fault.__name__, 0)
    assert explore(first, SECONDS).failure is not None


@pytest.mark.timeout(600)  # as above
def test_what_is_found_is_made_small_and_can_be_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    no_margin(monkeypatch)
    found = explore(FIRST_SEEDS["no_margin"], SECONDS).failure
    assert found is not None
    small = shrink(found, 10.0)
    assert small.violations
    assert len(small.plan.actions) < len(found.plan.actions)
    text = describe(small)
    assert small.violations[0] in text
    command = command_of(small.plan)
    assert command in text
    again = World(Plan.from_json(command.partition("--plan ")[2].strip("'"))).run()
    assert again.digest == small.digest
    monkeypatch.undo()
    assert World(small.plan).run().violations == ()
