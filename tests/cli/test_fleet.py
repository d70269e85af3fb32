"""Six hosts on two paths, as an operator sees and steers them: by commands, health and the page.

The commands are those with which docs/operations.md begins, as they stand there.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio

from tests.cli.ops_tools import ops, plain_text
from tests.cli.run.run_tools import Run, open_run
from tests.cli.web.test_command import open_web
from tests.cli.web.test_pages import Events, open_events
from tests.places import DOCS
from tests.serving.http_tools import ask
from trio_sched import Control, open_client
from trio_sched.testing import open_etcd

PAGE = DOCS.joinpath("operations.md").read_text().partition("## A fleet\n")[2].partition("\n## ")[0]
NAMES = ("a", "b", "c", "d", "e", "f")


async def scheduled(addresses: dict[str, str]) -> set[str]:
    """Those of a path's hosts that a load balancer sends requests to."""
    found = {name: (await ask(at, "/scheduled")).status for name, at in addresses.items()}
    return {name for name, status in found.items() if status == 200}


class Slots:
    """Who holds the slots of each path, as the page is sent it."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._holders: dict[str, set[str]] = {}

    async def wait_for(self, path: str, *names: str) -> None:
        """Wait until these hosts hold them."""
        while self._holders.get(path) != {*names}:
            name, found = await self._events.path()
            slots = [] if found is None else found["status"]["slots"]
            self._holders[name] = {slot["host"] for slot in slots}


async def test_an_operator_walks_through(endpoint: str, path: str) -> None:
    web, mail = f"{path}/web", f"{path}/mail"
    async with AsyncExitStack() as stack:
        runs: dict[tuple[str, str], Run] = {}
        addresses: dict[str, dict[str, str]] = {web: {}, mail: {}}
        page = await stack.enter_async_context(open_web(endpoint, path))
        for of, count in ((web, "2"), (mail, "1")):
            for name in NAMES:
                options = ("--http", "0", "-n", count, "--strategy", "alpha")
                runs[of, name] = run = await stack.enter_async_context(
                    open_run(endpoint, of, *options, name=name, command=["sleep", "300"])
                )
                addresses[of][name] = (await run.event("serving"))["address"]
                await run.event("joined")
        slots = Slots(await stack.enter_async_context(open_events(page)))
        await slots.wait_for(web, "a", "b")
        await slots.wait_for(mail, "a")
        client = await stack.enter_async_context(open_client(endpoint))

        # The machine of host a is to be switched off.
        for of in (web, mail):
            await Control(client, of).drain("a", why="new disk")
        await slots.wait_for(web, "b", "c")
        assert await scheduled(addresses[web]) == {"b", "c"}
        assert (await runs[mail, "b"].event("started"))["slot"] == 0
        await slots.wait_for(mail, "b")
        assert await scheduled(addresses[mail]) == {"b"}
        document = (await ask(page, "/state.json")).document
        why = [each["why"] for each in document["paths"][0]["changes"]]
        assert any("a drained" in each for each in why)

        # Host b is killed.
        for of in (web, mail):
            runs[of, "b"].process.kill()
        await slots.wait_for(web, "c", "d")
        await runs[mail, "c"].event("started")
        del addresses[mail]["b"]
        assert await scheduled(addresses[mail]) == {"c"}
        async with trio.open_nursery() as nursery:
            for (_, name), run in runs.items():
                if name != "b":
                    run.process.terminate()
                    nursery.start_soon(run.code)


# ---- the commands of the page --------------------------------------------------------


def commands_of_run() -> list[tuple[str, list[str]]]:
    """What the page starts on each machine: on which path, and with which options."""
    (block,) = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    lines = [shlex.split(line) for line in block.splitlines()]
    assert all(line[:2] == ["trio-sched", "run"] for line in lines)
    return [(line[2], line[3 : line.index("--")]) for line in lines]


def transcripts() -> list[tuple[list[str], str]]:
    """Commands of the page, in their order, each with what it prints there."""
    blocks = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    found = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", "".join(blocks), re.MULTILINE)
    lines = [(shlex.split(line), printed) for line, printed in found]
    assert all(words[0] == "trio-sched" for words, _ in lines)
    return [(words[1:], printed) for words, printed in lines]


def same(text: str) -> str:
    """Take out what is another each time, and for each operator."""
    for pattern, stands in (
        (r"\b(?:\d+[dhm])+(?:\d+s)?\b", "1s"),  # a longer time
        (r"\b\d{4}-\d\d-\d\dT[\d:]+\+00:00 +\d+", "WHEN N"),
        (r"\bby \S+@\S+", "by WHO"),
        (r" +$", ""),
    ):
        text = re.sub(pattern, stands, text, flags=re.MULTILINE)
    return plain_text(text, "/jobs").strip()


def revisions(history: str) -> list[str]:
    return re.findall(r"^\S+T\S+ +(\d+) ", history, re.MULTILINE)


@asynccontextmanager
async def open_fleet(endpoint: str) -> AsyncIterator[None]:
    """Start the fleet of the page, one machine after the other."""
    places = commands_of_run()
    assert len(places) == 2
    async with AsyncExitStack() as stack:
        for number, letter in enumerate("abcdef"):
            for of, options in places:
                # Twelve processes take their time on a busy machine.
                command, name = ["sleep", "300"], f"host-{letter}"
                block = open_run(endpoint, of, *options, command=command, name=name, patience=90)
                run = await stack.enter_async_context(block)
                # So that each has decided, and works, before the next one comes.
                works = number < int(options[options.index("-n") + 1])
                await run.event("started" if works else "joined")
        yield


@pytest.mark.timeout(120)
async def test_the_commands_of_the_page_print_what_it_shows() -> None:
    walk = transcripts()
    assert [words[0] for words, _ in walk] == [
        *("ls", "status", "drain", "drain", "undrain", "history", "status")
    ]
    numbers: dict[str, str] = {}  # of revisions: what they are here for those on the page
    async with open_etcd() as etcd, open_fleet(etcd.endpoint):
        for words, printed in walk:
            arguments = [numbers.get(word, word) for word in words]
            done = await ops(etcd.endpoint, *arguments)
            assert (done.code, done.err) == (0, ""), done
            assert same(done.out) == same(printed)
            if words[0] == "history":
                numbers = dict(zip(revisions(printed), revisions(done.out), strict=True))
    assert "--at" in words
    assert words[-1] in numbers
