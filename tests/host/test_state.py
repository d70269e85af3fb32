"""What is known of a host: scheduled only if all that it takes holds at once."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import cast

import pytest
import trio

from trio_sched.etcd_shim import Client, KeyValue
from trio_sched.etcd_shim._keep import KeptLease
from trio_sched.exceptions import EndOfResults
from trio_sched.host.following import PathFollower
from trio_sched.host.reads import found_keys
from trio_sched.host.session import Session
from trio_sched.host.state import HostState
from trio_sched.model.control_state import ControlState
from trio_sched.model.keys import KeyRange, PathKeys
from trio_sched.model.records import DecisionRecord, Options, encode_scheduled

KEYS = PathKeys("/p")
LEASE, TTL = 7, 10


@dataclass
class NoClient:
    """Stands where no request is made."""

    async def lease_renew(self, _lease: int) -> int:
        raise AssertionError


def decided(revision: int, *names: str, lease: int = LEASE, go: bool = False) -> list[KeyValue]:
    scheduled = KeyValue(KEYS.scheduled, encode_scheduled(names), 1, revision, 1, 0)
    hosts = dict.fromkeys(names, lease)
    record = DecisionRecord(hosts, "l", 1, "", Options(3).as_json()).encode()
    return [scheduled, *([] if go else [KeyValue(KEYS.record, record, 1, revision, 1, 0)])]


def new_session(client: Client) -> Session:
    return Session(client, KeptLease(client.lease_renew, LEASE, TTL, trio.current_time()))


async def state_of(*found: KeyValue, revision: int = 5) -> HostState:
    await trio.lowlevel.checkpoint()
    client = cast("Client", NoClient())
    state = HostState("/p", "a", 1)
    follower = PathFollower(client, KEYS, 1)
    state.begin_session(new_session(client), follower)
    follower.cover(KEYS.decision, found_keys(revision, *found), trio.current_time())
    state.publish()
    return state


async def test_a_host_that_is_chosen_under_this_session_is_scheduled() -> None:
    state = await state_of(*decided(4, "a", "b"))
    assert state.scheduled
    assert trio.current_time() + TTL - 2 < state.deadline <= trio.current_time() + TTL - 1
    assert state.max_count == 3
    assert await state.wait_scheduled() == ("a", "b")


async def test_what_a_go_leader_chose_is_bound_to_the_name_alone() -> None:
    state = await state_of(*decided(4, "a", go=True))
    ask_operators(state)
    assert state.scheduled
    assert state.max_count == 1, "our own option, as it does not say"


def ask_operators(state: HostState, *drained: str) -> None:
    assert state.follower is not None
    control = ControlState(drained=frozenset(drained)).encode()
    found = found_keys(5, KeyValue(KEYS.control, control, 1, 5, 1, 0))
    state.follower.cover(KeyRange.of(KEYS.control), found)
    state.publish()


async def test_f63_a_go_leaders_decision_counts_once_operators_were_asked() -> None:
    state = await state_of(*decided(4, "a", go=True))
    assert not state.scheduled
    assert state.decisions.newest is None, "so it is told once, and not twice"
    ask_operators(state, "b")
    assert state.scheduled
    ask_operators(state, "a")
    assert not state.scheduled


async def test_f63_what_goes_on_goes_on_until_operators_were_asked() -> None:
    state = await state_of(*decided(4, "a"))
    assert state.follower is not None
    state.follower.cover(KEYS.decision, found_keys(9, *decided(8, "a", go=True)))
    assert state.scheduled
    state.publish()
    assert state.scheduled
    ask_operators(state)
    assert state.scheduled


async def test_f63_a_host_that_may_not_be_chosen_does_not_heed_a_go_leader() -> None:
    state = await state_of(*decided(4, "a", go=True))
    ask_operators(state)
    state.note_available(available=False)
    assert not state.scheduled
    state.note_available(available=True)
    assert state.scheduled


async def test_a_leader_of_ours_says_itself_when_a_host_is_not_to_run() -> None:
    """As while decisions are paused."""
    state = await state_of(*decided(4, "a"))
    state.note_available(available=False)
    assert state.scheduled


@pytest.mark.parametrize(
    "found", [[], decided(4, "b"), decided(4, "a", lease=LEASE + 1)], ids=["none", "other", "life"]
)
async def test_a_host_that_is_not_chosen_is_not_scheduled(found: list[KeyValue]) -> None:
    state = await state_of(*found)
    assert (state.scheduled, state.deadline) == (False, -inf)


async def test_a_lost_session_is_not_scheduled() -> None:
    state = await state_of(*decided(4, "a"))
    assert state.session is not None
    state.session.mark_lost("for a test")
    assert state.deadline == -inf


async def test_without_proof_it_is_scheduled_for_no_longer_than_a_ttl() -> None:
    state = await state_of(*decided(4, "a"))
    assert state.follower is not None
    state.follower.fresh_at -= TTL
    assert not state.scheduled


async def test_a_newer_decision_that_is_not_published_yet_ends_it_already() -> None:
    state = await state_of(*decided(4, "a"))
    assert state.follower is not None
    state.follower.cover(KEYS.decision, found_keys(9, *decided(8, "b")))
    assert not state.scheduled


async def test_what_is_not_covered_any_more_is_not_told_as_if_nothing_was_decided() -> None:
    """As while a session ends: its follower has let go, and the reader is not told of it."""
    state = await state_of(*decided(4, "a"))
    follower = state.follower
    assert follower is not None
    assert await state.decisions.next() == ("a",)
    follower.view.uncover(KEYS.decision)
    state.publish()
    newest = state.decisions.newest
    assert newest is not None
    assert (newest, newest.revision) == (("a",), 4)
    assert not state.scheduled


async def test_after_the_end_nothing_is_scheduled() -> None:
    state = await state_of(*decided(4, "a"))
    state.end()
    assert not state.scheduled
    with pytest.raises(EndOfResults, match="'a' has left '/p'"):
        await state.wait_scheduled()


async def test_f44_a_store_that_has_caught_up_is_noticed_at_the_join_by_its_decision() -> None:
    state = await state_of(*decided(400, "a"), revision=500)
    assert await state.decisions.next() == ("a",)
    client = cast("Client", NoClient())
    state.decisions.lose()
    assert await state.decisions.next() == ()
    follower = PathFollower(client, KEYS, 1)
    state.begin_session(new_session(client), follower)
    follower.cover(KEYS.decision, found_keys(510, *decided(399, "a")), trio.current_time())
    state.note_joined(510)
    state.publish()
    again = await state.decisions.next()
    assert (again, again.revision) == (("a",), 399)
    assert state.scheduled


async def test_f44_a_store_that_went_back_while_we_were_away_is_noticed_at_the_join() -> None:
    state = await state_of(*decided(400, "a"), revision=500)
    assert await state.decisions.next() == ("a",)
    client = cast("Client", NoClient())
    follower = PathFollower(client, KEYS, 1)
    state.begin_session(new_session(client), follower)
    state.note_joined(20)
    assert await state.decisions.next() == ()
    follower.cover(KEYS.decision, found_keys(20, *decided(19, "a")), trio.current_time())
    state.publish()
    again = await state.decisions.next()
    assert (again, again.revision) == (("a",), 19)
    assert state.scheduled
