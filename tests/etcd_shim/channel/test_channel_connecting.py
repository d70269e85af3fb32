"""Connecting: to servers that refuse, say nothing, or say something else; to one of several."""

from __future__ import annotations

import errno
import functools
import socket
import ssl
from contextlib import AsyncExitStack, suppress

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.etcd_shim.channel.channel_tools import (
    GUARD,
    Certificates,
    assert_idle,
    get,
    make_certificates,
    open_pair,
    watch,
    watch_request,
)
from tests.etcd_shim.channel.scripted_server import (
    Manners,
    ScriptedServer,
    ServerCall,
    answer,
    open_server,
)
from trio_sched.etcd_shim._pb import messages_pb2 as pb
from trio_sched.etcd_shim.channel import ChannelSettings, Credentials, Endpoint, open_channel
from trio_sched.etcd_shim.errors import (
    AuthenticationFailed,
    ClientClosed,
    ConnectionFailed,
    ConnectionLost,
    EtcdError,
    RemoteProtocolError,
    Unavailable,
)

SHORT = ChannelSettings(connect_timeout=0.2, stagger=0.05)

# Servers that let no client in, and why they say we failed.
SILENT = Manners(settings=None)
DEAF = Manners(settings=None, hang_up=True)
HTTP1 = Manners(preface=b"HTTP/1.1 400 Bad Request\r\n\r\n")
TLS = Manners(preface=bytes.fromhex("15030300020246"))
NOISE = Manners(preface=bytes(range(255, 0, -1)))
WELCOMING = Manners(hang_up=True)

UNUSABLE = {
    "silent": (SILENT, ConnectionLost),
    "hangs up": (DEAF, ConnectionLost),
    "HTTP/1.1": (HTTP1, RemoteProtocolError),
    "TLS alert": (TLS, RemoteProtocolError),
    "noise": (NOISE, RemoteProtocolError),
    "hangs up after SETTINGS": (WELCOMING, ConnectionLost),
}
unusable = pytest.mark.parametrize(("manners", "reason"), UNUSABLE.values(), ids=UNUSABLE)


@functools.cache
def certificates() -> Certificates:
    return make_certificates()


def closed_port() -> Endpoint:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return Endpoint.parse(f"http://127.0.0.1:{free.getsockname()[1]}")


# ---- one endpoint --------------------------------------------------------------------------


@unusable
async def test_server_that_lets_nobody_in(manners: Manners, reason: type[EtcdError]) -> None:
    async with open_pair(manners=manners, settings=SHORT) as (server, channel):
        for _ in range(2):
            with pytest.raises(ConnectionFailed) as caught:
                await get(channel)
            assert server.endpoint.url in str(caught.value)
            (found,) = caught.value.reasons.values()
            assert type(found) is reason
        await server.until(lambda: all(connection.closed for connection in server.connections))
        await wait_all_tasks_blocked()
        assert channel.statistics().connections == ()


@pytest.mark.parametrize("lingers", range(12))
async def test_server_that_lets_us_in_and_hangs_up(lingers: int) -> None:
    """In whichever moment: it is not connected to again and again for one call."""
    manners = Manners(hang_up=True, lingers=lingers)
    async with open_pair(manners=manners, settings=SHORT) as (server, channel):
        for number in range(1, 6):
            with pytest.raises((ConnectionFailed, ConnectionLost)):
                await get(channel)
            assert len(server.connections) == number


async def test_server_that_refuses() -> None:
    endpoint = closed_port()
    async with open_channel([endpoint]) as channel:
        with pytest.raises(ConnectionFailed) as caught:
            await get(channel)
        assert endpoint.url in str(caught.value)
        assert type(caught.value.reasons[endpoint.url]) is ConnectionRefusedError


async def test_socket_that_is_not_there() -> None:
    async with open_channel([Endpoint.parse("unix:///nowhere/etcd.sock")]) as channel:
        with pytest.raises(ConnectionFailed, match=r"unix:///nowhere/etcd\.sock"):
            await get(channel)


