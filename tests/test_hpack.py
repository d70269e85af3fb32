"""Header blocks out of a cache are as good as those that hpack makes and reads anew."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hpack import Decoder, Encoder, HPACKError, NeverIndexedHeaderTuple
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_sched.etcd_shim.channel._hpack import CachingDecoder, CachingEncoder

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


@thorough
@given(scripts)
def test_breakage_8_what_is_encoded_with_a_cache_is_understood(
    script: list[list[Field] | int],
) -> None:
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


@thorough
@given(scripts)
def test_breakage_8_what_a_peer_encodes_is_understood_with_a_cache(
    script: list[list[Field] | int],
) -> None:
    encoder, decoder = Encoder(), CachingDecoder(LARGEST * 10)
    decoder.max_allowed_table_size = LARGEST
    for step in script:
        if isinstance(step, int):
            if step != encoder.header_table_size:
                encoder.header_table_size = step
        else:
            assert plain(list(decoder.decode(encoder.encode(step), raw=True))) == plain(step)


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
    ours, theirs = CachingDecoder(1000), Decoder(1000)
    for block in data.draw(st.lists(st.sampled_from(few), max_size=20)):
        assert outcome(ours, block) == outcome(theirs, block)


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


def test_same_block_is_encoded_twice_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    count = count_calls(monkeypatch, Encoder, "encode")
    encoder = CachingEncoder()
    for _ in range(10):
        encoder.encode(HEADERS)
    assert count() == 2  # the first fills the dynamic table, the second is remembered


def test_same_block_is_decoded_twice_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, decoder = Encoder(), CachingDecoder(LARGEST)
    count = count_calls(monkeypatch, Decoder, "decode")
    for _ in range(10):
        decoder.decode(encoder.encode(HEADERS), raw=True)
    assert count() == 2


def test_caches_are_bounded() -> None:
    encoder, decoder = CachingEncoder(), CachingDecoder(LARGEST)
    for number in range(300):
        headers: list[Field] = [(b"name", b"value")] * number
        assert plain(list(decoder.decode(encoder.encode(headers), raw=True))) == headers
    assert 0 < len(encoder._blocks) <= 128
    assert 0 < len(decoder._blocks) <= 128
