"""HAProxy before some members of an etcd, which is restarted while clients use it."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import trio

from tests.helpers import listens
from trio_sched.testing._ports import free_ports
from trio_sched.testing._process import ChildProcess

__all__ = ["HAProxy", "open_haproxy"]

IDLE = 2  # seconds after which it ends a stream on which nothing comes


class HAProxy:
    """One process, with a port for each member. Made by `open_haproxy`.

    Attributes:
        endpoints: its URLs, in the order of those behind it.
    """

    def __init__(self, program: str, behind: Sequence[str], folder: Path) -> None:
        self._program = program
        self._ports = free_ports(len(behind))
        self.endpoints = [f"http://127.0.0.1:{port}" for port in self._ports]
        self._folder = folder
        self._processes: list[ChildProcess] = []
        config = f"""global
    hard-stop-after {2 * IDLE}s
defaults
    mode http
    timeout connect {IDLE}s
    timeout client {IDLE}s
    timeout server {IDLE}s
"""
        for port, endpoint in zip(self._ports, behind, strict=True):
            config += f"""listen member{port}
    bind 127.0.0.1:{port} proto h2
    server etcd {endpoint.removeprefix("http://")} proto h2
"""
        self._config = folder / "haproxy.cfg"
        self._config.write_text(config)

    async def start(self) -> None:
        """Start a process, beside one that may be there still; wait until it listens."""
        command = [self._program, "-db", "-f", str(self._config)]
        log = self._folder / "haproxy.log"
        process = ChildProcess(command, env=os.environ, folder=self._folder, log=log)
        self._processes.append(process)
        for port in self._ports:
            while not await listens(port):  # noqa: ASYNC110 # a foreign process gives no event
                assert process.running, log.read_text()
                await trio.sleep(0.02)

    async def restart(self, pause: float) -> None:
        """Kill it, and start it again after a pause, in seconds."""
        self.kill()
        await trio.sleep(pause)
        await self.start()

    async def reload(self) -> None:
        """Put another process in its place: the old one sends GOAWAY, and ends in its own time."""
        old = self._processes[-1]
        await self.start()
        old.send_signal(signal.SIGUSR1)
        self.reap()

    def reap(self) -> None:
        """Forget those that have ended."""
        self._processes = [process for process in self._processes if process.running]

    def kill(self) -> None:
        """End it at once."""
        for process in self._processes:
            process.kill()
        self._processes.clear()


@contextmanager
def open_haproxy(behind: Sequence[str], folder: Path) -> Iterator[HAProxy | None]:
    """Give one, not started yet, that is killed at the end; None if the program is not here."""
    program = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        yield None
        return
    proxy = HAProxy(program, behind, folder)
    try:
        yield proxy
    finally:
        proxy.kill()
