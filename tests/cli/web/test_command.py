"""``trio-sched web`` as a process, on a real etcd; and in a browser, where there is one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from tests.cli.ops_tools import validate
from tests.cli.run.run_tools import Lines
from tests.cli.web.browser import find_browser, open_page
from tests.cli.web.test_pages import open_events
from tests.places import DOCS, TESTS
from tests.reaper.process_tools import ended_with_block
from tests.serving.http_tools import ask
from trio_sched import open_client, schedule
from trio_sched.cli.web.command import _prefixes
from trio_sched.testing import open_etcd

HOSTILE = [
    "<script>document.title='owned'</script>",
    "<img src=x onerror=document.title='owned'>",
    "\"'><svg onload=document.title='owned'>",
    "a\u202eb",
    "\x1b[31m",
]


@asynccontextmanager
async def open_web(endpoint: str, *paths: str) -> AsyncIterator[str]:
    """Run it at a port that is free; give its address."""
    command = [sys.executable, "-m", "trio_sched", "web", "--listen", "0", *paths]
    process = await trio.lowlevel.open_process(
        command, stdout=subprocess.PIPE, env=os.environ | {"ETCDCTL_ENDPOINTS": endpoint}
    )
    assert process.stdout is not None
    async with ended_with_block(process, 60):
        line = await Lines(process.stdout).read()
        assert line is not None
        found = re.fullmatch(r"http://(127\.0\.0\.1:\d+)/", line)
        assert found is not None
        yield found[1]
        process.terminate()
        assert await process.wait() == 143


async def test_it_is_live(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client, open_web(endpoint, path) as address:
        document = (await ask(address, "/state.json")).document
        validate(document, "commands.schema.json#/$defs/web")
        assert document["paths"] == []
        async with open_events(address) as events:
            async with schedule(client, f"{path}/below", "a") as result:
                await result.wait_scheduled()
                name, found = await events.path()
                while [each["host"] for each in found["since"]] != ["a"]:
                    name, found = await events.path()
                    assert name == f"{path}/below"
                validate(found, "commands.schema.json#/$defs/web_path")
                assert found["status"]["leader"]["name"] == "a"
                decided = [each for each in found["changes"] if each["what"] == "decided"]
                assert decided[-1]["hosts"] == ["a"]
                assert decided[-1]["why"].startswith("a: ")
                document = (await ask(address, "/state.json")).document
                validate(document, "commands.schema.json#/$defs/web")
            while found is not None:
                name, found = await events.path()


async def test_it_goes_on_over_a_restart_of_etcd(path: str) -> None:
    async with open_etcd() as etcd, open_web(etcd.endpoint, path) as address:
        async with open_events(address) as events:
            (member,) = etcd.members
            member.kill()
            await member.wait_ended()
            await member.start()
            async with open_client(etcd.endpoint) as client:
                await client.put(f"{path}/exchange/a", "{}")
            assert (await events.path())[0] == path


async def test_without_etcd_it_ends() -> None:
    command = [sys.executable, "-m", "trio_sched", "web", "--endpoints", "127.0.0.1:1"]
    command += ["--listen", "0"]
    ended = await trio.run_process(command, capture_stderr=True, check=False)
    assert ended.returncode == 69
    assert ended.stderr.count(b"\n") == 1


async def test_an_address_that_is_taken_is_said(endpoint: str, path: str) -> None:
    async with open_web(endpoint, path) as address:
        command = [sys.executable, "-m", "trio_sched", "web", "--endpoints", endpoint]
        ended = await trio.run_process(
            [*command, "--listen", address], capture_stderr=True, check=False
        )
        assert ended.returncode == 2
        assert ended.stderr.decode() == (
            f"trio-sched: cannot listen at {address}: Address already in use\n"
        )


def test_a_prefix_below_another_is_followed_once() -> None:
    assert _prefixes(["/a/b", "/a", "/ab", "/a/"]) == ["/a/", "/ab/"]
    assert _prefixes(["/", "/a"]) == ["/"]


@pytest.fixture
def browser() -> str:
    found = find_browser()
    if found is None:
        pytest.skip("there is no Chromium on PATH")
    return found


async def test_a_browser_shows_it(endpoint: str, path: str, browser: str) -> None:
    async with (
        open_client(endpoint) as client,
        schedule(client, path, "host-a") as result,
        open_web(endpoint, path) as address,
        open_page(browser, f"http://{address}/") as page,
    ):
        await result.wait_scheduled()
        await page.wait_for("!!document.querySelector('dd.scheduled')")
        dom = await page.dom()
        assert f"<h2>{path}</h2>" in dom
        assert re.search(r"<dd class=\"scheduled\">host-a since ", dom)
        assert re.search(r"<td class=\"scheduled\">leads, scheduled</td>", dom)
        assert '<span id="age" class="">live</span>' in dom
        async with schedule(client, path, "host-b"):
            await page.wait_for("document.body.innerText.includes('host-b')")
            await page.wait_for("document.getElementById('count').textContent.includes('2 hosts')")
        await result.drain()
        await page.wait_for("document.body.innerText.includes('drained by itself')")


async def test_hostile_names_are_text_in_a_browser(endpoint: str, path: str, browser: str) -> None:
    async with open_client(endpoint) as client:
        for name in HOSTILE:
            await client.put(f"{path}/exchange/{name}", f'{{"zone": "{name[:1]}"}}')
            await client.put(f"{path}/{name}/scheduled", name)
        async with open_web(endpoint, path) as address:
            async with open_page(browser, f"http://{address}/") as page:
                dom = await page.dom()
                text = await page.evaluate("document.body.innerText")
        await client.delete_prefix(path)
    assert "<title>trio-sched</title>" in dom
    assert "&lt;script&gt;" in dom
    assert dom.count("<script") == 1
    assert "<img" not in dom
    assert "<svg" not in dom
    assert "\\u202e" in dom
    assert "\u202e" not in text
    assert "\x1b" not in text


async def test_300_hosts_in_a_browser(endpoint: str, path: str, browser: str) -> None:
    async with open_client(endpoint) as client:
        for number in range(300):
            await client.put(f"{path}/exchange/h{number:03}", "{}")
        async with (
            open_web(endpoint, path) as address,
            open_page(browser, f"http://{address}/") as page,
        ):
            dom = await page.dom()
            assert ">1 path, 300 hosts<" in dom
            assert ">all 300 hosts</button>" in dom
            assert dom.count("<td>h") == 12
            await page.evaluate("document.querySelector('button').click()")
            assert (await page.dom()).count("<td>h") == 300
        await client.delete_prefix(path)


def test_every_test_that_the_page_names_exists() -> None:
    page = DOCS.joinpath("operations.md").read_text().partition("## In a browser")[2]
    there = {
        name
        for file in TESTS.rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text(), re.MULTILINE)
    }
    named = set(re.findall(r"\btest_\w+", page))
    assert len(named) > 2
    assert not named - there


async def test_the_commands_of_the_page(endpoint: str, path: str) -> None:
    page = DOCS.joinpath("operations.md").read_text().partition("## In a browser")[2]
    block = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)[0]
    for line in block.splitlines():
        words = line.partition("#")[0].split()
        assert words[:2] == ["trio-sched", "web"]
        options = [word.replace("9000", "0") for word in words[2:]]
        async with open_web(endpoint, *(f"{path}{o}" if o[0] == "/" else o for o in options)) as at:
            assert (await ask(at, "/")).status == 200
