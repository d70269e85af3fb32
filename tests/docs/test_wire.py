"""docs/wire.md is true: what it shows is what is sent, and its keys are those that there are."""

from __future__ import annotations

import json
import re

import pytest

from tests.docs.conversation import PAGE, PARTS, record, written
from trio_sched.model.control_state import ControlState, Note
from trio_sched.model.keys import PathKeys
from trio_sched.model.records import DecisionRecord, HostData, Options

TEXT = PAGE.read_text()
ROW = r"^\| `(exchange/HOST|scheduled.record|control)` \| (.*) \|$"
TABLE = dict(re.findall(ROW, TEXT, re.MULTILINE))


def exchanges(page: str) -> dict[str, list[str]]:
    """Each part of the page, with what is sent in it, sorted."""
    blocks = re.findall(r"^### ([^\n]*)\n[^#]*?```text\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return {name: sorted(re.split(r"\n(?=\w+ [<-])", text.strip())) for name, text in blocks}


def test_the_page_has_what_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run ``python -m tests.docs.conversation`` when that is meant to change."""
    parts = record(monkeypatch.setattr)
    assert tuple(parts) == PARTS
    assert exchanges(TEXT) == exchanges(written(TEXT, parts))
    assert len(exchanges(TEXT)) == len(PARTS)


def test_its_keys_are_those_of_a_path() -> None:
    row = r"^\| (?:\*Go\*)? *\| `(PATH/[\w./]+?)(?:HOST|LEASE|N|NAME)?` \|"
    named = set(re.findall(row, TEXT, re.MULTILINE))
    keys = PathKeys("PATH")
    names = ("exchange", "election", "scheduled", "record", "slots", "marks", "control", "ticks")
    assert named == {getattr(keys, name).decode() for name in names}


def fields(cell: str) -> set[str]:
    return set(re.findall(r"`(\w+)`", cell)) - {"LEASE"}


def test_its_fields_are_those_that_are_written() -> None:
    host = HostData(2, "z", 1, {"x": 1}, available=False, reason="ill").as_json()
    options = Options(hosts_filter=frozenset({"a"})).as_json()
    assert fields(TABLE["exchange/HOST"]) == {*host, *options, "options", "since", "trouble"}
    record = json.loads(DecisionRecord({"a": 1}, "a", 1, "x", {}, "now").encode())
    assert fields(TABLE["scheduled.record"]) == {*record}
    note = Note("anna", "now", "new disk")
    state = ControlState().pause(note).drain("a", note).set_count(1, note)
    control = json.loads(state.evict("b", revision=7, lease=8, note=note).encode())
    (eviction,) = control["evict"].values()
    assert fields(TABLE["control"]) == {*control, *eviction, *note.as_json()}
