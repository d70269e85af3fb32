"""Tokens that have lapsed by the time they are used: what is refused for that is sent again."""

from __future__ import annotations

import pytest

from tests.etcd_shim.channel.scripted_server import ServerCall, answer, open_server
from trio_sched.etcd_shim import open_client
from trio_sched.etcd_shim._pb import messages_pb2 as pb
from trio_sched.etcd_shim.errors import PermissionDenied, Unauthenticated

INVALID = b"etcdserver: invalid auth token"
LATE = 6  # tokens


class LapsingTokens:
    """A script that gives tokens, of which the first have lapsed when they are used.

    Attributes:
        given: how many tokens.
        carried_out: the methods of calls that were not refused.
        watches: how many were asked for.
    """

    def __init__(
        self, late: int, *, forbids_reads: bool = False, ends_streams: bool = False
    ) -> None:
        self.late = late
        self.forbids_reads = forbids_reads
        self.ends_streams = ends_streams
        self.given = 0
        self.carried_out: list[str] = []
        self.watches = 0

    def accepts(self, call: ServerCall) -> bool:
        return int(call.headers[b"token"]) > self.late

    async def __call__(self, call: ServerCall) -> None:
        if call.method == "Authenticate":
            self.given += 1
            await call.request()
            await call.answer(pb.AuthenticateResponse(token=str(self.given)))
        elif call.method == "Watch":
            await self.watch(call)
        elif not self.accepts(call):
            await call.refuse(16, INVALID)
        elif self.forbids_reads:
            await call.refuse(7, b"etcdserver: permission denied")
        else:
            self.carried_out.append(call.method)
            await answer(call)

    async def next_message(self, call: ServerCall, number: int) -> bytes:
        await call.connection.server.until(lambda: len(call.messages) > number)
        return call.messages[number]

    async def watch(self, call: ServerCall) -> None:
        """Create watches, or refuse each as etcd does: not by the status of the stream."""
        if self.ends_streams and not self.accepts(call):
            await call.refuse(16, INVALID)
            return
        await call.accept()
        taken = 0
        while message := await self.next_message(call, taken):
            taken += 1
            request = pb.WatchRequest.FromString(message)
            if not request.HasField("create_request"):
                continue
            self.watches += 1
            created = pb.WatchResponse(watch_id=request.create_request.watch_id, created=True)
            if not self.accepts(call) or self.forbids_reads:
                created.canceled = True
                words = "etcdserver: permission denied" if self.accepts(call) else INVALID.decode()
                created.cancel_reason = f"rpc error: code = … desc = {words}"
            await call.say(created)


async def test_f66_a_write_outlives_tokens_that_lapse_on_the_way() -> None:
    script = LapsingTokens(LATE)
    async with (
        open_server(script) as server,
        open_client(server.endpoint.url, user="app", password="pw") as client,
    ):
        await client.put("a", "1")
        assert script.carried_out == ["Put"]
        assert script.given == LATE + 1


@pytest.mark.usefixtures("autojump_clock")
@pytest.mark.parametrize("ends_streams", [False, True])
async def test_f66_a_watch_outlives_tokens_that_lapse_on_the_way(ends_streams: bool) -> None:
    script = LapsingTokens(LATE, ends_streams=ends_streams)
    async with (
        open_server(script) as server,
        open_client(server.endpoint.url, user="app", password="pw") as client,
        client.watch("a"),
        client.watch("b"),
    ):
        assert script.given == LATE + 1
        assert not script.carried_out, "no watch needed a read to know that it is its token"


async def test_f66_a_watch_that_is_forbidden_ends_at_once_though_tokens_lapse() -> None:
    script = LapsingTokens(1, forbids_reads=True)
    async with (
        open_server(script) as server,
        open_client(server.endpoint.url, user="app", password="pw") as client,
    ):
        with pytest.raises(PermissionDenied):
            async with client.watch("a"):
                raise AssertionError("entered")
        assert script.watches == 2, "the second one with a new token"


@pytest.mark.usefixtures("autojump_clock")
async def test_f66_it_ends_if_no_token_is_good() -> None:
    script = LapsingTokens(1000)
    async with (
        open_server(script) as server,
        open_client(server.endpoint.url, user="app", password="pw") as client,
    ):
        with pytest.raises(Unauthenticated):
            await client.put("a", "1")
        with pytest.raises(PermissionDenied):
            async with client.watch("a"):
                raise AssertionError("entered")
        assert not script.carried_out
