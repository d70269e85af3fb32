"""`trio-sched run`: when the child runs, and how it ends. F26, with real processes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.cli.run.run_tools import Run, done, open_run
from tests.reaper.process_tools import alive, eventually, open_files
from trio_sched import Control
from trio_sched.etcd_shim import Client, open_client
from trio_sched.reaper.helper.groups import living_members
from trio_sched.testing import open_etcd

SLEEP = ["sleep", "300"]
# Ignores what it is asked, and has children of its own that do, too.
STUBBORN = ["sh", "-c", "trap '' TERM INT HUP QUIT; sleep 300 & sleep 300 & echo ready; wait; wait"]
# Answers to a signal with its name, and ends with 3; the shell itself has words for that, too.
TRAPS = 'for s in TERM INT HUP QUIT USR1; do trap "echo $s; exit 3" $s; done'
POLITE = ["sh", "-c", f"exec 2>/dev/null; {TRAPS}; echo ready; while :; do sleep 0.05; done"]
PASSED_ON = ["TERM", "INT", "HUP", "QUIT"]


def number_of(name: str) -> signal.Signals:
    return signal.Signals[f"SIG{name}"]


async def slots(client: Client, path: str) -> list[str]:
    return [kv.value.decode() for kv in await client.get_prefix(f"{path}/slots/")]


async def nothing_left(client: Client, path: str) -> None:
    """No host is on the path any more."""
    assert not (await client.get_prefix(f"{path}/")).kvs


# ---- what the child gets ------------------------------------------------------------------------


async def test_the_environment(endpoint: str, path: str) -> None:
    words = "env; read line; echo got $line"
    async with (
        open_client(endpoint) as client,
        open_run(endpoint, path, command=["sh", "-c", words], env={"ETCD_LOCK_REV": "x"}) as run,
    ):
        started = await run.event("started")
        env: dict[str, str] = {}
        while not {"ETCD_LOCK_REV", "TRIO_SCHED_DEADLINE"} <= env.keys() or len(env) < 9:
            name, _, value = (await run.line()).partition("=")
            if name.startswith(("TRIO_SCHED_", "ETCD_LOCK")) and name != "TRIO_SCHED_ETCD":
                env[name] = value
        (kv,) = (await client.get_prefix(f"{path}/slots/")).kvs
        deadline = float(env.pop("TRIO_SCHED_DEADLINE"))
        assert time.monotonic() < deadline <= started["deadline"] < time.monotonic() + 10
        assert env == {
            "TRIO_SCHED_PATH": path,
            "TRIO_SCHED_HOSTNAME": "host",
            "TRIO_SCHED_SLOT": "0",
            "TRIO_SCHED_TOKEN": str(kv.create_revision),
            "TRIO_SCHED_ROSTER": f"{kv.create_revision} {kv.create_revision}",
            "TRIO_SCHED_HOSTS": "host",
            "ETCD_LOCK_KEY": kv.key.decode(),
            "ETCD_LOCK_REV": str(kv.create_revision),
        }
        assert (started["slot"], started["token"]) == (0, kv.create_revision)
        assert run.process.stdin is not None
        await run.process.stdin.send_all(b"a line\n")
        while (line := await run.line()) != "got a line":
            assert not line.startswith("got")
        assert await run.code() == 0
        await nothing_left(client, path)


async def test_the_child_has_a_group_of_its_own_and_dies_with_us(endpoint: str, path: str) -> None:
    command = ["grep", "-E", "^Sig(Ign|Blk)", "/proc/self/status"]
    async with open_run(endpoint, path, command=command) as run:
        status = dict([(await run.line()).split(":", 1) for _ in range(2)])
        assert int(status["SigIgn"], 16) & (1 << (signal.SIGPIPE - 1)) == 0, "Python ignores it"
        assert int(status["SigBlk"], 16) == 0
        assert await run.code() == 0
    async with open_run(endpoint, path, command=SLEEP) as run:
        child = (await run.event("started"))["pid"]
        assert os.getpgid(child) == child
        assert os.getpgid(run.process.pid) == os.getpgid(0)


# ---- exit codes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 7"], 7),
        (["sh", "-c", "kill -9 $$"], 137),
        (["no-such-command"], 127),
        (["/no/such/command"], 127),
        ([""], 127),
        (["/etc/passwd"], 126),
        (["/"], 126),
    ],
)
async def test_exit_codes_of_the_child(
    endpoint: str, path: str, command: list[str], code: int
) -> None:
    found, out, err = await done("-q", "--endpoints", endpoint, path, "--", *command)
    assert (found, out) == (code, "")
    assert err.count("\n") == (code in {126, 127}), err
    async with open_client(endpoint) as client:
        await nothing_left(client, path)


async def test_a_program_that_the_kernel_refuses(endpoint: str, path: str, tmp_path: Path) -> None:
    """It is found only when it is run: such as a script whose interpreter is not there."""
    for name, text, code in (("a", "#!/no/such/shell\n", 127), ("b", "\x7fELF", 126)):
        script = tmp_path / name
        script.write_text(text)
        script.chmod(0o755)
        found, _, err = await done("--endpoints", endpoint, path, "--restart", "--", str(script))
        assert found == code
        assert err.startswith("trio-sched: cannot run")


@pytest.mark.parametrize(
    "arguments",
    [
        ["relative", "--", "true"],
        ["/a"],
        ["/a", "--hostname", "a,b", "--", "true"],
        ["/a", "--strategy", "nonsense", "--", "true"],
        ["/a", "--ttl", "0", "--", "true"],
        ["/a", "--ttl", "10", "--grace", "6", "--", "true"],
        ["/a", "-n", "0", "--", "true"],
        ["/a", "--once", "--restart", "--", "true"],
        ["/a", "--on-lost", "signal:NONE", "--", "true"],
        ["/a", "--on-lost", "kill", "--", "true"],
        ["/a", "--endpoints", "ftp://x", "--", "true"],
        ["/a", "--cacert", "/no/such/file", "--", "true"],
    ],
)
async def test_wrong_usage(arguments: list[str]) -> None:
    code, out, err = await done(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("trio-sched: ")
    assert err.endswith("; see `trio-sched run --help`\n")


async def test_no_etcd() -> None:
    code, _, err = await done("--endpoints", "127.0.0.1:1", "/a", "--", "true")
    assert code == 69
    assert err.count("\n") == 1
    assert "--endpoints" in err


async def test_not_scheduled_in_time(endpoint: str, path: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    async with open_run(endpoint, path, command=SLEEP) as first:
        await first.event("started")
        for options in (["--no-wait"], ["--wait", "0.5"]):
            code, _, err = await done(
                path, "--endpoints", endpoint, "--hostname", "b", *options, "--", "touch", str(mark)
            )
            assert (code, err) == (75, "trio-sched: not scheduled in time\n")
    assert not mark.exists()


async def test_in_time_is_for_good(endpoint: str, path: str) -> None:
    async with open_run(endpoint, path, "--no-wait", command=["sleep", "1.5"]) as run:
        assert await run.code() == 0, "longer than it would have waited"


async def test_the_name_is_in_use(endpoint: str, path: str) -> None:
    async with open_run(endpoint, path, "--ttl", "2", command=SLEEP) as first:
        await first.event("started")
        code, _, err = await done(path, "--endpoints", endpoint, "--hostname", "host", "--", "true")
        assert code == 75
        assert "--hostname" in err


# ---- the right to run is lost -------------------------------------------------------------------


async def test_f26_hand_over_begins_when_the_whole_group_is_gone(endpoint: str, path: str) -> None:
    alpha = ("--strategy", "alpha", "--grace", "0.3")
    async with open_run(endpoint, path, *alpha, name="b", command=STUBBORN) as old:
        await old.event("started")
        assert await old.line() == "ready"
        group = living_members(old.child)
        assert len(group) == 3
        async with open_run(endpoint, path, *alpha, name="a", command=SLEEP) as new:
            started = await new.event("started")
            assert not living_members(old.child)
            ended = await old.event("ended")
            assert (ended["lost"], ended["killed"]) == (True, True)
            assert started["slot"] == 0
            new.send(signal.SIGTERM)
            await new.event("exit")
            again = await old.event("started")  # it is its turn again
            assert again["token"] > started["token"] > old.events[2]["token"]


async def test_f26_a_polite_child_is_not_killed(endpoint: str, path: str) -> None:
    async with (
        open_client(endpoint) as client,
        open_run(
            endpoint, path, "--once", "--on-lost", "signal:USR1", "--grace", "5", command=POLITE
        ) as run,
    ):
        await run.event("started")
        assert await run.line() == "ready"
        await Control(client, path).drain("host")
        assert await run.line() == "USR1"
        ended = await run.event("ended")
        assert (ended["code"], ended["lost"], ended["killed"]) == (3, True, False)
        assert await run.code() == 76
        await client.delete(f"{path}/control")  # it outlives the hosts
        await nothing_left(client, path)


async def test_f26_a_stopped_child_is_ended_too(endpoint: str, path: str) -> None:
    async with (
        open_client(endpoint) as client,
        open_run(endpoint, path, "--once", command=POLITE) as run,
    ):
        await run.event("started")
        assert await run.line() == "ready"
        os.killpg(run.child, signal.SIGSTOP)
        await Control(client, path).drain("host")
        assert await run.line() == "TERM"
        assert await run.code() == 76


@pytest.mark.parametrize("revoked", [False, True])
async def test_f45_a_slot_that_is_gone_leaves_no_time_for_a_grace(
    endpoint: str, path: str, revoked: bool
) -> None:
    """The slot's key is deleted; or the lease is gone with all that hangs on it."""
    async with (
        open_client(endpoint) as client,
        open_run(endpoint, path, "--once", "--grace", "5", command=POLITE) as run,
    ):
        await run.event("started")
        assert await run.line() == "ready"
        if revoked:
            (lease,) = {kv.lease for kv in await client.get_prefix(f"{path}/slots/")}
            await client.lease_revoke(lease)
        else:
            await client.delete_prefix(f"{path}/slots/")
        ended = await run.event("ended")
        assert (ended["code"], ended["lost"], ended["killed"]) == (137, True, True)
        assert await run.code() == 76


