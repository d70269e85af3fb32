"""What is wrong with etcd itself: each member is asked how it does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import trio

from trio_sched._support.tasks import open_plain_nursery
from trio_sched.cli.connect import Connection
from trio_sched.etcd_shim import Client, MemberStatus
from trio_sched.etcd_shim.errors import EtcdError, PermissionDenied, Unauthenticated

__all__ = ["EtcdReport", "report_of", "troubles_of"]

_PATIENCE: Final = 2.0  # seconds for a member to answer
_ALARM: Final = re.compile(r"memberID:(\d+) alarm:(\w+)\s*")
_NO_LEADER: Final = "no leader"
_MEANINGS: Final = {
    "NOSPACE": (
        "its database is full, and nothing can be written but deletions; "
        "make room, then `etcdctl alarm disarm`"
    ),
    "CORRUPT": "its data are not those of the other members; see etcd's logs",
}


@dataclass(frozen=True)
class EtcdReport:
    """What was found out about etcd itself.

    Attributes:
        trouble: a line for each trouble, each once; there are none if all is well.
        versions: of the members that answered, each once.
    """

    trouble: Sequence[str]
    versions: Sequence[str]


async def report_of(connection: Connection, client: Client) -> EtcdReport:
    """Ask each member how it does.

    Args:
        connection: whose endpoints are asked.
        client: what is connected by it already; it does for a single endpoint.
    """
    urls = connection.endpoints
    found: dict[str, list[str]] = {url: [] for url in urls}
    versions: set[str] = set()

    async def ask(url: str) -> None:
        status = await _ask(url, connection, client if len(urls) == 1 else None)
        if isinstance(status, MemberStatus):
            versions.add(status.version)
            found[url] = _lines(url, status)
        else:
            found[url] = [status] if status else []

    async with open_plain_nursery() as nursery:
        for url in found:
            nursery.start_soon(ask, url)
    trouble = dict.fromkeys(line for lines in found.values() for line in lines)
    return EtcdReport([*trouble], sorted(versions))


async def troubles_of(connection: Connection, client: Client) -> Sequence[str]:
    """Return a line for each trouble only; arguments as for `report_of`."""
    return (await report_of(connection, client)).trouble


async def _ask(url: str, connection: Connection, client: Client | None) -> MemberStatus | str:
    """Return how a member does, or why it does not say; nothing if it may not say."""
    try:
        with trio.move_on_after(_PATIENCE):
            if client is not None:
                return await client.status()
            async with connection.open_member(url) as member:
                return await member.status()
    except (PermissionDenied, Unauthenticated):
        return ""  # it answers, and would not say
    except EtcdError as exc:
        return f"{url} does not answer: {exc}"
    return f"{url} has not answered within {_PATIENCE:g} s"


def _lines(url: str, status: MemberStatus) -> list[str]:
    others = [words for words in status.errors if _NO_LEADER not in words]
    lines = [_of_alarm(words) for words in others]
    if not status.leader_id or len(others) < len(status.errors):
        lines.append(f"{url} has no leader: it has lost its quorum")
    return lines


def _of_alarm(words: str) -> str:
    """Say what an alarm means, if it is one that is known."""
    found = _ALARM.fullmatch(words)
    if found is None:
        return words.strip()
    member, alarm = f"{int(found[1]):x}", found[2]
    meaning = _MEANINGS.get(alarm, "see `etcdctl alarm list`")
    return f"alarm {alarm} of etcd's member {member}: {meaning}"
