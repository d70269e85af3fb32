"""Pictures of the page: what `nox -s screenshots` makes. Arguments: where to put them.

``web.png`` is the one of the README; the others are to be looked at: 300 hosts, and hostile names.
"""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack
from pathlib import Path

import trio

from tests.cli.web.browser import find_browser, open_page
from tests.cli.web.test_command import HOSTILE, open_web
from trio_sched import Client, Control, Result, Slot, open_client, schedule
from trio_sched.testing import open_etcd

HOSTS = {"host-a": "north", "host-b": "north", "host-c": "south", "host-d": "south"}


async def work(_slot: Slot) -> None:
    await trio.sleep_forever()


async def fill(client: Client, stack: AsyncExitStack, nursery: trio.Nursery) -> list[Result]:
    """Let four hosts share two paths, one of them drained."""
    found = []
    for path, count in (("/jobs/backup", 1), ("/jobs/mail", 2)):
        for name, zone in HOSTS.items():
            result = await stack.enter_async_context(
                schedule(client, path, name, zone=zone, max_count=count, strategy="spread")
            )
            nursery.start_soon(result.run_while_scheduled, work)
            found.append(result)
    return found


async def main(browser: str, pictures: Path) -> None:
    """Make them all."""
    async with (
        open_etcd() as etcd,
        open_client(etcd.endpoint) as client,
        trio.open_nursery() as nursery,
        AsyncExitStack() as stack,
    ):
        results = await fill(client, stack, nursery)
        await results[0].wait_scheduled()
        async with open_web(etcd.endpoint, "/jobs") as address:
            async with open_page(browser, f"http://{address}/", (1100, 1000)) as page:
                await Control(client, "/jobs/mail").drain("host-b", why="new disk")
                await page.wait_for("document.body.innerText.includes('drained: host-b')")
                await page.wait_for("document.body.innerText.split(' (token ').length === 4")
                await page.picture(pictures / "web.png")
        for number in range(300):
            await client.put(f"/many/jobs/exchange/host-{number:03}", "{}")
        for number, name in enumerate(HOSTILE):
            await client.put(f"/odd/{number}/exchange/{name}", "{}")
            await client.put(f"/odd/{number}/scheduled", name)
        for name in ("many", "odd"):
            async with (
                open_web(etcd.endpoint, f"/{name}") as address,
                open_page(browser, f"http://{address}/", (1100, 1000)) as page,
            ):
                await page.picture(pictures / f"{name}.png")
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    found = find_browser()
    if found is None:
        sys.exit("there is no Chromium on PATH")
    Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
    trio.run(main, found, Path(sys.argv[1]))
