"""Which versions of etcd have faults that a user should know of. Pure.

What the releases say: https://github.com/etcd-io/etcd/tree/main/CHANGELOG; the same table is in
``docs/operations.md``, which a test compares.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

__all__ = ["KnownFault", "known_faults", "reports_progress"]

_Version: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class KnownFault:
    """A fault of some versions of etcd.

    Attributes:
        issue: where it is described, such as ``etcd#13766``.
        versions: which have it, in words.
        what: what happens, in a clause.
        cure: the versions without it, in words.
    """

    issue: str
    versions: str
    what: str
    cure: str

    def __str__(self) -> str:
        return f"{self.what} ({self.issue}; mended in {self.cure})"


# Each with the versions that have it: from the first on, up to and without the second.
_FAULTS: Final[tuple[tuple[KnownFault, tuple[tuple[_Version, _Version], ...]], ...]] = (
    (
        KnownFault(
            issue="etcd#13766",
            versions="3.5.0 to 3.5.2",
            what="it may lose or corrupt data if it is killed while it is busy",
            cure="3.5.3",
        ),
        (((3, 5, 0), (3, 5, 3)),),
    ),
    (
        KnownFault(
            issue="etcd#15247",
            versions="before 3.4.31, and 3.5.0 to 3.5.12",
            what="leases that are renewed may be revoked after its raft leader stalls",
            cure="3.4.31 and 3.5.13, where it is rarer",
        ),
        (((0, 0, 0), (3, 4, 31)), ((3, 5, 0), (3, 5, 13))),
    ),
    (
        KnownFault(
            issue="etcd#17529",
            versions="before 3.4.31, and 3.5.0 to 3.5.12",
            what="a watch that is behind when history is compacted may silently lose events",
            cure="3.4.31 and 3.5.13",
        ),
        (((0, 0, 0), (3, 4, 31)), ((3, 5, 0), (3, 5, 13))),
    ),
)


# These may say how far a watch has come before they send it what was before that (etcd issue
# 15220), or never say it of one that gets nothing (17507).
_BAD_PROGRESS: Final = (((0, 0, 0), (3, 4, 31)), ((3, 5, 0), (3, 5, 13)))


def known_faults(version: str) -> tuple[KnownFault, ...]:
    """Return the faults of a version, the worst first; none for one that is not understood."""
    return tuple(fault for fault, spans in _FAULTS if _is_in(version, spans))


def reports_progress(version: str) -> bool:
    """Return whether a version answers `Watcher.request_progress` as it should."""
    return not _is_in(version, _BAD_PROGRESS)


def _is_in(version: str, spans: Sequence[tuple[_Version, _Version]]) -> bool:
    """Return whether a version is understood, and in one of the spans."""
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    if found is None:
        return False
    number = (int(found[1]), int(found[2]), int(found[3]))
    return any(first <= number < behind for first, behind in spans)
