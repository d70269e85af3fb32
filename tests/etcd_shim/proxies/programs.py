"""Real programs that stand between clients and an etcd: each with timeouts of two seconds."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from textwrap import dedent

import pytest
import trio
import trustme

from tests.helpers import listens
from trio_sched.testing._ports import free_ports
from trio_sched.testing.find import find_etcd

__all__ = ["PROXIES", "Place", "open_proxy"]

IDLE = 2  # seconds after which a proxy ends what is idle


@dataclass(frozen=True)
class Place:
    """Where a proxy is to stand.

    Attributes:
        etcd: port of etcd.
        port: where it is to listen.
        folder: for its files.
        authority: of its certificate, if it has one.
    """

    etcd: int
    port: int
    folder: Path
    authority: trustme.CA

    def write(self, name: str, text: str) -> str:
        file = self.folder / name
        file.write_text(dedent(text) + "\n")
        return str(file)


def program(name: str) -> str:
    """Return where a program is; skip the test if it is nowhere."""
    folders = [*os.environ.get("PATH", "").split(os.pathsep), "/usr/sbin", "/usr/local/sbin"]
    found = shutil.which(name, path=os.pathsep.join(folders))
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def haproxy(place: Place) -> list[str]:
    config = f"""
    defaults
        mode http
        timeout connect {IDLE}s
        timeout client {IDLE}s
        timeout server {IDLE}s
    frontend clients
        bind 127.0.0.1:{place.port} proto h2
        default_backend members
    backend members
        server etcd 127.0.0.1:{place.etcd} proto h2
    """
    return [program("haproxy"), "-db", "-f", place.write("haproxy.cfg", config)]


def nginx(place: Place) -> list[str]:
    temporary = "\n".join(
        f"{kind}_temp_path {place.folder}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = f"""
    daemon off;
    pid {place.folder}/nginx.pid;
    error_log stderr;
    events {{}}
    http {{
        access_log off;
        {temporary}
        server {{
            listen 127.0.0.1:{place.port} http2;
            client_body_timeout {IDLE}s;
            location / {{
                grpc_pass grpc://127.0.0.1:{place.etcd};
                grpc_read_timeout {IDLE}s;
                grpc_send_timeout {IDLE}s;
            }}
        }}
    }}
    """
    return [program("nginx"), "-e", "stderr", "-c", place.write("nginx.conf", config)]


def nghttpx(place: Place) -> list[str]:
    return [
        program("nghttpx"),
        "--conf=/dev/null",
        f"--frontend=127.0.0.1,{place.port};no-tls",
        f"--backend=127.0.0.1,{place.etcd};;proto=h2",
        f"--frontend-http2-read-timeout={IDLE}s",
        f"--stream-read-timeout={IDLE}s",
        f"--stream-write-timeout={IDLE}s",
        f"--backend-read-timeout={IDLE}s",
        "--workers=1",
        "--single-process",
    ]


def stunnel(place: Place) -> list[str]:
    """TLS without ALPN."""
    certificate = place.authority.issue_cert("127.0.0.1")
    pem = place.folder / "stunnel.pem"
    certificate.private_key_and_cert_chain_pem.write_to_path(str(pem))
    config = (
        f"foreground = yes\npid =\n[etcd]\naccept = 127.0.0.1:{place.port}\n"
        f"connect = 127.0.0.1:{place.etcd}\ncert = {pem}\nTIMEOUTidle = {IDLE}\n"
    )
    return [program("stunnel4"), place.write("stunnel.conf", config)]


def etcd_with(place: Place, *words: str) -> list[str]:
    options = [f"--endpoints=127.0.0.1:{place.etcd}", f"--listen-addr=127.0.0.1:{place.port}"]
    return [str(find_etcd()), *words, *options]


def grpc_proxy(place: Place) -> list[str]:
    return [*etcd_with(place, "grpc-proxy", "start"), f"--data-dir={place.folder}/proxy"]


def gateway(place: Place) -> list[str]:
    return etcd_with(place, "gateway", "start")


PROXIES: dict[str, Callable[[Place], list[str]]] = {
    "haproxy": haproxy,
    "nginx": nginx,
    "nghttpx": nghttpx,
    "stunnel": stunnel,
    "grpc-proxy": grpc_proxy,
    "gateway": gateway,
}


@asynccontextmanager
async def open_proxy(
    name: str, etcd: str, folder: Path, authority: trustme.CA
) -> AsyncIterator[str]:
    """Start a proxy and wait until it listens; return the endpoint to connect to."""
    (port,) = free_ports(1)
    place = Place(int(etcd.rpartition(":")[2]), port, folder, authority)
    command = PROXIES[name](place)
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT)
    async with trio.open_nursery() as nursery:
        try:
            await nursery.start(_runner(command, log))
        finally:
            os.close(log)  # it has its own by now
        while not await listens(port):  # noqa: ASYNC110 # a foreign process gives no event
            await trio.sleep(0.02)
        yield f"{'https' if name == 'stunnel' else 'http'}://127.0.0.1:{port}"
        nursery.cancel_scope.cancel()


def _runner(command: Sequence[str], log: int) -> Callable[..., Awaitable[object]]:
    environment = {key: value for key, value in os.environ.items() if key[:5] != "ETCD_"}
    return partial(
        trio.run_process,
        command,
        stdout=log,
        stderr=log,
        check=True,
        env=environment,
        deliver_cancel=_kill,
    )


async def _kill(process: trio.Process) -> None:
    process.kill()
    await trio.lowlevel.cancel_shielded_checkpoint()
