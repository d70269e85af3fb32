"""Six hosts on two paths, as an operator sees and steers them: by commands, health and the page."""

from __future__ import annotations

from contextlib import AsyncExitStack

import trio

from tests.cli.run.run_tools import Run, open_run
from tests.cli.web.test_command import open_web
from tests.cli.web.test_pages import Events, open_events
from tests.serving.http_tools import ask
from trio_sched import Control, open_client

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
