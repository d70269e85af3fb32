"""`trio-sched run` and all that its command starts: F49 to F54, with real processes."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.cli.run.run_tools import Run, open_run
from tests.reaper.process_tools import eventually, exists, proc_bytes
from tests.reaper.tree_tools import has_cgroups, marked
from trio_sched.etcd_shim import Client, open_client
from trio_sched.reaper.child import NO_CGROUP

PLAIN = {NO_CGROUP: "1"}
ESCAPES = {
    "timeout": "timeout 600 sleep {0}",
    "setsid": "setsid -w sleep {0}",
    "setsid in the background": "setsid sleep {0} & sleep {0}",
    "a double fork": "(setsid sh -c 'sleep {0} & exec sleep {0}' &) ; sleep {0}",
    "another user": "setpriv --reuid 12345 --regid 12345 --clear-groups sleep {0}",
    "no environment": "env -i PATH=$PATH setsid sleep {0} & sleep {0}",
    "su": "su -c 'sleep {0}' 2>/dev/null",
}


@pytest.fixture(params=["cgroup", "no cgroup"])
def env(request: pytest.FixtureRequest) -> dict[str, str]:
    """With a cgroup, and without."""
    if request.param == "no cgroup":
        return PLAIN
    if not has_cgroups():
        pytest.skip("no cgroup may be made here")
    return {}


def keeper_of(run: Run) -> int:
    return int(proc_bytes(run.child, "stat").rpartition(b")")[2].split()[1])


def reaper_of(run: Run) -> int:
    """The wrapper's child that is not the keeper."""
    text = Path(f"/proc/{run.process.pid}/task/{run.process.pid}/children").read_text()
    (found,) = {int(pid) for pid in text.split()} - {keeper_of(run)}
    return found


# ---- F49: outside of the process group ----------------------------------------------------------


@pytest.mark.parametrize("escape", ESCAPES)
async def test_f49_what_leaves_the_group_is_ended_when_we_are_asked_to_end(
    endpoint: str, path: str, mark: str, escape: str
) -> None:
    if os.getuid() and escape in {"another user", "su"}:
        pytest.skip("only root may change the user")
    command = ["sh", "-c", ESCAPES[escape].format(mark)]
    async with (
        open_client(endpoint) as client,
        open_run(endpoint, path, command=command, env=PLAIN) as run,
    ):
        await run.event("started")
        await eventually(lambda: marked(mark))
        run.send(signal.SIGTERM)
        await run.event("exit")
        assert not marked(mark)
        assert not (await client.get_prefix(f"{path}/")).kvs


@pytest.mark.parametrize("escape", ESCAPES)
async def test_f49_what_leaves_the_group_is_gone_before_another_host_begins(
    endpoint: str, path: str, mark: str, env: dict[str, str], escape: str
) -> None:
    if os.getuid() and escape in {"another user", "su"}:
        pytest.skip("only root may change the user")
    command = ["sh", "-c", "trap '' TERM; " + ESCAPES[escape].format(mark)]
    alpha = ("--strategy", "alpha", "--grace", "0.2")
    async with open_run(endpoint, path, *alpha, name="b", command=command, env=env) as old:
        await old.event("started")
        await eventually(lambda: marked(mark))
        async with open_run(endpoint, path, *alpha, name="a", command=["sleep", "300"]) as new:
            await new.event("started")
            assert not marked(mark)


async def test_f49_sigchld_ignored_when_we_are_started(endpoint: str, path: str, mark: str) -> None:
    words = "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); "
    words += "os.execv(sys.argv[1], sys.argv[1:])"
    ignores = [sys.executable, "-c", words]
    command = ["sh", "-c", f"setsid sleep {mark} & sh -c 'exit 3'; exit $?"]
    async with open_run(endpoint, path, command=command, under=ignores) as run:
        await run.event("started")
        assert (await run.event("ended"))["code"] == 3
        assert await run.code() == 3
        assert not marked(mark)


# ---- F50: the main thread has ended -------------------------------------------------------------

THREADS_GO_ON = """
import ctypes, os, threading, time
def work():
    print(os.getpid(), flush=True)
    while True:
        time.sleep(0.01)
threading.Thread(target=work).start()
ctypes.CDLL(None).pthread_exit(None)
"""


def is_half_dead(pid: int) -> bool:
    return proc_bytes(pid, "stat").rpartition(b")")[2].split()[0] == b"Z"


