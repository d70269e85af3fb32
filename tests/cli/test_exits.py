"""Each error of ours, out of each command: one line, and the exit code of the table."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import trio
from grpclib.const import Status
from trio.testing import MockClock

from tests.cli.memory_tools import connect_to
from tests.cli.ops_tools import offline
from trio_sched import Client
from trio_sched.cli.connect import Connection
from trio_sched.cli.exits import explain
from trio_sched.etcd_shim import errors
from trio_sched.etcd_shim._about import About, about
from trio_sched.etcd_shim._pb import messages_pb2 as pb
from trio_sched.etcd_shim.errors import EtcdError, RpcError
from trio_sched.exceptions import (
    EndOfResults,
    HostnameInUse,
    HostNotFound,
    SessionLost,
    SlotLost,
    StrategyError,
    TrioSchedError,
)
from trio_sched.simulation import MemoryEtcd

WHERE = Connection(("http://a:1", "http://b:2"))
COMMANDS = {
    "status": ("status", "/jobs"),
    "members": ("members", "/jobs"),
    "watch": ("watch", "/jobs"),
    "decide": ("decide", "--dry-run", "/jobs"),
    "drain": ("drain", "/jobs", "host-a"),
    "drain-absent": ("drain", "/jobs", "host-a", "--absent-ok"),
    "undrain": ("undrain", "/jobs", "host-a"),
    "evict": ("evict", "/jobs", "host-a"),
    "pause": ("pause", "/jobs"),
    "resume": ("resume", "/jobs"),
    "set-count": ("set-count", "/jobs", "2"),
    "run": ("run", "/jobs", "--no-reaper", "--", "true"),
}
# Those that are not 69, which is what all others of etcd are.
CODES: dict[type[TrioSchedError], int] = {
    TrioSchedError: 70,
    EndOfResults: 70,
    errors.ClientClosed: 70,
    StrategyError: 70,
    HostNotFound: 68,
    HostnameInUse: 75,
    SessionLost: 76,
    SlotLost: 76,
    errors.LeaseLost: 76,
    errors.AuthenticationFailed: 77,
    errors.AuthStoreChanged: 77,
    errors.PermissionDenied: 77,
    errors.Unauthenticated: 77,
}
ARGUMENTS: dict[type[TrioSchedError], tuple[Any, ...]] = {
    HostNotFound: ("/jobs", "host-a"),
    HostnameInUse: ("/jobs", "host-a", 7),
    SessionLost: (7, "it lapsed"),
    SlotLost: (b"/jobs/slots/0", 7),
    StrategyError: ("mine", "it raised"),
    errors.ConnectionFailed: ({"http://a:1": OSError("refused")},),
    errors.LeaseLost: (7, "it lapsed"),
    errors.MessageTooLarge: (7, 5),
    errors.Compacted: ("", 7),
    errors.RevisionWentBack: (7, 5),
    errors.ClusterChanged: (7, 9, 1, 2),
    errors.WatchOverflow: (5, 7),
}


def kinds_of(base: type[TrioSchedError]) -> Iterator[type[TrioSchedError]]:
    yield base
    for kind in base.__subclasses__():
        ours = kind.__module__.startswith("trio_sched.")
        if ours and not kind.__module__.startswith("trio_sched.testing."):  # for programs only
            yield from kinds_of(kind)


def made(kind: type[TrioSchedError]) -> TrioSchedError:
    if kind in ARGUMENTS:
        return kind(*ARGUMENTS[kind])
    if issubclass(kind, RpcError):
        return kind(Status.UNKNOWN, "etcdserver: its words")
    return kind("in its\nwords")


KINDS = sorted(kinds_of(TrioSchedError), key=lambda kind: kind.__name__)
# A watch ends so, or a comparison; no call does, and each of these is lived with.
OF_NO_CALL = (errors.RevisionWentBack, errors.WatchCanceled, errors.WatchOverflow)
OF_ETCD = [
    kind
    for kind in KINDS
    if issubclass(kind, EtcdError) and CODES.get(kind) != 70 and not issubclass(kind, OF_NO_CALL)
]


@pytest.fixture
def time_flies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands run under a clock that jumps: all that they meet is in memory."""
    real = trio.run

    def run(*args: Any) -> Any:
        return real(*args, clock=MockClock(autojump_threshold=0))

    monkeypatch.setattr(trio, "run", run)


