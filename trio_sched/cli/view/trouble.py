"""What is wrong with etcd itself: each member is asked how it does."""

from __future__ import annotations

import re
from typing import Final

import trio

from trio_sched._support.tasks import open_plain_nursery
from trio_sched.cli.connect import Connection
from trio_sched.etcd_shim import Client, MemberStatus
from trio_sched.etcd_shim.errors import EtcdError, PermissionDenied, Unauthenticated

__all__ = ["troubles_of"]

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


async def troubles_of(connection: Connection, client: Client) -> list[str]:
    """Return a line for each trouble, each once; there are none if all is well.

    Args:
        connection: whose endpoints are asked.
        client: what is connected by it already; it does for a single endpoint.
    """
    urls = connection.endpoints
    found: dict[str, list[str]] = {url: [] for url in urls}

    async def ask(url: str) -> None:
        found[url] = await _ask(url, connection, client if len(urls) == 1 else None)

    async with open_plain_nursery() as nursery:
        for url in found:
            nursery.start_soon(ask, url)
    return list(dict.fromkeys(line for lines in found.values() for line in lines))


async def _ask(url: str, connection: Connection, client: Client | None) -> list[str]:
    try:
        with trio.move_on_after(_PATIENCE):
            if client is not None:
                return _lines(url, await client.status())
            async with connection.open_member(url) as member:
                return _lines(url, await member.status())
    except (PermissionDenied, Unauthenticated):
        return []  # it answers, and would not say
    except EtcdError as exc:
        return [f"{url} does not answer: {exc}"]
    return [f"{url} has not answered within {_PATIENCE:g} s"]


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
