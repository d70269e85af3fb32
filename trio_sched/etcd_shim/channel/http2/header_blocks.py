"""Header blocks (RFC 9113, 4.3; RFC 7541), encoded and decoded once for each that is the same.

Theory of operation
-------------------
A gRPC client sends the same few lists of headers, and gets the same few blocks
back, thousands of times. To encode and decode them anew would be the largest
single cost of a call. A block stays what it is as long as the dynamic table does
not change: its indices mean the same then. So each side remembers its blocks, and
forgets all of them when one changes the table. Which ones do is seen from the
block itself: fields that are added to the table, and changes of its size, have
bits of their own (RFC 7541, 6.2.1 and 6.3).

A block that changes the table comes once on each connection, but the first ones
are the same on all connections. So the process keeps *shared first blocks*: what
a block came to, and what it added, when it met a table of this *generation*.
Tables of the same generation are equal, and generation 0 is the empty table. On
the next connection the block is replayed: the same entries are added.

All that is remembered is bounded. hpack's public interface is all that is used.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import count
from typing import Final, Generic, NamedTuple, TypeAlias, TypeVar

from hpack import Decoder, Encoder, HPACKError
from hpack.table import HeaderTable

from trio_sched.etcd_shim.channel.http2.errors import ConnectionFault, ErrorCode
from trio_sched.etcd_shim.channel.http2.responses import HeaderBlock, classify
from trio_sched.etcd_shim.channel.http2.settings import DEFAULT_TABLE_SIZE

__all__ = ["Field", "OpenBlock", "RequestEncoder", "ResponseDecoder", "added_fields"]

Field: TypeAlias = tuple[bytes, bytes]
Result = TypeVar("Result")

MAX_HEADER_BLOCK: Final = 2**16  # bytes, encoded
MAX_CONTINUATIONS: Final = 512  # of one block
MAX_EMPTY_CONTINUATIONS: Final = 16
MAX_BLOCKS: Final = 128  # remembered at a time; a client has about a dozen
MAX_REMEMBERED: Final = 2048  # bytes of a block that is remembered

_EMPTY: Final = 0  # the generation of a table to which nothing was done yet
_generations = count(_EMPTY + 1)

_SECRETS: Final = frozenset({b"token", b"authorization"})  # not kept longer than the connection


def added_fields(block: bytes) -> list[int] | None:
    """Return which fields a block adds to the dynamic table, by their places in the list.

    None means that it changes the table's size.

    Args:
        block: one that is well-formed, as hpack has made or understood it.
    """
    added: list[int] = []
    place = at = 0
    while at < len(block):
        first = block[at]
        if first & 0x80:  # an index: RFC 7541, 6.1
            at = _integer(block, at, 7)[1]
        elif first & 0xE0 == 0x20:  # 6.3
            return None
        else:
            bits = 6 if first & 0x40 else 4  # added, as in 6.2.1, or not, as in 6.2.2 and 6.2.3
            if first & 0x40:
                added.append(place)
            name, at = _integer(block, at, bits)
            for _ in range(1 if name else 2):
                size, at = _integer(block, at, 7)
                at += size
        place += 1
    return added


def _integer(block: bytes, at: int, bits: int) -> tuple[int, int]:
    """Return the integer at a place in a block, and where it ends (RFC 7541, 5.1)."""
    most = (1 << bits) - 1
    value = block[at] & most
    at += 1
    shift = 0
    if value == most:
        while True:
            byte = block[at]
            at += 1
            value += (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
    return value, at


class OpenBlock:
    """A header block whose CONTINUATIONs are still to come (RFC 9113, 6.10)."""

    __slots__ = ("data", "empty", "ends", "frames", "stream_id")

    def __init__(self, stream_id: int, data: bytes, *, ends: bool) -> None:
        self.stream_id: int = stream_id
        self.data: bytearray = bytearray(data)
        self.ends: bool = ends
        self.frames: int = 0
        self.empty: int = 0

    def add(self, data: bytes) -> None:
        """Go on with it.

        Raises:
            ConnectionFault: it is longer, or in more parts, than any block has to be.
        """
        self.frames += 1
        self.empty += not data
        self.data += data
        if (
            len(self.data) > MAX_HEADER_BLOCK
            or self.frames > MAX_CONTINUATIONS
            or self.empty > MAX_EMPTY_CONTINUATIONS
        ):
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "10.5.1", "an endless header block")


class _Step(NamedTuple, Generic[Result]):
    """What a block came to, what it added to the table, and the table's next generation."""

    result: Result
    added: Sequence[Field]
    generation: int


class _SharedFirstBlocks(Generic[Result]):
    """The first blocks of connections, for all of them; the first that come stay."""

    def __init__(self) -> None:
        self._steps: dict[tuple[int, Hashable], _Step[Result]] = {}
        self._reached = {_EMPTY}  # generations that an empty table comes to by these

    def replay(self, table: HeaderTable, generation: int, block: Hashable) -> _Step[Result] | None:
        """Do to a table what this block did to an equal one, if it is known."""
        step = self._steps.get((generation, block))
        if step is not None:
            for name, value in step.added:
                table.add(name, value)
        return step

    def record(self, generation: int, block: Hashable, step: _Step[Result]) -> None:
        """Remember what a block did to a table of this generation."""
        if generation in self._reached and len(self._steps) < MAX_BLOCKS:
            self._steps[generation, block] = step
            self._reached.add(step.generation)