async def test_after_a_loss_it_runs_again(endpoint: str, path: str) -> None:
    async with (
        open_client(endpoint) as client,
        open_run(endpoint, path, command=["sh", "-c", "echo up; sleep 300"]) as run,
    ):
        first = await run.event("started")
        assert await run.line() == "up"  # it is killed at once then
        (lease,) = {kv.lease for kv in await client.get_prefix(f"{path}/slots/")}
        await client.lease_revoke(lease)
        assert (await run.event("ended"))["lost"]
        second = await run.event("started")
        assert second["token"] > first["token"]
        assert await run.line() == "up"


async def test_f26_everything_is_ended_before_the_deadline_when_etcd_is_silent(
    path: str,
) -> None:
    ticks = "trap '' TERM; while :; do cut -d' ' -f1 /proc/uptime; sleep 0.02; done"
    async with open_etcd() as server:
        (member,) = server.members
        async with open_run(
            server.endpoint, path, "--ttl", "3", "--once", command=["sh", "-c", ticks]
        ) as run:
            await run.event("started")
            await run.line()
            # /proc/uptime counts suspends, too, which there are none of here: it is CLOCK_BOOTTIME
            offset = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
            member.pause()
            try:
                deadline = (await run.event("lost"))["deadline"] + offset
                ended = await run.event("ended")
                assert ended["killed"]
            finally:
                member.resume()
            assert await run.code() == 76
            last = 0.0
            while (line := await run._out.read()) is not None:
                last = float(line)
            assert 0 < last < deadline


