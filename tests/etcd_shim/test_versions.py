"""Versions of etcd with known faults: which, what is logged, and the table for operators."""

from __future__ import annotations

import logging

import pytest
import trio

from tests.places import DOCS
from trio_sched.etcd_shim import open_client
from trio_sched.etcd_shim._versions import _FAULTS, known_faults
from trio_sched.testing import Etcd

LOST, EARLY, MISSED = "etcd#13766", "etcd#15247", "etcd#17529"


@pytest.mark.parametrize(
    ("version", "issues"),
    [
        ("3.3.27", [EARLY, MISSED]),
        ("3.4.23", [EARLY, MISSED]),
        ("3.4.30", [EARLY, MISSED]),
        ("3.4.31", []),
        ("3.5.0", [LOST, EARLY, MISSED]),
        ("3.5.1", [LOST, EARLY, MISSED]),
        ("3.5.2+git", [LOST, EARLY, MISSED]),
        ("3.5.3", [EARLY, MISSED]),
        ("3.5.12", [EARLY, MISSED]),
        ("3.5.13", []),
        ("3.5.16", []),
        ("3.5.30", []),
        ("3.6.0-rc.1", []),
        ("", []),
        ("of another kind", []),
    ],
)
def test_which_faults_a_version_has(version: str, issues: list[str]) -> None:
    assert [fault.issue for fault in known_faults(version)] == issues


def test_the_table_for_operators_is_the_same() -> None:
    page = (DOCS / "operations.md").read_text()
    for fault, _ in _FAULTS:
        row = (
            f"| {fault.versions} | {fault.what} | {fault.issue} | upgrade: mended in {fault.cure} |"
        )
        assert row in page


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.name == "trio_sched.etcd_shim"]


async def test_one_warning_for_each_client_that_keeps_a_lease(
    etcd: Etcd, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "trio_sched")
    async with open_client(etcd.endpoint) as client:
        lease = await client.lease_grant(20)
        assert client.statistics().connections[0].started_calls == 1, "nothing is asked at first"
        version = (await client.status()).version
        assert not warnings_of(caplog), "the caller has it"
        for _ in range(3):
            await client.lease_renew(lease.id)
        expected = [fault.issue for fault in known_faults(version)]
        while bool(expected) > len(warnings_of(caplog)):  # noqa: ASYNC110 # a service task asks
            await trio.sleep(0.001)
        assert len(warnings_of(caplog)) == bool(expected)
        assert all(issue in warnings_of(caplog)[0] for issue in expected)
        await client.lease_revoke(lease.id)
