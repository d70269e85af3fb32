"""Reading ranges of any size: in pages, and all of them at one revision.

An answer has a largest size, and what is below a prefix has none. So each range is read by so
many keys at a time, from where the page before ended, and at the revision of the first page. If
values are large, pages become smaller; if history is compacted meanwhile, it is all read again.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count
from typing import Final, Protocol

from trio_sched.etcd_shim._answers import GetResult, KeyValue, TxnResult
from trio_sched.etcd_shim.errors import MessageTooLarge, NoSpace, RevisionCompacted
from trio_sched.etcd_shim.kv import Compare, Get, Operation

__all__ = ["PAGE_SIZE", "read_ranges"]

PAGE_SIZE: Final = 1000
"""Keys in a page, at most."""

_SMALLER: Final = 8  # by which a page that was too large is divided
_MAX_ATTEMPTS: Final = 5  # while history is compacted under the pages


class Reader(Protocol):
    """What a client can do of it."""

    async def read(self, request: Get) -> GetResult:
        """Carry out a read."""

    async def txn(
        self,
        compare: Sequence[Compare] = (),
        success: Sequence[Operation] = (),
        failure: Sequence[Operation] = (),
    ) -> TxnResult:
        """Carry out a transaction."""


async def read_ranges(
    client: Reader,
    ranges: Sequence[tuple[bytes, bytes]],
    page_size: int = PAGE_SIZE,
    *,
    together: bool = True,
) -> GetResult:
    """Read all keys of some ranges, at one revision.

    Args:
        client: to read with.
        ranges: each from its first key to the first behind it.
        page_size: keys in a page, at most.
        together: whether their first pages may be read by one transaction.

    Returns:
        What one read of all of it would have given; the ranges in turn.

    Raises:
        MessageTooLarge: one key alone is.
        EtcdError: etcd refused.
    """
    for attempt in count(1):
        try:
            return await _read_at_one_revision(client, ranges, page_size, together=together)
        except RevisionCompacted:
            if attempt >= _MAX_ATTEMPTS:
                raise
        except MessageTooLarge:
            if page_size == 1:
                raise
            page_size = max(1, page_size // _SMALLER)
    raise AssertionError("not reached")


async def _read_at_one_revision(
    client: Reader, ranges: Sequence[tuple[bytes, bytes]], page_size: int, *, together: bool
) -> GetResult:
    kvs: list[KeyValue] = []
    pages = await _first_pages(client, ranges, page_size, together=together)
    revision = pages[0].revision
    for (_, end), first in zip(ranges, pages, strict=True):
        page = first
        kvs += page.kvs
        while page.more:
            behind = page.kvs[-1].key + b"\0"
            page = await client.read(Get(behind, end, limit=page_size, revision=revision))
            kvs += page.kvs
    return GetResult(tuple(kvs), revision, len(kvs), more=False)


async def _first_pages(
    client: Reader, ranges: Sequence[tuple[bytes, bytes]], page_size: int, *, together: bool
) -> Sequence[GetResult]:
    reads = [Get(first, end, limit=page_size) for first, end in ranges]
    if together and len(reads) > 1:
        with suppress(NoSpace):  # etcd 3.5.1 refuses transactions that only read (etcd issue 13429)
            answer = await client.txn((), reads)
            return [answer.get(number) for number in range(len(reads))]
    first = await client.read(reads[0])
    others = [replace(read, revision=first.revision) for read in reads[1:]]
    return [first, *[await client.read(read) for read in others]]
