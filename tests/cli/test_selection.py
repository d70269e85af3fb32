"""Which hosts of a large path `status` shows, and in which order."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest

from tests.cli.ops_tools import ops
from tests.cli.test_pure import candidate, decided, host, state
from tests.helpers import until
from tests.places import DOCS
from trio_sched import open_client, schedule
from trio_sched.cli.view.selection import MATTERS, SHOWN, SORTS, STATES, Selection, select
from trio_sched.etcd_shim import Put
from trio_sched.model.keys import PathKeys
from trio_sched.model.path_state import PathState


def fleet(**changes: Any) -> PathState:
    """300 hosts, of which some matter."""
    special: dict[str, dict[str, Any]] = {
        "h250": {"available": False, "reason": "disk"},
        "h260": {"trouble": "its strategy fails"},
    }
    pool = [
        host(
            f"h{at:03}",
            f"{at + 256:x}",
            zone="north" if at % 2 else "south",
            weight=1 + at % 7,
            priority=at % 5,
            **special.get(f"h{at:03}", {}),
        )
        for at in range(300)
    ]
    return state(
        pool=pool,
        candidates=[candidate("h290", f"{290 + 256:x}")],
        decision=decided("h280", "h281"),
        slots=[],
        control={"revision": 1, "drained": ["h270"]},
        **changes,
    )


def names(selection: Selection, of: PathState | None = None) -> list[str]:
    return [found.name for found in select(of or fleet(), selection)[0]]


def test_what_matters_comes_first() -> None:
    hosts, left_out = select(fleet(), Selection())
    assert [found.name for found in hosts[:6]] == ["h290", "h280", "h281", "h260", "h250", "h270"]
    assert (len(hosts), left_out) == (SHOWN, 300 - SHOWN)
    assert hosts[6].name == "h000"


def test_a_small_path_is_shown_by_name_and_as_a_whole() -> None:
    assert names(Selection(), state()) == ["a", "b", "c"]


def test_all() -> None:
    assert names(Selection(everything=True)) == [f"h{at:03}" for at in range(300)]


@pytest.mark.parametrize(
    ("states", "found"),
    [
        ({"leads"}, ["h290"]),
        ({"scheduled"}, ["h280", "h281"]),
        ({"trouble"}, ["h260"]),
        ({"unavailable"}, ["h250"]),
        ({"drained", "unavailable"}, ["h250", "h270"]),
    ],
)
def test_states(states: set[str], found: list[str]) -> None:
    assert names(Selection(frozenset(states))) == found


def test_none_of_those_that_are_asked_for_is_left_out() -> None:
    assert len(names(Selection(frozenset({"waiting"})))) == 296
    assert len(names(Selection(pattern="north"))) == 150
    assert names(Selection(pattern="h29?")) == [f"h29{at}" for at in range(10)]


@pytest.mark.parametrize("sort", SORTS)
def test_sorting(sort: str) -> None:
    hosts, left_out = select(fleet(), Selection(sort=sort, everything=True))
    assert [*map(SORTS[sort], hosts)] == sorted(map(SORTS[sort], hosts))
    assert (len(hosts), left_out) == (300, 0)


def test_all_by_what_matters() -> None:
    found = names(Selection(sort=MATTERS, everything=True))
    assert found[:7] == ["h290", "h280", "h281", "h260", "h250", "h270", "h000"]
    assert len(found) == 300
    assert names(Selection(sort=MATTERS), state()) == ["a", "b", "c"]


def test_the_heaviest_come_first() -> None:
    hosts, _ = select(fleet(), Selection(sort="weight"))
    assert hosts[0].weight == 7


async def test_status_of_a_large_path(endpoint: str, path: str) -> None:
    keys = PathKeys(path)
    async with open_client(endpoint) as client, schedule(client, path, "z", zone="far") as result:
        await until(result, "z")
        await client.txn([], [Put(keys.host(f"h{at:03}"), "{}") for at in range(100)])
        shown = (await ops(endpoint, "status", path)).out
        rows = [line for line in shown.splitlines() if re.match(r"(z|h\d\d\d) ", line)]
        assert len(rows) == SHOWN
        assert rows[0].split()[0] == "z"
        assert f"\n{101 - SHOWN} more hosts; " in shown
        shown = (await ops(endpoint, "status", path, "--filter", "far")).out
        assert "\n1 of 101 hosts\n" in shown
        whole = (await ops(endpoint, "status", path, "--all")).out
        assert len(re.findall(r"^(?:z|h\d\d\d) ", whole, re.MULTILINE)) == 101
        assert len((await ops(endpoint, "status", path, "-o", "json")).json["pool"]) == 101
        refused = await ops(endpoint, "status", path, "-o", "json", "--all")
        assert (refused.code, refused.out) == (2, "")
        await client.delete_prefix(keys.exchange)


async def test_the_commands_of_the_page_run(endpoint: str, path: str) -> None:
    page = DOCS.joinpath("operations.md").read_text()
    section = page.partition("### Of many hosts\n")[2].partition("\n### ")[0]
    assert set(STATES) | {*SORTS, MATTERS} <= set(re.findall(r"`(\w+)`", section))
    commands = re.findall(r"^trio-sched (.*)$", section, re.MULTILINE)
    assert len(commands) == 2
    async with open_client(endpoint) as client, schedule(client, path, "web-1") as result:
        await until(result, "web-1")
        for words in commands:
            done = await ops(endpoint, *shlex.split(words.replace("/jobs/backup", path)))
            assert done.code == 0, done
