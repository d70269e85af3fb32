"""What `trio-sched run` says of its host, and where its options may stand."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.cli.ops_tools import validate
from tests.cli.run.run_tools import done, open_run
from tests.host.test_publishing import until_state
from tests.places import DOCS
from tests.reaper.tree_tools import marked
from trio_sched import observe, open_client, schedule

PAGE = DOCS.joinpath("run.md").read_text()
SLEEP = ["sleep", "300"]


async def checked(
    *options: str, env: dict[str, str] | None = None, command: str = "true"
) -> dict[str, Any]:
    """What holds, by the options' names: the value, and where it comes from."""
    words = ("/p", "--endpoints", "127.0.0.1:1", "--check", "--json", *options)
    code, out, _ = await done(*words, "--", command, env=env)
    document = json.loads(out)
    validate(document, "commands.schema.json#/$defs/run-check")
    assert code == 127 if command != "true" else code == 69
    return {each["name"]: (each["value"], each["source"]) for each in document["options"]}


# ---- where options may stand -------------------------------------------------------


async def test_the_line_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('zone = "file"\nttl = 7\nmax-count = 3\nstrategy = "spread"\nonce = true\n')
    env = {"TRIO_SCHED_ZONE": "environment", "TRIO_SCHED_TTL": "8", "TRIO_SCHED_REAPER": "0"}
    held = await checked("--config", str(file), "--zone", "line", env=env)
    assert held["zone"] == ("line", "line")
    assert held["ttl"] == (8, "environment")
    assert held["reaper"] == (False, "environment")
    assert held["max-count"] == (3, "file")
    assert held["once"] == (True, "file")
    assert held["grace"] == (None, "default")
    in_environment = await checked(env={"TRIO_SCHED_CONFIG": str(file)})
    assert in_environment["zone"] == ("file", "file")


async def test_each_option_may_stand_in_a_file(tmp_path: Path) -> None:
    values: dict[str, object] = {
        "hostname": "h",
        "strategy": "alpha",
        "ttl": 6,
        "grace": 1.5,
        "takeover-pause": 0.25,
        "wait": 9.0,
        "on-lost": "signal:USR1",
        "no_wait": True,
        "zone": "z",
        "weight": 2.5,
        "priority": -3,
        "data": {"a": [1]},
        "health": "true",
        "health-interval": 3,
        "hosts-filter": ["a", "b"],
        "once-per": "1d",
        "at": "03:00",
        "tz": "Europe/Berlin",
        "on-crash": "skip",
        "attempts": 2,
        "reaper": False,
        "http": "127.0.0.1:0",
        "metrics": "0",
        "quiet": True,
        "log": "json",
        "notify-child": True,
    }
    lines = [
        f"{name} = {{ a = [1] }}" if isinstance(value, dict) else f"{name} = {json.dumps(value)}"
        for name, value in values.items()
    ]
    file = tmp_path / "run.toml"
    file.write_text("\n".join(lines))
    held = await checked("--config", str(file))
    for name in values:
        assert held[name.replace("_", "-")][1] == "file", name
    assert held["data"][0] == '{"a": [1]}'
    assert held["hosts-filter"][0] == "a,b"
    assert held["on-lost"][0] == "SIGUSR1"
    assert held["metrics"][0] == "127.0.0.1:0"
    assert (held["quiet"][0], held["verbose"]) == (True, (False, "default"))


