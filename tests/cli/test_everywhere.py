"""All paths at once: `ls`, `drain --everywhere` and back, completion; on a real etcd."""

from __future__ import annotations

import re
import shlex
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio
from click.shell_completion import ShellComplete

from tests.cli.ops_tools import ops, validate
from tests.helpers import until
from tests.places import DOCS
from trio_sched import Client, Control, Result, open_client, schedule
from trio_sched.cli.group import command
from trio_sched.cli.paths import check_prefix, find_paths
from trio_sched.model.keys import PathKeys

BY = ("--by", "anna@desk")


@asynccontextmanager
async def open_fleet(endpoint: str, path: str) -> AsyncIterator[tuple[Client, dict[str, Result]]]:
    """Three hosts in two zones on two paths, and one more path for one of them."""
    async with open_client(endpoint) as client, AsyncExitStack() as stack:
        results: dict[str, Result] = {}
        for job, hosts in (("backup", "abc"), ("mail", "abc"), ("deep/er", "a")):
            for host in hosts:
                zone = "north" if host == "c" else "south"
                block = schedule(client, f"{path}/{job}", host, zone=zone)
                results[f"{job}/{host}"] = await stack.enter_async_context(block)
            await until(results[f"{job}/a"], "a")
        yield client, results


async def test_ls(endpoint: str, path: str) -> None:
    async with open_fleet(endpoint, path) as (client, _):
        # what others keep there is none of ours
        await client.put(f"{path}/other/exchange/thing", "x")
        await client.put(f"{path}/conf/control", "on")
        await Control(client, f"{path}/mail").pause()
        shown = await ops(endpoint, "ls", path)
        assert shown.code == 0
        head, *rows = [line.split() for line in shown.out.splitlines()]
        assert head == ["PATH", "HOSTS", "LEADER", "SCHEDULED", "TROUBLE"]
        assert rows == [
            [f"{path}/backup", "3", "a", "a", "-"],
            [f"{path}/deep/er", "1", "a", "a", "-"],
            [f"{path}/mail", "3", "a", "a", "paused"],
        ]
        one = await ops(endpoint, "ls", f"{path}/mail/", "-o", "json")
        validate(one.json, "commands.schema.json#/$defs/ls")
        (found,) = one.json
        assert (found["path"], found["hosts"], found["paused"]) == (f"{path}/mail", 3, True)
        everything = await ops(endpoint, "ls", "-o", "json")
        assert {f"{path}/mail", f"{path}/deep/er"} <= {each["path"] for each in everything.json}
        await Control(client, f"{path}/mail").resume()
        await client.delete_prefix(f"{path}/")


async def test_ls_of_nothing(endpoint: str, path: str) -> None:
    shown = await ops(endpoint, "ls", path)
    assert (shown.code, shown.out) == (0, "")
    assert path in shown.err


async def test_names_are_read_in_pages(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client:
        for number in range(2100):
            await client.put(f"{path}/a/data/{number}", "x")
        for job in "az":
            await client.put(PathKeys(f"{path}/{job}").control, "{}")
        assert await find_paths(client, path) == [f"{path}/a", f"{path}/z"]
        await client.delete_prefix(f"{path}/")


async def test_status_of_a_path_that_is_not_there(endpoint: str, path: str) -> None:
    shown = await ops(endpoint, "status", path)
    assert (shown.code, shown.out, shown.err.count("\n")) == (66, "", 1)
    assert path in shown.err
    as_json = await ops(endpoint, "status", path, "-o", "json")
    assert (as_json.code, as_json.json["pool"]) == (66, [])


# ---- drain --everywhere ------------------------------------------------------------


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()[1:]]