@pytest.mark.parametrize("below", [False, True])
async def test_f50_a_command_whose_main_thread_has_ended_is_ended_like_any_other(
    endpoint: str, path: str, *, below: bool
) -> None:
    program = [sys.executable, "-c", THREADS_GO_ON]
    command = ["sh", "-c", 'setsid "$@" & wait', "sh", *program] if below else program
    alpha = ("--strategy", "alpha", "--grace", "0.2")
    async with open_run(endpoint, path, *alpha, name="b", command=command, env=PLAIN) as old:
        await old.event("started")
        pid = int(await old.line())
        assert (pid == old.child) is not below
        await eventually(lambda: is_half_dead(pid))
        assert exists(pid)
        async with open_run(endpoint, path, *alpha, name="a", command=["sleep", "300"]) as new:
            await new.event("started")
            assert not exists(pid)
            assert (await old.event("ended"))["lost"]


# ---- F51: not ours to signal --------------------------------------------------------------------

# Root that may not signal others, and a program of another user.
POWERLESS = ["setpriv", "--bounding-set", "-kill", "--inh-caps", "-kill"]
OTHER_USER = "setpriv --reuid 12345 --regid 12345 --clear-groups"


@pytest.mark.skipif(os.getuid() != 0, reason="only root may change the user")
@pytest.mark.parametrize("wrapper", ["lives", "is killed"])
async def test_f51_what_we_may_not_signal_counts_as_running(
    endpoint: str, path: str, mark: str, wrapper: str
) -> None:
    """Said at once, and no other host begins while it runs, though the lease would have lapsed."""
    options = ("--ttl", "2", "--grace", "0.2")
    command = ["sh", "-c", f"exec {OTHER_USER} sleep {mark}"]
    async with (
        open_client(endpoint) as client,
        open_run(
            endpoint, path, *options, command=command, name="b", env=PLAIN, under=POWERLESS
        ) as old,
    ):
        await old.event("started")
        await eventually(lambda: proc_bytes(old.child, "cmdline").startswith(b"sleep"))
        said = await old.event("log")
        assert f"may not signal process {old.child} " in said["message"]
        if wrapper == "lives":
            old.send(signal.SIGTERM)
            assert (await old.event("signal"))["passed_on"]
        else:
            old.process.kill()
            await old.process.wait()
        async with open_run(endpoint, path, *options, name="c", command=["sleep", "300"]) as new:
            await new.event("joined")
            await lapsed(client, f"{path}-probe", 4)
            assert marked(mark) == [old.child]
            assert [kv.value for kv in await client.get_prefix(f"{path}/slots/")] == [b"b"]
            os.kill(old.child, signal.SIGKILL)
            await new.event("started")
            assert not marked(mark)


async def lapsed(client: Client, key: str, ttl: int) -> None:
    """Wait until a lease of this TTL has lapsed: time passes for others, too."""
    lease = (await client.lease_grant(ttl)).id
    await client.put(key, "", lease=lease)
    async with client.watch(key) as events:
        await anext(events)


# ---- F52, F53: the wrapper, the reaper, the keeper ----------------------------------------------

# In groups and sessions of its own, and deaf to SIGTERM.
TREE = (
    "trap '' TERM; setsid sleep {0} & (setsid sh -c 'sleep {0} & exec sleep {0}' &) ;"
    " timeout 600 sleep {0} & sleep {0} & echo ready; wait"
)
TREE_SIZE = 6  # `timeout` has the number among its words, too

# Who is killed ("k") or stopped ("s"), one after the other: wrapper, reaper, keeper.
BLOWS = [
    *("k:w", "k:k", "k:w k:r", "k:r k:w", "k:w k:k", "k:k k:w", "k:w s:r"),
    *("s:r k:w", "s:k k:w", "s:k k:w k:r", "s:w k:r k:w", "s:w k:k k:w", "s:w s:r k:w"),
    *("s:w", "s:w s:r", "s:w k:r", "s:w k:k", "s:w s:k", "s:r s:w", "k:r s:w", "s:k s:w"),
]