async def test_f26_what_outlives_the_child_is_ended_before_the_slot_is_freed(
    endpoint: str, path: str
) -> None:
    leaves_behind = "trap '' TERM; (trap '' TERM; sleep 300) & echo $!; exit 4"
    async with open_run(
        endpoint, path, "--grace", "0.2", command=["sh", "-c", leaves_behind]
    ) as run:
        left = int(await run.line())
        ended = await run.event("ended")
        assert (ended["code"], ended["lost"], ended["killed"]) == (4, False, True)
        assert not alive(left)
        assert await run.code() == 4


async def test_it_may_run_for_longer_than_a_ttl(endpoint: str, path: str) -> None:
    async with open_run(endpoint, path, "--ttl", "2", "--once", command=["sleep", "3.5"]) as run:
        assert await run.code() == 0


async def test_restart(endpoint: str, path: str) -> None:
    async with open_run(endpoint, path, "--restart", command=["sh", "-c", "exit 5"]) as run:
        tokens = [(await run.event("started"))["token"] for _ in range(3)]
        assert tokens == sorted(set(tokens))
        run.send(signal.SIGTERM)
        assert await run.code() in {5, 143}  # during a run, or between two


# ---- signals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PASSED_ON)
async def test_f26_signals_are_passed_on(endpoint: str, path: str, name: str) -> None:
    async with open_client(endpoint) as client, open_run(endpoint, path, command=POLITE) as run:
        await run.event("started")
        assert await run.line() == "ready"
        run.send(number_of(name))
        assert await run.line() == name
        assert await run.code() == 3
        await nothing_left(client, path)


