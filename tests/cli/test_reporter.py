"""What `run` says on standard error, of real processes."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from tests.cli.run.run_tools import COMMAND, Lines, done, open_run
from tests.places import DOCS
from tests.reaper.process_tools import alive, ended_with_block, eventually
from trio_sched import open_client
from trio_sched.etcd_shim import EventType
from trio_sched.testing import open_etcd, open_faulty_link

PAGE = DOCS.joinpath("systemd.md").read_text()


@asynccontextmanager
async def open_text(
    endpoint: str, path: str, *options: str, name: str = "host"
) -> AsyncIterator[tuple[trio.Process, Lines]]:
    """Run a command that lasts, and read the text."""
    arguments = ["--endpoints", endpoint, "--hostname", name, *options]
    process = await trio.lowlevel.open_process(
        [*COMMAND, path, *arguments, "--", "sleep", "300"], stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    async with ended_with_block(process, 40):
        yield process, Lines(process.stderr)
        process.terminate()
        await process.wait()


async def next_line(lines: Lines) -> str | None:
    """The next one that is not about the version of etcd."""
    while True:
        line = await lines.read()
        if line is None or "has known faults" not in line:
            return line


async def test_each_thing_is_one_line(endpoint: str, path: str) -> None:
    """And of the form that the page shows."""
    async with (
        open_client(endpoint) as client,
        open_text(endpoint, path, "--ttl", "3") as (process, lines),
    ):
        said = [await next_line(lines)]
        async with open_run(endpoint, path, name="other", command=["sleep", "300"]) as other:
            await other.event("joined")
            await client.put(f"{path}/control", json.dumps({"drained": ["host"]}))
            await other.event("started")
            said += [await next_line(lines), await next_line(lines)]
            other.process.terminate()
            await client.delete(f"{path}/control")
            said.append(await next_line(lines))
        process.send_signal(signal.SIGTERM)
        said.append(await next_line(lines))
        assert await next_line(lines) is None
    (block,) = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    shown = [re.sub(r"\d+", "N", line) for line in block.splitlines()]
    found = [
        re.sub(r"\d+", "N", line or "")
        .replace(re.sub(r"\d+", "N", path), "/jobs/mailer")
        .replace(" host: ", " host-a: ")
        .replace("to other", "to host-b")
        for line in said
    ]
    started, handed, ended = shown[:3]
    assert found == [started, handed, ended, started, ended]


async def test_quiet_says_nothing_of_what_is_as_it_should_be(endpoint: str, path: str) -> None:
    arguments = ("--endpoints", endpoint, path, "--", "true")
    assert await done("-q", *arguments) == (0, "", "")
    code, _, err = await done("--quiet", "--log", "json", *arguments)
    assert (code, err) == (0, "")


async def test_quiet_does_not_hide_errors() -> None:
    code, _, err = await done("-q", "--json", "--endpoints", "127.0.0.1:1", "/a", "--", "true")
    assert json.loads(err)["event"] == "error"
    assert json.loads(err)["code"] == code == 69


async def test_verbose_says_all_of_it(endpoint: str, path: str) -> None:
    code, _, err = await done("-v", "--endpoints", endpoint, path, "--", "true")
    assert code == 0
    words = [line.partition(": ")[2] for line in err.splitlines()]
    assert len(words) == len(err.splitlines()) == 5
    for line, expected in zip(
        words, ["joined", "chosen, rev", "started, pid", "ended with 0", "exit code 0"], strict=True
    ):
        assert expected in line


@pytest.mark.parametrize("options", [["--json"], ["--log", "json"]])
async def test_json_is_all_of_it(endpoint: str, path: str, options: list[str]) -> None:
    code, _, err = await done(*options, "--endpoints", endpoint, path, "--", "true")
    assert code == 0
    events = [json.loads(line)["event"] for line in err.splitlines()]
    assert events == ["joined", "decision", "started", "ended", "exit"]


@pytest.mark.parametrize(
    ("key", "why"), [("slots/0", "slot_lost"), ("exchange/host", "session_lost")]
)
async def test_it_says_why_the_right_to_run_is_lost(
    endpoint: str, path: str, key: str, why: str
) -> None:
    async with (
        open_client(endpoint) as client,
        open_run(endpoint, path, command=["sleep", "300"]) as run,
    ):
        await run.event("started")
        await client.delete(f"{path}/{key}")
        assert (await run.event("lost"))["why"] == why
        await run.event("started")
        run.process.terminate()
        assert await run.code() == 143


async def test_it_says_that_etcd_has_not_answered(path: str) -> None:
    options = ("--ttl", "2", "--once")
    async with (
        open_etcd() as etcd,
        open_faulty_link(etcd.endpoint) as link,
        open_run(link.endpoint, path, *options, command=["sleep", "300"]) as run,
    ):
        await run.event("started")
        link.stall()
        lost = await run.event("lost")
        assert (lost["why"], lost["hosts"]) == ("deadline", ["host"])
        assert await run.code() == 76
        link.heal()


@pytest.mark.parametrize("options", [[], ["-v"], ["--json"]])
@pytest.mark.parametrize("redirected", ["2>&-", "2>/dev/full"])
async def test_what_cannot_be_said_changes_no_exit_code(
    endpoint: str, path: str, options: list[str], redirected: str
) -> None:
    command = ["--endpoints", endpoint, *options, "--", "sh", "-c", "echo done; exit 7"]
    in_shell = ["sh", "-c", f'"$@" {redirected}', "sh", *COMMAND, path, *command]
    with trio.fail_after(40):
        ended = await trio.run_process(in_shell, capture_stdout=True, check=False)
    assert (ended.returncode, ended.stdout) == (7, b"done\n")


async def test_an_error_that_cannot_be_said_has_its_exit_code() -> None:
    options = ["--endpoints", "127.0.0.1:1", "/a", "--", "true"]
    for redirected in ("2>&-", "2>/dev/full"):
        in_shell = ["sh", "-c", f'"$@" {redirected}', "sh", *COMMAND, *options]
        assert (await trio.run_process(in_shell, check=False)).returncode == 69


@pytest.mark.parametrize("options", [[], ["--json"]])
async def test_f26_a_command_of_which_nothing_can_be_said_is_ended_before_its_slot_is_freed(
    endpoint: str, path: str, options: list[str]
) -> None:
    """Who reads what we say has gone; and the command does not heed SIGTERM."""
    stubborn = ["sh", "-c", "trap '' TERM; echo $$; while :; do sleep 1; done"]
    arguments = ["--endpoints", endpoint, "--hostname", "host", "--grace", "0.5", *options]
    async with open_client(endpoint) as client:
        process = await trio.lowlevel.open_process(
            [*COMMAND, path, *arguments, "--", *stubborn],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        async with ended_with_block(process, 40), client.watch(f"{path}/slots/0") as slot:
            lines = Lines(process.stdout)
            first = int(await lines.read() or "")
            await process.stderr.aclose()
            await client.put(f"{path}/control", json.dumps({"drained": ["host"]}))
            async for event in slot:
                if event.type is EventType.DELETE:
                    break
            assert not alive(first)
            await client.delete(f"{path}/control")
            second = int(await lines.read() or "")
            assert alive(second)
            process.send_signal(signal.SIGTERM)  # which the command does not heed
        await eventually(lambda: not alive(second))
