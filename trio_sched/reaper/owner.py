"""The reaper's owner: it starts the helper process, and sends it what it has to know.

What the helper does, and why in that order, is described in ``helper/reap.py``. Everything here
only sends lines to it. They are written at once and never waited for; if the helper is gone, or
does not read, it is given up and killed, as one that knows half of it is worse than none. What is
left then is what there is without a reaper: leases lapse by themselves.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager

import trio

from trio_sched._support.arguments import check_int, check_number, check_seconds
from trio_sched._support.processes import wait_ended
from trio_sched._support.tasks import open_service_nursery
from trio_sched.etcd_shim.channel import Access
from trio_sched.etcd_shim.client import Client, check_client
from trio_sched.etcd_shim.tls import TLSContext
from trio_sched.reaper.helper import helper_command

__all__ = ["Reaper", "check_reapable", "open_reaper"]

_END_TIMEOUT = 2.0  # seconds for the helper to end when there is nothing left for it to do
_MAX_SECONDS = 1e9  # a deadline further away than this is none
_ENVIRONMENT = ("SSL_CERT_FILE", "SSL_CERT_DIR")  # where OpenSSL finds authorities


class Reaper:
    """Instructs the helper process, in case this process is killed. Made by `open_reaper`.

    None of its methods waits, and none fails but for a bad argument: without the helper they
    do nothing.
    """

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._process: subprocess.Popen[bytes] | None = None
        self._lost = False
        self._ended = trio.Event()

    @property
    def pid(self) -> int | None:
        """Id of the helper process; None once it was lost."""
        return None if self._process is None or self._lost else self._process.pid

    def hold(self, lease: int, ttl: float) -> None:
        """Revoke this lease when this process is gone. Say so before it is granted.

        Args:
            lease: its id.
            ttl: its TTL in seconds, as long as the helper tries for.
        """
        check_int("lease", lease)
        check_seconds("ttl", ttl)
        self._send(f"hold {lease} {ttl:.3f}")

    def release(self, lease: int) -> None:
        """Leave this lease alone: it was revoked, or is meant to lapse."""
        self._send(f"release {check_int('lease', lease)}")

    def group(self, pgid: int | None) -> None:
        """End this process group first, and revoke only once it is gone.

        Send it before anything in the group can act; and None once the group is gone
        but before the process that it is named after is reaped, as the number may
        be another's after that.

        Args:
            pgid: its id; None if there is none any more.
        """
        if pgid is not None:
            check_int("pgid", pgid, 2)  # 1 would be all processes of all sessions
        self._send(f"group {pgid or 0}")

    def until(self, deadline: float) -> None:
        """End the group at this moment unless a later one is sent by then.

        For the case that this process is stopped, or hangs: it cannot end the group
        itself then, and the lease lapses.

        Args:
            deadline: by trio's clock; infinity for never.
        """
        left = check_number("deadline", deadline) - trio.current_time()
        if left < _MAX_SECONDS:
            self._send(f"until {time.monotonic() + max(left, 0.0):.3f}")

    def _send(self, *lines: str) -> None:
        """Write lines, all of them or none; give up the helper if that fails."""
        if self._lost:
            return
        data = "".join(f"{line}\n" for line in lines).encode()
        try:
            if os.write(self._pipe, data) == len(data):
                return
        except (BlockingIOError, BrokenPipeError):
            pass
        self._give_up()

    def _give_up(self) -> None:
        self._lost = True
        if self._process is not None and not self._ended.is_set():
            self._process.kill()


class _OwnedReaper(Reaper):
    """A `Reaper` with its life, which `open_reaper` alone sees."""

    def start(self, pipe: int, introduction: Iterable[str]) -> None:
        """Start it, which takes a millisecond or two; it gets ready by itself."""
        self._send(*introduction)  # the pipe takes 64 kB before it is read
        try:
            self._process = subprocess.Popen(  # noqa: S603 # our own command
                helper_command("reap"),
                stdin=pipe,
                stdout=subprocess.DEVNULL,  # or the reader of ours would wait for its end, too
                stderr=subprocess.DEVNULL,
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
                cwd="/",
                start_new_session=True,  # a Ctrl-C in the terminal is not for it
            )
        except OSError:
            self._lost = True
        finally:
            os.close(pipe)

    async def attend(self) -> None:
        """Reap it when it ends, also if that is early."""
        if self._process is not None:
            await wait_ended(self._process.pid)
            self._lost = True
            self._process.wait()
        self._ended.set()

    async def part(self) -> None:
        """Send it home. Shielded, and bounded."""
        self._send("bye")
        self._lost = True
        os.close(self._pipe)
        with trio.move_on_after(_END_TIMEOUT, shield=True):
            await self._ended.wait()
        if not self._ended.is_set():  # it is stopped, or hangs
            self._give_up()
            with trio.CancelScope(shield=True):
                await self._ended.wait()


def check_reapable(client: Client) -> None:
    """Raise unless a reaper can connect as `client` does.

    Raises:
        ValueError: it uses an ``ssl_context`` that was not made by `tls_context`,
            so that the files are not known.
    """
    _files(check_client(client)._access)  # noqa: SLF001 # for reapers only, as it has the password


@asynccontextmanager
async def open_reaper(client: Client) -> AsyncIterator[Reaper]:
    """Have a helper process tidy up after this one, should this one be killed.

    ``async with open_reaper(client) as reaper:``. It is started in the background,
    needs some 10 MB, and ends with the block; nothing of etcd is touched before
    this process is gone. A lease that is still held when the block is left is left
    to lapse.

    What this process forked without an exec, such as the workers of
    `multiprocessing`, must be gone, too: they may be at work under the lease.

    Args:
        client: has the endpoints and the user.

    Raises:
        TypeError: `client` is none.
        ValueError: as `check_reapable` does.
    """
    introduction = list(_introduction(check_client(client)._access))  # noqa: SLF001 # as above
    theirs, ours = os.pipe()
    os.set_blocking(ours, False)
    reaper = _OwnedReaper(ours)
    reaper.start(theirs, introduction)
    async with open_service_nursery() as services:
        services.start_soon(reaper.attend, name="reaper")
        try:
            yield reaper
        finally:
            await reaper.part()  # noqa: ASYNC102 # shields and bounds itself


def _introduction(access: Access) -> Iterator[str]:
    """Return the lines with the endpoints and the user."""
    files = _files(access)
    for endpoint in access.endpoints:
        yield f"endpoint {_word(endpoint.scheme)} {_word(endpoint.host)} {endpoint.port}"
    if any(files):
        yield f"files {' '.join(map(_word, files))}"
    if access.credentials is not None:
        yield f"user {_word(access.credentials.user)} {_word(access.credentials.password)}"


def _files(access: Access) -> tuple[str, str, str]:
    """Return the files behind a context: authorities, certificate and key."""
    context = access.ssl_context
    if context is None or all(endpoint.scheme != "https" for endpoint in access.endpoints):
        return ("", "", "")
    if not isinstance(context, TLSContext) or context.key_encrypted:
        raise ValueError(
            "a reaper is another process and cannot use this ssl_context; "
            "make one with trio_sched.etcd_shim.tls_context(), of a key without a password"
        )
    return (context.cacert, context.cert, context.key)


def _word(text: str) -> str:
    """Put a text into one word."""
    return text.encode().hex()
