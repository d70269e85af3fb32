"""What the operators' commands say about states of a path that are made up here."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click
import pytest
import trio
from rich.console import Console
from trio.testing import MockClock

from tests.cli.ops_tools import compare, validate
from tests.places import DOCS
from trio_sched._support.text import plain
from trio_sched.cli.output import terminal
from trio_sched.cli.view.silence import Silence
from trio_sched.cli.view.tables import status_view
from trio_sched.cli.view.watch import _View, line_of as watch_line
from trio_sched.cli.view.words import age_of
from trio_sched.exceptions import StrategyError
from trio_sched.leader.diagnosis import diagnose
from trio_sched.leader.preview import preview
from trio_sched.model.path_state import PathState
from trio_sched.model.records import Host
from trio_sched.serving.document import document_of, state_of
from trio_sched.strategies import StrategyOptions, register

NOW = datetime(2026, 3, 4, 12, 0, 0, tzinfo=UTC)
WHEN = "2026-03-04T11:58:30+00:00"
OURS = {"strategy": "rr", "max_count": 2}


def host(name: str, lease: str, **rest: Any) -> dict[str, Any]:
    return {
        "name": name,
        "lease": lease,
        "joined_revision": int(lease, 16),
        "options": OURS,
        "since": WHEN,
        **rest,
    }


def candidate(name: str, lease: str) -> dict[str, Any]:
    return {"name": name, "lease": lease, "fence": int(lease, 16)}


def record(hosts: Mapping[str, str], control: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {
        "leader": "a",
        "fence": 10,
        "reason": "b joined",
        "when": WHEN,
        "options": OURS | ({"control": control} if control else {}),
        "hosts": [{"name": name, "lease": lease} for name, lease in hosts.items()],
    }


def state(**changes: Any) -> PathState:
    """A path where all is well: a leads, a and b are scheduled and work, c waits."""
    document = {
        "path": "/jobs/x",
        "revision": 40,
        "pool": [host("a", "a"), host("b", "b"), host("c", "c")],
        "candidates": [candidate("a", "a"), candidate("b", "b"), candidate("c", "c")],
        "decision": {
            "hosts": ["a", "b"],
            "revision": 20,
            "record": record({"a": "a", "b": "b"}, changes.pop("known", None)),
        },
        "slots": [
            {"slot": 0, "host": "a", "token": 21, "lease": "a"},
            {"slot": 1, "host": "b", "token": 22, "lease": "b"},
        ],
        **changes,
    }
    return state_of(document)


def decided(*hosts: str, **rest: Any) -> dict[str, Any]:
    return {"hosts": [*hosts], "revision": 20, "record": None, **rest}


# ---- what is odd -------------------------------------------------------------------------------

GO_POOL = [host("a", "a", options={}, since=None), host("b", "b"), host("c", "c")]
DRAINED_A = {"revision": 30, "drained": ["a"]}
ODD: list[tuple[str, str, dict[str, Any]]] = [
    ("warning", "no-leader", {"candidates": []}),
    ("warning", "foreign-leader", {"pool": GO_POOL}),
    ("note", "foreign-hosts", {"pool": GO_POOL}),
    ("warning", "leader-not-in-pool", {"candidates": [candidate("z", "9")]}),
    (
        "warning",
        "options-differ",
        {"pool": [host("a", "a"), host("b", "b", options=OURS | {"max_count": 3})]},
    ),
    ("warning", "foreign-decision", {"decision": decided("a")}),
    ("note", "old-decision", {"candidates": [candidate("b", "b")]}),
    ("warning", "chosen-gone", {"pool": [host("a", "a")]}),
    ("note", "chosen-gone", {"pool": [], "candidates": []}),
    ("note", "joined-again", {"pool": [host("a", "a"), host("b", "bb"), host("c", "c")]}),
    ("note", "undecided", {"decision": None}),
    ("warning", "nobody-chosen", {"decision": decided(record=record({}))}),
    ("warning", "control-not-known", {"control": DRAINED_A}),
    ("warning", "drained-chosen", {"control": DRAINED_A}),
    ("note", "paused", {"control": {"revision": 30, "paused": True}}),
    (
        "note",
        "drained-chosen",
        {"control": DRAINED_A | {"paused": True}, "known": {"revision": 30}},
    ),
    ("note", "drained-absent", {"control": {"revision": 3, "drained": ["z"]}}),
    ("note", "no-slot", {"slots": [{"slot": 0, "host": "a", "lease": "a"}]}),
    (
        "warning",
        "slot-not-chosen",
        {"slots": [{"slot": at, "host": name, "lease": name} for at, name in enumerate("abc")]},
    ),
    (
        "note",
        "slot-of-old-session",
        {"slots": [{"slot": 0, "host": "a", "lease": "a"}, {"slot": 1, "host": "b", "lease": "1"}]},
    ),
    ("warning", "host-in-trouble", {"pool": [host("a", "a", trouble="its strategy fails: x")]}),
    (
        "warning",
        "unavailable-chosen",
        {"pool": [host("a", "a", available=False, reason="x"), host("b", "b"), host("c", "c")]},
    ),
]


def test_where_all_is_well_nothing_is_odd() -> None:
    assert diagnose(state()) == ()
    assert diagnose(state(control=DRAINED_A, known={"revision": 30}, decision=None, slots=[])) != ()


@pytest.mark.parametrize(("level", "kind", "changes"), ODD)
def test_what_is_odd(level: str, kind: str, changes: dict[str, Any]) -> None:
    found = diagnose(state(**changes))
    assert (level, kind) in [(finding.level, finding.kind) for finding in found]
    levels = [finding.level for finding in found]
    assert levels == sorted(levels, reverse=True), "warnings come first"


def test_the_schema_knows_what_can_be_odd() -> None:
    schema = json.loads((DOCS / "status.schema.json").read_text())
    kinds = schema["$defs"]["warning"]["properties"]["kind"]["examples"]
    assert sorted({kind for _, kind, _ in ODD}) == sorted(kinds)


@pytest.mark.parametrize(
    ("changes", "pending"),
    [
        ({}, True),  # no decision has seen it
        ({"known": {"revision": 30, "evicted": 28}}, True),
        ({"known": {"revision": 30, "evicted": 29}}, False),
        ({"pool": [host("a", "aa")]}, False),  # it is another session by now
        ({"pool": [host("b", "b")]}, False),
        ({"decision": decided("a", revision=28)}, True),
        ({"decision": decided("a", revision=31)}, False),  # decided since
    ],
)
def test_whether_an_eviction_is_still_to_come(changes: dict[str, Any], *, pending: bool) -> None:
    control = {"revision": 30, "evictions": [{"host": "a", "revision": 29, "lease": "a"}]}
    of = state(control=control, **changes)
    assert document_of(of, {})["control"]["evictions"][0]["pending"] is pending
    assert ("a evicted" in drawn(of, 100)) == pending


# ---- documents ---------------------------------------------------------------------------------

STATES = [state(), *(state(**dict(changes)) for _, _, changes in ODD)]


@pytest.mark.parametrize("of", STATES)
def test_a_document_goes_back_and_forth(of: PathState) -> None:
    document = document_of(of, {10: 7, 11: None})
    validate(document)
    assert state_of(document) == of
    assert document_of(state_of(document), {10: 7, 11: None}) == document


def test_a_document_of_all_that_there_can_be() -> None:
    control = {
        "revision": 30,
        "paused": True,
        "drained": ["b"],
        "max_count": 3,
        "evictions": [{"host": "c", "revision": 29, "lease": "c"}],
        "notes": {"drained/b": {"by": "anna", "why": "new disk"}, "paused": {}},
    }
    a = host("a", "a", zone="x", weight=2, priority=-1, data={"x": [1, None]}, available=False)
    of = state(pool=[a, host("\udcff", "b")], control=control)
    document = json.loads(json.dumps(document_of(of, {})))
    validate(document)
    assert state_of(document) == of


def test_a_document_by_hand_needs_hosts_only() -> None:
    found = preview(state_of({"pool": [{"name": "a"}, {"name": "b", "zone": "x"}]}), None, None)
    assert found.hosts == ("a",)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([], "the document must be an object"),
        ({}, "must have a pool"),
        ({"pool": {}}, "pool of the document must be a list"),
        ({"pool": [1]}, "pool[0] must be an object, not 1"),
        ({"pool": [{}]}, "pool[0] needs name"),
        ({"pool": [{"name": "a", "weight": True}]}, "weight of pool[0] must be a number"),
        ({"pool": [{"name": "a", "weight": 0}]}, "host 'a': weight must be from"),
        ({"pool": [{"name": "a", "lease": "xyz"}]}, "lease of pool[0] must be hexadecimal"),
        ({"pool": [], "format": 2}, "format must be 1"),
        ({"pool": [], "path": "x"}, "path must start with"),
        ({"pool": [], "decision": {"hosts": [1]}}, "a host in decision.hosts must be text"),
        ({"pool": [], "control": {"max_count": 0}}, "max_count must be 1 or more"),
        ({"pool": [], "control": {"notes": {"paused": 1}}}, "control.notes['paused'] must be"),
    ],
)
def test_what_is_no_document(document: object, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        state_of(document)


# ---- what would be decided ---------------------------------------------------------------------


def test_why_each_host_would_be_chosen_or_not() -> None:
    pool = [
        *(host(name, lease) for name, lease in (("a", "a"), ("b", "b"), ("c", "c"))),
        host("d", "d", available=False, reason="no disk"),
        host("e", "e"),
        host("f", "f"),
        host("x,y", "1"),
    ]
    control = {
        "revision": 30,
        "drained": ["e"],
        "notes": {"drained/e": {"why": "new disk"}},
        "evictions": [{"host": "b", "revision": 29, "lease": "b"}],
    }
    found = preview(state(pool=pool, control=control), None, None)
    assert found.hosts == ("a", "c")
    assert {verdict.name: verdict.why for verdict in found.verdicts} == {
        "a": "it stays",
        "c": "it is next",
        "b": "evicted",
        "d": "unavailable: no disk",
        "e": "drained: new disk",
        "f": "rr prefers others",
        "x,y": "a decision cannot name it",
    }
    assert [verdict.name for verdict in found.verdicts if verdict.was] == ["a", "b"]
    assert (found.changes, found.reason) == (True, "b evicted, e drained")


def test_options_come_from_the_leader_and_from_whoever_asks() -> None:
    only = {"strategy": "alpha", "max_count": 3, "hosts_filter": ["b"]}
    pool = [host("a", "a", options=only), host("b", "b"), host("c", "c")]
    found = preview(state(pool=pool), None, None)
    assert (found.strategy, found.max_count, found.hosts) == ("alpha", 3, ("b",))
    assert found.verdicts[1].why == "not in the leader's hosts_filter"
    found = preview(state(control={"revision": 3, "max_count": 1}), None, None)
    assert (found.max_count, found.hosts) == (1, ("a",))
    found = preview(state(control={"revision": 3, "max_count": 1}), "rr", 3)
    assert (found.max_count, found.hosts) == (3, ("a", "b", "c"))
    assert "max_count to 1" in found.notes[0]
    found = preview(state(candidates=[]), None, None)
    assert (found.max_count, found.changes) == (2, False)
    assert "there is no leader" in found.notes[0]


def test_while_paused_nothing_but_death_matters() -> None:
    paused = {"revision": 30, "paused": True}
    pool = [host("a", "aa"), host("b", "b"), host("c", "c")]
    found = preview(state(pool=pool, control=paused), "alpha", 3)
    assert found.hosts == ("b",)
    assert [verdict.why for verdict in found.verdicts] == [
        "decisions are paused, so it stays",
        "it joined again while decisions are paused",
        "decisions are paused",
    ]
    assert "paused" in found.notes[0]


def test_evictions_for_want_of_others_and_hosts_that_are_gone() -> None:
    eviction = {"revision": 30, "evictions": [{"host": "a", "revision": 29, "lease": "a"}]}
    found = preview(state(pool=[host("a", "a")], control=eviction), None, 1)
    whys = {verdict.name: verdict.why for verdict in found.verdicts}
    assert whys == {
        "a": "to be evicted, and no host is there to take its place",
        "b": "it is gone",
    }


def test_a_strategy_that_breaks_its_rules() -> None:
    def broken(_hosts: Mapping[str, Host], _options: StrategyOptions) -> Sequence[str]:
        return ["nobody"]

    register("broken", broken)
    with pytest.raises(StrategyError):
        preview(state(), "broken", None)
    with pytest.raises(ValueError, match="unknown strategy"):
        preview(state(), "unknown", None)


# ---- tables ------------------------------------------------------------------------------------


def busy() -> PathState:
    """A path with something in each column."""
    long = "a-host-with-quite-a-long-name.example.org"
    pool = [
        host("a", "a", zone="north", data={"rack": 7, "note": "x" * 30}, weight=2.5, priority=-3),
        host("b", "b", available=False, reason="its health check took longer than 10 s"),
        host("c", "c", since=None),
        host(long, "d", options=OURS | {"strategy": "alpha"}, since="2027-01-01T00:00:00+00:00"),
    ]
    control = {
        "revision": 30,
        "paused": True,
        "drained": ["c", "z"],
        "max_count": 3,
        "evictions": [{"host": "a", "revision": 29, "lease": "a"}],
        "notes": {
            "paused": {"by": "anna@desk", "when": WHEN, "why": "network works"},
            "drained/c": {"by": "bo", "why": "new disk"},
            "evict/a": {"when": "yesterday"},
        },
    }
    return state(pool=pool, control=control)


def drawn(of: PathState, width: int, *, wide: bool = False) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    with console.capture() as captured:
        console.print(status_view(of, {10: 9, 11: None}, NOW, wide=wide))
    return "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())


@pytest.mark.parametrize("width", [200, 120, 60])
def test_tables(width: int) -> None:
    compare(f"tables-{width}.txt", drawn(busy(), width, wide=True))


@pytest.mark.parametrize("width", [200, 120, 80, 40])
def test_narrow_tables(width: int) -> None:
    compare(f"narrow-{width}.txt", drawn(busy(), width))


@pytest.mark.parametrize("width", [150, 80, 60, 45])
def test_nothing_is_cut_in_a_wide_view_however_narrow_it_is(width: int) -> None:
    text = drawn(busy(), width, wide=True)
    headings = "HOST|STATE|WHY|ZONE|WEIGHT|PRIORITY|AGE|LEASE|TTL|DATA"

    def letters(text: str) -> list[str]:
        # In paragraphs, the headings are repeated; else it is the same in another place.
        words = re.sub(rf"(?im)^({headings})  +|\b({headings})\b", " ", text)
        return sorted("".join(words.split()))

    assert letters(text) == letters(drawn(busy(), 1000, wide=True)) == letters(drawn(busy(), 1000))
    assert max(map(len, text.splitlines())) <= width


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("env", "colour"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_colour(monkeypatch: pytest.MonkeyPatch, env: dict[str, str], *, colour: bool) -> None:
    for name in ("NO_COLOR", "COLORTERM", "COLUMNS", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"TERM": "xterm-256color"} | env).items():
        monkeypatch.setenv(name, value)
    file = Terminal()
    terminal(file).print(status_view(state(), None, NOW))
    assert ("\x1b[32m" in file.getvalue()) == colour
    monkeypatch.setenv("FORCE_COLOR", "1")
    piped = io.StringIO()
    terminal(piped).print(status_view(state(), None, NOW))
    assert "\x1b" not in piped.getvalue()


def test_what_is_in_etcd_does_nothing_to_a_terminal() -> None:
    evil = "\x1b[2J\r\n\u202e[bold]\x07\udc9b"
    pool = [host(evil, "a", reason=evil, available=False, zone="\x1b[1m", data={evil[:-1]: 1})]
    control = {"revision": 3, "drained": [evil], "notes": {f"drained/{evil}": {"why": evil}}}
    of = state(pool=pool, control=control, candidates=[candidate(evil, "a")])
    for text in (drawn(of, 80), drawn(of, 80, wide=True), watch_line(of, NOW)):
        assert "[bold]" in text.replace("\n", "")
        assert all(letter.isprintable() or letter == "\n" for letter in text)


def test_what_a_host_has_trouble_with_is_shown() -> None:
    of = state(pool=[host("a", "a", trouble="its strategy fails: x"), host("b", "b")])
    assert re.search(r"(?m)^a .*its strategy fails: x", drawn(of, 200))
    assert re.search(r"(?m)^warning  a: its strategy fails: x$", drawn(of, 200))
    assert "warning: a: its strategy fails: x" in watch_line(of, NOW)


def test_escapes_are_seen() -> None:
    assert plain("\x1b\u202e\udc9b\U000e0001 é") == r"\x1b\u202e\udc9b\U000e0001 é"


@pytest.mark.parametrize(
    ("since", "age"),
    [
        ("2026-03-04T12:00:00+00:00", "0s"),
        ("2026-03-04T11:59:01Z", "59s"),
        ("2026-03-04T11:58:00+00:00", "2m"),
        ("2026-03-04T10:58:30+00:00", "1h1m"),
        ("2026-03-04T12:00:00+02:00", "2h"),
        ("2025-03-03T11:00:00+00:00", "366d1h"),
        ("2026-03-04T12:00:01+00:00", "0s"),
        ("2026-03-04T12:00:10+00:00", "clock ahead"),
        ("9999-99-99T99:99:99+00:00", "?"),
        ("0001-01-01T00:00:00+23:59", "?"),
        ("", "?"),
    ],
)
def test_ages(since: str, age: str) -> None:
    assert age_of(since, NOW) == age


# ---- watch -------------------------------------------------------------------------------------


class Seen:
    """Stands for a `PathObservation`."""

    def __init__(self, newest: PathState) -> None:
        self.newest = newest
        self.answered_at = trio.current_time()


async def test_it_says_when_etcd_falls_silent(
    autojump_clock: MockClock,  # noqa: ARG001 # it makes the time fly
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[tuple[float, str]] = []
    began = trio.current_time()
    monkeypatch.setattr(
        click, "echo", lambda text, **_: said.append((trio.current_time() - began, text))
    )
    seen: Any = Seen(state())
    silence = Silence(lambda: seen.answered_at)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(silence.report)
        await trio.sleep(20.5)
        seen.answered_at = trio.current_time()
        await trio.sleep(3)
        nursery.cancel_scope.cancel()
    assert [words[:35] for _, words in said] == [
        "trio-sched: etcd does not answer, s", "trio-sched: etcd answers again, aft",
    ]  # fmt: skip


async def test_a_view_that_is_too_high_says_so(
    autojump_clock: MockClock,  # noqa: ARG001 # as above
) -> None:
    seen: Any = Seen(busy())

    def shown(height: int) -> list[str]:
        console = Console(file=io.StringIO(), width=100, height=height, color_system=None)
        with console.capture() as captured:
            console.print(_View(seen, Silence(lambda: seen.answered_at)))
        return captured.get().splitlines()

    whole = shown(100)
    assert len(shown(10)) == 9
    assert shown(10)[-1].startswith(f"and {len(whole) - 8} lines more")
    assert len(shown(len(whole) + 1)) == len(whole)
    await trio.sleep(30)
    silent = shown(10)
    assert len(silent) == 9
    assert silent[-1].startswith("etcd has not answered for 30 s")
    assert silent[-2].startswith(f"and {len(whole) - 7} lines more")
