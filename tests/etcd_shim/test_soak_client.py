"""A client under load outlives many faults, by a plan that a seed gives.

``TRIO_SCHED_SOAK`` is for how many seconds, ``TRIO_SCHED_SEED`` for which plan; ``nox -s soak``
sets both. Among the tests it is always the same plan: a search belongs to the longer ones.
"""

from __future__ import annotations

import os
import random
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.etcd_shim.soak_client import Report, open_client_soak
from tests.etcd_shim.test_auth_changes import write_keys
from tests.helpers import guard
from trio_sched.etcd_shim._pb import messages_pb2 as pb
from trio_sched.etcd_shim.watch import Watcher
from trio_sched.testing import Etcd, open_etcd

SECONDS = float(os.environ.get("TRIO_SCHED_SOAK") or "12")
LONG = "TRIO_SCHED_SOAK" in os.environ
SEED = int(os.environ.get("TRIO_SCHED_SEED") or (secrets.randbelow(10**6) if LONG else 15))


@asynccontextmanager
async def open_cluster(folder: Path, seed: int) -> AsyncIterator[tuple[Etcd, str]]:
    """Three members that ask who we are, by tokens of a kind and a life that the seed gives."""
    dice = random.Random(seed)
    kind, ttl = dice.choice(["simple", "jwt"]), dice.choice([1, 2, 300])
    options = ["--bcrypt-cost=4"]
    if kind == "jwt":
        private, public = write_keys(folder)
        method = f"jwt,pub-key={public},priv-key={private},sign-method=RS256,ttl={ttl}s"
        options += [f"--auth-token={method}"]
    else:
        options += [f"--auth-token-ttl={ttl}"]
    async with open_etcd(members=3, extra_args=options) as etcd:
        await guard(etcd)
        yield etcd, f"{kind} tokens that live {ttl} s"


def show(began: float, report: Report) -> None:
    """Show how it goes; what is printed is shown if the test fails, and by ``-s``."""
    print(f"{time.monotonic() - began:.0f} s: {report}", flush=True)  # noqa: T201


@pytest.mark.timeout(SECONDS + 180)
async def test_a_client_outlives_faults(tmp_path: Path) -> None:
    began = time.monotonic()
    async with open_cluster(tmp_path, SEED) as (etcd, tokens):
        print(f"seed {SEED}, etcd {etcd.executable}, {tokens}")  # noqa: T201 # as above
        async with open_client_soak(etcd, tmp_path, SEED) as soak:
            await soak.make_trouble(SECONDS, lambda report: show(began, report))
        report = soak.report
        show(began, report)
    assert not report.violations, f"seed {SEED}"
    assert report.after == report.left == (0, 0), "tasks and descriptors more than before"
    assert report.fates["acknowledged"] > SECONDS
    assert report.counts["events"] > 10 * SECONDS


async def test_the_soak_finds_a_watch_with_a_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that resumes its watches too late is found out by any fault of its connection."""
    right = Watcher._creation

    def late(self: Watcher) -> pb.WatchRequest:
        request = right(self)
        if self._was_created:
            request.create_request.start_revision += 100
        return request

    monkeypatch.setattr(Watcher, "_creation", late)
    async with (
        open_cluster(tmp_path, 1) as (etcd, _),
        open_client_soak(etcd, tmp_path, 1) as soak,
    ):
        with trio.fail_after(50):
            while not soak.report.violations:
                soak.faults.cut_all()
                await soak.judge()
    assert any("did not come" in words for words in soak.report.violations)