_shared_requests: Final = _SharedFirstBlocks[bytes]()
_shared_responses: Final = _SharedFirstBlocks[HeaderBlock]()


class RequestEncoder:
    """Makes the header blocks of requests."""

    __slots__ = ("_encoder", "_generation", "_known", "_last", "_last_block", "_sizes")

    def __init__(self) -> None:
        self._encoder = Encoder()
        self._generation = _EMPTY
        self._known: dict[tuple[Field, ...], bytes] = {}
        self._last: object = None  # the headers that came last, and their block
        self._last_block = b""
        self._sizes: tuple[int, int] | None = None  # the smallest, and the last, to be signalled

    def resize(self, size: int) -> None:
        """Use a table of at most `size` bytes, by the server's SETTINGS (RFC 9113, 4.3.1).

        The next block signals the smallest and the last size that came since the
        one before it (RFC 7541, 4.2). More than the default is not made use of.
        """
        size = min(size, DEFAULT_TABLE_SIZE)
        current = self._encoder.header_table_size
        if self._sizes is None and size == current:
            return
        smallest = size if self._sizes is None else min(self._sizes[0], size)
        self._sizes = (smallest, size) if (smallest, size) != (current, current) else None
        self._forget()

    def encode(self, headers: Sequence[Field]) -> bytes:
        """Return the block for these headers.

        A `NeverIndexedHeaderTuple` is for values that change each time: they go to
        the end, and into no table.
        """
        if headers is self._last:
            return self._last_block
        fields = tuple([field for field in headers if type(field) is tuple])
        block = self._known.get(fields)
        if block is None:
            block = self._encode(fields)
        if len(fields) < len(headers):
            never = [field for field in headers if type(field) is not tuple]
            return block + self._encoder.encode(never, huffman=False)
        if type(headers) is tuple and fields in self._known:
            self._last, self._last_block = headers, block
        return block

    def _encode(self, fields: tuple[Field, ...]) -> bytes:
        if self._sizes is not None:
            return self._encode_resized(fields)
        encoder, generation = self._encoder, self._generation
        step = _shared_requests.replay(encoder.header_table, generation, fields)
        if step is not None:
            self._forget()
            self._generation = step.generation
            return step.result
        block: bytes = encoder.encode(fields, huffman=False)  # it is long once, then indices
        added = added_fields(block)
        if added:
            self._forget()
            entries = [fields[place] for place in added]
            step = _Step(block, entries, self._generation)
            short = len(block) <= MAX_REMEMBERED
            if short and not any(name in _SECRETS for name, _ in fields):
                _shared_requests.record(generation, fields, step)
        else:
            _remember(self._known, fields, block, len(block))
        return block

    def _encode_resized(self, fields: tuple[Field, ...]) -> bytes:
        assert self._sizes is not None
        smallest, last = self._sizes
        self._sizes = None
        self._encoder.header_table_size = smallest
        if last != smallest:
            self._encoder.header_table_size = last
        self._forget()
        return bytes(self._encoder.encode(fields, huffman=False))

    def _forget(self) -> None:
        self._known.clear()
        self._last = None
        self._generation = next(_generations)


class ResponseDecoder:
    """Reads the header blocks of answers.

    Args:
        max_list_size: the largest header list, as RFC 9113, 6.5.2 counts its bytes.
    """

    __slots__ = ("_decoder", "_generation", "_known", "_max_list_size")

    def __init__(self, max_list_size: int) -> None:
        self._max_list_size = max_list_size
        self._decoder = Decoder(max_list_size)
        self._generation = _EMPTY
        self._known: dict[bytes, HeaderBlock] = {}

    def decode(self, block: bytes) -> HeaderBlock:
        """Return what a block says.

        Raises:
            ConnectionFault: it cannot be decoded, so the table is not known any more.
        """
        known = self._known.get(block)
        return known if known is not None else self._decode(block)

    def _decode(self, block: bytes) -> HeaderBlock:
        key = (self._max_list_size, block)
        step = _shared_responses.replay(self._decoder.header_table, self._generation, key)
        if step is not None:
            self._known.clear()
            self._generation = step.generation
            return step.result
        try:
            fields = [(bytes(f[0]), bytes(f[1])) for f in self._decoder.decode(block, raw=True)]
        except HPACKError as exc:
            raise ConnectionFault(
                ErrorCode.COMPRESSION_ERROR, "4.3", f"a header block that is not HPACK: {exc!r}"
            ) from exc
        return self._learn(block, fields)

    def _learn(self, block: bytes, fields: list[Field]) -> HeaderBlock:
        """Remember what a block came to."""
        result = classify(fields)
        added = added_fields(block)
        if added is not None and not added:
            _remember(self._known, block, result, len(block))
            return result
        generation = self._generation
        self._known.clear()
        self._generation = next(_generations)
        if added and len(block) <= MAX_REMEMBERED:
            step = _Step(result, [fields[place] for place in added], self._generation)
            _shared_responses.record(generation, (self._max_list_size, block), step)
        return result


Key = TypeVar("Key")


def _remember(known: dict[Key, Result], key: Key, value: Result, size: int) -> None:
    if size > MAX_REMEMBERED:
        return
    if len(known) >= MAX_BLOCKS:
        known.clear()
    known[key] = value