async def test_how_much_is_said_may_stand_in_each_place(
    endpoint: str, path: str, tmp_path: Path
) -> None:
    file = tmp_path / "run.toml"
    file.write_text("quiet = true")
    words = (path, "--endpoints", endpoint, "--no-reaper", "--config", str(file))

    async def said(*line: str, **env: str) -> str:
        code, _, err = await done(*words, *line, "--", "true", env=env)
        assert code == 0
        return "".join(line for line in err.splitlines() if "known faults" not in line)

    assert not await said()
    assert "joined" in await said("-v")
    assert "joined" in await said(TRIO_SCHED_VERBOSE="1")
    assert not await said("-q", TRIO_SCHED_VERBOSE="1")
    assert '"event": "joined"' in await said("-v", TRIO_SCHED_JSON="1")
    held = await checked("--config", str(file), "-v")
    assert (held["verbose"], held["quiet"]) == ((True, "line"), (True, "file"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("colour = 1", "no option 'colour'"),
        ("check = true", "no option 'check'"),
        ("ttl = 2.5", "2.5"),
        ("ttl = 0", "TTL"),
        ("zone = 2026-01-01", "is a date"),
        ("data = { since = 2026-01-01 }", "date"),
        ('health = ["test", "-e", "/x"]', "'health' is a list"),
        ("hosts-filter = [[1]]", "'hosts-filter' is a list"),
        ("max-count = true", "'max-count' is a bool"),
        ('hostname = "a\\u0000b"', "'hostname' holds NUL"),
        ('hosts-filter = ["a\\u0000b"]', "'hosts-filter' holds NUL"),
        ("takeover-pause = nan", "not a number of seconds"),
        ("quiet = true\nverbose = true", "not both"),
        ("zone = ", "run.toml"),
        ('data = "[]"', "must be an object"),
        ('weight = "heavy"', "heavy"),
        ("weight = -1", "weight"),
        ('hosts-filter = "a,,b"', "empty"),
        ("health-interval = 0", "0"),
    ],
)
async def test_what_a_file_must_not_say(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "run.toml"
    file.write_text(text)
    code, out, err = await done("/p", "--config", str(file), "--", "true")
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert words in err


async def test_a_file_that_is_not_there() -> None:
    code, _, err = await done("/p", "--config", "/no/such.toml", "--", "true")
    assert (code, err.count("\n")) == (2, 1)
    assert "/no/such.toml" in err


# ---- --check -----------------------------------------------------------------------


async def test_check_shows_what_holds_and_runs_nothing(endpoint: str, path: str) -> None:
    words = (path, "--endpoints", endpoint, "--check")
    code, out, err = await done(*words, "--user", "", "--", "true")
    assert (code, err) == (0, "")
    assert re.search(r"^command +true \(can be run\)$", out, re.MULTILINE)
    assert re.search(r"^etcd +answers; 0 hosts on the path, no leader$", out, re.MULTILINE)
    assert re.search(r"^max-count +1 +default$", out, re.MULTILINE)
    async with open_client(endpoint) as client:
        assert not (await client.get_prefix(f"{path}/")).kvs
        async with schedule(client, path, "a"):
            _, out, _ = await done(*words, "--", "true")
            assert "answers; 1 hosts on the path, a leads" in out


async def test_check_says_what_would_not_work() -> None:
    held = await checked(command="no-such-command")
    assert held["ttl"] == (10, "default")


async def test_check_shows_no_password() -> None:
    held = await checked("--user", "anna:secret")
    assert held["user"] == ("anna:***", "line")
    held = await checked("--user", "anna", env={"ETCDCTL_PASSWORD": "secret"})
    assert held["password"] == ("***", "environment")
    assert "secret" not in str(held)


# ---- what a host is ----------------------------------------------------------------


async def test_a_host_says_what_it_is(endpoint: str, path: str) -> None:
    options = ("--zone", "north", "--weight", "2", "--priority", "7", "--data", '{"disk": "fast"}')
    async with (
        open_client(endpoint) as client,
        open_run(endpoint, path, *options, command=SLEEP) as run,
        observe(client, path, pool=True) as states,
    ):
        await run.event("started")
        state = await until_state(states, lambda state: "host" in state.pool)
        host = state.pool["host"]
        assert (host.zone, host.weight, host.priority) == ("north", 2, 7)
        assert host.data == {"disk": "fast"}


async def test_hosts_that_may_be_chosen(endpoint: str, path: str) -> None:
    options = ("--hosts-filter", "b, c")
    async with (
        open_run(endpoint, path, *options, command=SLEEP, name="a") as first,
        open_run(endpoint, path, *options, command=SLEEP, name="b") as second,
    ):
        await second.event("started")
        await first.event("decision")
        assert first.child == 0


async def test_health_decides_whether_it_runs(endpoint: str, path: str, tmp_path: Path) -> None:
    """One that fails later ends the command, and one that takes too long is as one that fails."""
    flag = tmp_path / "healthy"
    words = f'test "$TRIO_SCHED_HOSTNAME" = host && test -e {shlex.quote(str(flag))}'
    options = ("--health", words, "--health-interval", "0.1")
    async with open_run(endpoint, path, *options, command=SLEEP) as run:
        assert (await run.event("health"))["healthy"] is False
        assert run.child == 0
        flag.touch()
        assert (await run.event("health"))["healthy"] is True
        await run.event("started")
        flag.unlink()
        await run.event("lost")
        await run.event("ended")


async def test_health_that_takes_too_long_is_none(endpoint: str, path: str, mark: str) -> None:
    options = ("--health", f"sleep {mark} & wait", "--health-interval", "0.2", "--wait", "1.5")
    async with open_run(endpoint, path, *options, command=SLEEP) as run:
        assert await run.code() == 75
        assert run.child == 0
    assert not marked(mark), "nothing of it is left"


# ---- the page ----------------------------------------------------------------------


async def test_the_file_of_the_page_is_right(endpoint: str, path: str, tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    text = re.sub(
        r"^endpoints.*$", f"endpoints = [{json.dumps(endpoint)}]", text, flags=re.MULTILINE
    )
    tmp_path.joinpath("backup.toml").write_text(text.replace("test -e /srv/backup/mounted", "true"))
    script = tmp_path / "backup.sh"
    script.write_text("#!/bin/sh\necho $TRIO_SCHED_TICK\n")
    script.chmod(0o755)
    commands = re.findall(r"^trio-sched run (\S+) (--config .*? --) (\S+)", PAGE, re.MULTILINE)
    assert len(commands) == 2
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    for _, options, command in commands:
        words = shlex.split(options.replace("backup.toml", str(tmp_path / "backup.toml")))
        code, out, _ = await done(path, "--once", *words, command, env=env)
        assert code == 0
        assert "north" in out or re.fullmatch(r"\d{4}-\d\d-\d\dT03:00:00\n", out)
