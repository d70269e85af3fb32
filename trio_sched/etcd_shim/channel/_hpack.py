"""Header blocks, encoded and decoded once for each that is the same.

A gRPC client sends the same few lists of headers, and gets the same few blocks
back, thousands of times. Encoding and decoding them anew is the largest single
cost of a call. A block may be used again as long as the dynamic table that it
was made with, or read with, has not changed: its indices mean the same then. So
the table counts its changes; what is remembered carries the count; and what
changed the table itself is not remembered.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hpack import Decoder, Encoder, HeaderTuple
from hpack.table import HeaderTable

__all__ = ["CachingDecoder", "CachingEncoder", "StampedTable"]

_MOST_BLOCKS = 128  # remembered at a time; a client has about a dozen


class _Entries(list[tuple[bytes, bytes]]):
    """What a header table needs of a deque, in a tenth of the bytes; there are few entries."""

    __slots__ = ()

    def appendleft(self, entry: tuple[bytes, bytes]) -> None:
        self.insert(0, entry)


class StampedTable(HeaderTable):
    """A header table that counts how often it has changed."""

    def __init__(self) -> None:
        super().__init__()
        self.dynamic_entries: Any = _Entries()
        self.stamp = 0

    def add(self, name: bytes, value: bytes) -> None:
        self.stamp += 1
        super().add(name, value)

    @property
    def maxsize(self) -> int:
        return self._maxsize

    @maxsize.setter
    def maxsize(self, newmax: int) -> None:
        self.stamp += 1
        resized = self.resized
        HeaderTable.maxsize.fset(self, newmax)  # type: ignore[attr-defined] # it is a property
        self.resized |= resized  # hpack forgets a change when the same size is set again


class CachingEncoder(Encoder):
    """An `Encoder` that remembers blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.header_table: StampedTable = StampedTable()
        self._blocks: dict[tuple[Any, ...], tuple[int, bytes]] = {}

    def known(self, headers: Iterable[Any]) -> bytes | None:
        """Return the block for these headers if it is remembered and still right."""
        known = self._blocks.get(tuple(headers))
        table = self.header_table
        return known[1] if known and known[0] == table.stamp and not table.resized else None

    def encode(self, headers: Iterable[Any], huffman: bool = True) -> bytes:  # noqa: FBT001, FBT002 # hpack's signature
        """Return the block for these headers."""
        table = self.header_table
        fields = tuple(headers)
        stamp = table.stamp
        known = self._blocks.get(fields)
        if known is not None and known[0] == stamp and not table.resized:
            return known[1]
        resized = table.resized
        block = super().encode(fields, huffman)
        if table.stamp == stamp and not resized and all(type(field) is tuple for field in fields):
            if len(self._blocks) >= _MOST_BLOCKS:
                self._blocks.clear()
            self._blocks[fields] = stamp, block
        return block


class CachingDecoder(Decoder):
    """A `Decoder` that remembers blocks."""

    def __init__(self, max_header_list_size: int) -> None:
        super().__init__(max_header_list_size)
        self.header_table: StampedTable = StampedTable()
        self._blocks: dict[bytes, tuple[int, list[HeaderTuple]]] = {}

    def known(self, block: bytes) -> list[HeaderTuple] | None:
        """Return the headers in this block if they are remembered and still right."""
        known = self._blocks.get(block)
        return known[1] if known and known[0] == self.header_table.stamp else None

    def decode(self, data: bytes, raw: bool = False) -> Iterable[HeaderTuple]:  # noqa: FBT001, FBT002 # hpack's signature
        """Return the headers in this block, as bytes; they must not be changed."""
        table = self.header_table
        stamp = table.stamp
        known = self._blocks.get(data)
        if known is not None and known[0] == stamp and raw:
            return known[1]
        headers = list(super().decode(data, raw))
        if table.stamp == stamp and raw:
            if len(self._blocks) >= _MOST_BLOCKS:
                self._blocks.clear()
            self._blocks[bytes(data)] = stamp, headers
        return headers
