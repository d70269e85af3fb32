"""Header blocks out of a cache are as good as those that hpack makes and reads anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import pytest
from hpack import Decoder, Encoder, HPACKError, NeverIndexedHeaderTuple
from hpack.hpack import decode_integer
from hypothesis import given, settings, strategies as st

from trio_sched.etcd_shim.channel.http2 import header_blocks
from trio_sched.etcd_shim.channel.http2.errors import ConnectionFault, ErrorCode
from trio_sched.etcd_shim.channel.http2.header_blocks import (
    RequestEncoder,
    ResponseDecoder,
    _SharedFirstBlocks,
)
from trio_sched.etcd_shim.channel.http2.responses import HeaderBlock

LARGEST = 65536
Field = tuple[bytes, bytes]

names = st.sampled_from([b":path", b"token", b"grpc-timeout", b"x", b"te"])
values = st.one_of(st.sampled_from([b"", b"a", b"/path", b"100m"]), st.binary(max_size=60))
field = st.one_of(
    st.tuples(names, values),
    st.builds(NeverIndexedHeaderTuple, names, values),
)
lists = st.lists(field, max_size=5)
# Few lists, many uses; and the table changes its size in between.
scripts = st.lists(lists, min_size=1, max_size=5).flatmap(
    lambda few: st.lists(
        st.one_of(
            st.sampled_from(few),
            st.sampled_from(few),
            lists,
            st.sampled_from([0, 40, 100, 4096, LARGEST]),
        ),
        max_size=40,
    )
)
thorough = settings(max_examples=150, deadline=None)


def plain(headers: object) -> list[Field]:
    assert isinstance(headers, list)
    return [(bytes(name), bytes(value)) for name, value in headers]


@contextmanager
def first_connection() -> Iterator[None]:
    """Have the process remember nothing of earlier connections, nor of these."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(header_blocks, "_shared_requests", _SharedFirstBlocks[bytes]())
        patch.setattr(header_blocks, "_shared_responses", _SharedFirstBlocks[HeaderBlock]())
        yield


@pytest.fixture
def _first() -> Iterator[None]:
    with first_connection():
        yield


def table(of: Encoder | Decoder) -> tuple[int, int, list[Field]]:
    table = of.header_table
    return table.maxsize, table._current_size, list(table.dynamic_entries)


