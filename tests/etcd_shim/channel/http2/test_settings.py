"""SETTINGS: what a server may say, and what changes by it (RFC 9113, 6.5; RFC 7541, 4.2)."""

from __future__ import annotations

import pytest

from tests.etcd_shim.channel.http2.talk import REQUEST, Talk, settings
from trio_sched.etcd_shim.channel.http2 import frames as f
from trio_sched.etcd_shim.channel.http2.errors import ConnectionFault, ErrorCode
from trio_sched.etcd_shim.channel.http2.events import RequestSent, SettingsChanged
from trio_sched.etcd_shim.channel.http2.settings import SettingCode, our_settings, parse_settings

TABLE, PUSH, CALLS, WINDOW, FRAME, LIST = SettingCode


@pytest.mark.parametrize(
    ("key", "value", "code"),
    [
        (PUSH, 1, ErrorCode.PROTOCOL_ERROR),
        (PUSH, 2, ErrorCode.PROTOCOL_ERROR),
        (WINDOW, 2**31, ErrorCode.FLOW_CONTROL_ERROR),
        (WINDOW, 2**32 - 1, ErrorCode.FLOW_CONTROL_ERROR),
        (FRAME, 2**14 - 1, ErrorCode.PROTOCOL_ERROR),
        (FRAME, 2**24, ErrorCode.PROTOCOL_ERROR),
    ],
)
def test_value_that_must_not_be(key: int, value: int, code: ErrorCode) -> None:
    Talk().expect_break(settings((CALLS, 5), (key, value)), code)
    Talk(b"").expect_break(settings((key, value)), code)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (PUSH, 0),
        *[(WINDOW, value) for value in (0, 2**31 - 1)],
        *[(FRAME, value) for value in (2**14, 2**24 - 1)],
        *[
            (key, value)
            for key in (TABLE, CALLS, LIST, 0, 0x10, 0xFFFF)
            for value in (0, 2**32 - 1)
        ],
    ],
)
def test_value_that_may_be_and_unknown_settings(key: int, value: int) -> None:
    talk = Talk()
    assert talk.client.receive(settings((key, value))) == [SettingsChanged()]
    assert talk.sent() == [(f.SETTINGS, f.ACK, 0, b"")]


def test_settings_are_applied_in_their_order() -> None:
    talk = Talk()
    talk.client.receive(settings((CALLS, 1), (WINDOW, 7), (CALLS, 2), (WINDOW, 10)))
    assert talk.client.max_calls == 2
    call = talk.call(bytes(20))
    assert [len(body) for kind, _, _, body in talk.sent() if kind == f.DATA] == [10]
    talk.client.receive(f.window_update_frame(call, 15))
    assert [len(body) for kind, _, _, body in talk.sent() if kind == f.DATA] == [15]


def test_how_many_calls() -> None:
    talk = Talk(b"")
    assert talk.client.max_calls == 100  # before it has said
    talk.client.receive(settings())
    assert talk.client.max_calls == 2**32  # no limit
    talk.client.receive(settings((CALLS, 0)))
    assert talk.client.max_calls == 0


def test_windows_become_negative() -> None:
    talk = Talk()
    call = talk.call(bytes(65_535))
    talk.sent()
    talk.client.receive(settings((WINDOW, 10)) + f.window_update_frame(0, 1000))
    talk.client.receive(f.window_update_frame(call, 65_525))  # it is 0 now
    assert all(kind != f.DATA for kind, *_ in talk.sent())
    assert talk.client.receive(f.window_update_frame(call, 5)) == [RequestSent(call)]


def test_window_over_the_largest_by_settings() -> None:
    talk = Talk()
    call = talk.call()
    talk.client.receive(f.window_update_frame(call, 1000))
    talk.expect_break(settings((WINDOW, 2**31 - 1)), ErrorCode.FLOW_CONTROL_ERROR)


def test_frames_may_be_larger() -> None:
    talk = Talk()
    talk.client.receive(settings((FRAME, 30_000)))
    talk.call(bytes(40_000))
    assert [len(body) for kind, _, _, body in talk.sent() if kind == f.DATA] == [30_000, 10_005]


# What the next block begins with, by the sizes that SETTINGS have named since the one before.
SIGNALS = [
    ([4096], b""),
    ([65_536], b""),
    ([0], b"\x20"),
    ([100], b"\x3f\x45"),
    ([0, 4096], b"\x20\x3f\xe1\x1f"),
    ([100, 50, 200], b"\x3f\x13\x3f\xa9\x01"),
    ([200, 100], b"\x3f\x45"),
    ([0, 0], b"\x20"),
    ([0, 65_536], b"\x20\x3f\xe1\x1f"),
]


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize(("sizes", "signal"), SIGNALS)
def test_smallest_and_last_size_of_the_table_are_signalled(
    sizes: list[int], signal: bytes, together: bool
) -> None:
    talk = Talk()
    talk.call()
    talk.call()
    for *_, block in (frame for frame in talk.sent() if frame[0] == f.HEADERS):
        talk.decoder.decode(block, raw=True)
    changes = [(TABLE, size) for size in sizes]
    talk.client.receive(settings(*changes) if together else b"".join(map(settings, changes)))
    for number in range(4):
        talk.call()
        (block,) = (body for kind, _, _, body in talk.sent() if kind == f.HEADERS)
        assert block.startswith(signal if number == 0 else b"\x83")  # :method POST
        assert block[len(signal) if number == 0 else 0] == 0x83
        headers = talk.decoder.decode(block, raw=True)
        assert [tuple(field) for field in headers] == list(REQUEST)
    assert talk.decoder.header_table_size == min(sizes[-1], 4096)


def test_ours() -> None:
    assert parse_settings(our_settings(2**20)) == [(PUSH, 0), (WINDOW, 2**20), (LIST, 2**16)]


@pytest.mark.parametrize("size", [1, 5, 7])
def test_length_that_is_no_multiple_of_six(size: int) -> None:
    with pytest.raises(ConnectionFault) as caught:
        parse_settings(bytes(size))
    assert caught.value.code is ErrorCode.FRAME_SIZE_ERROR
