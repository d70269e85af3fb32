"""One etcd member: a process, its ports and its data."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from trio_sched.exceptions import TrioSchedError
from trio_sched.testing import _http
from trio_sched.testing._process import ChildProcess
from trio_sched.testing.find import version_of

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["EtcdStartFailed", "Member", "Ports", "Settings"]

_POLL = 0.01  # seconds between reads of /health
_CHECK_TIMEOUT = 1.0  # seconds for one check; a member that is paused accepts and never answers
_STOP_SECONDS = 5.0
_LOG_TAIL = 4_000  # characters
_NO_FSYNC_SINCE = (3, 5)


class EtcdStartFailed(TrioSchedError):
    """An etcd ended while it was being started, or did not answer in time.

    Attributes:
        reason: one short clause in plain words.
        log: the last lines that etcd wrote.
    """

    def __init__(self, name: str, reason: str, log: str) -> None:
        super().__init__(f"etcd member {name} {reason}; its last words:\n{log or '(none)'}")
        self.reason = reason
        self.log = log


@dataclass(frozen=True)
class Settings:
    """What all members of one cluster share."""

    executable: Path
    folder: Path
    token: str
    heartbeat_ms: int
    election_ms: int
    start_timeout: float
    client_tls: tuple[Path, Path, Path | None] | None
    auth_token_ttl: int | None
    ipv6: bool
    unix: bool
    extra_args: tuple[str, ...]

    @property
    def scheme(self) -> str:
        """That of the clients' URLs."""
        return "https" if self.client_tls else "http"


@dataclass(frozen=True)
class Ports:
    """The loopback ports of one member."""

    client: int
    peer: int
    metrics: int


