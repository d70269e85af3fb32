"""`trio-sched run --once-per`: once for all hosts, with real processes on a real etcd."""

from __future__ import annotations

import io
import os
import re
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio
from rich.console import Console

from tests.cli.ops_tools import ops, validate
from tests.cli.run.run_tools import done, open_run
from tests.places import DOCS
from trio_sched import read_ticks
from trio_sched.cli.output import drawn
from trio_sched.cli.run.ticks import period_of
from trio_sched.cli.ticks import ticks_table
from trio_sched.etcd_shim import open_client
from trio_sched.model.ticks import Tick

# A day's tick that began six hours ago, so that none begins while a test runs.
DAILY = ("--once-per", "1d", "--at", f"{datetime.now(UTC) - timedelta(hours=6):%H:00}")


async def names(endpoint: str, path: str) -> list[str]:
    async with open_client(endpoint) as client:
        return [tick.name for tick in await read_ticks(client, path)]


# ---- as from cron ------------------------------------------------------------------


async def test_from_cron_on_three_hosts_one_does_it(endpoint: str, path: str) -> None:
    """All at once, and one that comes later."""
    outs: list[str] = []

    async def run(name: str) -> None:
        words = ("-q", "--hostname", name, "--endpoints", endpoint, path, "--once", *DAILY)
        code, out, err = await done(*words, "--", "sh", "-c", "echo $TRIO_SCHED_TICK; sleep 0.1")
        assert (code, err) == (0, "")
        outs.append(out)

    async with trio.open_nursery() as nursery:
        for name in ("a", "b", "c"):
            nursery.start_soon(run, name)
    await run("d")
    (said,) = filter(None, outs)
    assert [said.strip()] == await names(endpoint, path)


async def test_its_outcome_can_be_read(endpoint: str, path: str) -> None:
    code, _, _ = await done(
        "--hostname",
        "a",
        "--endpoints",
        endpoint,
        path,
        "--once",
        *DAILY,
        "--",
        "sh",
        "-c",
        "exit 7",
    )
    assert code == 7
    shown = await ops(endpoint, "ticks", path)
    (_head, row) = shown.out.splitlines()
    assert row.split()[1:4] == ["done", "7", "a"]
    as_json = await ops(endpoint, "ticks", path, "-o", "json")
    validate(as_json.json, "commands.schema.json#/$defs/ticks")
    (tick,) = as_json.json
    assert (tick["state"], tick["code"], tick["host"], tick["attempt"]) == ("done", 7, "a", 1)
    assert tick["begun"] <= tick["ended"]
    async with open_client(endpoint) as client:
        (found,) = await read_ticks(client, path)
        assert found.token == tick["token"]
        (kv,) = (await client.get_prefix(f"{path}/ticks/")).kvs
        left = (await client.lease_time_to_live(kv.lease)).granted_ttl
        assert left == 2 * 86400, "its period and a day"


def test_each_has_a_line_at_80_columns() -> None:
    ended = "2026-12-01T12:01:05+00:00"
    found = [
        Tick("2026-12-01T12:00:00Z", "running", "host-b", 9, 1, "2026-12-01T12:00:00+00:00"),
        Tick("2026-12-01T11:00:00Z", "done", "host-a", 7, 1, "2026-12-01T12:00:00+00:00", ended, 0),
        Tick("2026-12-01T10:00:00Z", "interrupted", "host-c", 5, 2, "?", "??"),
    ]
    shown = at_80_columns(found)
    assert max(map(len, shown)) <= 80
    assert [line.split() for line in shown] == [
        ["TICK", "STATE", "CODE", "HOST", "BEGUN", "TOOK"],
        ["2026-12-01T12:00:00Z", "running", "host-b", "2026-12-01T12:00:00"],
        ["2026-12-01T11:00:00Z", "done", "0", "host-a", "2026-12-01T12:00:00", "1m5s"],
        ["2026-12-01T10:00:00Z", "interrupted", "host-c", "?"],
    ]


def test_a_long_name_of_a_tick_or_a_host_breaks_no_time() -> None:
    ended = "2026-12-01T12:01:05+00:00"
    long = Tick("n" * 70, "done", "h" * 50, 7, 1, "2026-12-01T12:00:00+00:00", ended, 0)
    shown = at_80_columns([long])
    assert max(map(len, shown)) <= 80
    assert "2026-12-01T12:00:00" in shown[1]
    assert shown[1].split()[-1] == "1m5s"
    assert (sum(line.count("n") for line in shown), sum(line.count("h") for line in shown)) == (
        70 + "done".count("n"),
        50,
    )


def at_80_columns(found: list[Tick]) -> list[str]:
    console = Console(width=80, file=io.StringIO())
    return [line.rstrip() for line in drawn(ticks_table(found), console).splitlines()]


async def test_none_is_remembered(endpoint: str, path: str) -> None:
    shown = await ops(endpoint, "ticks", path)
    assert (shown.code, shown.out) == (0, "")
    assert "no tick" in shown.err


