"""The pages of docs/howto are true: what they show runs, and prints what they say."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import click
import trio
import trustme

from tests.cli.run.run_tools import Lines, done
from tests.docs.terminals import Reader, blocks, open_reader
from tests.etcd_shim.test_transport import write
from tests.helpers import PASSWORD
from tests.places import DOCS, ROOT
from tests.reaper.process_tools import ended_with_block
from tests.test_rights import give_rights
from trio_sched import Slot, open_client, schedule
from trio_sched.cli.group import command
from trio_sched.testing import Etcd, open_etcd

HOWTO = DOCS / "howto"


def files(page: str) -> dict[str, str]:
    """The files of a page, by their names."""
    found = blocks((HOWTO / page).read_text())
    return {block.caption: block.text for block in found if block.terminal is None}


async def test_a_service_leaves_in_good_order_at_sigterm(tmp_path: Path) -> None:
    async with open_etcd() as etcd, open_reader(tmp_path, etcd.endpoint) as reader:
        for block in blocks((HOWTO / "signals.md").read_text()):
            await reader.do(block)


async def test_the_program_with_tls_and_a_user_runs(tmp_path: Path) -> None:
    authority = trustme.CA()
    cert, key = write(authority.issue_cert("127.0.0.1"), tmp_path, "server")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    mine, my_key = write(authority.issue_cert("client"), tmp_path, "client")
    for file, name in ((mine, "host.pem"), (my_key, "host.key")):
        (tmp_path / name).write_bytes(file.read_bytes())
    (tmp_path / "connect.py").write_text(files("rights.md")["connect.py"])
    tls = (cert, key, tmp_path / "ca.pem")
    async with open_etcd(client_tls=tls, extra_args=["--bcrypt-cost=4"]) as etcd:
        await give_rights(etcd)
        env = {"PYTHONPATH": str(ROOT), "ETCDCTL_ENDPOINTS": etcd.endpoint}
        ended = await trio.run_process(
            [sys.executable, "connect.py"],
            cwd=tmp_path,
            env=os.environ | env | {"ETCD_PASSWORD": PASSWORD},
            capture_stdout=True,
        )
        assert ended.stdout == b"host-a is chosen\n"
        await _connects_by_the_variables(etcd, tmp_path)


async def _connects_by_the_variables(etcd: Etcd, folder: Path) -> None:
    (text,) = re.findall(
        r"^```sh\n(export.*?)^```", (HOWTO / "rights.md").read_text(), re.MULTILINE | re.DOTALL
    )
    names = dict(re.findall(r"(ETCDCTL_\w+)=(\S+)", text))
    values = {"ETCDCTL_ENDPOINTS": etcd.endpoint, "ETCDCTL_PASSWORD": PASSWORD}
    files = {name: str(folder / Path(value).name) for name, value in names.items() if "/" in value}
    env = names | files | values
    assert env.keys() == {f"ETCDCTL_{name}" for name in VARIABLES}
    assert (await done("/jobs/backup", "--", "true", env=env))[0] == 0


VARIABLES = ("ENDPOINTS", "CACERT", "CERT", "KEY", "USER", "PASSWORD")


async def test_a_fleet_is_upgraded_host_by_host(tmp_path: Path, path: str) -> None:
    """Each is drained, ended, and started again by another process; work is never doubled."""
    drain, undrain = blocks((HOWTO / "upgrading.md").read_text())
    at_work: list[str] = []

    async with open_etcd() as etcd, open_reader(tmp_path, etcd.endpoint) as reader:

        async def host(name: str, *, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
            async def work(_slot: Slot) -> None:
                at_work.append(name)
                assert len(at_work) == 1
                try:
                    await trio.sleep_forever()
                finally:
                    at_work.remove(name)

            with trio.CancelScope() as life:
                async with (
                    open_client(etcd.endpoint) as client,
                    schedule(client, path, name) as result,
                ):
                    await result.next()
                    task_status.started(life)
                    await result.run_while_scheduled(work, restart=True)

        async with trio.open_nursery() as nursery:
            lives = {name: await nursery.start(host, name) for name in ("host-a", "host-b")}
            for name in ("host-a", "host-b"):
                await _type(reader, drain.text, name)
                assert name not in at_work
                lives[name].cancel()
                lives[name] = await nursery.start(host, name)
                assert name not in at_work, "it comes back drained"
                await _type(reader, undrain.text, name)
            nursery.cancel_scope.cancel()


async def _type(reader: Reader, text: str, host: str) -> None:
    """Run the command of a block, for another host."""
    line = text.removeprefix("$ ").replace("host-a", host)
    await trio.run_process(["sh", "-c", line], env=dict(reader.environment), capture_stdout=True)


async def test_the_controller_runs(tmp_path: Path, endpoint: str) -> None:
    (tmp_path / "controller.py").write_text(files("moving.md")["controller.py"])
    env = os.environ | {"PYTHONPATH": str(ROOT), "ETCDCTL_ENDPOINTS": endpoint}
    process = await trio.lowlevel.open_process(
        [sys.executable, "controller.py", "pod-1"],
        cwd=tmp_path,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # it is ended by Ctrl-C
    )
    assert process.stdout is not None
    lines = Lines(process.stdout)
    async with ended_with_block(process, 50):
        seen = {await lines.read()}
        while not {"pod-1 starts", "now it is pod-1"} <= seen:
            seen.add(await lines.read())
        process.send_signal(signal.SIGINT)
        while line := await lines.read():
            seen.add(line)
    assert "pod-1 stops" in seen


def test_each_option_of_ours_that_the_pages_name_exists() -> None:
    known = {"--help"}
    for name in command.list_commands(click.Context(command)):
        found = command.get_command(click.Context(command), name)
        assert found is not None
        known |= {option for each in found.params for option in each.opts}
    for page in HOWTO.glob("*.md"):
        ours = re.findall(r"trio-sched \w+[^`|\n]*?(?= -- |`|$|\|)", page.read_text(), re.MULTILINE)
        named = {option for line in ours for option in re.findall(r"(?<!\S)--\w[\w-]+", line)}
        assert named <= known, page.name
    moved = (HOWTO / "moving.md").read_text()
    column = re.findall(r"^\|[^|]*\|([^|]*)\|$", moved, re.MULTILINE)
    named = {option for cell in column for option in re.findall(r"--\w[\w-]+", cell)}
    assert named
    assert named <= known