@pytest.mark.parametrize("name", PASSED_ON)
async def test_f26_a_child_ended_by_a_signal_is_not_started_again(
    endpoint: str, path: str, name: str
) -> None:
    async with open_run(endpoint, path, "--restart", command=SLEEP) as run:
        await run.event("started")
        run.send(number_of(name))
        assert await run.code() == 128 + number_of(name)


async def test_a_child_may_take_sighup_as_it_likes(endpoint: str, path: str) -> None:
    reloads = "trap 'echo again' HUP; echo ready; while :; do sleep 0.05; done"
    async with open_run(endpoint, path, command=["sh", "-c", reloads]) as run:
        assert await run.line() == "ready"
        for _ in range(2):
            run.send(signal.SIGHUP)
            assert await run.line() == "again"
        run.send(signal.SIGTERM)
        assert await run.code() == 143


@pytest.mark.parametrize("name", PASSED_ON)
async def test_f26_a_signal_while_waiting_ends_it_without_a_child(
    endpoint: str, path: str, tmp_path: Path, name: str
) -> None:
    mark = tmp_path / "mark"
    async with open_client(endpoint) as client:
        async with open_run(endpoint, path, name="a", command=SLEEP) as first:
            await first.event("started")
            async with open_run(endpoint, path, name="b", command=["touch", str(mark)]) as second:
                await second.event("joined")
                second.send(number_of(name))
                assert await second.code() == 128 + number_of(name)
            assert await slots(client, path) == ["a"]
            assert not (await client.get(f"{path}/exchange/b")).kvs
        assert not mark.exists()


async def test_f26_a_signal_while_etcd_does_not_answer(path: str) -> None:
    async with open_etcd() as server:
        (member,) = server.members
        member.pause()
        async with open_run(server.endpoint, path, "--ttl", "2", command=SLEEP) as run:
            await eventually(lambda: "socket:" in str(open_files(run.process.pid)))
            run.send(signal.SIGTERM)
            assert await run.code() in {143, -signal.SIGTERM}
        member.resume()


async def test_a_signal_that_was_ignored_stays_so(endpoint: str, path: str) -> None:
    nohup = ["sh", "-c", "trap '' HUP; exec \"$@\"", "sh"]
    async with open_run(endpoint, path, command=SLEEP, under=nohup) as run:
        await run.event("started")
        run.send(signal.SIGHUP)
        os.kill(run.child, signal.SIGHUP)
        run.send(signal.SIGINT)
        assert (await run.event("signal"))["signal"] == "SIGINT"
        assert await run.code() == 130


# ---- we are killed, or stopped ------------------------------------------------------------------