@pytest.mark.parametrize("on_crash", ["again", "skip"])
async def test_killed_while_it_does_it(
    endpoint: str, path: str, tmp_path: Path, on_crash: str
) -> None:
    """The next host does it again, or leaves it, once nothing lives of the first one."""
    flag = tmp_path / "killed"
    words = f"echo began; test -e {flag} || sleep 300"
    options = ("--once", *DAILY, "--on-crash", on_crash, "--ttl", "3")
    command = ["sh", "-c", words]
    async with (
        open_run(endpoint, path, *options, name="a", command=command) as first,
        open_run(endpoint, path, *options, name="b", command=command) as second,
    ):
        runs = {"a": first, "b": second}
        began: list[str] = []

        async with trio.open_nursery() as nursery:

            async def wait(name: str) -> None:
                await runs[name].event("started")
                began.append(name)
                nursery.cancel_scope.cancel()

            for name in runs:
                nursery.start_soon(wait, name)
        flag.touch()
        dead = runs.pop(began[0])
        dead.process.kill()
        ((other, run),) = runs.items()
        tick = await run.event("tick")
        if on_crash == "again":
            assert (tick["state"], tick["host"], tick["ran"]) == ("done", other, True)
            assert tick["attempt"] == 2
            assert await run.code() == 0
        else:
            assert (tick["state"], tick["host"], tick["ran"]) == ("crashed", began[0], False)
            assert await run.code() == 76


async def test_asked_to_end_it_is_done_by_another_host(endpoint: str, path: str) -> None:
    options = ("--once", *DAILY)
    async with open_run(endpoint, path, *options, name="a", command=["sleep", "300"]) as first:
        await first.event("started")
        async with open_run(endpoint, path, *options, name="b", command=["echo", "b"]) as second:
            await second.event("joined")
            first.send(signal.SIGTERM)
            assert await first.code() == 128 + signal.SIGTERM
            tick = await second.event("tick")
            assert (tick["host"], tick["attempt"], tick["ran"]) == ("b", 1, True)


# ---- staying -----------------------------------------------------------------------


async def test_staying_it_does_each_tick(endpoint: str, path: str) -> None:
    """Every second, on two hosts: each tick once, and none of them twice."""
    options = ("--once-per", "1s")
    command = ["sh", "-c", "echo $TRIO_SCHED_TICK"]
    async with (
        open_run(endpoint, path, *options, name="a", command=command) as first,
        open_run(endpoint, path, *options, name="b", command=command) as second,
    ):
        seen: dict[str, list[dict[str, Any]]] = {"a": [], "b": []}
        async with trio.open_nursery() as nursery:

            async def read(name: str, run: Any) -> None:
                while len(seen[name]) < 4:
                    seen[name].append(await run.event("tick"))

            nursery.start_soon(read, "a", first)
            nursery.start_soon(read, "b", second)
        for run in (first, second):
            run.send(signal.SIGTERM)
            assert await run.code() == 128 + signal.SIGTERM
        ran = [tick["name"] for ticks in seen.values() for tick in ticks if tick["ran"]]
        assert len(ran) == len(set(ran)) >= 3


async def test_killed_while_it_stays_the_other_goes_on(endpoint: str, path: str) -> None:
    options = ("--once-per", "1s", "--ttl", "3")
    command = ["true"]
    async with (
        open_run(endpoint, path, *options, name="a", command=command) as first,
        open_run(endpoint, path, *options, name="b", command=command) as second,
    ):
        tick = await first.event("tick")
        dead, other = (first, second) if tick["host"] == "a" else (second, first)
        dead.process.kill()
        while not (await other.event("tick"))["ran"]:
            pass


# ---- options -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("15m", 900), ("1h", 3600), ("1h30m", 5400), ("1d", 86400), ("1w", 604800)],
)
def test_periods(text: str, seconds: int) -> None:
    assert period_of(text) == seconds


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--once-per", "soon"], "no period"),
        (["--once-per", "1h", "--at", "3"], "no time of the day"),
        (["--once-per", "1h", "--at", "03:00"], "less than the period"),
        (["--once-per", "1h", "--tz", "Europe/Berlin"], "whole days"),
        (["--once-per", "1d", "--tz", "Mars/Base"], "no time zone"),
        (["--once-per", "1h", "-n", "2"], "not both"),
        (["--once-per", "1h", "--restart"], "not both"),
        (["--once-per", "0s"], "1 or more"),
        (["--at", "03:00"], "goes with --once-per"),
        (["--on-crash", "skip"], "goes with --once-per"),
    ],
)
async def test_what_does_not_go_together_is_refused(options: list[str], words: str) -> None:
    code, out, err = await done("/p", *options, "--", "true")
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1


# ---- the page ----------------------------------------------------------------------

PAGE = DOCS.joinpath("cron.md").read_text()


async def test_the_commands_of_the_page_run(endpoint: str, path: str, tmp_path: Path) -> None:
    """Each line of a crontab and of a unit, with commands of ours in place of those it names."""
    commands = re.findall(r"trio-sched run (/jobs/\S+) (.*?) -- (.*)", PAGE)
    assert len(commands) > 4
    for name in ("backup.sh", "report.sh", "poll.sh", "mailer"):
        script = tmp_path / name
        script.write_text('#!/bin/sh\necho "$TRIO_SCHED_TICK"\n')
        script.chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "ETCDCTL_ENDPOINTS": endpoint}
    for number, (_path, options, command) in enumerate(commands):
        words = [*options.split(), *(() if "--once " in f"{options} " else ("--once",))]
        code, out, _ = await done(f"{path}{number}", *words, "--", *command.split(), env=env)
        assert code == 0
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ?\n", out)
