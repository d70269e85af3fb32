"""The board of all paths, from keys as they are stored. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from tests.cli.ops_tools import validate
from trio_sched.cli.web.board import Board, path_of
from trio_sched.model.records import DecisionRecord


@dataclass(frozen=True)
class Stored:
    """A key as etcd has it."""

    key: bytes
    value: bytes
    mod_revision: int
    create_revision: int
    lease: int = 7
    version: int = 1


class Store:
    """Puts and deletes, on a board."""

    def __init__(self) -> None:
        self.board = Board()
        self.revision = 10

    def change(self, changes: dict[str, bytes | None]) -> bool:
        self.revision += 1
        found: dict[bytes, Any] = {}
        for name, value in changes.items():
            key = name.encode(errors="surrogateescape")
            stored = None if value is None else Stored(key, value, self.revision, self.revision)
            found[key] = stored
        return self.board.update(found, self.revision, f"2026-01-01T00:00:{self.revision}+00:00")

    def decide(self, path: str, *names: str, reason: str = "because") -> None:
        when = f"2026-01-01T01:00:{self.revision}+00:00"
        record = DecisionRecord(dict.fromkeys(names, 7), "a", 11, reason, {}, when)
        self.change(
            {
                f"{path}/scheduled": ",".join(names).encode() if names else None,
                f"{path}/scheduled.record": record.encode(),
            }
        )

    def document(self, path: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(json.dumps(self.board.document(path)))
        validate(found, "commands.schema.json#/$defs/web_path")
        return found


@pytest.mark.parametrize(
    ("key", "path"),
    [
        (b"/a/exchange/h", "/a"),
        (b"/a/b/election/7f", "/a/b"),
        (b"/a/scheduled", "/a"),
        (b"/a/scheduled.record", "/a"),
        (b"/a/control", "/a"),
        (b"/a/slots/0", "/a"),
        (b"/a/slots.taken/0", "/a"),
        (b"/a/exchange/x/exchange/h", "/a/exchange/x"),
        (b"/a/exchange/x/y", "/a"),  # Go takes any suffix for a host
        (b"/exchange/h", None),
        (b"/a/other/h", None),
        (b"/a/exchange/", None),
        (b"/a//scheduled", None),
        (b"a/scheduled", None),
        (b"/\xff/scheduled", None),
        (b"/" + b"x" * 5000 + b"/scheduled", None),
    ],
)
def test_which_path_a_key_is_of(key: bytes, path: str | None) -> None:
    assert path_of(key) == path


def test_paths_come_and_go() -> None:
    store = Store()
    assert not store.change({"/registry/pods/x": b"another program's"})
    assert store.change({"/p/exchange/a": b"{}", "/q/exchange/a": b"{}"})
    assert [*store.board] == ["/p", "/q"]
    version = store.board.version
    assert store.change({"/p/exchange/a": None})
    assert [*store.board] == ["/q"]
    assert [*store.board.since(version)] == [("/p", "null")]
    store.change({"/p/exchange/a": b"{}"})
    assert [path for path, _ in store.board.since(version)] == ["/p"]


def test_what_operators_want_makes_no_path() -> None:
    store = Store()
    store.change({"/p/control": b'{"paused": true}'})
    assert [*store.board] == []
    store.change({"/p/exchange/a": b"{}"})
    assert store.document("/p")["status"]["control"]["paused"]


def test_since_when_a_host_is_scheduled() -> None:
    store = Store()
    store.change({"/p/exchange/a": b"{}", "/p/exchange/b": b"{}"})
    store.decide("/p", "a")
    store.decide("/p", "a", "b")
    since = {each["host"]: each for each in store.document("/p")["since"]}
    assert since["a"]["time"] < since["b"]["time"]
    assert not since["a"]["or_longer"]
    store.decide("/p", "b")
    assert [each["host"] for each in store.document("/p")["since"]] == ["b"]


def test_what_was_so_before_may_be_so_for_longer() -> None:
    first, store = Store(), Store()
    first.change({"/p/exchange/a": b"{}"})
    record = DecisionRecord({"a": 7}, "a", 11, "x", {}, "2026-01-01T00:00:00+00:00")
    store.change({"/p/scheduled": b"a", "/p/scheduled.record": record.encode()})
    (since,) = store.document("/p")["since"]
    assert since == {"host": "a", "time": "2026-01-01T00:00:00+00:00", "or_longer": True}


def test_the_last_changes_have_their_reasons() -> None:
    store = Store()
    store.change({"/p/exchange/a": b"{}"})
    store.change({"/p/election/7": b"a"})
    store.decide("/p", "a", reason="a joined")
    store.change({"/p/control": b'{"paused": true, "max_count": 3, "drained": ["a"]}'})
    store.change({"/p/exchange/a": None})
    found = [(each["what"], each["hosts"], each["why"]) for each in store.document("/p")["changes"]]
    assert found == [
        ("leader", ["a"], ""),
        ("decided", ["a"], "a: a joined"),
        ("control", ["a"], "paused, max_count 3"),
        ("left", ["a"], ""),
    ]


def test_changes_are_bounded() -> None:
    store = Store()
    store.change({"/p/exchange/a": b"{}"})
    for number in range(100):
        store.decide("/p", f"h{number}")
    changes = store.document("/p")["changes"]
    assert len(changes) == 30
    assert changes[-1]["hosts"] == ["h99"]


def test_many_who_join_at_once_are_one_change() -> None:
    store = Store()
    store.change({"/p/exchange/a": b"{}"})
    store.change({f"/p/exchange/h{number:03}": b"{}" for number in range(300)})
    (change,) = store.document("/p")["changes"]
    assert len(change["hosts"]) == 8
    assert change["why"] == "and 292 more"
    assert len(store.document("/p")["status"]["pool"]) == 301


def test_paths_that_are_gone_are_forgotten() -> None:
    store = Store()
    for number in range(1100):
        store.change({f"/p{number}/exchange/a": b"{}"})
        store.change({f"/p{number}/exchange/a": None})
    assert len(store.board.removed) == 1000


def test_whatever_is_stored_comes_out_as_json() -> None:
    store = Store()
    name = "<script>\x00\u202e\udcff"
    store.change({f"/p/exchange/{name}": b"\xff{[", "/p/scheduled": b"\xff", "/p/control": b"["})
    document = store.document("/p")
    assert document["status"]["pool"][0]["name"] == name
