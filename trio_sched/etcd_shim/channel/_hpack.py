"""Header blocks, encoded and decoded once for each that is the same.

A gRPC client sends the same few lists of headers, and gets the same few blocks
back, thousands of times. Encoding and decoding them anew is the largest single
cost of a call. A block may be used again as long as the dynamic table that it
was made with, or read with, has not changed: its indices mean the same then. So
the table has a stamp, which is another after each change; and what is remembered
carries the stamp.

A block that itself changes the table comes once on each connection, but the first
ones are the same on all connections. So the process remembers what they did to
a table that was new: tables with the same stamp are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import partial
from itertools import count
from typing import Any, Final, Generic, NamedTuple, TypeVar

from hpack import Decoder, Encoder, HeaderTuple
from hpack.table import HeaderTable

__all__ = ["CachingDecoder", "CachingEncoder", "StampedTable"]

_MOST_BLOCKS = 128  # remembered at a time; a client has about a dozen

_NEW: Final = 0  # the stamp of a table to which nothing was done yet
_stamps = count(_NEW + 1)

_SECRETS: Final = frozenset({b"token", b"authorization"})  # not kept longer than the connection

Key = TypeVar("Key")
Result = TypeVar("Result")


class _Entries(list[tuple[bytes, bytes]]):
    """What a header table needs of a deque, in a tenth of the bytes; there are few entries."""

    __slots__ = ()

    def appendleft(self, entry: tuple[bytes, bytes]) -> None:
        self.insert(0, entry)


class StampedTable(HeaderTable):
    """A header table with a stamp, which no table has that is not the same.

    Attributes:
        stamp: another after each change.
        added: entries that are added, while somebody wants to know; None once the
            size is set, too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.dynamic_entries: Any = _Entries()
        self.stamp = _NEW
        self.added: list[tuple[bytes, bytes]] | None = None

    def add(self, name: bytes, value: bytes) -> None:
        self.stamp = next(_stamps)
        if self.added is not None:
            self.added.append((name, value))
        super().add(name, value)

    @property
    def maxsize(self) -> int:
        return self._maxsize

    @maxsize.setter
    def maxsize(self, newmax: int) -> None:
        self.stamp = next(_stamps)
        self.added = None
        resized = self.resized
        HeaderTable.maxsize.fset(self, newmax)  # type: ignore[attr-defined] # it is a property
        self.resized |= resized  # hpack forgets a change when the same size is set again


class _Step(NamedTuple, Generic[Result]):
    """What a block came to, and what it did to the table."""

    result: Result
    added: Sequence[tuple[bytes, bytes]] | None
    stamp: int


class _FirstSteps(Generic[Result]):
    """The first blocks of connections, for all of them; the first that come stay."""

    def __init__(self) -> None:
        self._steps: dict[tuple[int, Hashable], _Step[Result]] = {}
        self._known = {_NEW}  # stamps that a new table comes to by these

    def repeat(self, table: StampedTable, block: Hashable) -> _Step[Result] | None:
        """Do to a table what this block did to one that was the same, if it is known."""
        step = self._steps.get((table.stamp, block))
        if step is not None:
            for name, value in step.added or ():
                table.add(name, value)
            table.stamp = step.stamp
        return step

    def note(self, before: int, block: Hashable, step: _Step[Result]) -> None:
        """Remember what a block did that changed a table of this stamp."""
        if before in self._known and step.added and len(self._steps) < _MOST_BLOCKS:
            self._steps[before, block] = step
            self._known.add(step.stamp)


def _take_step(table: StampedTable, work: Callable[[], Result]) -> _Step[Result]:
    """Do some work with a table, and tell what came of it."""
    table.added = []
    result = work()
    added, table.added = table.added, None
    return _Step(result, added, table.stamp)


def _keep(blocks: dict[Key, tuple[int, Result]], block: Key, step: _Step[Result]) -> None:
    """Remember what a block came to that changed nothing."""
    if len(blocks) >= _MOST_BLOCKS:
        blocks.clear()
    blocks[block] = step.stamp, step.result


_first_encoded: Final = _FirstSteps[bytes]()
_first_decoded: Final = _FirstSteps[list[HeaderTuple]]()


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
        known = self.known(fields)
        if known is not None:
            return known
        if table.resized or any(type(field) is not tuple for field in fields):
            return super().encode(fields, huffman)
        step = _first_encoded.repeat(table, (huffman, fields))
        return self._encode_new(fields, huffman=huffman) if step is None else step.result

    def _encode_new(self, fields: tuple[tuple[bytes, bytes], ...], *, huffman: bool) -> bytes:
        stamp = self.header_table.stamp
        step = _take_step(self.header_table, partial(super().encode, fields, huffman))
        if step.stamp == stamp:
            _keep(self._blocks, fields, step)
        elif not any(name in _SECRETS for name, _ in fields):
            _first_encoded.note(stamp, (huffman, fields), step)
        return step.result


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
        if not raw:
            return super().decode(data, raw)
        block = bytes(data)
        known = self.known(block)
        if known is not None:
            return known
        step = _first_decoded.repeat(self.header_table, (self.max_header_list_size, block))
        return self._decode_new(block) if step is None else step.result

    def _decode_new(self, block: bytes) -> list[HeaderTuple]:
        stamp = self.header_table.stamp
        decode = super().decode
        step = _take_step(self.header_table, lambda: list(decode(block, raw=True)))
        if step.stamp == stamp:
            _keep(self._blocks, block, step)
        else:
            _first_decoded.note(stamp, (self.max_header_list_size, block), step)
        return step.result