@pytest.mark.parametrize("blows", BLOWS)
async def test_f52_nothing_is_left_when_another_host_begins(
    endpoint: str, path: str, mark: str, env: dict[str, str], blows: str
) -> None:
    """Killed or stopped in any order: none of the tree runs beside another host's command."""
    options = ("--ttl", "2", "--grace", "0.3")
    command = ["sh", "-c", TREE.format(mark)]
    async with open_run(endpoint, path, *options, name="b", command=command, env=env) as old:
        await old.event("started")
        assert await old.line() == "ready"
        await eventually(lambda: len(marked(mark)) == TREE_SIZE)
        pids = {"w": old.process.pid, "r": reaper_of(old), "k": keeper_of(old)}
        async with open_run(endpoint, path, *options, name="c", command=["sleep", "300"]) as new:
            await new.event("joined")
            try:
                for blow in blows.split():
                    number = signal.SIGKILL if blow[0] == "k" else signal.SIGSTOP
                    os.kill(pids[blow[-1]], number)
                await new.event("started")
                assert not marked(mark)
            finally:
                if "k:w" not in blows:
                    old.send(signal.SIGCONT)


async def test_f52_the_kernel_ends_the_command_when_all_of_us_are_killed(
    endpoint: str, path: str
) -> None:
    async with open_client(endpoint) as client:
        async with open_run(endpoint, path, command=["sleep", "300"]) as run:
            await run.event("started")
            pids = [run.process.pid, reaper_of(run), keeper_of(run)]
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)  # so that none of them sees another one's end
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            await eventually(lambda: not exists(run.child))
        (lease,) = {kv.lease for kv in await client.get_prefix(f"{path}/slots/")}
        await client.lease_revoke(lease)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_f53_a_reaper_that_is_gone_or_silent_is_said_and_replaced(
    endpoint: str, path: str, mark: str, number: signal.Signals
) -> None:
    """And the new one knows all that the old one knew."""
    command = ["sh", "-c", TREE.format(mark)]
    async with open_client(endpoint) as client:
        async with open_run(endpoint, path, "--ttl", "60", command=command, env=PLAIN) as run:
            await run.event("started")
            assert await run.line() == "ready"
            await answered(run)
            for _ in range(2):
                old = reaper_of(run)
                os.kill(old, number)
                assert "the reaper is gone" in (await run.event("log"))["message"]
                assert not exists(old)
                await answered(run)
            async with client.watch(f"{path}/slots/0") as events:
                run.process.kill()
                await anext(events)
                assert not marked(mark)
            # Released, and not just gone with its lease: so the next host need not pause.
            assert (await client.get(f"{path}/slots.taken/0")).kv is None


async def answered(run: Run) -> None:
    """Wait until the reaper is up: it has shown that it is alive."""
    await eventually(lambda: is_up(run))


def is_up(run: Run) -> bool:
    try:
        (line,) = (
            x for x in proc_bytes(reaper_of(run), "status").splitlines() if x.startswith(b"SigIgn")
        )
    except (ValueError, OSError):
        return False
    return bool(int(line.split()[1], 16) & 1 << signal.SIGTERM - 1)


async def test_f53_a_keeper_that_is_killed_is_no_end_of_the_slot_before_all_has_ended(
    endpoint: str, path: str, mark: str
) -> None:
    """What it adopted is found by its parent, however well it hides."""
    hides = f"env -i PATH=$PATH setsid sleep {mark} & exec env -i sleep {mark}"
    async with open_run(endpoint, path, command=["sh", "-c", hides], env=PLAIN) as run:
        await run.event("started")
        await eventually(lambda: len(marked(mark)) == 2)
        os.kill(keeper_of(run), signal.SIGKILL)
        assert (await run.event("ended"))["code"] == 137
        assert not marked(mark)
        assert await run.code() == 137


# ---- F54: stopped -------------------------------------------------------------------------------


async def test_f54_a_stopped_tree_ends_when_we_are_asked_to_end(
    endpoint: str, path: str, mark: str
) -> None:
    words = f"setsid sh -c 'trap \"exit 0\" TERM; sleep {mark} & wait' & sleep {mark} & wait"
    async with open_run(endpoint, path, "--grace", "5", command=["sh", "-c", words]) as run:
        await run.event("started")
        await eventually(lambda: len(marked(mark)) == 2)
        for pid in (*marked(mark), run.child):
            os.kill(pid, signal.SIGSTOP)
        run.send(signal.SIGTERM)
        assert not (await run.event("ended"))["killed"]
        assert await run.code() == 143
        assert not marked(mark)
