"""A process with a reaper: ``reaper_owner.py JSON``.

Holds a lease of TTL seconds with a key under it, starts a group of children if asked to, and says
so. Then does what it reads, a word on a line: ``release``, ``freed``, ``forget``,
``who``, ``fork``, ``end``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import trio

from trio_sched.etcd_shim import Client, open_client, tls_context
from trio_sched.etcd_shim.lease import new_lease_id
from trio_sched.reaper.owner import Reaper, open_reaper


def say(**words: object) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


async def live(settings: dict[str, Any]) -> None:
    context = tls_context(**settings["tls"]) if settings["tls"] else None
    who = {"user": settings["user"], "password": settings["password"]} if settings["user"] else {}
    async with open_client(*settings["endpoints"], ssl_context=context, **who) as client:
        began = time.perf_counter()
        async with open_reaper(client) as reaper:
            took = time.perf_counter() - began
            lease = new_lease_id()
            reaper.hold(lease, settings["ttl"])
            if settings["grant"]:
                await client.lease_grant(settings["ttl"], lease)
                await client.put(settings["key"], "1", lease=lease)
            if settings["slot"]:
                await take(client, reaper, lease, *settings["slot"])
            group = None
            if settings["group"]:
                group = subprocess.Popen(settings["group"], process_group=0)  # noqa: ASYNC220 # not waited for
                reaper.group(group.pid)
                if settings["until"]:
                    reaper.until(trio.current_time() + settings["until"])
            released: dict[bytes, Callable[[], object]] = {
                b"release\n": partial(reaper.release, lease),
                b"freed\n": partial(reaper.freed, (settings["slot"] or [""])[0].encode()),
                b"forget\n": partial(reaper.group, None),
                b"who\n": lambda: say(reaper=reaper.pid),
            }
            say(lease=lease, reaper=reaper.pid, group=group and group.pid, seconds=took)
            async for data in trio.lowlevel.FdStream(os.dup(0)):
                word = bytes(data)
                if word == b"release\n":
                    await client.lease_revoke(lease)
                if word in released:
                    released[word]()
                elif word == b"fork\n":
                    say(pid=fork())
                else:
                    break
                say(done=word.decode().strip())
        say(done="end", reaper=reaper.pid)
        if group is not None:
            group.kill()
            group.wait()


async def take(
    client: Client, reaper: Reaper, lease: int, slot: str, mark_key: str, mark: str
) -> None:
    """Take a slot, as a host does."""
    reaper.taken(slot.encode(), mark_key.encode(), mark.encode())
    await client.put(slot, "a", lease=lease)
    await client.put(mark_key, mark)


def fork() -> int:
    """Fork without an exec, as multiprocessing does."""
    pid = os.fork()
    if not pid:
        time.sleep(60)
        os._exit(0)
    return pid


if __name__ == "__main__":
    trio.run(live, json.loads(sys.argv[1]))