class Member:
    """One member of an etcd that `open_etcd` started.

    Its data folder and its ports stay the same while it is killed, stopped and started again.

    Attributes:
        name: such as ``m1``.
        endpoint: its URL for clients.
        ipv6_endpoint: the same on ``[::1]``, if ``ipv6`` was asked for.
        unix_endpoint: its unix socket as ``unix://PATH``, if ``unix`` was asked for.
    """

    def __init__(self, name: str, ports: Ports, settings: Settings, cluster: str) -> None:
        scheme = settings.scheme
        self.name = name
        self.endpoint: str = f"{scheme}://127.0.0.1:{ports.client}"
        self.ipv6_endpoint: str | None = (
            f"{scheme}://[::1]:{ports.client}" if settings.ipv6 else None
        )
        self.unix_endpoint: str | None = (
            f"unix://{settings.folder}/{_socket_name(name)}" if settings.unix else None
        )
        self._ports = ports
        self._settings = settings
        self._cluster = cluster
        self._log = settings.folder / f"{name}.log"
        self._process: ChildProcess | None = None

    def __repr__(self) -> str:
        return f"<Member {self.name} {self.endpoint} {'up' if self.running else 'down'}>"

    @property
    def running(self) -> bool:
        """Whether its process lives; a paused one does."""
        return self._process is not None and self._process.running

    @property
    def pid(self) -> int | None:
        """Id of its process; None while it is down."""
        return self._process.pid if self._process is not None and self._process.running else None

    @property
    def log(self) -> str:
        """The last few thousand characters that it wrote, over all of its lives."""
        if not self._log.exists():
            return ""
        return self._log.read_text(errors="replace")[-_LOG_TAIL:]

    def launch(self) -> None:
        """Start its process and do not wait for it. Nothing happens if it runs.

        Use this, and not `start`, for a member whose cluster will have no quorum yet.
        """
        if not self.running:
            self._process = ChildProcess(
                self._command(), env=_environment(), folder=self._settings.folder, log=self._log
            )

    async def start(self) -> None:
        """Start its process, and wait until it is `healthy`.

        Raises:
            EtcdStartFailed: it ended, or it was not healthy within ``start_timeout`` seconds.
        """
        self.launch()
        await self.wait_healthy()

    async def wait_healthy(self) -> None:
        """Wait until it says of itself that it serves reads, which takes a quorum.

        Raises:
            EtcdStartFailed: it ended, or it was not healthy within ``start_timeout`` seconds.
        """
        with trio.move_on_after(self._settings.start_timeout):
            # A foreign process that starts gives no event that could be waited for.
            while not await self.healthy():
                if not self.running:
                    raise EtcdStartFailed(self.name, "ended while it was being started", self.log)
                await trio.sleep(_POLL)
            return
        reason = f"did not answer within {self._settings.start_timeout:g} s"
        raise EtcdStartFailed(self.name, reason, self.log)

    async def healthy(self) -> bool:
        """What its ``/health`` says at this moment; no answer within a second is a no."""
        with trio.move_on_after(_CHECK_TIMEOUT):
            try:
                status, _ = await _http.get("127.0.0.1", self._ports.metrics, "/health")
            except (OSError, ValueError, trio.BrokenResourceError):
                return False
            return status == 200
        return False

    async def metrics(self) -> dict[str, float]:
        """Its ``/metrics``: values by name with labels, as in ``etcd_server_is_leader``.

        Raises:
            OSError: it is down.
        """
        _, text = await _http.get("127.0.0.1", self._ports.metrics, "/metrics")
        return _http.parse_metrics(text)

    def kill(self) -> None:
        """End it with SIGKILL, paused or not, and reap it. Takes some milliseconds."""
        if self._process is not None:
            self._process.kill()

    async def stop(self) -> None:
        """End it with SIGTERM; with SIGKILL if that has not done it within five seconds.

        Cancellation ends the wait, and the member at once.
        """
        try:
            self.terminate()
            with trio.move_on_after(_STOP_SECONDS):
                await self.wait_ended()
        finally:
            self.kill()

    def terminate(self) -> None:
        """Send SIGTERM, and let it go on if it is paused, without waiting."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.send_signal(signal.SIGCONT)

    async def wait_ended(self) -> None:
        """Wait until its process has ended, by whatever way."""
        if self._process is None:
            await trio.lowlevel.checkpoint()
        else:
            await self._process.wait()

    async def restart(self) -> None:
        """`stop`, if it runs, and `start`.

        Raises:
            EtcdStartFailed: see `start`.
        """
        await self.stop()
        await self.start()

    def pause(self) -> None:
        """Freeze it with SIGSTOP: its connections stay open, and nothing answers."""
        if self._process is not None:
            self._process.pause()

    def resume(self) -> None:
        """Let it go on after `pause`."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def _command(self) -> list[str]:
        settings, ports = self._settings, self._ports
        options = {
            "name": self.name,
            "data-dir": f"{settings.folder}/{self.name}.data",
            "listen-client-urls": ",".join(self._listen_urls()),
            "advertise-client-urls": self.endpoint,
            "listen-peer-urls": peer_url(ports),
            "initial-advertise-peer-urls": peer_url(ports),
            "initial-cluster": self._cluster,
            "initial-cluster-token": settings.token,
            "listen-metrics-urls": f"http://127.0.0.1:{ports.metrics}",
            "heartbeat-interval": settings.heartbeat_ms,
            "election-timeout": settings.election_ms,
            "logger": "zap",
            "log-level": "warn",
        }
        if settings.auth_token_ttl is not None:
            options["auth-token-ttl"] = settings.auth_token_ttl
        if version_of(settings.executable) >= _NO_FSYNC_SINCE:
            options["unsafe-no-fsync"] = (
                "true"  # a killed process loses nothing by it, a machine may
            )
        return [
            str(settings.executable),
            *(f"--{name}={value}" for name, value in (options | self._tls_options()).items()),
            *settings.extra_args,
        ]

    def _tls_options(self) -> dict[str, str]:
        if self._settings.client_tls is None:
            return {}
        cert, key, ca = self._settings.client_tls
        options = {"cert-file": str(cert), "key-file": str(key)}
        if ca is not None:
            options |= {"trusted-ca-file": str(ca), "client-cert-auth": "true"}
        return options

    def _listen_urls(self) -> list[str]:
        unix = f"unix://{_socket_name(self.name)}" if self._settings.unix else None
        return [url for url in (self.endpoint, self.ipv6_endpoint, unix) if url]


def _socket_name(member: str) -> str:
    """Its unix socket, in its working folder; etcd wants a name of the form HOST:PORT."""
    return f"{member}:0"


def peer_url(ports: Ports) -> str:
    """Where the other members reach this one."""
    return f"http://127.0.0.1:{ports.peer}"


def _environment() -> dict[str, str]:
    """Ours without what would set etcd's options, which etcd refuses beside the same flags."""
    kept = ("ETCD_UNSUPPORTED_ARCH",)  # some builds do not start without it
    return {
        name: value
        for name, value in os.environ.items()
        if name in kept or not name.startswith("ETCD_")
    }
