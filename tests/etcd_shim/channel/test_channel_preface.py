"""The connection preface, which is sent before there is anything to keep account of it."""

from __future__ import annotations

import errno

import pytest

from tests.etcd_shim.channel.channel_tools import get, open_pair
from trio_sched.etcd_shim.channel import _endpoint
from trio_sched.etcd_shim.channel.http2 import Http2Connection, connection_preface
from trio_sched.etcd_shim.errors import ConnectionFailed


def test_preface_is_what_any_connection_sends_first() -> None:
    fresh = Http2Connection(max_message_size=1000)
    fresh.start()
    assert connection_preface() == fresh.take_output()


@pytest.mark.parametrize("most", [0, 1, 24, 63, 64])
async def test_preface_that_the_kernel_takes_in_parts(
    monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    plain = _endpoint.SocketByteStream.send_nowait
    rooms = [most, most]

    def send(self: _endpoint.SocketByteStream, data: bytes) -> int:
        return plain(self, data[: rooms.pop()] if rooms else data)

    async with open_pair() as (server, channel):
        monkeypatch.setattr(_endpoint.SocketByteStream, "send_nowait", send)
        await get(channel)
        assert len(server.connections) == 1


async def test_connection_that_breaks_during_the_preface_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[_endpoint.SocketByteStream] = []

    def reset(self: _endpoint.SocketByteStream, _: bytes) -> int:
        tried.append(self)
        raise ConnectionResetError(errno.ECONNRESET, "no more")

    async with open_pair() as (server, channel):
        monkeypatch.setattr(_endpoint.SocketByteStream, "send_nowait", reset)
        with pytest.raises(ConnectionFailed) as caught:
            await get(channel)
        assert type(caught.value.reasons[server.endpoint.url]) is ConnectionResetError
        assert [stream._socket.fileno() for stream in tried] == [-1]