async def killed(run: Run) -> None:
    """Kill the wrapper, and wait until nothing of its child is left."""
    run.process.kill()
    await run.process.wait()
    await eventually(lambda: not living_members(run.child))


@pytest.mark.parametrize("options", [["--reaper"], ["--no-reaper"]])
async def test_f26_killed_nothing_outlives_us(endpoint: str, path: str, options: list[str]) -> None:
    async with (
        open_client(endpoint) as client,
        open_run(endpoint, path, "--ttl", "60", *options, command=STUBBORN) as run,
    ):
        await run.event("started")
        assert await run.line() == "ready"
        assert len(living_members(run.child)) == 3
        async with client.watch(f"{path}/exchange/host") as events:
            await killed(run)
            if options == ["--reaper"]:
                await anext(events)  # the last of it: the slot is released before
                await nothing_left_but_decision(client, path)
            else:
                assert await slots(client, path) == ["host"]
                (lease,) = {kv.lease for kv in await client.get_prefix(f"{path}/slots/")}
                await client.lease_revoke(lease)


async def test_without_a_reaper_there_is_none(endpoint: str, path: str) -> None:
    """The keeper of the command is all that there is beside us."""
    for options, others in (["--reaper"], 2), (["--no-reaper"], 1):
        async with open_run(endpoint, path, *options, command=SLEEP) as run:
            await run.event("started")
            assert len(helpers(run)) == others
            run.send(signal.SIGTERM)
            await run.process.wait()


async def nothing_left_but_decision(client: Client, path: str) -> None:
    keys = {kv.key.decode() for kv in await client.get_prefix(f"{path}/")}
    assert keys <= {f"{path}/scheduled", f"{path}/scheduled.record"}


async def test_f26_killed_together_with_the_helper_the_kernel_ends_the_child(
    endpoint: str, path: str
) -> None:
    async with open_client(endpoint) as client, open_run(endpoint, path, command=SLEEP) as run:
        await run.event("started")
        run.send(signal.SIGSTOP)  # or it would start another one
        for helper in helpers(run):
            os.kill(helper, signal.SIGKILL)
        await killed(run)
        (lease,) = {kv.lease for kv in await client.get_prefix(f"{path}/slots/")}
        await client.lease_revoke(lease)


def helpers(run: Run) -> list[int]:
    """The wrapper's children that are not the command."""
    text = Path(f"/proc/{run.process.pid}/task/{run.process.pid}/children").read_text()
    return [int(pid) for pid in text.split() if int(pid) != run.child]


async def test_killed_while_waiting(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client:
        async with open_run(endpoint, path, name="a", command=SLEEP) as first:
            await first.event("started")
            async with open_run(endpoint, path, "--ttl", "60", name="b", command=SLEEP) as second:
                await second.event("joined")
                async with client.watch(f"{path}/exchange/b") as events:
                    second.process.kill()
                    await anext(events)
            assert await slots(client, path) == ["a"]


async def test_the_next_host_runs_when_one_is_killed(endpoint: str, path: str) -> None:
    ttl = ("--ttl", "60")
    async with open_run(endpoint, path, *ttl, name="a", command=STUBBORN) as first:
        await first.event("started")
        assert await first.line() == "ready"
        async with open_run(endpoint, path, *ttl, name="b", command=SLEEP) as second:
            await second.event("joined")
            first.process.kill()
            await second.event("started")
            assert not living_members(first.child)


async def test_stopped_for_longer_than_a_ttl_the_child_is_ended_in_time(
    endpoint: str, path: str
) -> None:
    ttl = ("--ttl", "2", "--grace", "0.5")
    async with open_run(endpoint, path, *ttl, "--once", name="a", command=STUBBORN) as first:
        await first.event("started")
        assert await first.line() == "ready"
        async with open_run(endpoint, path, *ttl, name="b", command=SLEEP) as second:
            await second.event("joined")
            first.send(signal.SIGSTOP)
            await second.event("started")
            assert not living_members(first.child)
            first.send(signal.SIGCONT)
            # It learns of the loss first, or of its child's end.
            assert await first.code() in {76, 137}