async def test_drain_everywhere_and_back(endpoint: str, path: str) -> None:
    async with open_fleet(endpoint, path) as (client, results):
        under = ("--under", path)
        dry = await ops(endpoint, "drain", "--everywhere", "a", *under, "--dry-run")
        assert dry.code == 0
        assert rows(dry.out) == [
            [f"{path}/backup", "a", "scheduled", "a", "b"],
            [f"{path}/deep/er", "a", "scheduled", "a", "none"],
            [f"{path}/mail", "a", "scheduled", "a", "b"],
        ]
        assert not (await Control(client, f"{path}/mail").read()).drained, "nothing was written"
        done = await ops(endpoint, "drain", "--everywhere", "a", *under, "--wait", "30", *BY)
        assert done.code == 0, done
        assert [row[4] for row in rows(done.out)] == ["decided:"] * 3
        for job in ("backup", "mail"):
            await until(results[f"{job}/b"], "b")
            assert "a" in (await Control(client, f"{path}/{job}").read()).drained
        again = await ops(endpoint, "drain", "--everywhere", "a", *under)
        assert (again.code, again.out) == (68, "")
        back = await ops(endpoint, "undrain", "--everywhere", "a", *under, "-o", "json", *BY)
        validate(back.json, "commands.schema.json#/$defs/everywhere")
        assert {each["outcome"] for each in back.json} == {"decided"}
        for job in ("backup", "mail", "deep/er"):
            assert not (await Control(client, f"{path}/{job}").read()).drained
        await client.delete_prefix(f"{path}/")


async def test_a_zone_is_drained(endpoint: str, path: str) -> None:
    async with open_fleet(endpoint, path) as (client, _):
        under = ("--under", f"{path}/mail")
        dry = await ops(
            endpoint, "drain", "--everywhere", "--zone", "south", *under, "--dry-run", "-o", "json"
        )
        validate(dry.json, "commands.schema.json#/$defs/everywhere")
        assert [(each["host"], each["would_be"]) for each in dry.json] == [
            ("a", ["c"]),
            ("b", ["c"]),
        ]
        none = await ops(endpoint, "drain", "--everywhere", "a", "--zone", "north", *under)
        assert none.code == 68
        await client.delete_prefix(f"{path}/")


async def test_what_others_have_put_below_a_path_holds_up_no_other(
    endpoint: str, path: str
) -> None:
    async with (
        open_client(endpoint) as client,
        client.open_lease(20) as lease,
        schedule(client, f"{path}/ours", "a", zone="north"),
    ):
        for name in ("", "b,c", "d/e", b"\xff"):
            odd = name if isinstance(name, bytes) else name.encode()
            await client.put(
                f"{path}/odd/exchange/".encode() + odd, '{"zone":"north"}', lease=lease.id
            )
        await client.put(f"{path}/odd/election/1", "b,c", lease=lease.id)
        words = ("--everywhere", "--zone", "north", "--under", path, "-o", "json")
        planned = await ops(endpoint, "drain", *words, "--dry-run")
        assert (planned.code, len(planned.json)) == (0, 5)
        done = await ops(endpoint, "drain", *words, "--no-wait", *BY)
        validate(done.json, "commands.schema.json#/$defs/everywhere")
        outcomes = {each["host"]: each["outcome"] for each in done.json}
        assert (done.code, outcomes["a"], outcomes[""]) == (75, "not-waited", "failed")
        await client.delete_prefix(f"{path}/")


async def test_what_is_not_carried_out_everywhere_is_said(endpoint: str, path: str) -> None:
    async with open_fleet(endpoint, path) as (client, _):
        await Control(client, f"{path}/mail").pause()
        done = await ops(
            endpoint, "drain", "--everywhere", "a", "--under", path, "--wait", "1", "-o", "json"
        )
        assert done.code == 75
        outcomes = {each["path"].rpartition("/")[2]: each["outcome"] for each in done.json}
        assert outcomes == {"backup": "decided", "er": "decided", "mail": "paused"}
        for job in ("mail", "backup", "deep/er"):
            await Control(client, f"{path}/{job}").resume()
            await Control(client, f"{path}/{job}").undrain("a")
        await client.delete_prefix(f"{path}/")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["drain"], "Missing argument 'PATH'"),
        (["drain", "/p"], "Missing argument 'HOST'"),
        (["drain", "p", "a"], "must start with '/'"),
        (["drain", "/p", "a,b"], "must not hold ','"),
        (["drain", "--everywhere"], "--everywhere HOST"),
        (["drain", "--everywhere", "/p", "a"], "without PATH"),
        (["undrain", "--everywhere", "a/b"], "must not hold '/'"),
        (["drain", "/p", "a", "--under", "/p"], "goes with --everywhere"),
        (["undrain", "/p", "a", "--dry-run"], "goes with --everywhere"),
        (["drain", "--everywhere", "a", "--under", "p"], "must start with '/'"),
        (["ls", "p"], "must start with '/'"),
    ],
)
async def test_wrong_usage(arguments: list[str], words: str) -> None:
    done = await ops("127.0.0.1:1", *arguments)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert words in done.err


