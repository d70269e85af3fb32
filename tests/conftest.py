"""Fixtures of all tests: one real etcd for the whole run, and a path of its own for each test."""

from __future__ import annotations

import itertools
import os
import re
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from tests.reaper.tree_tools import marked
from trio_sched import strategies
from trio_sched.testing import Etcd, etcd_in_a_thread

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
    """One server for the whole run. Leave it running, and keep to your own `path`."""
    with etcd_in_a_thread() as server:
        yield server


@pytest.fixture(scope="module")
def untraced() -> Iterator[None]:
    """Do without coverage, which would take as long again; the other tests show it."""
    tracer = sys.gettrace()
    sys.settrace(None)
    yield
    sys.settrace(tracer)


@pytest.fixture(autouse=True)
def strategies_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no registered strategy outlive its test."""
    monkeypatch.setattr(strategies, "_registry", dict(strategies._registry))


@pytest.fixture
def mark() -> Iterator[str]:
    """A number of seconds that the processes of this test alone sleep for; none outlives it."""
    found = f"300.{os.getpid()}{next(_numbers):04}"
    yield found
    for pid in marked(found):
        os.kill(pid, signal.SIGKILL)


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