def test_all_kinds_are_found() -> None:
    for module in (errors, inspect.getmodule(TrioSchedError)):
        public = {getattr(module, name) for name in module.__all__}  # type: ignore[union-attr] # it is there
        assert {kind for kind in public if inspect.isclass(kind)} <= set(KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("user", [None, "anna"])
def test_each_error_has_a_line_and_a_code(kind: type[TrioSchedError], user: str | None) -> None:
    error = made(kind)
    code, words = explain(error, Connection(WHERE.endpoints, user))
    assert code == CODES.get(kind, 69)
    assert " ".join(str(error).split()) in words
    assert len(words) > len(str(error)) + 5, "it says what to do, or where"
    assert "\n" not in words
    assert "{" not in words
    assert "has left" not in words
    if code == 70 and kind is not StrategyError:
        assert "bug" in words
    assert ("give --user" in words) == (kind is errors.Unauthenticated and user is None)


def test_etcd_that_wants_to_know_who_we_are() -> None:
    error = errors.rpc_error(Status.INVALID_ARGUMENT, "etcdserver: user name is empty")
    code, words = explain(error, WHERE)
    assert code == 77
    assert "give --user" in words


@pytest.mark.usefixtures("time_flies")
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", OF_ETCD, ids=lambda kind: kind.__name__)
def test_an_error_of_etcd_ends_each_command_with_its_code(
    kind: type[TrioSchedError], command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        await trio.lowlevel.checkpoint()
        raise made(kind)

    connect_to(MemoryEtcd(), monkeypatch)
    for name in ("_repeatable", "_once"):
        monkeypatch.setattr(Client, name, fail)
    arguments, code = COMMANDS[command], CODES.get(kind, 69)
    error = made(kind)
    assert isinstance(error, EtcdError)
    if command == "run" and about(error) is About.GONE:  # it joins anew, and anew
        arguments, code = (*arguments[:2], "--wait=60", *arguments[2:]), 75
    done = offline(arguments)
    assert (done.code, done.out, done.err.count("\n")) == (code, "", 1), done
    assert done.err.startswith("trio-sched: ")
    assert "has left" not in done.err


READING = {"status", "members", "decide"}
TROUBLES = {"stopped": 69, "no leader": 69, "forbidden": 77, "full": 69, "busy": 69}


def make_trouble(etcd: MemoryEtcd, trouble: str) -> None:
    etcd.cluster.store.put(pb.PutRequest(key=b"/jobs/exchange/host-a", value=b"TODO"))
    for member in etcd.cluster.members:
        if trouble == "stopped":
            etcd.cluster.stop(member)
        elif trouble == "no leader":
            etcd.cluster.isolate(member)
    refusals = etcd.cluster.refusals
    refusals.no_space, refusals.busy = trouble == "full", trouble == "busy"
    if trouble == "forbidden":
        refusals.forbidden.add(b"/jobs/")


@pytest.mark.parametrize(
    ("command", "trouble"),
    [
        (command, trouble)
        for command in COMMANDS
        for trouble in TROUBLES
        if command != "watch" or trouble not in {"full", "busy"}  # it would watch, for ever
    ],
)
@pytest.mark.usefixtures("time_flies")
def test_a_trouble_of_etcd_ends_each_command_with_its_code(
    command: str, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reads go on where only writing is refused."""
    etcd = MemoryEtcd(3)
    connect_to(etcd, monkeypatch)
    real = Connection.open

    def open_in_trouble(connection: Connection) -> AbstractAsyncContextManager[Client]:
        make_trouble(etcd, trouble)
        return real(connection)

    monkeypatch.setattr(Connection, "open", open_in_trouble)
    more = () if command == "run" else ("--timeout", "0.5")
    name, *rest = COMMANDS[command]
    done = offline((name, *more, *rest))
    if command in READING and trouble in {"full", "busy"}:
        assert done.code == 0
    else:
        assert (done.code, done.out, done.err.count("\n")) == (TROUBLES[trouble], "", 1), done
