"""gRPC's framing: whatever the pieces, the same messages."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings, strategies as st

from trio_sched.etcd_shim.channel.http2.messages import PREFIX_SIZE, MessageDecoder, encode_message
from trio_sched.etcd_shim.errors import EtcdError, MessageTooLarge, RemoteProtocolError

LIMIT = 300

payloads = st.lists(st.binary(max_size=LIMIT), max_size=8)
quick = settings(max_examples=200, deadline=None)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Cut `data` at some places (taken modulo its length); some pieces may be empty."""
    ends = sorted(place % (len(data) + 1) for place in places)
    return [data[a:b] for a, b in zip([0, *ends], [*ends, len(data)], strict=True)]


def feed(decoder: MessageDecoder, pieces: list[bytes]) -> list[bytes]:
    return [message for piece in pieces for message in decoder.feed(piece)]


def words(error: EtcdError | None) -> tuple[type[EtcdError | None], str]:
    return type(error), str(error)


places = st.lists(st.integers(0, 5000), max_size=12)


@quick
@given(payloads, places)
def test_what_is_encoded_is_decoded(sent: list[bytes], where: list[int]) -> None:
    decoder = MessageDecoder(LIMIT)
    data = b"".join(map(encode_message, sent))
    assert feed(decoder, cut(data, where)) == sent
    assert decoder.error is None
    assert decoder.partial == 0


@quick
@given(payloads, st.binary(max_size=40), places)
def test_any_bytes_give_the_same_however_they_are_cut(
    sent: list[bytes], noise: bytes, where: list[int]
) -> None:
    data = b"".join(map(encode_message, sent)) + noise + encode_message(b"behind")
    whole, pieces, single = (MessageDecoder(LIMIT) for _ in range(3))
    expected = whole.feed(data)
    assert expected[: len(sent)] == sent
    assert feed(pieces, cut(data, where)) == expected
    assert feed(single, [data[i : i + 1] for i in range(len(data))]) == expected
    assert words(pieces.error) == words(single.error) == words(whole.error)
    if whole.error is None:
        assert pieces.partial == single.partial == whole.partial


@quick
@given(st.lists(st.binary(max_size=100), max_size=30))
def test_what_is_kept_is_bounded(pieces: list[bytes]) -> None:
    decoder = MessageDecoder(LIMIT)
    for piece in pieces:
        before = decoder.partial
        messages = decoder.feed(piece)
        assert all(len(message) <= LIMIT for message in messages)
        taken = sum(len(message) + PREFIX_SIZE for message in messages)
        assert decoder.partial <= before + len(piece) - taken
        if decoder.error is None:
            assert decoder.partial == before + len(piece) - taken
            assert decoder.partial < LIMIT + PREFIX_SIZE


@pytest.mark.parametrize("length", [0, 1, 255, 256, 2**24])
def test_prefix(length: int) -> None:
    encoded = encode_message(bytes(length))
    assert encoded[:PREFIX_SIZE] == struct.pack(">?I", False, length)  # noqa: FBT003
    assert len(encoded) == PREFIX_SIZE + length


def test_limit_is_the_largest_that_is_accepted() -> None:
    decoder = MessageDecoder(LIMIT)
    assert decoder.feed(encode_message(bytes(LIMIT))) == [bytes(LIMIT)]
    assert decoder.feed(encode_message(bytes(LIMIT + 1))) == []
    assert isinstance(decoder.error, MessageTooLarge)
    assert (decoder.error.size, decoder.error.limit) == (LIMIT + 1, LIMIT)


def test_too_large_is_said_as_soon_as_it_is_announced() -> None:
    decoder = MessageDecoder(LIMIT)
    assert decoder.feed(encode_message(bytes(2**20))[:4]) == []
    assert decoder.error is None
    assert decoder.feed(encode_message(bytes(2**20))[4:5]) == []
    assert isinstance(decoder.error, MessageTooLarge)


@pytest.mark.parametrize("flags", [1, 2, 0x80, 0xFF])
def test_flags_are_refused(flags: int) -> None:
    decoder = MessageDecoder(LIMIT)
    assert decoder.feed(encode_message(b"good") + bytes([flags]) + bytes(4)) == [b"good"]
    assert isinstance(decoder.error, RemoteProtocolError)


def test_nothing_comes_after_an_error() -> None:
    decoder = MessageDecoder(LIMIT)
    decoder.feed(b"\1\0\0\0\0")
    error = decoder.error
    kept = decoder.partial
    assert decoder.feed(encode_message(b"fine in itself")) == []
    assert decoder.error is error
    assert decoder.partial == kept
