"""The reaper's owner: it starts the helper process, and sends it what it has to know.

What the helper does, and why in that order, is described in ``helper/reap.py``. Everything here
only sends lines to it. They are written at once and never waited for. It answers a ping now and
then; one that does not, does not read, or has ended is killed if need be, and another one takes its
place, which is sent all that holds. In between there is what there is without a reaper: the
keepers of works end them, and leases lapse by themselves.
"""

from __future__ import annotations

import fcntl
import itertools
import logging
import os
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import trio

from trio_sched._support.arguments import check_instance, check_int, check_number, check_seconds
from trio_sched._support.processes import wait_ended
from trio_sched._support.tasks import check_in_trio, open_plain_nursery, open_service_nursery
from trio_sched.etcd_shim.channel import Access
from trio_sched.etcd_shim.client import Client, check_client
from trio_sched.etcd_shim.tls import TLSContext
from trio_sched.reaper.helper import helper_command
from trio_sched.reaper.helper.tree import Work

__all__ = ["Reaper", "check_reapable", "monotonic_at", "open_reaper"]

_END_TIMEOUT = 2.0  # seconds for the helper to end when there is nothing left for it to do
_PING_EVERY = 0.4  # seconds
_PONG_TIMEOUT = 0.5  # seconds; with the line above: a stopped helper is noticed within a second
_START_TIMEOUT = 5.0  # seconds for the first answer of all, as it has to be loaded
_LATE = 0.1  # seconds; if we wake up later than that, it may be us who were stopped
_AGAIN = (0.05, 30.0)  # seconds between two helpers: at first, and at most
_STEADY = 10.0  # seconds: a helper that lived for longer begins at the first pause again
_PIPE_SIZE = 1 << 18  # bytes
_MAX_SECONDS = 1e9  # a deadline further away than this is none
_ENVIRONMENT = ("SSL_CERT_FILE", "SSL_CERT_DIR")  # where OpenSSL finds authorities

_logger = logging.getLogger("trio_sched")


class Reaper:
    """Instructs the helper process, in case this process is killed. Made by `open_reaper`.

    None of its methods waits, and none fails but for a bad argument: while there is no
    helper, they are remembered for the next one.
    """

    def __init__(self) -> None:
        self._pipe = -1
        self._process: subprocess.Popen[bytes] | None = None
        self._lost = True
        self._leases: dict[int, float] = {}
        self._slots: dict[bytes, str] = {}  # what was sent of those that are held
        self._works: dict[Work, float | None] = {}
        self._group = 0
        self._until: float | None = None

    @property
    def pid(self) -> int | None:
        """Id of the helper process; None while there is none."""
        return None if self._process is None or self._lost else self._process.pid

    def hold(self, lease: int, ttl: float) -> None:
        """Revoke this lease when this process is gone. Say so before it is granted.

        Args:
            lease: its id.
            ttl: its TTL in seconds, as long as the helper tries for.
        """
        check_int("lease", lease)
        self._leases[lease] = check_seconds("ttl", ttl)
        self._send(_hold(lease, ttl))

    def release(self, lease: int) -> None:
        """Leave this lease alone: it was revoked, or is meant to lapse."""
        self._leases.pop(check_int("lease", lease), None)
        self._send(f"release {lease}")

    def taken(self, slot: bytes, mark_key: bytes, mark: bytes) -> None:
        """Release this slot before the lease is revoked. Say so before it is taken.

        Args:
            slot: its key.
            mark_key: the key of its mark; both are deleted if that has this value.
            mark: the value.
        """
        for name, value in (("slot", slot), ("mark_key", mark_key), ("mark", mark)):
            check_instance(name, value, bytes, "bytes")
        self._slots[slot] = f"taken {slot.hex()} {mark_key.hex()} {mark.hex()}"
        self._send(self._slots[slot])

    def freed(self, slot: bytes) -> None:
        """Leave this slot alone: it was released.

        Args:
            slot: its key.
        """
        self._slots.pop(check_instance("slot", slot, bytes, "bytes"), None)
        self._send(f"freed {slot.hex()}")

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
        self._group = pgid or 0
        self._until = self._until if self._group else None
        self._send(f"group {self._group}")

    def work(self, work: Work) -> None:
        """End this work first, and revoke only once nothing of it lives. Sent before it can act."""
        self._works[_check_work(work)] = None
        self._send(_work(work))

    def over(self, work: Work) -> None:
        """Forget a work of which nothing lives any more."""
        if self._works.pop(_check_work(work), 0.0) != 0.0:
            self._send(f"over {work.keeper}")

    def until(self, deadline: float, work: Work | None = None) -> None:
        """End the group, or a work, at this moment unless a later one is sent by then.

        For the case that this process is stopped, or hangs: it cannot end it itself then, and
        the lease lapses.

        Args:
            deadline: by trio's clock; infinity for never.
            work: None for the group.
        """
        moment = monotonic_at(deadline)
        if work is not None:
            _check_work(work)
        if moment is None:
            return
        if work is None:
            self._until = moment
        elif work in self._works:
            self._works[work] = moment
        self._send(_until(moment, work))

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
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    def _everything(self) -> Iterator[str]:
        """Return the lines with all that holds now."""
        for lease, ttl in self._leases.items():
            yield _hold(lease, ttl)
        yield from self._slots.values()
        if self._group:
            yield f"group {self._group}"
            if self._until is not None:
                yield _until(self._until, None)
        for work, until in self._works.items():
            yield _work(work)
            if until is not None:
                yield _until(until, work)


