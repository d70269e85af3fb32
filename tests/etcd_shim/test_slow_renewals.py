"""Members that answer renewals, but late: all of them may be slow, or we may."""

from __future__ import annotations

from itertools import pairwise

import pytest
import trio

from tests.etcd_shim.channel.scripted_server import ServerCall, answer, open_server
from trio_sched.etcd_shim import Client, open_client
from trio_sched.etcd_shim._pb import messages_pb2 as pb

pytestmark = pytest.mark.usefixtures("autojump_clock")

LATE = 0.2  # seconds for each renewal, one after the other


class SlowRenewals:
    """A script that answers renewals in their order, and some calls not at all.

    Attributes:
        silent: how many of the streams that come first are not answered.
        begun: when each stream was, by trio's clock.
    """

    def __init__(self, silent: int = 0) -> None:
        self.silent = silent
        self.begun: list[float] = []

    async def __call__(self, call: ServerCall) -> None:
        if call.method != "LeaseKeepAlive":
            await answer(call)
            return
        self.begun.append(trio.current_time())
        await call.accept()
        if len(self.begun) <= self.silent:
            await call.cancelled.wait()
            return
        number = 0
        while not call.cancelled.is_set():
            await self.answer_next(call, number)
            number += 1

    async def answer_next(self, call: ServerCall, number: int) -> None:
        server = call.connection.server
        await server.until(lambda: len(call.messages) > number or call.cancelled.is_set())
        if not call.cancelled.is_set():
            await trio.sleep(LATE)
            request = pb.LeaseKeepAliveRequest.FromString(call.messages[number])
            await call.say(pb.LeaseKeepAliveResponse(id=request.id, ttl=9))


async def renew(client: Client, lease: int) -> None:
    assert await client.lease_renew(lease) == 9


async def test_f46_renewals_that_are_answered_late_go_on() -> None:
    """Each waits for those before it, for longer than one that waits for nothing may."""
    script = SlowRenewals()
    async with (
        open_server(script) as server,
        open_client(server.endpoint.url) as client,
        trio.open_nursery() as nursery,
    ):
        for lease in range(1, 21):
            nursery.start_soon(renew, client, lease)
    assert len(script.begun) == 1


async def test_f46_who_leaves_in_vain_gets_more_patient() -> None:
    script = SlowRenewals(silent=6)
    async with open_server(script) as server, open_client(server.endpoint.url) as client:
        await renew(client, 1)
        waits = [after - before for before, after in pairwise(script.begun)]
        assert waits[0] < 1
        assert all(after > 1.3 * before for before, after in pairwise(waits[:4]))
        assert max(waits) < 5
        await trio.sleep(20)
        await renew(client, 1)  # and is as it was once all is well
        assert client._renewals._strain == 1.0
