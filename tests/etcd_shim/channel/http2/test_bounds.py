"""A server that floods us is cut off, or costs us nothing that lasts (RFC 9113, 10.5)."""

from __future__ import annotations

import pytest

from tests.etcd_shim.channel.http2.talk import GRPC, Talk
from trio_sched.etcd_shim.channel.http2 import connection as c, frames as f, header_blocks as h
from trio_sched.etcd_shim.channel.http2.errors import ErrorCode

CALM = ErrorCode.ENHANCE_YOUR_CALM


@pytest.fixture
def talk() -> Talk:
    return Talk()


@pytest.mark.parametrize("size", [0, 1, 200, 16_384])
def test_endless_header_block(talk: Talk, size: int) -> None:
    call = talk.call()
    talk.client.receive(f.frame(f.HEADERS, 0, call, b"\x88"))
    part = f.frame(f.CONTINUATION, 0, call, b"\x88" * size)
    most = {0: h.MAX_EMPTY_CONTINUATIONS, 1: h.MAX_CONTINUATIONS}
    allowed = most.get(size, (h.MAX_HEADER_BLOCK - 1) // (size or 1))
    assert talk.client.receive(part * allowed) == []
    talk.expect_break(part, CALM)


def test_header_list_that_is_too_large(talk: Talk) -> None:
    entry = b"\x40\1x\x7f\xd1\x0e" + b"a" * 2000  # in the table then, for one byte each
    block = b"\x88" + entry + b"\xbe" * 100
    data = f.frame(f.HEADERS, f.END_HEADERS, talk.call(), block)
    talk.expect_break(data, ErrorCode.COMPRESSION_ERROR)


@pytest.mark.parametrize("kind", [f.PING, f.SETTINGS])
def test_answers_that_are_not_read(talk: Talk, kind: int) -> None:
    data = f.frame(kind, 0, 0, bytes(8 if kind == f.PING else 0))
    talk.client.receive(data * c.MAX_ANSWERS)
    assert len(talk.sent()) == c.MAX_ANSWERS
    talk.client.receive(data * c.MAX_ANSWERS)  # they were read, so it may ask again
    talk.expect_break(data, CALM)


def test_acknowledgements_need_no_answer(talk: Talk) -> None:
    data = f.frame(f.PING, f.ACK, 0, bytes(8)) + f.frame(f.SETTINGS, f.ACK, 0)
    assert talk.client.receive(data * 20_000) == []
    assert talk.sent() == []


@pytest.mark.parametrize("closed", [False, True])
def test_empty_data(talk: Talk, closed: bool) -> None:
    call = talk.call()
    talk.client.receive(talk.head(call))
    if closed:
        talk.client.reset(call)
    data = f.frame(f.DATA, 0, call)
    assert talk.client.receive(data * c.MAX_EMPTY_DATA) == []
    talk.expect_break(data, CALM)


def test_some_empty_data(talk: Talk) -> None:
    call = talk.call()
    empty = f.frame(f.DATA, 0, call) * 600
    talk.client.receive(talk.head(call) + empty + talk.message(call) + empty)
    talk.client.receive(talk.trailers(call))
    talk.expect_fine()


def test_whatever_is_ignored_leaves_nothing_behind(talk: Talk) -> None:
    call = talk.call()
    flood = b"".join(
        (
            f.frame(f.PRIORITY, 0, 99, bytes(5)),
            f.frame(0xEE, 0xFF, call, bytes(100)),
            f.window_update_frame(0, 1),
            talk.head(call, ((b":status", b"103"),)),
        )
    )
    for _ in range(1000):
        assert talk.client.receive(flood) == []
    assert talk.sent()[2:] == []  # but the request
    assert talk.client._input == b""
    talk.expect_answer(talk.answer(call), call)


def test_header_blocks_that_are_all_new_are_not_all_remembered(talk: Talk) -> None:
    for number in range(400):
        call = talk.call()
        head = talk.head(call, (*GRPC, (b"x", b"%d" % number)))
        talk.expect_answer(head + talk.message(call) + talk.trailers(call), call)
    assert len(talk.client._decoder._known) <= h.MAX_BLOCKS
    assert len(h._shared_responses._steps) <= h.MAX_BLOCKS
