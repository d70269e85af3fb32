from __future__ import annotations

from typing import Any

import pytest

from trio_sched.cli.run.lines import line_of

LOST: dict[str, Any] = {"signal": "SIGTERM", "hosts": ["b"]}
CASES: list[tuple[str, dict[str, Any], int, str]] = [
    ("started", {"pid": 7, "slot": 0, "token": 9}, 0, "started, pid 7, slot 0, token 9"),
    ("ended", {"code": 0, "killed": False}, 0, "ended with 0"),
    ("ended", {"code": 137, "killed": True}, 0, "ended with 137, after SIGKILL"),
    ("lost", LOST | {"why": "handed_over"}, 0, "handed over to b; the command gets SIGTERM"),
    (
        "lost",
        LOST | {"why": "handed_over", "hosts": []},
        0,
        "handed over to no host; the command gets SIGTERM",
    ),
    (
        "lost",
        LOST | {"why": "slot_lost"},
        0,
        "lost the right to run: its slot is gone; the command is killed",
    ),
    (
        "lost",
        LOST | {"why": "session_lost"},
        0,
        "lost the right to run: its session is over; the command gets SIGTERM",
    ),
    (
        "lost",
        LOST | {"why": "deadline"},
        0,
        "lost the right to run: etcd has not answered in time; the command gets SIGTERM",
    ),
    ("joined", {}, 1, "joined"),
    ("serving", {"what": "http", "address": "x:1"}, 1, "serves http at x:1"),
    ("decision", {"hosts": ["a", "b"], "revision": 3}, 1, "a, b chosen, revision 3"),
    ("signal", {"signal": "SIGHUP", "passed_on": True}, 1, "SIGHUP, passed on"),
    ("signal", {"signal": "SIGTERM", "passed_on": False}, 1, "SIGTERM, which ends us"),
    ("stopped", {"signal": "SIGTSTP"}, 1, "the command was stopped by SIGTSTP"),
    ("exit", {"code": 3}, 1, "exit code 3"),
]


@pytest.mark.parametrize(("event", "fields", "least", "words"), CASES)
def test_lines(event: str, fields: dict[str, Any], least: int, words: str) -> None:
    assert line_of(event, fields, least) == words
    assert line_of(event, fields, least - 1) is None


def test_names_out_of_etcd_do_nothing_to_a_terminal() -> None:
    line = line_of("lost", LOST | {"why": "handed_over", "hosts": ["\x1b[2J\n"] * 9}, 0)
    assert line is not None
    assert line.isprintable()
    assert line.count("\\x1b") == 5


def test_what_is_not_known_is_not_said() -> None:
    assert line_of("another", {}, 1) is None
