"""HAProxy says of a call that it was refused, though it has been sent on: F17."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme

from tests.etcd_shim.channel.scripted_server import ServerCall, answer, open_server
from tests.etcd_shim.proxies.programs import open_proxy
from trio_sched.etcd_shim import open_client
from trio_sched.etcd_shim.errors import EtcdError


async def test_f17_a_write_that_haproxy_calls_refused_is_not_sent_again(tmp_path: Path) -> None:
    """It does so when a connection that it used before ends before there is an answer."""
    puts = 0

    async def serve(call: ServerCall) -> None:
        nonlocal puts
        if call.method != "Put":
            await answer(call)
            return
        await call.request()
        puts += 1
        await call.connection.hang_up()

    async with (
        open_server(serve) as server,
        open_proxy("haproxy", str(server.endpoint), tmp_path, trustme.CA()) as endpoint,
        open_client(endpoint) as client,
    ):
        await client.get("a")
        with pytest.raises(EtcdError):
            await client.put("a", "1")
        assert puts == 1
