"""When a peer's silence is checked, and what is made of it. The time is an argument."""

from __future__ import annotations

from math import inf

import pytest

from trio_sched.etcd_shim.channel import PingPolicy
from trio_sched.etcd_shim.channel._liveness import PeerLiveness, Verdict

START = 100.3  # so that sums are not exact


def begun() -> PeerLiveness:
    """A peer that has said its first words, and a call that was answered."""
    liveness = PeerLiveness(PingPolicy(gap=5, interval=10, patience=0.5, timeout=1.5), START, inf)
    liveness.has_spoken = True
    assert liveness.begin(START)
    return liveness


def ask(liveness: PeerLiveness, now: float) -> None:
    """Do what a connection does that sends a request."""
    if liveness.asked_at is None:
        liveness.asked_at = now
        if liveness.relaxed:
            liveness.asked(now)


def run(liveness: PeerLiveness, until: float) -> list[tuple[float, Verdict]]:
    """Check whenever that is due; return when, and the verdicts."""
    found = []
    while liveness.next_check <= until:
        now = liveness.next_check
        found.append((round(now - START, 6), liveness.check(now, calls=True)))
        if found[-1][1] is Verdict.LOST:
            break
    return found


def test_a_peer_that_was_asked_nothing_is_checked_once_in_an_interval() -> None:
    liveness = begun()
    assert run(liveness, START + 10.1) == [(0.5, Verdict.WAIT), (10, Verdict.PING)]


def test_a_request_is_missed_after_patience() -> None:
    liveness = begun()
    run(liveness, START + 3)
    assert liveness.relaxed
    ask(liveness, START + 3)
    assert not liveness.relaxed
    assert run(liveness, START + 6)[0] == (3.5, Verdict.PING)


def test_a_request_is_missed_after_patience_though_another_was_answered_just_before() -> None:
    liveness = begun()
    ask(liveness, START + 0.1)
    liveness.received(START + 0.2)
    ask(liveness, START + 0.3)
    assert run(liveness, START + 1) == [(0.5, Verdict.WAIT), (0.8, Verdict.PING)]


def test_answers_in_time_lead_to_a_check_each_and_no_ping() -> None:
    liveness = begun()
    checks = []
    for number in range(1, 20):
        ask(liveness, START + number)
        liveness.received(START + number + 0.01)
        checks += run(liveness, START + number + 0.99)
    assert {verdict for _, verdict in checks} == {Verdict.WAIT}
    assert len(checks) <= 20


def test_pings_keep_their_gap() -> None:
    liveness = begun()
    ask(liveness, START)
    assert run(liveness, START + 1) == [(0.5, Verdict.PING)]
    liveness.received(START + 0.6)
    ask(liveness, START + 1)
    assert run(liveness, START + 6)[-1] == (5.5, Verdict.PING)
    assert all(verdict is Verdict.WAIT for _, verdict in run(begun(), START + 6))


def test_a_ping_that_is_not_answered_ends_it() -> None:
    liveness = begun()
    ask(liveness, START)
    found = run(liveness, START + 10)
    assert [verdict for _, verdict in found] == [Verdict.PING, Verdict.WAIT, Verdict.LOST]
    assert found[-1][0] == pytest.approx(2.001)


def test_words_are_awaited_first_after_requests_and_after_pings() -> None:
    liveness = PeerLiveness(PingPolicy(), START, START + 5)
    assert liveness.awaits_words
    liveness.has_spoken = True
    assert not liveness.awaits_words
    liveness.begin(START)
    ask(liveness, START)
    assert liveness.awaits_words
    liveness.received(START)
    assert not liveness.awaits_words
    run(liveness, START + 10.1)
    assert liveness.awaits_words  # it was pinged
    liveness.received(START + 10.2)
    assert not liveness.awaits_words


def test_without_calls_there_are_no_checks() -> None:
    liveness = begun()
    assert liveness.check(START + 0.5, calls=False) is Verdict.WAIT
    assert liveness.next_check == inf
    assert liveness.idle
