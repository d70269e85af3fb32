"""docs/run.md is true: its options, exit codes, variables and tests are those that there are."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import click
import pytest

from tests.cli.run.run_tools import open_run
from tests.places import DOCS, TESTS
from tests.reaper.process_tools import alive, eventually
from trio_sched import cli
from trio_sched.cli.exits import Exit
from trio_sched.cli.run.command import run
from trio_sched.etcd_shim import open_client
from trio_sched.testing.find import find_etcdctl

PAGE = DOCS.joinpath("run.md").read_text()


def test_every_test_that_it_names_exists() -> None:
    named = set(re.findall(r"\btest_\w+", PAGE))
    there = {
        name
        for file in TESTS.rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text(), re.MULTILINE)
    }
    assert len(named) > 10
    assert not named - there


@pytest.mark.parametrize("text", [PAGE, run.get_help(click.Context(run))])
def test_once_is_not_said_to_be_once_for_all_hosts(text: str) -> None:
    assert not re.search(r"cron[^.\n]*: one", text)
    (line,) = [line for line in text.splitlines() if "--no-wait --once -- backup.sh" in line]
    assert "from cron" not in line


async def test_once_runs_again_on_a_host_that_comes_later(endpoint: str, path: str) -> None:
    for name in ("a", "b", "c"):
        async with open_run(
            endpoint, path, "--no-wait", "--once", name=name, command=["echo", name]
        ) as process:
            assert await process.line() == name
            assert await process.code() == 0


@pytest.mark.parametrize("command", ["timeout", "su -c", "setsid"])
def test_commands_that_do_not_escape_are_named(command: str) -> None:
    (named,) = re.findall(r"\*\*What belongs to it:\*\*.*?\n\n", PAGE, re.DOTALL)
    assert f"`{command}`" in named


def test_every_option_is_told_of() -> None:
    named = set(re.findall(r"`(?:-\w`, `)?(--[\w-]+)", PAGE))
    there = {
        name for parameter in run.params for name in (*parameter.opts, *parameter.secondary_opts)
    }
    there = {name for name in there if name.startswith("--")} - {"--reaper"}
    assert there <= named


@pytest.mark.parametrize(
    ("name", "made"), [("run", r"reporter\.event\(\s*\"(\w+)\""), ("demo", r"post\(\s*\"(\w+)\"")]
)
def test_every_event_is_in_the_schema(name: str, made: str) -> None:
    """And their fields are: each line that a test reads is checked by it."""
    schema = json.loads(DOCS.joinpath("commands.schema.json").read_text())["$defs"][name]
    described = {event["properties"]["event"]["const"] for event in schema["oneOf"]}
    source = "".join(file.read_text() for file in Path(cli.__path__[0], name).glob("*.py"))
    always = {"log", "error"} if name == "run" else set()
    assert described == {*re.findall(made, source), *always}


@pytest.mark.parametrize("code", [code.value for code in Exit])
def test_every_exit_code_is_told_of(code: int) -> None:
    assert f"| {code} |" in PAGE or code == Exit.USAGE
    help_text = run.get_help(click.Context(run))
    assert re.search(rf"^\s+{code} ", help_text, re.MULTILINE)


async def test_f59_its_transaction_is_refused_once_the_slot_is_gone(
    endpoint: str, path: str
) -> None:
    """And its recipe notices: etcdctl's exit code is 0 all the same."""
    (script,) = [text for text in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) if "txn" in text]
    where = f"{path}/written"
    script = script.replace("/backup/done", where)
    words = f"read x; {script} echo once; read x; {script} echo twice"
    etcdctl = find_etcdctl().parent
    env = {"PATH": f"{etcdctl}:{os.environ['PATH']}", "ETCDCTL_ENDPOINTS": endpoint}
    env |= {"ETCDCTL_API": "3"}
    options = ("--once", "--on-lost", "signal:CONT")
    async with (
        open_client(endpoint) as client,
        open_run(endpoint, path, *options, command=["sh", "-c", words], env=env) as process,
    ):
        started = await process.event("started")
        assert process.process.stdin is not None
        await process.process.stdin.send_all(b"go\n")
        assert await process.line() == "once"
        first = (await client.get(where)).kv
        assert first is not None
        # While the wrapper does not notice, another client takes the slot.
        process.send(signal.SIGSTOP)
        await client.put(f"{path}/slots/0", "other")
        await client.delete(f"{path}/slots/0")
        await client.put(f"{path}/slots/0", "other")
        await process.process.stdin.send_all(b"go\n")
        await eventually(lambda: not alive(started["pid"]))
        process.send(signal.SIGCONT)
        assert (await process.event("ended"))["code"] == 1, "it did not come to echo"
        second = (await client.get(where)).kv
        assert second is not None
        assert second.mod_revision == first.mod_revision
        assert started["token"] < first.mod_revision
        await client.delete(f"{path}/slots/0")
