"""Fixtures of all tests: one real etcd for the whole run, and a path of its own for each test."""

from __future__ import annotations

import itertools
import queue
import re
import signal
import threading
from typing import TYPE_CHECKING

import pytest
import trio

from trio_sched import strategies
from trio_sched.testing import Etcd, open_etcd

if TYPE_CHECKING:
    from collections.abc import Iterator

_numbers = itertools.count(1)

# Run by nohup, or in the background of a shell, we would hand on to all processes that we start
# that signals are ignored. Some tests are about that, and ignore them themselves.
for number in (signal.SIGHUP, signal.SIGQUIT):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def etcd() -> Iterator[Etcd]:
    """One server for the whole run. Leave it running, and keep to your own `path`.

    Each test has a Trio of its own, so the server's lives in a thread. Of what it yields use what
    does not wait: endpoints, names, pids.
    """
    outcome: queue.SimpleQueue[Etcd | BaseException] = queue.SimpleQueue()
    over = trio.Event()
    tokens: list[trio.lowlevel.TrioToken] = []

    async def serve() -> None:
        tokens.append(trio.lowlevel.current_trio_token())
        async with open_etcd() as server:
            outcome.put(server)
            await over.wait()

    def run() -> None:
        try:
            trio.run(serve)
        except BaseException as error:  # noqa: BLE001 - raised again where the fixture is asked for
            outcome.put(error)

    thread = threading.Thread(target=run, name="etcd for all tests")
    thread.start()
    server = outcome.get(timeout=60)
    if isinstance(server, BaseException):
        thread.join()
        raise server
    try:
        yield server
    finally:
        trio.from_thread.run_sync(over.set, trio_token=tokens[0])
        thread.join()


@pytest.fixture(autouse=True)
def strategies_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no registered strategy outlive its test."""
    monkeypatch.setattr(strategies, "_registry", dict(strategies._registry))


@pytest.fixture
def endpoint(etcd: Etcd) -> Iterator[str]:
    """The URL of the server that all tests share."""
    yield etcd.endpoint
    (member,) = etcd.members
    if not member.running:  # all tests to come would fail, and none would say why
        pytest.exit(f"this test brought down the etcd of all tests, which wrote:\n{member.log}", 1)


@pytest.fixture
def path(request: pytest.FixtureRequest) -> str:
    """A path in etcd that no other test uses."""
    name = re.sub(r"[^\w.-]+", "-", request.node.name).strip("-")
    return f"/t/{name}-{next(_numbers)}"
