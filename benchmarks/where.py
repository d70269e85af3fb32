"""Where our client's CPU time goes: a profile by sampling, on a real etcd.

``python benchmarks/where.py seq``, or another row of ``clients.py``. A timer interrupts the
process after each few milliseconds of CPU time, the kernel's on its behalf included, and notes
whose code runs. Nothing is slowed down by it, unlike with cProfile. A system call counts for who
made it.
"""

from __future__ import annotations

import argparse
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from types import FrameType

import trio
from _blast import Blaster, open_blaster
from _catalogue import AT_ONCE, BURST, KEY, VALUE, WATCHED

from trio_sched.etcd_shim import Client, open_client
from trio_sched.testing import open_etcd

EVERY = 0.001  # seconds of CPU time; the kernel rounds up to its tick

# By a part of the file's name, the first that fits.
PLACES = (
    ("_io_epoll", "epoll: waiting, and being switched to and fro"),
    *((part, "trio: the loop, tasks, scopes") for part in ("/trio/", "/outcome/", "<attrs")),
    ("collections/", "trio: the loop, tasks, scopes"),  # its instruments are a UserDict
    ("<string>", "dataclasses"),
    ("channel/_endpoint", "the socket: send and recv"),
    ("channel/_before_wait", "the before-wait hook"),
    ("channel/http2/header_blocks", "header blocks, with hpack"),
    ("/hpack/", "header blocks, with hpack"),
    ("channel/http2/", "HTTP/2"),
    ("channel/", "the channel: connection and calls"),
    ("_support/", "the channel: connection and calls"),
    ("/grpclib/", "grpclib's stubs"),
    ("etcd_shim/watch", "watches"),
    ("etcd_shim/", "the client: requests and answers"),
    ("benchmarks/", "the benchmark itself"),
)


class Sampler:
    """Counts where the process is each time that the timer strikes."""

    def __init__(self) -> None:
        self.places: Counter[str] = Counter()

    def __enter__(self) -> Sampler:
        signal.signal(signal.SIGPROF, self._note)
        signal.setitimer(signal.ITIMER_PROF, EVERY, EVERY)
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)

    def _note(self, _signal: int, frame: FrameType | None) -> None:
        self.places[_place(frame.f_code.co_filename if frame is not None else "")] += 1


def _place(file: str) -> str:
    return next((name for part, name in PLACES if part in file), "the rest of Python")


async def seq(client: Client, _: Blaster, count: int) -> None:
    """One put after the other."""
    for _ in range(count):
        await client.put(KEY, VALUE)


async def conc(client: Client, blaster: Blaster, count: int) -> None:
    """Many tasks with one put after the other."""
    async with trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            nursery.start_soon(seq, client, blaster, count // AT_ONCE)


async def watch(client: Client, blaster: Blaster, count: int) -> None:
    """Events of others' puts."""
    async with client.watch(WATCHED, prefix=True) as events:
        for _ in range(count // BURST):
            await blaster.put(WATCHED, BURST)
            for _ in range(BURST):
                await anext(events)


async def event(client: Client, _: Blaster, count: int) -> None:
    """A put, until our own watch delivers it."""
    async with client.watch(WATCHED, prefix=True) as events:
        for _ in range(count):
            await client.put(WATCHED, VALUE)
            await anext(events)


async def renew(client: Client, _: Blaster, count: int) -> None:
    """One renewal after the other."""
    lease = await client.lease_grant(600)
    for _ in range(count):
        await client.lease_renew(lease.id)


async def connect(client: Client, _: Blaster, count: int) -> None:
    """Open another client, put, close it."""
    (endpoint,) = client.endpoints
    for _ in range(count):
        async with open_client(endpoint) as another:
            await another.put(KEY, VALUE)


Row = Callable[[Client, Blaster, int], Awaitable[None]]
ROWS: dict[str, tuple[Row, int]] = {
    "seq": (seq, 40_000),
    "conc": (conc, 160_000),
    "watch": (watch, 300_000),
    "event": (event, 30_000),
    "renew": (renew, 60_000),
    "connect": (connect, 8_000),
}


async def profile(name: str) -> None:
    """Measure, and print."""
    row, count = ROWS[name]
    async with (
        open_etcd() as etcd,
        open_blaster(etcd.endpoint.removeprefix("http://")) as blaster,
        open_client(etcd.endpoint) as client,
    ):
        await row(client, blaster, count // 20)
        start = time.process_time_ns()
        with Sampler() as sampler:
            await row(client, blaster, count)
        each = (time.process_time_ns() - start) / count / 1000
    total = sampler.places.total()
    print(f"{name}: {each:.1f} us of CPU for each, {total} samples")
    for place, samples in sampler.places.most_common():
        print(f"{samples / total:6.1%} {each * samples / total:6.1f} us  {place}")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Show where our client's CPU time goes.")
    parser.add_argument("row", choices=tuple(ROWS))
    trio.run(partial(profile, parser.parse_args().row))


if __name__ == "__main__":
    main()