class _OwnedReaper(Reaper):
    """A `Reaper` with its life, which `open_reaper` alone sees."""

    def __init__(self, introduction: list[str]) -> None:
        super().__init__()
        self._introduction = introduction
        self._parting = trio.Event()
        self._ended = trio.Event()
        self._answers = -1

    def start(self) -> None:
        """Start a helper, which takes a millisecond or two; it gets ready by itself."""
        theirs, self._pipe = os.pipe()
        self._answers, answers = os.pipe()
        for descriptor in (self._pipe, self._answers):
            os.set_blocking(descriptor, False)
        with suppress(OSError):  # room for thousands of leases before it is read
            fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        self._lost = False
        self._send(*self._introduction, *self._everything())
        try:
            self._process = subprocess.Popen(  # noqa: S603 # our own command
                helper_command("reap"),
                stdin=theirs,
                stdout=answers,  # not ours, or the reader of ours would wait for its end, too
                stderr=subprocess.DEVNULL,
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
                cwd="/",
                start_new_session=True,  # a Ctrl-C in the terminal is not for it
            )
        except OSError:
            self._lost, self._process = True, None
        finally:
            os.close(theirs)
            os.close(answers)

    async def attend(self) -> None:
        """See that it lives, or another one in its place; reap each when it ends."""
        pause = _AGAIN[0]
        while True:
            began = trio.current_time()
            await self._attend_one()
            if self._parting.is_set():
                break
            _logger.warning("the reaper is gone, or does not answer; another one is started")
            pause = _AGAIN[0] if trio.current_time() - began > _STEADY else pause
            with trio.move_on_after(pause):
                await self._parting.wait()
                break
            pause = min(pause * 2, _AGAIN[1])
            self.start()
        self._ended.set()

    async def _attend_one(self) -> None:
        if self._process is not None:
            async with open_plain_nursery() as nursery:
                nursery.start_soon(self._ping)
                await wait_ended(self._process.pid)
                nursery.cancel_scope.cancel()
            self._lost = True
            self._process.wait()
        for descriptor in (self._pipe, self._answers):
            os.close(descriptor)
        self._pipe = self._answers = -1

    async def _ping(self) -> None:
        """Give the helper up as soon as it does not answer."""
        answers, patience = b"", _START_TIMEOUT
        for number in itertools.count():
            await trio.sleep(_PING_EVERY)
            wanted = f"pong {number}\n".encode()
            self._send(f"ping {number}")
            while wanted not in answers:
                found = await self._answer(patience)
                if found is None:
                    self._give_up()
                    return
                answers = (answers + found)[-64:]
            patience = _PONG_TIMEOUT

    async def _answer(self, patience: float) -> bytes | None:
        """Wait for an answer; return None if there is none in time."""
        while True:
            late = trio.current_time() + patience + _LATE
            with trio.move_on_after(patience):
                await trio.lowlevel.wait_readable(self._answers)
            with suppress(BlockingIOError):
                return os.read(self._answers, 4096) or None
            if trio.current_time() < late:  # it was not us who slept
                return None

    async def part(self) -> None:
        """Send it home. Shielded, and bounded."""
        self._parting.set()
        self._send("bye")
        self._lost = True
        with trio.move_on_after(_END_TIMEOUT, shield=True):
            await self._ended.wait()
        if not self._ended.is_set():  # it is stopped, or hangs
            self._give_up()
            with trio.CancelScope(shield=True):
                await self._ended.wait()


def monotonic_at(moment: float) -> float | None:
    """Return what CLOCK_MONOTONIC says at a moment of trio's clock; None if that is never."""
    left = check_number("deadline", moment) - trio.current_time()
    return time.monotonic() + max(left, 0.0) if left < _MAX_SECONDS else None


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
        ValueError: `client` uses an ``ssl_context`` that was not made by `tls_context`, so that
            the files are not known.
    """
    check_in_trio()
    introduction = list(_introduction(check_client(client)._access))  # noqa: SLF001 # as above
    reaper = _OwnedReaper(introduction)
    reaper.start()
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


def _check_work(work: Work) -> Work:
    return check_instance("work", work, Work, "a Work")


def _hold(lease: int, ttl: float) -> str:
    return f"hold {lease} {ttl:.3f}"


def _work(work: Work) -> str:
    return f"work {' '.join(map(str, work.numbers))} {_word(work.cgroup)}"


def _until(moment: float, work: Work | None) -> str:
    return f"until {moment:.3f}" + (f" {work.keeper}" if work is not None else "")


def _word(text: str) -> str:
    """Put a text into one word."""
    return text.encode().hex()
