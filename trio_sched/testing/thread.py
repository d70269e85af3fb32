"""A real etcd for tests that have a trio each, or none."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import trio

from trio_sched.testing.etcd import Etcd, open_etcd

__all__ = ["etcd_in_a_thread"]


@contextmanager
def etcd_in_a_thread(
    *, heartbeat_ms: int = 50, election_ms: int = 500, extra_args: Sequence[str] = ()
) -> Iterator[Etcd]:
    """Run an etcd of one member for several tests, with a plain ``with``.

    Each test has a trio of its own, so the server's lives in a thread. Of what the block gives use
    what does not wait: endpoints, names, pids. Arguments and errors as for `open_etcd`.
    """
    opened = open_etcd(heartbeat_ms=heartbeat_ms, election_ms=election_ms, extra_args=extra_args)
    outcome: queue.SimpleQueue[Etcd | BaseException] = queue.SimpleQueue()
    over = trio.Event()
    tokens: list[trio.lowlevel.TrioToken] = []

    async def serve() -> None:
        tokens.append(trio.lowlevel.current_trio_token())
        async with opened as server:
            outcome.put(server)
            await over.wait()

    def run() -> None:
        try:
            trio.run(serve)
        except BaseException as error:  # noqa: BLE001 # raised again by the caller
            outcome.put(error)

    thread = threading.Thread(target=run, name="etcd for several tests")
    thread.start()
    server = outcome.get()  # bounded by `open_etcd`
    if isinstance(server, BaseException):
        thread.join()
        raise server
    try:
        yield server
    finally:
        trio.from_thread.run_sync(over.set, trio_token=tokens[0])
        thread.join()
