"""`history`, `status --at` and `simulate --from-history`: what was, out of etcd's revisions."""

from __future__ import annotations

import json
import re
from datetime import datetime

import pytest

from tests.cli.ops_tools import ops, validate
from tests.helpers import until
from tests.places import DOCS
from trio_sched import Client, Control, open_client, schedule
from trio_sched.cli.past import Past, read_past
from trio_sched.etcd_shim import Put
from trio_sched.model.keys import PathKeys
from trio_sched.model.records import DecisionRecord
from trio_sched.simulation import MemoryEtcd, simulate
from trio_sched.testing import open_etcd


async def a_night(client: Client, path: str) -> list[int]:
    """Host a, then b as well; a is drained, and comes back; both go."""
    revisions = []
    async with schedule(client, path, "a", zone="north") as first:
        await until(first, "a")
        async with schedule(client, path, "b", zone="south", weight=3) as second:
            await Control(client, path).drain("a")
            revisions.append((await until(second, "b")).revision)
            await Control(client, path).undrain("a")
            await second.update(weight=4)
    await Control(client, path).set_count(2)
    return revisions


async def test_history(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client:
        (drained,) = await a_night(client, path)
        async with schedule(client, path, "c") as result:
            last = (await until(result, "c")).revision
            shown = await ops(endpoint, "history", path)
            as_json = await ops(endpoint, "history", path, "-o", "json")
            recent = await ops(endpoint, "history", path, "--since", "1h")
        assert (shown.code, shown.err, recent.out) == (0, "", shown.out)
        validate(as_json.json, "commands.schema.json#/$defs/history")
        decisions = as_json.json["decisions"]
        found = {each["revision"]: each for each in decisions}
        assert list(found) == sorted(found)
        assert found[drained]["hosts"] == ["b"]
        assert found[drained]["leader"] == "a"
        assert found[drained]["reason"].endswith("a drained")  # and b has joined, maybe
        assert (found[last]["hosts"], found[last]["leader"]) == (["c"], "c")
        assert datetime.fromisoformat(found[last]["when"]).tzinfo
        gone = [each for each in decisions if not each["hosts"]]
        assert gone, "between the last of the night and c there was none"
        head, *rows = shown.out.splitlines()
        assert head.split() == ["WHEN", "REVISION", "SCHEDULED", "BY", "WHY"]
        assert len(rows) == len(decisions)
        assert any(re.search(rf" {drained}  b +a +.*a drained$", row) for row in rows)
        await client.delete_prefix(f"{path}/")


@pytest.mark.parametrize("when", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
async def test_times_that_another_has_written_are_borne(
    endpoint: str, path: str, when: str
) -> None:
    keys = PathKeys(path)
    record = DecisionRecord({"a": 1}, "a", 1, when=when).encode()
    host = json.dumps({"since": when})
    async with open_client(endpoint) as client:
        await client.txn(
            [],
            [Put(keys.scheduled, "a"), Put(keys.record, record), Put(keys.host("a"), host)],
        )
        since = await ops(endpoint, "history", path, "--since", "1d", "-o", "json")
        assert since.code == 0
        assert len(since.json["decisions"]) == (when > "2000")
        replayed = await ops(endpoint, "simulate", "--from-history", path, "--since", "5000w")
        assert (replayed.code, replayed.err) == (0, "")
        await client.delete_prefix(f"{path}/")


async def test_status_as_it_was(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client:
        (drained,) = await a_night(client, path)
        then = await ops(endpoint, "status", path, "--at", str(drained), "-o", "json")
        validate(then.json)
        assert then.json["revision"] == drained
        assert {host["name"] for host in then.json["pool"]} == {"a", "b"}
        assert then.json["control"]["drained"] == ["a"]
        table = await ops(endpoint, "status", path, "--at", str(drained))
        assert re.search(r"^scheduled +b ", table.out, re.MULTILINE)
        assert (await ops(endpoint, "status", path, "--at", "1")).code == 66
        future = await ops(endpoint, "status", path, "--at", "999999999")
        assert (future.code, future.out, future.err.count("\n")) == (66, "", 1)
        await client.delete_prefix(f"{path}/")


async def test_what_was_compacted_is_said() -> None:
    path = "/jobs"
    async with open_etcd() as server, open_client(server.endpoint) as client:
        (drained,) = await a_night(client, path)
        async with schedule(client, path, "c") as result:
            kept = (await until(result, "c")).revision
            await client.compact(kept)
            await Control(client, path).pause()
            await client.put("/other", "x")
            shown = await ops(server.endpoint, "history", path)
            assert shown.code == 0
            assert f"before revision {kept + 1} is compacted" in shown.err
            _head, row, *_later = shown.out.splitlines()
            assert row.split()[1:4] == [str(kept), "c", "c"]
            gone = await ops(server.endpoint, "status", path, "--at", str(drained))
            assert (gone.code, gone.err.count("\n")) == (66, 1)
            await Control(client, path).resume()


async def test_a_path_that_never_was(endpoint: str, path: str) -> None:
    for command in (("history", path), ("simulate", "--from-history", path)):
        shown = await ops(endpoint, *command)
        assert (shown.code, shown.out, shown.err.count("\n")) == (66, "", 1)


async def test_last_night_with_another_strategy(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client:
        await a_night(client, path)
        async with schedule(client, path, "c") as result:
            await until(result, "c")
            past = await read_past(client, path)
            shown = await ops(
                endpoint, "simulate", "--from-history", path, "--strategy", "alpha", "-o", "json"
            )
        validate(shown.json, "commands.schema.json#/$defs/simulate")
        assert set(shown.json["hosts"]) == {"a", "b", "c"}
        await client.delete_prefix(f"{path}/")
    trace = past.trace()
    deeds = [(event.do, event.host) for event in trace.events]
    assert deeds[:2] == [("join", "a"), ("join", "b")]
    assert deeds.index(("drain", "a")) < deeds.index(("undrain", "a")) < deeds.index(("leave", "b"))
    assert ("update", "b") in deeds
    assert ("set-count", "") in deeds
    joined = next(event for event in trace.events if event.host == "b")
    assert (joined.data.zone, joined.data.weight) == ("south", 3)
    assert simulate("rr", trace).hosts == ("a", "b", "c")
    late = past.trace(since=past_end(past) + 1)
    assert [(event.do, event.host) for event in late.events if event.do == "join"] == [
        ("join", "c")
    ]


def past_end(past: Past) -> float:
    *_, last = past.decisions()
    return datetime.fromisoformat(last.when).timestamp()


async def test_a_newer_etcd_says_itself_when_that_is_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one does whose answers about progress can be relied on."""
    monkeypatch.setattr("trio_sched.simulation.memory_requests.VERSION", "3.5.16")
    async with MemoryEtcd().open_client() as client:
        await a_night(client, "/jobs")
        past = await read_past(client, "/jobs")
        decisions = list(past.decisions())
        assert {each.hosts for each in decisions} >= {("a",), ("b",), ()}
        assert past.last_revision >= past.events[-1].kv.mod_revision


async def test_wrong_usage(path: str) -> None:
    for words in (
        ("history", path, "--since", "soon"),
        ("history", path, "--since", "999999999w"),
        ("status", path, "--at", "0"),
        ("simulate",),
        ("simulate", "--since", "1h", "-"),
        ("simulate", "--from-history", "p"),
    ):
        done = await ops("127.0.0.1:1", *words)
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1), done


async def test_the_commands_of_the_page_run(endpoint: str, path: str) -> None:
    page = DOCS.joinpath("operations.md").read_text()
    block = page.partition("## What was\n")[2].partition("```sh\n")[2].partition("```")[0]
    commands = re.findall(r"^trio-sched (.*?)(?: +#.*)?$", block, re.MULTILINE)
    assert len(commands) == 3
    async with open_client(endpoint) as client, schedule(client, path, "a") as result:
        revision = (await until(result, "a")).revision
        for words in commands:
            arguments = words.replace("/jobs/backup", path).replace("4711", str(revision)).split()
            done = await ops(endpoint, *arguments)
            assert done.code == 0, done
