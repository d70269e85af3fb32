"""SECURITY.md is true: with the rights that it names, each can do what is theirs, and no more."""

from __future__ import annotations

import re

import pytest
import trio

from tests.helpers import PASSWORD, guard, until
from tests.places import ROOT
from trio_sched import Control, observe, open_client, schedule
from trio_sched.etcd_shim.errors import PermissionDenied
from trio_sched.testing import Etcd, open_etcd

TEXT = ROOT.joinpath("SECURITY.md").read_text()
COMMANDS = re.findall(r"^etcdctl (role .*|user .*)$", TEXT, re.MULTILINE)


async def give_rights(etcd: Etcd) -> None:
    """Run the commands of the page, as root."""
    await guard(etcd)
    for command in COMMANDS:
        words = command.replace("PASSWORD", PASSWORD).split()
        await etcd.etcdctl("--user", f"root:{PASSWORD}", *words)


async def test_each_has_the_rights_that_it_needs() -> None:
    path = "/jobs/backup"
    async with open_etcd(extra_args=["--bcrypt-cost=4"]) as etcd:
        await give_rights(etcd)
        async with (
            open_client(etcd.endpoint, user="host", password=PASSWORD) as host,
            open_client(etcd.endpoint, user="operator", password=PASSWORD) as operator,
            open_client(etcd.endpoint, user="reader", password=PASSWORD) as reader,
            schedule(host, path, "a", reaper=True) as result,
            observe(reader, path) as decisions,
        ):
            await until(result, "a")
            await until(decisions, "a")

            async def work(_slot: object) -> None:
                await trio.lowlevel.checkpoint()

            await result.run_while_scheduled(work)
            await Control(operator, path).drain("a")
            await until(result)
            await Control(operator, path).undrain("a")
            await until(result, "a")
            with pytest.raises(PermissionDenied):
                await Control(reader, path).drain("a")
            for client, key in ((operator, f"{path}/scheduled"), (host, "/other"), (reader, path)):
                with pytest.raises(PermissionDenied):
                    await client.put(key, "x")
            with pytest.raises(PermissionDenied):
                async with schedule(operator, path, "b"):
                    pass


def test_there_are_commands() -> None:
    assert len(COMMANDS) == 13
