"""`Metrics`: of which hosts and clients there are metrics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import trio

from trio_sched.etcd_shim import Client
from trio_sched.host.result import Result
from trio_sched.metrics.families import Family, HostNumbers, families_of

__all__ = ["Metrics"]

T = TypeVar("T")


class Metrics:
    """The hosts and clients whose numbers are wanted. Made inside of ``trio.run``.

    It counts nothing by itself, and costs nothing until it is asked. `families` may be called
    in any thread: it reads numbers, waits for nothing and needs no task of Trio.

    ``metrics.watching(result)`` is a block in which a host is among them.
    """

    def __init__(self) -> None:
        self._clock = trio.lowlevel.current_clock()
        self._hosts: tuple[Result, ...] = ()
        self._clients: tuple[Client, ...] = ()

    @contextmanager
    def watching(self, *sources: Result | Client) -> Iterator[None]:
        """Give the numbers of these hosts and clients, as long as the block lasts.

        The client of a host is among them by itself; each has the label `client`, numbered from
        0 on, and its endpoints are in none. Blocks may be nested, and end in any order. Of hosts
        that have the path and the name in common, as on two clusters, the one that was given last
        is shown, as no scrape may hold a number twice; give each cluster `Metrics` of its own.

        Raises:
            TypeError: one of them is neither a `Result` nor a `Client`.
        """
        for source in sources:
            if not isinstance(source, (Result, Client)):
                raise TypeError(f"metrics are of a Result or a Client, not of {source!r}")
        hosts = [source for source in sources if isinstance(source, Result)]
        clients = [source for source in sources if isinstance(source, Client)]
        clients += [host.client for host in hosts]
        self._hosts += tuple(hosts)
        self._clients += tuple(clients)
        try:
            yield
        finally:
            self._hosts = _without(self._hosts, hosts)
            self._clients = _without(self._clients, clients)

    def families(self) -> list[Family]:
        """Return all there is to know now."""
        now = self._clock.current_time()
        named = {(result.path, result.hostname): result for result in self._hosts}
        hosts = [HostNumbers(*name, r.statistics(), now) for name, r in named.items()]
        distinct = list(dict.fromkeys(self._clients))
        clients = [({"client": str(n)}, one.statistics()) for n, one in enumerate(distinct)]
        return families_of(hosts, clients)


def _without(given: tuple[T, ...], gone: list[T]) -> tuple[T, ...]:
    """Return a tuple without one of each of those that are gone."""
    left = list(given)
    for one in gone:
        left.remove(one)
    return tuple(left)
