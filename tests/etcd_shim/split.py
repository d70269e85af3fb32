"""A cluster of three, any member of which can be cut off from the others, and not from us."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from trio_sched.testing._ports import free_ports
from trio_sched.testing.find import find_etcd

__all__ = ["SplitEtcd", "open_split_etcd"]

MEMBERS = 3


class SplitEtcd:
    """Made by `open_split_etcd`.

    Attributes:
        endpoints: the members' URLs for clients.
    """

    def __init__(self, clients: Sequence[int], peers: Sequence[int]) -> None:
        self.endpoints = tuple(f"http://127.0.0.1:{port}" for port in clients)
        self.pids: list[int] = []
        self._peers = peers
        self._isolated: set[int] = set()
        self._links: dict[trio.CancelScope, tuple[int | None, int]] = {}

    def isolate(self, member: int) -> None:
        """Cut a member off from the others, both ways."""
        self._isolated.add(member)
        for scope, ends in tuple(self._links.items()):
            if member in ends:
                scope.cancel()

    def heal(self) -> None:
        """Let all members reach each other again."""
        self._isolated.clear()

    async def link(self, target: int, ours: trio.SocketStream) -> None:
        """Carry a connection from one member to another."""
        async with ours:
            source = await trio.to_thread.run_sync(self._source, ours.socket.getpeername()[1])
            if self._isolated & {source, target}:
                return
            try:
                theirs = await trio.open_tcp_stream("127.0.0.1", self._peers[target])
            except OSError:
                return
            async with theirs, trio.open_nursery() as nursery:
                self._links[nursery.cancel_scope] = (source, target)
                nursery.start_soon(_pump, ours, theirs, nursery.cancel_scope)
                await _pump(theirs, ours, nursery.cancel_scope)
            del self._links[nursery.cancel_scope]

    def _source(self, port: int) -> int | None:
        """Return which member a connection comes from, by the port at its end."""
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if int(fields[1].partition(":")[2], 16) == port:
                socket = f"socket:[{fields[9]}]"
                for number, pid in enumerate(self.pids):
                    if socket in _open_files(pid):
                        return number
        return None


def _open_files(pid: int) -> set[str]:
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.add(str(link.readlink()))
        except OSError:
            continue
    return found


async def _pump(
    source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope
) -> None:
    try:
        while data := await source.receive_some(65536):
            await sink.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    scope.cancel()


@asynccontextmanager
async def open_split_etcd() -> AsyncIterator[SplitEtcd]:
    """Start three members whose way to each other goes through us; wait until each serves."""
    clients, peers = free_ports(MEMBERS), free_ports(MEMBERS)
    cluster = SplitEtcd(clients, peers)
    folder = tempfile.mkdtemp(prefix="etcd-split-")
    try:
        async with trio.open_nursery() as nursery:
            advertised: list[str] = []
            for number in range(MEMBERS):
                (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
                advertised.append(f"http://127.0.0.1:{listener.socket.getsockname()[1]}")
                serve = partial(trio.serve_listeners, partial(cluster.link, number), [listener])
                await nursery.start(serve)
            initial = ",".join(f"m{number}={url}" for number, url in enumerate(advertised))
            token = secrets.token_hex(8)
            for number in range(MEMBERS):
                options = {
                    "name": f"m{number}",
                    "data-dir": f"{folder}/m{number}",
                    "listen-client-urls": cluster.endpoints[number],
                    "advertise-client-urls": cluster.endpoints[number],
                    "listen-peer-urls": f"http://127.0.0.1:{peers[number]}",
                    "initial-advertise-peer-urls": advertised[number],
                    "initial-cluster": initial,
                    "initial-cluster-token": token,
                    "heartbeat-interval": 50,
                    "election-timeout": 500,
                    "log-level": "error",
                    "logger": "zap",
                }
                command = [
                    str(find_etcd()),
                    *(f"--{key}={value}" for key, value in options.items()),
                ]
                process: trio.Process = await nursery.start(_program(command))
                cluster.pids.append(process.pid)
            for endpoint in cluster.endpoints:
                await _wait_until_it_serves(endpoint)
            yield cluster
            nursery.cancel_scope.cancel()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _program(command: Sequence[str]) -> Callable[..., Awaitable[object]]:
    environment = {name: value for name, value in os.environ.items() if name[:5] != "ETCD_"}
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
    return partial(trio.run_process, command, check=False, deliver_cancel=_kill, **silent)


async def _kill(process: trio.Process) -> None:
    process.kill()
    await trio.lowlevel.cancel_shielded_checkpoint()


async def _wait_until_it_serves(endpoint: str) -> None:
    from trio_sched.etcd_shim import EtcdError, open_client  # noqa: PLC0415 # not for its users

    async with open_client(endpoint) as client:
        while True:  # a foreign process that starts gives no event
            with trio.move_on_after(1):
                try:
                    await client.get("a")
                except EtcdError:
                    await trio.sleep(0.02)
                else:
                    return