async def test_name_that_does_not_exist() -> None:
    async with open_channel([Endpoint.parse("http://no-such-host.invalid:2379")]) as channel:
        with pytest.raises(ConnectionFailed, match=r"no-such-host\.invalid"):
            await get(channel)


async def test_certificate_that_is_not_trusted() -> None:
    stranger = Certificates(certificates().server, ssl.create_default_context())
    async with open_pair(certificates=stranger) as (_, channel):
        with pytest.raises(ConnectionFailed) as caught:
            await get(channel)
        (reason,) = caught.value.reasons.values()
        assert isinstance(reason, ssl.SSLCertVerificationError)


async def test_tls_to_one_who_does_not_speak_it() -> None:
    async with open_server(manners=HTTP1) as server:
        endpoint = Endpoint.parse(server.endpoint.url.replace("http", "https"))
        async with open_channel([endpoint], ssl_context=certificates().client) as channel:
            with pytest.raises(ConnectionFailed) as caught:
                await get(channel)
        assert isinstance(caught.value.reasons[endpoint.url], ssl.SSLError)


async def test_tls_handshake_that_is_never_answered() -> None:
    with trio.fail_after(GUARD), socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = Endpoint.parse(f"https://127.0.0.1:{listener.getsockname()[1]}")
        async with open_channel([endpoint], settings=SHORT) as channel:
            with pytest.raises(ConnectionFailed) as caught:
                await get(channel)
        assert isinstance(caught.value.reasons[endpoint.url], TimeoutError)


class DistantSocket(socket.socket):
    """One whose peer is too far away to answer at once."""

    def connect_ex(self, address: object) -> int:
        if self.gettimeout() == 0 and not getattr(self, "begun", False):
            self.begun = True
            super().connect_ex(address)  # type: ignore[arg-type]
        return errno.EALREADY