@pytest.fixture(autouse=True)
def _keep_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a decoded block be its fields."""
    monkeypatch.setattr(header_blocks, "classify", list)


@thorough
@given(st.lists(scripts, min_size=1, max_size=3))
def test_breakage_8_what_is_encoded_is_understood(
    connections: list[list[list[Field] | int]],
) -> None:
    with first_connection():
        for script in (*connections, *connections):
            check_encoding(script)


def check_encoding(script: list[list[Field] | int]) -> None:
    encoder, peer = RequestEncoder(), Decoder(LARGEST * 10)
    peer.max_allowed_table_size = 4096
    for step in script:
        if isinstance(step, int):
            encoder.resize(step)
            peer.max_allowed_table_size = min(step, 4096)  # hpack fails if it is not followed
        else:
            ordered = sorted(step, key=lambda field: type(field) is not tuple)
            for _ in range(2):
                block = encoder.encode(tuple(step))
                assert plain(list(peer.decode(block, raw=True))) == plain(ordered)
                assert table(encoder._encoder) == table(peer)


@thorough
@given(st.lists(scripts, min_size=1, max_size=3))
def test_breakage_8_what_a_peer_encodes_is_understood(
    connections: list[list[list[Field] | int]],
) -> None:
    with first_connection():
        for script in (*connections, *connections):
            check_decoding(script)


def check_decoding(script: list[list[Field] | int]) -> None:
    encoder, decoder = Encoder(), ResponseDecoder(LARGEST * 10)
    for step in script:
        if isinstance(step, int):
            if step != encoder.header_table_size and step <= 4096:
                encoder.header_table_size = step
        else:
            block = encoder.encode(step)
            assert decode(decoder, block) == plain(step)
            assert table(decoder._decoder) == table(encoder)


def decode(decoder: ResponseDecoder, block: bytes) -> list[Field]:
    return cast("list[Field]", decoder.decode(block))


def sizes(block: bytes) -> list[int]:
    """Return the table sizes that a block begins with."""
    found = []
    while block and block[0] & 0xE0 == 0x20:
        size, used = decode_integer(block, 5)
        found.append(size)
        block = block[used:]
    return found


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ([4096], []),
        ([100], [100]),
        ([100, 100], [100]),
        ([0, 4096], [0, 4096]),
        ([200, 100, 300], [100, 300]),
        ([300, 0, 200, 100, 50], [0, 50]),
        ([2**32 - 1], []),
        ([0, 2**32 - 1], [0, 4096]),
    ],
)
def test_smallest_and_last_size_are_signalled(settings: list[int], expected: list[int]) -> None:
    encoder = RequestEncoder()
    encoder.encode(tuple(HEADERS))
    for size in settings:
        encoder.resize(size)
    assert sizes(encoder.encode(tuple(HEADERS))) == expected
    assert sizes(encoder.encode(tuple(HEADERS))) == []


def test_sizes_of_two_frames_are_signalled_each() -> None:
    encoder, peer = RequestEncoder(), Decoder(LARGEST)
    for settings_ in ((100,), (100,), (50, 200), (4096,)):
        for size in settings_:
            encoder.resize(size)
        for _ in range(2):
            assert plain(list(peer.decode(encoder.encode(tuple(HEADERS)), raw=True))) == HEADERS
        assert peer.header_table_size == settings_[-1]


def test_breakage_8_what_left_the_table_is_not_meant_any_more_when_encoding() -> None:
    encoder, peer = RequestEncoder(), Decoder(LARGEST)
    static = [(b":method", b"POST")]  # it needs no dynamic table, and changes none
    for size in (4096, 0):
        encoder.resize(size)
        for headers in (static, HEADERS, HEADERS, static, HEADERS):
            block = encoder.encode(tuple(headers))
            assert plain(list(peer.decode(block, raw=True))) == headers


def test_breakage_8_what_left_the_table_is_not_meant_any_more_when_decoding() -> None:
    add, use, clear = b"\x40\x01a\x01b", b"\xbe", b"\x20\x83"
    decoder = ResponseDecoder(LARGEST)
    decoder.decode(add)
    for _ in range(3):
        assert decode(decoder, use) == [(b"a", b"b")]
    decoder.decode(clear)
    with pytest.raises(ConnectionFault):
        decoder.decode(use)


@thorough
@given(st.lists(st.binary(max_size=12), min_size=1, max_size=4), st.data())
def test_any_blocks_are_decoded_as_without_a_cache(few: list[bytes], data: st.DataObject) -> None:
    with first_connection():
        for _ in range(2):
            ours, theirs = ResponseDecoder(1000), Decoder(1000)
            for block in data.draw(st.lists(st.sampled_from(few), max_size=20)):
                expected = outcome(theirs, block)
                if expected is None:
                    with pytest.raises(ConnectionFault):
                        ours.decode(block)
                    break  # the connection is over
                assert decode(ours, block) == expected
                assert table(ours._decoder) == table(theirs)


def outcome(decoder: Decoder, block: bytes) -> list[Field] | None:
    try:
        return plain(list(decoder.decode(block, raw=True)))
    except HPACKError:
        return None


def test_header_bomb_is_refused() -> None:
    decoder = ResponseDecoder(LARGEST)
    entry = b"\x40\x01a\x7f\xa1\x1e" + bytes(4000)  # 4,000 bytes, then an index for each byte
    with pytest.raises(ConnectionFault) as caught:
        decoder.decode(entry + b"\xbe" * 10_000)
    assert caught.value.code is ErrorCode.COMPRESSION_ERROR


def count_calls(monkeypatch: pytest.MonkeyPatch, cls: type, name: str) -> Callable[[], int]:
    calls: list[object] = []
    original = getattr(cls, name)

    def counted(*args: object, **kwargs: object) -> object:
        calls.append(args)
        return original(*args, **kwargs)

    monkeypatch.setattr(cls, name, counted)
    return lambda: len(calls)


HEADERS = [(b":path", b"/etcdserverpb.KV/Put"), (b"te", b"trailers")]


@pytest.mark.usefixtures("_first")
def test_same_block_is_encoded_twice_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    count = count_calls(monkeypatch, Encoder, "encode")
    encoder = RequestEncoder()
    for _ in range(10):
        encoder.encode(tuple(HEADERS))
    assert count() == 2  # the first fills the dynamic table, the second is remembered


@pytest.mark.usefixtures("_first")
def test_same_block_is_decoded_twice_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, decoder = Encoder(), ResponseDecoder(LARGEST)
    count = count_calls(monkeypatch, Decoder, "decode")
    for _ in range(10):
        decoder.decode(encoder.encode(HEADERS))
    assert count() == 2


@pytest.mark.usefixtures("_first")
def test_first_blocks_of_another_connection_are_not_encoded_or_decoded_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoded = count_calls(monkeypatch, Encoder, "encode")
    decoded = count_calls(monkeypatch, Decoder, "decode")
    trailers = [(b"grpc-status", b"0"), (b"grpc-message", b"")]
    for connection in range(3):
        encoder, decoder = RequestEncoder(), ResponseDecoder(LARGEST)
        for headers in (HEADERS, trailers):
            block = encoder.encode(tuple(headers))
            assert decode(decoder, block) == headers
        assert encoded() == decoded() == 2, connection


@pytest.mark.usefixtures("_first")
def test_token_is_not_remembered_for_other_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    count = count_calls(monkeypatch, Encoder, "encode")
    for connection in range(1, 4):
        RequestEncoder().encode((*HEADERS, (b"token", b"secret")))
        assert count() == connection
    assert not header_blocks._shared_requests._steps


@pytest.mark.usefixtures("_first")
def test_table_that_was_resized_is_not_taken_for_a_new_one() -> None:
    RequestEncoder().encode(tuple(HEADERS))
    encoder, peer = RequestEncoder(), Decoder(LARGEST)
    encoder.resize(40)  # there is room for one of the two
    for _ in range(2):
        assert plain(list(peer.decode(encoder.encode(tuple(HEADERS)), raw=True))) == HEADERS
        assert table(encoder._encoder) == table(peer)
    assert len(header_blocks._shared_requests._steps) == 1  # what came of a new table


@pytest.mark.usefixtures("_first")
def test_caches_are_bounded() -> None:
    for number in range(300):
        encoder, decoder = RequestEncoder(), ResponseDecoder(LARGEST)
        decoder.decode(encoder.encode(((b"name", b"%d" % number),)))
    assert (
        len(header_blocks._shared_requests._steps)
        == len(header_blocks._shared_responses._steps)
        == 128
    )
    assert len(header_blocks._shared_requests._reached) == 129
    encoder, decoder = RequestEncoder(), ResponseDecoder(LARGEST)
    for number in range(300):
        headers: list[Field] = [(b"name", b"value")] * number
        assert decode(decoder, encoder.encode(tuple(headers))) == headers
    assert 0 < len(encoder._known) <= 128
    assert 0 < len(decoder._known) <= 128
