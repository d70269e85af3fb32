"""Header blocks out of a cache are as good as those that hpack makes and reads anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hpack import Decoder, Encoder, HPACKError, NeverIndexedHeaderTuple
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_sched.etcd_shim.channel import _hpack
from trio_sched.etcd_shim.channel._hpack import CachingDecoder, CachingEncoder, _FirstSteps

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
        patch.setattr(_hpack, "_first_encoded", _FirstSteps[bytes]())
        patch.setattr(_hpack, "_first_decoded", _FirstSteps[list[Any]]())
        yield


@pytest.fixture
def _first() -> Iterator[None]:
    with first_connection():
        yield


def table(of: Encoder | Decoder) -> tuple[int, int, list[Field]]:
    table = of.header_table
    return table.maxsize, table._current_size, list(table.dynamic_entries)


@thorough
@given(st.lists(scripts, min_size=1, max_size=3))
def test_breakage_8_what_is_encoded_with_a_cache_is_understood(
    connections: list[list[list[Field] | int]],
) -> None:
    with first_connection():
        for script in (*connections, *connections):
            check_encoding(script)


def check_encoding(script: list[list[Field] | int]) -> None:
    encoder, plain_encoder, peer = CachingEncoder(), Encoder(), Decoder(LARGEST * 10)
    peer.max_allowed_table_size = LARGEST
    for step in script:
        if isinstance(step, int):
            if step != encoder.header_table_size:  # see the next test but one
                encoder.header_table_size = plain_encoder.header_table_size = step
        else:
            block = encoder.encode(step)
            assert block == plain_encoder.encode(step)
            assert plain(list(peer.decode(block, raw=True))) == plain(step)
        assert table(encoder) == table(plain_encoder)


@thorough
@given(st.lists(scripts, min_size=1, max_size=3))
def test_breakage_8_what_a_peer_encodes_is_understood_with_a_cache(
    connections: list[list[list[Field] | int]],
) -> None:
    with first_connection():
        for script in (*connections, *connections):
            check_decoding(script)


def check_decoding(script: list[list[Field] | int]) -> None:
    encoder, decoder, plain_decoder = (
        Encoder(),
        CachingDecoder(LARGEST * 10),
        Decoder(LARGEST * 10),
    )
    decoder.max_allowed_table_size = plain_decoder.max_allowed_table_size = LARGEST
    for step in script:
        if isinstance(step, int):
            if step != encoder.header_table_size:
                encoder.header_table_size = step
        else:
            block = encoder.encode(step)
            assert plain(list(decoder.decode(block, raw=True))) == plain(step)
            plain_decoder.decode(block, raw=True)
        assert table(decoder) == table(plain_decoder)


def test_breakage_8_same_size_twice_is_announced_as_well() -> None:
    """hpack's own encoder forgets the first change then, and the peer is never told."""
    encoder, peer = CachingEncoder(), Decoder(LARGEST)
    for size in (0, 40, 40):
        encoder.header_table_size = size
    for _ in range(3):
        assert plain(list(peer.decode(encoder.encode(HEADERS), raw=True))) == HEADERS
    assert peer.header_table_size == 40


def test_breakage_8_what_left_the_table_is_not_meant_any_more_when_encoding() -> None:
    encoder, peer = CachingEncoder(), Decoder(LARGEST)
    static = [(b":method", b"POST")]  # it needs no dynamic table, and changes none
    for size in (4096, 0):
        encoder.header_table_size = size
        for headers in (static, HEADERS, HEADERS, static, HEADERS):
            assert plain(list(peer.decode(encoder.encode(headers), raw=True))) == headers


def test_breakage_8_what_left_the_table_is_not_meant_any_more_when_decoding() -> None:
    add, use, clear = b"\x40\x01a\x01b", b"\xbe", b"\x20\x83"
    decoder = CachingDecoder(LARGEST)
    decoder.decode(add, raw=True)
    for _ in range(3):
        assert plain(list(decoder.decode(use, raw=True))) == [(b"a", b"b")]
    decoder.decode(clear, raw=True)
    with pytest.raises(HPACKError):
        decoder.decode(use, raw=True)


@thorough
@given(st.lists(st.binary(max_size=12), min_size=1, max_size=4), st.data())
def test_any_blocks_are_decoded_as_without_a_cache(few: list[bytes], data: st.DataObject) -> None:
    with first_connection():
        for _ in range(2):
            ours, theirs = CachingDecoder(1000), Decoder(1000)
            for block in data.draw(st.lists(st.sampled_from(few), max_size=20)):
                assert outcome(ours, block) == outcome(theirs, block)
                assert table(ours) == table(theirs)


def outcome(decoder: Decoder, block: bytes) -> object:
    try:
        return plain(list(decoder.decode(block, raw=True)))
    except HPACKError as exc:
        return type(exc)


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
    encoder = CachingEncoder()
    for _ in range(10):
        encoder.encode(HEADERS)
    assert count() == 2  # the first fills the dynamic table, the second is remembered


@pytest.mark.usefixtures("_first")
def test_same_block_is_decoded_twice_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, decoder = Encoder(), CachingDecoder(LARGEST)
    count = count_calls(monkeypatch, Decoder, "decode")
    for _ in range(10):
        decoder.decode(encoder.encode(HEADERS), raw=True)
    assert count() == 2


@pytest.mark.usefixtures("_first")
def test_first_blocks_of_another_connection_are_not_encoded_or_decoded_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoded = count_calls(monkeypatch, Encoder, "encode")
    decoded = count_calls(monkeypatch, Decoder, "decode")
    trailers = [(b"grpc-status", b"0"), (b"grpc-message", b"")]
    for connection in range(3):
        encoder, decoder = CachingEncoder(), CachingDecoder(LARGEST)
        for headers in (HEADERS, trailers):
            block = encoder.encode(headers)
            assert plain(list(decoder.decode(block, raw=True))) == headers
        assert encoded() == decoded() == 2, connection


@pytest.mark.usefixtures("_first")
def test_token_is_not_remembered_for_other_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    count = count_calls(monkeypatch, Encoder, "encode")
    for connection in range(1, 4):
        CachingEncoder().encode([*HEADERS, (b"token", b"secret")])
        assert count() == connection
    assert not _hpack._first_encoded._steps


@pytest.mark.usefixtures("_first")
def test_table_that_was_resized_is_not_taken_for_a_new_one() -> None:
    CachingEncoder().encode(HEADERS)
    encoder, peer = CachingEncoder(), Decoder(LARGEST)
    encoder.header_table_size = 40  # there is room for one of the two
    for _ in range(2):
        assert plain(list(peer.decode(encoder.encode(HEADERS), raw=True))) == HEADERS
        assert table(encoder) == table(peer)
    assert len(_hpack._first_encoded._steps) == 1  # what came of a new table


@pytest.mark.usefixtures("_first")
def test_caches_are_bounded() -> None:
    for number in range(300):
        encoder, decoder = CachingEncoder(), CachingDecoder(LARGEST)
        decoder.decode(encoder.encode([(b"name", b"%d" % number)]), raw=True)
    assert len(_hpack._first_encoded._steps) == len(_hpack._first_decoded._steps) == 128
    assert len(_hpack._first_encoded._known) == 129
    encoder, decoder = CachingEncoder(), CachingDecoder(LARGEST)
    for number in range(300):
        headers: list[Field] = [(b"name", b"value")] * number
        assert plain(list(decoder.decode(encoder.encode(headers), raw=True))) == headers
    assert 0 < len(encoder._blocks) <= 128
    assert 0 < len(decoder._blocks) <= 128
