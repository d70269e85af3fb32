"""Reads of a path: of a range of it, and of single keys as if a range had been read."""

from __future__ import annotations

from trio_sched.etcd_shim import Client, GetResult, KeyValue
from trio_sched.etcd_shim._following import Read
from trio_sched.etcd_shim._pages import read_ranges
from trio_sched.model.keys import KeyRange, PathKeys

__all__ = ["Reads", "found_keys", "read_path"]


async def read_path(
    client: Client, keys: PathKeys, covered: KeyRange, *, together: bool = True
) -> GetResult:
    """Read what of a range is this path's, in pages; all at one revision.

    Args:
        client: to read with.
        keys: of the path.
        covered: the range.
        together: whether first pages may be read by one transaction.

    Raises:
        EtcdError: etcd refused.
    """
    ranges = [(part.first, part.end) for part in keys.parts(covered)]
    return await read_ranges(client, ranges, together=together)


def found_keys(revision: int, *kvs: KeyValue | None) -> GetResult:
    """Return what a read of these keys would have given at `revision`."""
    there = tuple(kv for kv in kvs if kv is not None)
    return GetResult(there, revision, len(there), more=False)


class Reads:
    """Reads a range: the first time by what waits for another's read, if that is given."""

    def __init__(self, first: Read | None, then: Read) -> None:
        self._first = first
        self._then = then

    async def __call__(self) -> GetResult:
        """Read it."""
        first, self._first = self._first, None
        return await (self._then if first is None else first)()
