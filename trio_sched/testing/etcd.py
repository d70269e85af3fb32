"""`open_etcd`: a real etcd for the length of a block."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING

import trio

from trio_sched._support.arguments import (
    check_bool,
    check_bools,
    check_instance,
    check_int,
    check_seconds,
    check_text,
    check_tuple,
    shown,
)
from trio_sched.testing._ports import free_ports
from trio_sched.testing.find import find_etcd, find_etcdctl, version_of
from trio_sched.testing.member import EtcdStartFailed, Member, Ports, Settings, peer_url

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    StrPath = str | os.PathLike[str]

__all__ = ["Etcd", "EtcdStartFailed", "open_etcd"]

_MAX_MEMBERS = 99
_PORT_RACES = 5  # how many times in a row another process may take a port before etcd does
# All data is thrown away, so a clean end is a courtesy. One member is gone in a few milliseconds;
# those of a cluster search for another to hand leadership to, for seconds, and in vain.
_END_SECONDS = 0.5


class Etcd:
    """An etcd that `open_etcd` started: one member or a cluster.

    Attributes:
        members: its members, in the order of their names.
        executable: the program that they run.
    """

    def __init__(self, members: Sequence[Member], settings: Settings) -> None:
        self.members: tuple[Member, ...] = tuple(members)
        self.executable: Path = settings.executable
        self._settings = settings

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The URL of each member, such as ``http://127.0.0.1:23790``."""
        return tuple(member.endpoint for member in self.members)

    @property
    def endpoint(self) -> str:
        """The URL of the first member."""
        return self.members[0].endpoint

    @property
    def version(self) -> tuple[int, int]:
        """Major and minor version, such as ``(3, 5)``."""
        return version_of(self.executable)

    async def raft_leader(self) -> Member:
        """The member that the cluster's raft has elected; waits for it if there is none yet."""
        while True:
            for member in self.members:
                if member.running and await _leads(member):
                    return member
            await trio.sleep(0.02)  # there is no event for a foreign cluster's election

    async def etcdctl(
        self, *args: str, check: bool = True, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run ``etcdctl`` against all endpoints.

        Args:
            *args: its arguments, such as ``"compact", "7"``.
            check: whether an exit code other than 0 is an error.
            stdin: what it reads.

        Raises:
            EtcdNotFound: there is no etcdctl.
            subprocess.CalledProcessError: it failed; what it wrote to stderr is in a note.
        """
        check_tuple("args", args, str, "arguments, each a str,")
        check_bool("check", check)
        check_text("stdin", stdin)
        command = [str(self._etcdctl()), f"--endpoints={','.join(self.endpoints)}"]
        done = await trio.run_process(
            [*command, *self._etcdctl_tls(), *args],
            stdin=stdin.encode(),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env={name: v for name, v in os.environ.items() if not name.startswith("ETCDCTL_")},
        )
        out, err = done.stdout.decode(), done.stderr.decode()
        if check and done.returncode:
            error = subprocess.CalledProcessError(done.returncode, done.args, out, err)
            error.add_note(err)
            raise error
        return subprocess.CompletedProcess(done.args, done.returncode, out, err)

    def _etcdctl(self) -> Path:
        """That of the same build, if it lies beside the server."""
        beside = self.executable.with_name("etcdctl")
        return beside if os.access(beside, os.X_OK) else find_etcdctl()

    def _etcdctl_tls(self) -> list[str]:
        if self._settings.client_tls is None:
            return []
        cert, key, _ = self._settings.client_tls
        # It talks to the child that we have just started; trust is not its subject.
        return [f"--cert={cert}", f"--key={key}", "--insecure-skip-tls-verify"]


@asynccontextmanager
async def open_etcd(
    *,
    members: int = 1,
    executable: StrPath | None = None,
    client_tls: tuple[StrPath, StrPath, StrPath | None] | None = None,
    auth_token_ttl: int | None = None,
    heartbeat_ms: int = 50,
    election_ms: int = 500,
    ipv6: bool = False,
    unix: bool = False,
    extra_args: Sequence[str] = (),
    start_timeout: float = 30,
) -> AsyncGenerator[Etcd]:
    """Start a real etcd, wait until it answers, and end it when the block is left.

    It listens on free loopback ports and keeps its data in a temporary folder. It does not outlive
    this process, even if that is ended by SIGKILL. The block's own exception leaves as it was
    raised, and the end is bounded, also when the block is cancelled.

    Args:
        members: how many; 3 make a cluster that survives the loss of one.
        executable: which etcd; None searches for one, see `find_etcd`.
        client_tls: files for the clients' side: certificate, its key, and the CA whose clients are
            let in. With a CA, only clients with a certificate of it are.
        auth_token_ttl: seconds for which an auth token lives; None is etcd's own, 300.
        heartbeat_ms: milliseconds between two heartbeats of the raft leader.
        election_ms: milliseconds without one after which the members elect another. It also rules
            the shortest TTL that a lease gets: one and a half times this, in whole seconds. etcd's
            own is 1000, and that shortest TTL 2 s; here it is half of that, for a quicker start.
        ipv6: listen on ``[::1]`` as well, see `Member.ipv6_endpoint`.
        unix: listen on a unix socket as well, see `Member.unix_endpoint`.
        extra_args: more arguments for etcd; they win over those that are made here.
        start_timeout: seconds for each member to answer.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: less than one member, or another argument is out of bounds.
        EtcdNotFound: there is no etcd here; says how to get one.
        EtcdStartFailed: it did not start; with what it had to say.
    """
    if check_int("members", members, most=_MAX_MEMBERS) < 1:
        raise ValueError(f"members is {shown(members)}, and an etcd has at least one")
    check_instance("executable", executable, (str, os.PathLike, NoneType), "a path or None")
    _check_tls(client_tls)
    if auth_token_ttl is not None:
        check_int("auth_token_ttl", auth_token_ttl, 1)
    check_int("heartbeat_ms", heartbeat_ms, 1)
    check_int("election_ms", election_ms, 1)
    check_bools(ipv6=ipv6, unix=unix)
    check_tuple("extra_args", extra_args, str, "arguments, each a str,")
    check_seconds("start_timeout", start_timeout)
    program = Path(executable) if executable is not None else find_etcd()
    with tempfile.TemporaryDirectory(prefix="etcd-", ignore_cleanup_errors=True) as folder:
        settings = Settings(
            executable=program.resolve(),
            folder=Path(folder),
            token=secrets.token_hex(8),
            heartbeat_ms=heartbeat_ms,
            election_ms=election_ms,
            start_timeout=start_timeout,
            client_tls=_paths(client_tls),
            auth_token_ttl=auth_token_ttl,
            ipv6=ipv6,
            unix=unix,
            extra_args=tuple(extra_args),
        )
        started: list[Member] = []
        try:
            # Asked in a thread, and remembered: it runs the program.
            await trio.to_thread.run_sync(version_of, settings.executable)
            await _start(started, members, settings)
            yield Etcd(started, settings)
        finally:
            # SIGTERM to all, so that none waits for another, and SIGKILL to what is left then.
            for member in started:
                member.terminate()
            with trio.move_on_after(_END_SECONDS, shield=True):
                for member in started:
                    await member.wait_ended()
            for member in started:
                member.kill()


async def _start(started: list[Member], count: int, settings: Settings) -> None:
    """Fill ``started``, which the caller ends, whatever happens here."""
    for attempt in range(_PORT_RACES):
        started[:] = _plan(count, settings)
        try:
            for member in started:
                member.launch()
            for member in started:
                await member.wait_healthy()
        except EtcdStartFailed as error:
            if "address already in use" not in error.log or attempt == _PORT_RACES - 1:
                raise
            for member in started:
                member.kill()
            _empty(settings.folder)
        else:
            return


def _plan(count: int, settings: Settings) -> list[Member]:
    numbers = iter(free_ports(3 * count))
    ports = {f"m{n}": Ports(*(next(numbers) for _ in range(3))) for n in range(1, count + 1)}
    cluster = ",".join(f"{name}={peer_url(own)}" for name, own in ports.items())
    return [Member(name, own, settings, cluster) for name, own in ports.items()]


async def _leads(member: Member) -> bool:
    with trio.move_on_after(1):  # a paused one does not answer
        try:
            return (await member.metrics()).get("etcd_server_is_leader") == 1
        except (OSError, ValueError, trio.BrokenResourceError):
            return False
    return False


def _empty(folder: Path) -> None:
    """What a start that failed has left there belongs to other ports."""
    for entry in folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _check_tls(tls: object) -> None:
    words = "None, or a tuple of certificate, key, and CA or None"
    check_instance("client_tls", tls, (tuple, NoneType), words)
    if isinstance(tls, tuple):
        if len(tls) != 3:
            raise ValueError(f"client_tls must be {words}, not {len(tls)} of them")
        for file in tls[:2]:
            check_instance("client_tls", file, (str, os.PathLike), words)
        check_instance("client_tls", tls[2], (str, os.PathLike, NoneType), words)


def _paths(
    tls: tuple[StrPath, StrPath, StrPath | None] | None,
) -> tuple[Path, Path, Path | None] | None:
    if tls is None:
        return None
    cert, key, ca = tls
    return Path(cert).absolute(), Path(key).absolute(), None if ca is None else Path(ca).absolute()
