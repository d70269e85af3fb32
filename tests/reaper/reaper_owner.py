"""A process with a reaper: ``reaper_owner.py JSON``.

Holds a lease of TTL seconds with a key under it, starts a group of children if asked to, and says
so. Then does what it reads, a word on a line: ``release``, ``forget``, ``fork``, ``end``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

import trio

from trio_sched.etcd_shim import open_client, tls_context
from trio_sched.etcd_shim.lease import new_lease_id
from trio_sched.reaper.owner import open_reaper


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
            group = None
            if settings["group"]:
                group = subprocess.Popen(settings["group"], process_group=0)  # noqa: ASYNC220 # not waited for
                reaper.group(group.pid)
                if settings["until"]:
                    reaper.until(trio.current_time() + settings["until"])
            say(lease=lease, reaper=reaper.pid, group=group and group.pid, seconds=took)
            async for word in trio.lowlevel.FdStream(os.dup(0)):
                if word == b"release\n":
                    await client.lease_revoke(lease)
                    reaper.release(lease)
                elif word == b"forget\n":
                    reaper.group(None)
                elif word == b"fork\n":
                    say(pid=fork())
                else:
                    break
                say(done=word.decode().strip())
        say(done="end", reaper=reaper.pid)
        if group is not None:
            group.kill()
            group.wait()


def fork() -> int:
    """Fork without an exec, as multiprocessing does."""
    pid = os.fork()
    if not pid:
        time.sleep(60)
        os._exit(0)
    return pid


if __name__ == "__main__":
    trio.run(live, json.loads(sys.argv[1]))