@pytest.mark.parametrize("there", [True, False])
async def test_peer_that_does_not_answer_at_once(
    monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    async with open_server() as server:
        endpoint = server.endpoint if there else closed_port()
        monkeypatch.setattr(socket, "socket", DistantSocket)
        async with open_channel([endpoint]) as channel:
            if there:
                await get(channel)
            else:
                with pytest.raises(ConnectionFailed) as caught:
                    await get(channel)
                assert type(caught.value.reasons[endpoint.url]) is ConnectionRefusedError


async def test_nothing_is_sent_before_the_first_call() -> None:
    async with open_pair() as (server, channel):
        await wait_all_tasks_blocked()
        assert server.connections == []
        assert channel.statistics().connects == 0


async def test_calls_that_come_together_share_a_connection() -> None:
    async with open_pair() as (server, channel):
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(get, channel)
        assert len(server.connections) == 1
        assert channel.statistics().connects == 1
        assert channel.statistics().connections[0].started_calls == 20
        await assert_idle(channel)


async def test_failure_of_one_attempt_is_told_to_all_who_wait_for_it() -> None:
    failures: list[ConnectionFailed] = []

    async def fail() -> None:
        with pytest.raises(ConnectionFailed) as caught:
            await get(channel)
        failures.append(caught.value)

    async with open_pair(manners=SILENT, settings=SHORT) as (server, channel):
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(fail)
        assert len(server.connections) == 1
        assert len({id(failure) for failure in failures}) == 5
        server.manners = Manners()
        await get(channel)


async def send_preface(server: ScriptedServer) -> None:
    """Let a silent server say its first words after all."""
    connection = server.connections[-1]
    connection.silent = False
    connection.peer.start()
    await connection.flush()


async def test_cancelled_caller_takes_nothing_from_those_who_wait_with_it() -> None:
    async with open_pair(manners=Manners(settings=None)) as (server, channel):
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as inner:
                    inner.start_soon(get, channel)  # it is the one that starts to connect
                    await server.until(lambda: server.connections)
                    nursery.start_soon(get, channel)
                    await wait_all_tasks_blocked()
                    scope.cancel()
            assert scope.cancelled_caught
            await send_preface(server)
        assert len(server.connections) == len(server.calls) == 1
        await assert_idle(channel)


async def test_all_callers_are_cancelled_while_connecting() -> None:
    async with open_pair(manners=Manners(settings=None)) as (server, channel):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(get, channel)
                await server.until(lambda: server.connections)
                scope.cancel()
        await send_preface(server)
        await get(channel)  # the attempt went on
        assert len(server.connections) == 1


async def test_leaving_the_block_while_connecting() -> None:
    with trio.fail_after(GUARD):
        async with open_server(manners=SILENT) as server:
            with trio.CancelScope() as scope:
                async with open_channel([server.endpoint]) as channel, trio.open_nursery() as inner:
                    inner.start_soon(get, channel)
                    await server.until(lambda: server.connections)
                    scope.cancel()
            with pytest.raises(ClientClosed):
                await get(channel)
            await server.until(lambda: server.connections[0].closed)


# ---- several endpoints -----------------------------------------------------------------------


@unusable
async def test_next_endpoint_is_tried(manners: Manners, reason: type[EtcdError]) -> None:
    del reason
    async with (
        open_server() as good,
        open_pair(manners=manners, settings=SHORT, more=[good]) as (
            bad,
            channel,
        ),
    ):
        with suppress(ConnectionLost):  # who hangs up late may win the race, and get the call
            await get(channel)
        await get(channel)
        assert good.calls
        await bad.until(lambda: all(connection.closed for connection in bad.connections))
        await assert_idle(channel)
        (statistics,) = channel.statistics().connections
        assert statistics.endpoint == good.endpoint.url


async def test_next_endpoint_is_tried_if_one_lets_us_in_and_hangs_up() -> None:
    for lingers in range(5):
        async with (
            open_server() as good,
            open_pair(manners=Manners(hang_up=True, lingers=lingers), more=[good]) as (_, channel),
        ):
            with suppress(ConnectionLost):
                await get(channel)
            await get(channel)
            assert good.calls


async def test_endpoints_that_let_us_in_and_hang_up_are_not_tried_for_ever() -> None:
    for lingers in range(5):
        manners = Manners(hang_up=True, lingers=lingers)
        async with (
            open_server(manners=manners) as second,
            open_pair(manners=manners, more=[second]) as (first, channel),
        ):
            with pytest.raises((ConnectionFailed, ConnectionLost)):
                await get(channel)
            assert len(first.connections) + len(second.connections) <= 4


async def test_next_endpoint_is_tried_if_one_refuses() -> None:
    async with open_server() as good, open_channel([closed_port(), good.endpoint]) as channel:
        await get(channel)
        assert len(good.calls) == 1


async def test_all_endpoints_fail_each_for_its_reason() -> None:
    with trio.fail_after(GUARD):
        async with AsyncExitStack() as stack:
            servers = [
                await stack.enter_async_context(open_server(manners=manners))
                for manners in (SILENT, HTTP1, DEAF)
            ]
            endpoints = [closed_port(), *(server.endpoint for server in servers)]
            channel = await stack.enter_async_context(open_channel(endpoints, settings=SHORT))
            with pytest.raises(ConnectionFailed) as caught:
                await get(channel)
            assert [type(caught.value.reasons[endpoint.url]) for endpoint in endpoints] == [
                ConnectionRefusedError,
                ConnectionLost,
                RemoteProtocolError,
                ConnectionLost,
            ]
            for endpoint in endpoints:
                assert endpoint.url in str(caught.value)
            await wait_all_tasks_blocked()
            assert channel.statistics().connections == ()


async def test_silent_endpoint_that_speaks_first_after_all_wins() -> None:
    settings = ChannelSettings(stagger=0, connect_timeout=GUARD * 2)
    async with (
        open_server(manners=SILENT) as other,
        open_pair(manners=Manners(settings=None), settings=settings, more=[other]) as (
            server,
            channel,
        ),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(get, channel)
        await other.until(lambda: other.connections)
        await send_preface(server)
        await other.until(lambda: other.connections[0].closed)
        await server.until(lambda: server.calls)


async def test_member_that_cannot_serve_is_left_for_the_next() -> None:
    async def unable(call: ServerCall) -> None:
        if call.method == "Watch":
            await call.accept()
        else:
            await call.refuse(14, b"etcdserver: no leader")

    async with open_server() as good, open_pair(unable, more=[good]) as (bad, channel):
        async with watch(channel).Watch.open() as call:
            await call.send_message(watch_request())
            with pytest.raises(Unavailable):
                await get(channel)
            await get(channel)
            assert len(good.calls) == 1
            # The call under way stays where it is, and the connection with it.
            await bad.calls[0].say(pb.WatchResponse(watch_id=3))
            assert await call.recv_message() == pb.WatchResponse(watch_id=3)
        await bad.until(lambda: bad.connections[0].closed)
        await assert_idle(channel)
        assert len(channel.statistics().connections) == 1


async def test_only_member_is_kept_even_if_it_cannot_serve() -> None:
    async def unable(call: ServerCall) -> None:
        await call.refuse(14, b"etcdserver: no leader")

    async with open_pair(unable) as (server, channel):
        for _ in range(3):
            with pytest.raises(Unavailable):
                await get(channel)
        assert len(server.connections) == 1


# ---- who we are --------------------------------------------------------------------------------

ROOT = Credentials("root", "secret")


class Guard:
    """A script that knows one password, and gives tokens."""

    def __init__(self, password: str = "secret", *, enabled: bool = True) -> None:
        self.password = password
        self.enabled = enabled
        self.given = 0

    async def __call__(self, call: ServerCall) -> None:
        if call.method != "Authenticate":
            return await answer(call)
        request = pb.AuthenticateRequest.FromString(await call.request())
        if not self.enabled:
            return await call.refuse(9, b"etcdserver: authentication is not enabled")
        if request.password != self.password:
            return await call.refuse(
                3, b"etcdserver: authentication failed, invalid user ID or password"
            )
        self.given += 1
        return await call.answer(pb.AuthenticateResponse(token=f"token {self.given}"))


def tokens(server: ScriptedServer) -> list[bytes | None]:
    return [call.headers.get(b"token") for call in server.calls if call.method == "Range"]


async def test_token_is_asked_for_once_and_carried_by_all_calls() -> None:
    guard = Guard()
    async with open_pair(guard, credentials=ROOT) as (server, channel):
        for _ in range(3):
            await get(channel)
        await server.connections[0].hang_up()
        await wait_all_tasks_blocked()
        await get(channel)
        assert tokens(server) == [b"token 1"] * 4
        assert guard.given == 1


async def test_new_token_is_asked_for_once_by_all_callers() -> None:
    guard = Guard()
    async with open_pair(guard, credentials=ROOT) as (server, channel):

        async def refresh() -> None:
            assert await channel.refresh_token("token 1")
            assert channel.token == "token 2"  # whichever call asked for it, it is there

        await get(channel)
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(refresh)
        await get(channel)
        assert tokens(server) == [b"token 1", b"token 2"]
        assert guard.given == 2


async def test_etcd_that_asks_nobody() -> None:
    async with open_pair(Guard(enabled=False), credentials=ROOT) as (server, channel):
        await get(channel)
        assert tokens(server) == [None]


async def test_wrong_password_is_said_and_leaves_nothing_open() -> None:
    async with open_pair(Guard("another"), credentials=ROOT) as (server, channel):
        for _ in range(3):
            with pytest.raises(AuthenticationFailed) as caught:
                await get(channel)
            assert "secret" not in str(caught.value)
        await wait_all_tasks_blocked()
        assert channel.statistics().connections == ()
        assert all(connection.closed for connection in server.connections)


async def test_no_credentials_no_token() -> None:
    async with open_pair(Guard()) as (server, channel):
        await get(channel)
        assert not await channel.refresh_token(None)
        assert tokens(server) == [None]
