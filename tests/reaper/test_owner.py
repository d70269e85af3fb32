"""The reaper: what is left behind by a process that is killed, and what is left alone."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from tests.etcd_shim.test_auth import open_guarded
from tests.etcd_shim.test_transport import write
from tests.helpers import PASSWORD
from tests.reaper.process_tools import (
    alive,
    ended_with_block,
    eventually,
    exists,
    open_files,
    proc_bytes,
)
from trio_sched._support.processes import wait_ended
from trio_sched.etcd_shim import Client, open_client, tls_context
from trio_sched.etcd_shim.errors import LeaseNotFound
from trio_sched.etcd_shim.watch import EventType, Watcher
from trio_sched.reaper.helper import reap, revoke
from trio_sched.reaper.helper.groups import kill_group, living_members
from trio_sched.reaper.helper.reap import Instructions, serve
from trio_sched.reaper.owner import open_reaper
from trio_sched.testing import open_etcd

PROGRAM = Path(__file__).with_name("reaper_owner.py")
TTL = 60  # seconds: what is gone before was not left to lapse
SLEEP = ["sleep", "300"]
STUBBORN = ["sh", "-c", "trap '' TERM INT HUP; sleep 300 & sleep 300; sleep 300"]


class Owner:
    """A process that has a reaper."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self._buffer = b""
        self.lease = 0
        self.reaper = 0
        self.group = 0
        self.seconds = 0.0

    async def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        while b"\n" not in self._buffer:
            chunk = await self.process.stdout.receive_some()
            assert chunk, "it ended"
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        words: dict[str, Any] = json.loads(line)
        return words

    async def do(self, word: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        await self.process.stdin.send_all(f"{word}\n".encode())
        return await self.read()


@asynccontextmanager
async def open_owner(*endpoints: str, key: str, **settings: Any) -> AsyncIterator[Owner]:
    defaults: dict[str, Any] = {"tls": {}, "user": "", "password": "", "ttl": TTL, "grant": True}
    defaults |= {"group": None, "until": 0.0, "slot": None}
    arguments = defaults | {"endpoints": endpoints, "key": key} | settings
    process = await trio.lowlevel.open_process(
        [sys.executable, str(PROGRAM), json.dumps(arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    owner = Owner(process)
    try:
        async with ended_with_block(process, 30):
            hello = await owner.read()
            owner.lease, owner.reaper = hello["lease"], hello["reaper"]
            owner.group, owner.seconds = hello["group"], hello["seconds"]
            yield owner
    finally:
        if owner.group:
            kill_group(owner.group, 5)


async def gone(client: Client, key: str) -> None:
    """Wait until a key is deleted."""
    async with client.watch(key) as events:
        if (await client.get(key)).kv is not None:
            async for _ in events:
                return


async def remains(client: Client, owner: Owner, key: str) -> bool:
    """Return whether a lease and its key are there."""
    try:
        left = await client.lease_time_to_live(owner.lease)
    except LeaseNotFound:
        return False
    return left.ttl > 0 and (await client.get(key)).kv is not None


async def ended(pid: int) -> None:
    """Wait until a process that is not our child has ended."""
    await eventually(lambda: not alive(pid))


# ---- revoking -------------------------------------------------------------------------------


async def test_a_lease_of_a_killed_process_is_revoked(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client, open_owner(endpoint, key=path) as owner:
        assert await remains(client, owner, path)
        owner.process.kill()
        await gone(client, path)
        with pytest.raises(LeaseNotFound):
            await client.lease_time_to_live(owner.lease)
        await ended(owner.reaper)


async def test_f45_a_slot_is_released_before_its_lease(endpoint: str, path: str) -> None:
    slot, mark = f"{path}/slots/0", f"{path}/slots.taken/0"
    async with (
        open_client(endpoint) as client,
        client.watch(slot) as slots,
        client.watch(path) as lease,
        open_owner(endpoint, key=path, slot=[slot, mark, "m" * 300]) as owner,
    ):
        owner.process.kill()
        await gone(client, path)
        assert (await client.get(mark)).kv is None
        released, revoked = [await deletion(events) for events in (slots, lease)]
        assert released < revoked


async def test_f53_another_reaper_knows_of_the_slots_too(endpoint: str, path: str) -> None:
    slot, mark = f"{path}/slots/0", f"{path}/slots.taken/0"
    async with (
        open_client(endpoint) as client,
        open_owner(endpoint, key=path, slot=[slot, mark, "mine"]) as owner,
    ):
        os.kill(owner.reaper, signal.SIGKILL)
        now: int | None = owner.reaper
        while now in {None, owner.reaper}:
            now = (await owner.do("who"))["reaper"]
            await owner.read()
        owner.process.kill()
        await gone(client, path)
        assert (await client.get(mark)).kv is None, "released, and not left to its lease"


async def deletion(events: Watcher) -> int:
    """Wait for the deletion of a watched key; return its revision."""
    async for event in events:
        if event.type is EventType.DELETE:
            return event.kv.mod_revision
    raise AssertionError("the watch has ended")


@pytest.mark.parametrize("another", [True, False])
async def test_f45_a_slot_that_is_anothers_is_left_alone(
    endpoint: str,
    path: str,
    another: bool,  # whether another host has taken it; or we have freed it
) -> None:
    slot, mark = f"{path}/slots/0", f"{path}/slots.taken/0"
    async with (
        open_client(endpoint) as client,
        open_owner(endpoint, key=path, slot=[slot, mark, "mine"]) as owner,
    ):
        if another:
            await client.put(mark, "another's")
        else:
            await owner.do("freed")
        await client.put(slot, "another")
        owner.process.kill()
        await gone(client, path)
        kv = (await client.get(slot)).kv
        assert kv is not None
        assert kv.value == b"another"


async def test_a_stopped_process_is_a_living_one(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client, open_owner(endpoint, key=path) as owner:
        owner.process.send_signal(signal.SIGSTOP)
        async with open_owner(endpoint, key=f"{path}/other") as other:
            other.process.kill()
            await gone(client, f"{path}/other")  # in that time ours would have gone, too
        assert await remains(client, owner, path)
        assert alive(owner.reaper)
        owner.process.send_signal(signal.SIGCONT)
        await owner.do("release")


async def test_what_was_forked_without_exec_counts_as_the_process(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client, open_owner(endpoint, key=path) as owner:
        forked = (await owner.do("fork"))["pid"]
        owner.process.kill()
        await owner.process.wait()
        async with open_owner(endpoint, key=f"{path}/other") as other:
            other.process.kill()
            await gone(client, f"{path}/other")
        assert await remains(client, owner, path)
        os.kill(forked, signal.SIGKILL)
        await gone(client, path)


async def test_a_released_lease_is_left_alone(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client, open_owner(endpoint, key=path) as owner:
        await owner.do("release")
        await client.lease_grant(TTL, owner.lease)  # by the same id, so that a revoke would show
        owner.process.kill()
        await ended(owner.reaper)
        await client.lease_revoke(owner.lease)  # which fails if it is not there


async def test_the_end_of_the_block_ends_the_reaper_and_revokes_nothing(
    endpoint: str, path: str
) -> None:
    async with open_client(endpoint) as client, open_owner(endpoint, key=path) as owner:
        assert (await owner.do("end"))["reaper"] is None
        assert not exists(owner.reaper), "not even a zombie"
        assert await remains(client, owner, path)
        await client.lease_revoke(owner.lease)


async def test_a_lease_that_was_never_granted(endpoint: str, path: str) -> None:
    async with open_owner(endpoint, key=path, grant=False, ttl=1) as owner:
        owner.process.kill()
        await ended(owner.reaper)  # it gives up


async def test_a_grant_that_comes_after_the_first_revoke(endpoint: str, path: str) -> None:
    async with (
        open_client(endpoint) as client,
        open_owner(endpoint, key=path, grant=False) as owner,
    ):
        owner.process.kill()
        await owner.process.wait()
        await client.lease_grant(TTL, owner.lease)  # as if it had been under way
        await ended(owner.reaper)
        with pytest.raises(LeaseNotFound):
            await client.lease_time_to_live(owner.lease)


async def test_a_member_that_is_silent_or_away_is_passed_over(path: str) -> None:
    async with open_etcd(members=3) as server:
        first, second, third = server.members
        async with (
            open_client(third.endpoint) as client,
            open_owner(*(m.endpoint for m in server.members), key=path) as owner,
        ):
            first.pause()
            owner.process.kill()
            await gone(client, path)
        first.resume()
        async with (
            open_client(third.endpoint) as client,
            open_owner(second.endpoint, third.endpoint, key=path) as owner,
        ):
            second.kill()
            owner.process.kill()
            await gone(client, path)


async def test_etcd_away_for_a_while(path: str) -> None:
    async with open_etcd() as server, open_client(server.endpoint) as client:
        async with open_owner(server.endpoint, key=path) as owner:
            (member,) = server.members
            member.kill()
            owner.process.kill()
            await owner.process.wait()
            await member.restart()
            await gone(client, path)


async def test_over_tls_with_a_certificate(tmp_path: Path, path: str) -> None:
    authority = trustme.CA()
    cert, key = write(authority.issue_cert("127.0.0.1"), tmp_path, "server")
    mine, my_key = write(authority.issue_cert("client"), tmp_path, "client")
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    files = {"cacert": str(ca), "cert": str(mine), "key": str(my_key)}
    async with (
        open_etcd(client_tls=(cert, key, ca)) as server,
        open_client(server.endpoint, ssl_context=tls_context(**files)) as client,
        open_owner(server.endpoint, key=path, tls=files) as owner,
    ):
        owner.process.kill()
        await gone(client, path)


async def test_as_a_user() -> None:
    async with (
        open_guarded() as server,
        open_client(server.endpoint, user="app", password=PASSWORD) as client,
        open_owner(server.endpoint, key="/app/a", user="app", password=PASSWORD) as owner,
    ):
        visible = proc_bytes(owner.reaper, "cmdline") + proc_bytes(owner.reaper, "environ")
        assert PASSWORD.encode() not in visible
        assert PASSWORD.encode().hex().encode() not in visible
        owner.process.kill()
        await gone(client, "/app/a")


async def test_as_a_user_where_none_is_needed(endpoint: str, path: str) -> None:
    async with (
        open_client(endpoint) as client,
        open_owner(endpoint, key=path, user="app", password=PASSWORD) as owner,
    ):
        owner.process.kill()
        await gone(client, path)


# ---- groups ---------------------------------------------------------------------------------


async def test_the_group_is_gone_before_the_lease(endpoint: str, path: str) -> None:
    async with (
        open_client(endpoint) as client,
        open_owner(endpoint, key=path, group=STUBBORN) as owner,
    ):
        await eventually(lambda: len(living_members(owner.group)) == 3)
        os.kill(owner.group, signal.SIGSTOP)  # no process is too stopped to be killed
        async with client.watch(path) as events:
            owner.process.kill()
            await events.__anext__()
            assert not living_members(owner.group)


def test_a_group_that_cannot_be_ended_keeps_the_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Instructions] = []
    monkeypatch.setattr(reap, "_ignore_signals", lambda: None)
    monkeypatch.setattr(reap, "kill_group", lambda *_: False)
    monkeypatch.setattr(
        reap,
        "serve",
        lambda instructions, _: instructions.handle(b"hold 5 1") or instructions.handle(b"group 7"),
    )
    monkeypatch.setattr(reap, "_revoke", done.append)
    monkeypatch.setattr(os, "_exit", lambda _: None)
    reap.main()
    assert not done


async def test_a_group_that_is_gone_is_not_killed(endpoint: str, path: str) -> None:
    async with (
        open_client(endpoint) as client,
        open_owner(endpoint, key=path, group=SLEEP) as owner,
    ):
        await owner.do("forget")
        owner.process.kill()
        await gone(client, path)
        assert living_members(owner.group) == [owner.group]


async def test_the_group_of_a_stopped_process_is_ended_in_time(endpoint: str, path: str) -> None:
    async with (
        open_client(endpoint) as client,
        open_owner(endpoint, key=path, group=SLEEP, until=0.5) as owner,
    ):
        owner.process.send_signal(signal.SIGSTOP)
        assert living_members(owner.group)
        await eventually(lambda: not living_members(owner.group))
        assert await remains(client, owner, path), "the process lives"
        owner.process.kill()
        await gone(client, path)


# ---- the helper process ---------------------------------------------------------------------


async def test_it_has_a_session_of_its_own_and_holds_nothing_of_ours(
    endpoint: str, path: str
) -> None:
    async with open_owner(endpoint, key=path) as owner:
        assert os.getsid(owner.reaper) == owner.reaper != os.getsid(owner.process.pid)
        files: list[str] = []

        def settled() -> bool:  # while it imports modules, it opens their files, too
            files[:] = open_files(owner.reaper)
            return len(files) == 3

        await eventually(settled)
        assert files.count("/dev/null") == 1
        pipes = [file for file in files if file.startswith("pipe:")]
        assert len(pipes) == 2, "what it reads, and what it answers"
        for pipe in pipes:
            assert open_files(owner.process.pid).count(pipe) == 1, "the other end"
        await owner.do("release")


async def test_it_outlives_signals_to_all_of_a_service(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client, open_owner(endpoint, key=path) as owner:
        await eventually(lambda: ignored(owner.reaper) & TAKEN == TAKEN)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(owner.reaper, number)
        owner.process.kill()
        await gone(client, path)


# SIGHUP, SIGINT and SIGTERM as /proc has it: a helper that is up ignores them.
TAKEN = 1 << 0 | 1 << 1 | 1 << 14


def ignored(pid: int) -> int:
    """The signals that a process ignores."""
    (line,) = (x for x in proc_bytes(pid, "status").splitlines() if x.startswith(b"SigIgn"))
    return int(line.split()[1], 16)


async def test_without_it_nothing_else_changes(endpoint: str, path: str) -> None:
    async with (
        open_client(endpoint) as client,
        open_owner(endpoint, key=path, group=SLEEP) as owner,
    ):
        os.kill(owner.reaper, signal.SIGKILL)
        await eventually(lambda: not exists(owner.reaper))  # it is reaped at once
        await owner.do("forget")
        assert await remains(client, owner, path)
        assert (await owner.do("end"))["reaper"] is None
        await client.lease_revoke(owner.lease)


async def test_one_that_does_not_listen_is_given_up(endpoint: str) -> None:
    async with open_client(endpoint) as client:
        async with open_reaper(client) as reaper:
            pid = reaper.pid
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
            for number in range(20_000):
                reaper.hold(number, 1.0)
                if reaper.pid is None:
                    break
            assert reaper.pid is None
            await wait_ended(pid)
        assert not exists(pid)


async def test_a_stopped_one_does_not_hold_up_the_end(endpoint: str) -> None:
    async with open_client(endpoint) as client:
        with trio.fail_after(10):
            async with open_reaper(client) as reaper:
                pid = reaper.pid
                assert pid is not None
                os.kill(pid, signal.SIGSTOP)
        assert not exists(pid)


async def test_there_is_no_program_to_run(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    async with open_client(endpoint) as client, open_reaper(client) as reaper:
        assert reaper.pid is None
        reaper.hold(5, 1.0)


async def test_a_context_of_unknown_files_is_refused() -> None:
    context = ssl.create_default_context()
    async with open_client("https://127.0.0.1:1", ssl_context=context) as client:
        with pytest.raises(ValueError, match="tls_context"):
            async with open_reaper(client):
                raise AssertionError("entered")


# ---- its parts ------------------------------------------------------------------------------


def test_words_may_come_in_any_pieces() -> None:
    theirs, ours = os.pipe()
    words = b"endpoint 68747470 61 2379\nuser 61 \nhold 5 10\nhold 6 10\nrelease 5\n"
    words += b"group 8\nuntil 1e99\n"
    instructions = Instructions()

    def write_words() -> None:
        for byte in words:
            os.write(ours, bytes([byte]))
        os.close(ours)

    writer = threading.Thread(target=write_words)
    writer.start()
    serve(instructions, theirs)
    os.close(theirs)
    writer.join()
    assert instructions.endpoints == [("http", "a", 2379)]
    assert instructions.leases == {6: 10.0}
    assert instructions.user == ("a", "")
    assert (instructions.group, instructions.until) == (8, 1e99)


async def test_the_call_by_hand(endpoint: str) -> None:
    """Long tokens and large ids, and a peer that is no etcd."""
    host, port = endpoint.removeprefix("http://").split(":")
    target = revoke.Target("http", host, int(port))
    async with open_client(endpoint) as client:
        for lease in (1, 2**31, 2**63 - 1):
            await client.lease_grant(TTL, lease)
        leases = [1, 2**31, 2**62, 2**63 - 1]
        assert not await trio.to_thread.run_sync(
            revoke.renew_leases, target, "", "", leases, 5.0
        ), "all are answered, one with a TTL of 0"
        left = await trio.to_thread.run_sync(revoke.give_back, {}, target, "", "", leases, 5.0)
        assert left == [2**62]
    block = revoke._header_block(target, "/a", "t" * 300)
    assert block.endswith(b"\x7f" + bytes([173 & 127 | 128, 1]) + b"t" * 300)


async def test_a_peer_that_hangs_up() -> None:
    listener, *_ = await trio.open_tcp_listeners(0, host="127.0.0.1")
    target = revoke.Target("http", "127.0.0.1", listener.socket.getsockname()[1])

    async def refuse(stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 400 no\r\n\r\n")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, refuse, [listener])
        with pytest.raises((revoke.Refused, OSError)):
            await trio.to_thread.run_sync(revoke.give_back, {}, target, "", "", [5], 5.0)
        nursery.cancel_scope.cancel()