@pytest.mark.parametrize(("prefix", "found"), [("/", ""), ("/a/", "/a"), ("/a/b", "/a/b")])
def test_a_prefix(prefix: str, found: str) -> None:
    assert check_prefix(prefix) == found


# ---- completion --------------------------------------------------------------------


class Shell(ShellComplete):
    name = "test"
    source_template = ""

    def __init__(self, words: list[str]) -> None:
        super().__init__(command, {}, "trio-sched", "_")
        self._words = words

    def found(self) -> list[str]:
        *before, last = self._words
        return [item.value for item in self.get_completions(before, last)]


async def completed(endpoint: str, *words: str) -> list[str]:
    first, *rest = words
    shell = Shell([first, "--endpoints", endpoint, *rest])
    return await trio.to_thread.run_sync(shell.found)


async def test_completion_knows_paths_and_hosts(endpoint: str, path: str) -> None:
    async with open_fleet(endpoint, path) as (client, _):
        for name in ("status", "watch", "drain", "ls", "run", "ticks", "web"):
            assert await completed(endpoint, name, f"{path}/m") == [f"{path}/mail"]
        for name in ("drain", "undrain", "evict"):
            assert await completed(endpoint, name, f"{path}/mail", "") == ["a", "b", "c"]
        option = ("simulate", "--from-history")
        assert await completed(endpoint, *option, f"{path}/m") == [f"{path}/mail"]
        for name in ("drain", "undrain"):
            words = (name, "--everywhere", "--under")
            assert await completed(endpoint, *words, f"{path}/m") == [f"{path}/mail"]
            assert await completed(endpoint, *words, path, "") == ["a", "b", "c"]
            assert {"a", "b", "c"} <= {*await completed(endpoint, name, "--everywhere", "")}
            assert await completed(endpoint, *words, path, "a", "") == []
            assert await completed(endpoint, *words, "/no/such", "") == []
        assert await completed("127.0.0.1:1", "status", f"{path}/m") == []
        assert await completed(endpoint, "drain", "/no/such", "") == []
        await client.delete_prefix(f"{path}/")


def test_completion_knows_strategies() -> None:
    for name in ("run", "decide", "simulate"):
        assert Shell([name, "--strategy", "sp"]).found() == ["spread"]


def test_completion_asks_for_no_password() -> None:
    words = ["status", "--endpoints", "127.0.0.1:1", "--user", "anna", "/p"]
    assert Shell(words).found() == []


async def test_the_commands_of_the_page_run(endpoint: str, path: str) -> None:
    """In their order; but below a path of this test only."""
    page = DOCS.joinpath("operations.md").read_text()
    commands = re.findall(r"^trio-sched (\w+ --everywhere .*?)(?: &&.*)?$", page, re.MULTILINE)
    assert len(commands) > 3
    async with open_client(endpoint) as client:
        async with schedule(client, f"{path}/mail", "host-a", zone="north") as result:
            await until(result, "host-a")
            for words in commands:
                arguments = shlex.split(words.replace("--under /jobs", ""))
                done = await ops(endpoint, *arguments, "--under", path)
                assert done.code == 0, done
                assert f"{path}/mail" in done.out
        await client.delete_prefix(f"{path}/")
