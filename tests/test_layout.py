"""The tests lie as the package does, and public names come from public modules."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

from tests.places import PACKAGE, TESTS

# Modules without a test file of their name, each with the test files that exercise it.
TESTED_BY = {
    "sync/_entries.py": ["sync/test_sync.py"],
    "sync/_portal.py": ["sync/test_sync.py"],
    "sync/_objects.py": ["sync/test_sync.py"],
    "sync/_work.py": ["sync/test_sync.py"],
    "aio/_entries.py": ["aio/test_aio.py"],
    "aio/_guest.py": ["aio/test_aio.py"],
    "aio/_objects.py": ["aio/test_aio.py"],
    "_support/chance.py": ["simulation/test_world.py"],
    "_support/lazy.py": ["test_imports.py"],
    "_support/processes.py": ["reaper/test_owner.py", "cli/run/test_child.py"],
    "_support/wall_time.py": ["host/test_publishing.py"],
    "cli/common.py": ["cli/test_operations.py", "cli/test_offline.py"],
    "cli/completion.py": ["cli/test_offline.py"],
    "cli/decide.py": ["cli/test_offline.py", "cli/test_operations.py"],
    "cli/demo/board.py": ["cli/demo/test_command.py"],
    "cli/demo/story.py": ["cli/demo/test_command.py"],
    "cli/group.py": ["cli/test_offline.py"],
    "cli/history.py": ["cli/test_past.py"],
    "cli/ls.py": ["cli/test_everywhere.py"],
    "cli/output.py": ["cli/test_pure.py", "cli/test_operations.py"],
    "cli/paths.py": ["cli/test_everywhere.py"],
    "cli/run/host_options.py": ["cli/run/test_config.py"],
    "cli/run/life.py": ["cli/run/test_command.py"],
    "cli/run/seen.py": ["cli/run/test_pages.py"],
    "cli/run/signals.py": ["cli/test_connect.py", "cli/run/test_command.py"],
    "cli/simulate.py": ["cli/test_offline.py"],
    "cli/steer.py": ["cli/test_operations.py"],
    "cli/strategies.py": ["cli/test_offline.py"],
    "cli/ticks.py": ["cli/run/test_ticks.py"],
    "cli/view/fitting.py": ["cli/test_many_hosts.py"],
    "cli/view/keys.py": ["cli/test_watch_keys.py"],
    "cli/view/members.py": ["cli/test_operations.py"],
    "cli/view/pager.py": ["cli/test_many_hosts.py"],
    "cli/view/screen.py": ["cli/test_watch_keys.py"],
    "cli/view/scrolling.py": ["cli/test_watch_keys.py"],
    "cli/view/selection.py": ["cli/test_selection.py"],
    "cli/view/silence.py": ["cli/test_restarts.py", "cli/test_pure.py"],
    "cli/view/status.py": ["cli/test_operations.py"],
    "cli/view/tables.py": ["cli/test_pure.py", "cli/test_operations.py"],
    "cli/view/trouble.py": ["cli/test_trouble.py"],
    "cli/view/watch.py": ["cli/test_pure.py", "cli/test_restarts.py", "cli/test_watch_keys.py"],
    "cli/view/words.py": ["cli/test_pure.py"],
    "etcd_shim/_about.py": ["host/test_policy.py"],
    "etcd_shim/_backoff.py": ["etcd_shim/test_failover.py", "host/test_schedule_faults.py"],
    "etcd_shim/_keep.py": ["etcd_shim/test_lease.py"],
    "etcd_shim/_retry.py": ["etcd_shim/test_kv.py", "etcd_shim/test_failover.py"],
    "etcd_shim/_watch_hub.py": ["etcd_shim/test_watch.py", "etcd_shim/test_auth.py"],
    "etcd_shim/channel/_attempt.py": ["etcd_shim/channel/test_channel_connecting.py"],
    "etcd_shim/channel/_before_wait.py": ["etcd_shim/channel/test_channel_fairness.py"],
    "etcd_shim/channel/_call.py": ["etcd_shim/channel/test_channel.py"],
    "etcd_shim/channel/_call_state.py": ["etcd_shim/channel/test_channel.py"],
    "etcd_shim/channel/_caller.py": ["etcd_shim/channel/test_channel.py"],
    "etcd_shim/channel/_connection.py": [
        "etcd_shim/channel/test_channel.py",
        "etcd_shim/channel/test_channel_ending.py",
    ],
    "etcd_shim/channel/_endpoint.py": ["etcd_shim/channel/test_channel_connecting.py"],
    "etcd_shim/channel/_network_users.py": ["testing/test_clock.py"],
    "etcd_shim/channel/_settings.py": ["etcd_shim/channel/test_channel_pings.py"],
    "etcd_shim/channel/_statistics.py": ["etcd_shim/channel/test_channel.py"],
    "etcd_shim/channel/_transport.py": ["etcd_shim/channel/test_channel_connecting.py"],
    "etcd_shim/client.py": ["etcd_shim/test_client_cancel.py", "etcd_shim/test_client_coexists.py"],
    "etcd_shim/concurrency/errors.py": [
        "etcd_shim/concurrency/test_locks.py",
        "etcd_shim/concurrency/test_barriers.py",
        "etcd_shim/concurrency/test_queues.py",
    ],
    "etcd_shim/concurrency/following.py": [
        "etcd_shim/concurrency/test_locks.py",
        "simulation/contract/test_locks.py",
    ],
    "etcd_shim/concurrency/turns.py": [
        "etcd_shim/concurrency/test_locks.py",
        "simulation/contract/test_locks.py",
    ],
    "etcd_shim/errors.py": ["etcd_shim/test_transport.py", "etcd_shim/test_auth.py"],
    "etcd_shim/opening.py": ["etcd_shim/test_bad_arguments.py", "etcd_shim/test_transport.py"],
    "etcd_shim/tls.py": ["etcd_shim/test_transport.py", "reaper/test_owner.py"],
    "exceptions.py": ["host/test_schedule_options.py", "strategies/test_strategies.py"],
    "host/decision_leases.py": ["host/test_schedule.py", "host/test_shared_decisions.py"],
    "host/expectations.py": ["host/test_proofs.py"],
    "host/reads.py": ["host/test_following.py", "host/test_large_paths.py"],
    "host/per_client.py": ["host/test_pacing.py"],
    "host/slot.py": ["host/test_slots.py", "host/test_fencing.py", "host/test_process.py"],
    "host/marks.py": ["host/test_takeover.py"],
    "host/election.py": ["host/test_schedule_faults.py"],
    "host/leading.py": ["host/test_schedule_faults.py", "host/test_schedule.py"],
    "host/membership.py": ["host/test_schedule.py", "host/test_schedule_faults.py"],
    "host/result.py": ["host/test_schedule.py"],
    "host/checks.py": ["host/test_schedule_options.py", "host/test_local.py"],
    "host/health.py": ["host/test_publishing.py"],
    "host/sessions.py": ["host/test_schedule.py", "host/test_schedule_faults.py"],
    "host/session.py": ["host/test_schedule_faults.py"],
    "host/work.py": ["host/test_slots.py"],
    "leader/choice.py": ["leader/test_machine_control.py", "leader/test_machine_evictions.py"],
    "strategies/trackers.py": ["leader/test_pool.py"],
    "leader/diagnosis.py": ["cli/test_pure.py"],
    "leader/events.py": ["leader/test_machine.py"],
    "leader/preview.py": ["cli/test_pure.py"],
    "leader/reasons.py": ["leader/test_machine_rules.py", "leader/test_machine_control.py"],
    "host/ticks.py": ["host/test_once.py"],
    "model/path_state.py": ["cli/test_pure.py", "host/test_observation.py"],
    "reaper/helper/cgroups.py": ["reaper/test_tree.py", "reaper/test_child.py"],
    "reaper/helper/groups.py": ["reaper/test_owner.py"],
    "reaper/helper/keep.py": ["reaper/test_keep.py"],
    "reaper/helper/light.py": ["reaper/test_keep.py"],
    "reaper/helper/kernel.py": ["reaper/test_keep.py", "cli/run/test_trees.py"],
    "reaper/helper/reap.py": ["reaper/test_owner.py", "cli/run/test_trees.py"],
    "reaper/helper/revoke.py": ["reaper/test_owner.py"],
    "reaper/helper/terminal.py": ["cli/run/test_terminal.py"],
    "reaper/helper/tree.py": ["reaper/test_tree.py"],
    "scheduler.py": ["host/test_schedule.py", "host/test_schedule_options.py"],
    "serving/document.py": ["cli/test_pure.py", "cli/test_operations.py"],
    "simulation/chart.py": ["simulation/test_replay.py"],
    "simulation/memory_checks.py": ["simulation/contract/test_txn.py"],
    "simulation/memory_cluster.py": [
        "simulation/contract/test_lease.py",
        "simulation/contract/test_kv.py",
    ],
    "simulation/memory_etcd.py": ["simulation/contract/test_kv.py"],
    "simulation/memory_leases.py": ["simulation/contract/test_lease.py"],
    "simulation/memory_requests.py": [
        "simulation/contract/test_kv.py",
        "simulation/contract/test_lease.py",
    ],
    "simulation/memory_server.py": [
        "simulation/contract/test_watch_stream.py",
        "simulation/contract/test_watch.py",
    ],
    "simulation/memory_store.py": [
        "simulation/contract/test_kv.py",
        "simulation/contract/test_range.py",
        "simulation/contract/test_txn.py",
        "simulation/test_differential.py",
    ],
    "simulation/memory_watches.py": [
        "simulation/contract/test_watch.py",
        "simulation/contract/test_watch_stream.py",
    ],
    "simulation/memory_wire.py": [
        "simulation/contract/test_watch_stream.py",
        "simulation/contract/test_schedule.py",
    ],
    "simulation/network.py": ["simulation/contract/test_schedule.py"],
    "simulation/replay_report.py": ["simulation/test_replay.py"],
    "simulation/diary.py": ["simulation/test_world.py"],
    "simulation/plan.py": ["simulation/test_world.py"],
    "simulation/trace.py": ["simulation/test_replay.py"],
    "simulation/world_checks.py": ["simulation/test_planted_faults.py"],
    "simulation/world_tick_checks.py": ["simulation/test_world_ticks.py"],
    "simulation/world_hosts.py": ["simulation/test_world.py"],
    "simulation/go_host.py": ["simulation/test_world.py"],
    "simulation/surroundings.py": ["simulation/test_world.py"],
    "strategies/base.py": ["strategies/test_strategies.py"],
    "strategies/built_in.py": [
        "strategies/test_strategies.py",
        "strategies/test_strategies_laws.py",
    ],
    "testing/_http.py": ["testing/test_etcd.py"],
    "testing/_fixtures.py": ["testing/test_plugin.py"],
    "testing/_no_trio_fixtures.py": ["testing/test_plugin.py"],
    "testing/_trio_fixtures.py": ["testing/test_plugin.py"],
    "testing/cases.py": ["testing/test_check.py"],
    "testing/hypothesis_cases.py": ["testing/test_check.py"],
    "testing/thread.py": ["testing/test_plugin.py"],
    "testing/_ports.py": ["testing/test_etcd.py"],
    "testing/_process.py": ["testing/test_etcd.py"],
    "testing/find.py": ["testing/test_etcd.py"],
    "testing/member.py": ["testing/test_etcd.py"],
    "testing/proxy.py": ["etcd_shim/test_failover.py", "etcd_shim/test_watch.py"],
}

# Folders of tests and of the package that have no counterpart, each with the reason.
ONLY_TESTS = {
    "docs": "the pages are true",
    "cli/examples": "what the commands print",
    "etcd_shim/concurrency/go_peer": "a program of Go that takes part",
    "etcd_shim/proxies": "the client behind real proxies",
    "etcd_shim/coexistence": "programs that import other etcd clients",
    "simulation/contract": "what a real etcd and the one in memory both do",
}
ONLY_PACKAGE = {
    "cli/view": "tested by tests/cli",
    "etcd_shim/_pb": "generated",
    "reaper/helper": "tested by tests/reaper",
}

PUBLIC = [
    "trio_sched",
    "trio_sched.etcd_shim",
    "trio_sched.etcd_shim.concurrency",
    "trio_sched.metrics",
    "trio_sched.serving",
    "trio_sched.simulation",
    "trio_sched.strategies",
    "trio_sched.testing",
]
# What still comes from a private module of the client: `trio_sched.etcd_shim` exports it.
STILL_PRIVATE_IN_ETCD_SHIM = {
    "ChannelStatistics",
    "ConnectionStatistics",
    "DeleteResult",
    "EndpointStatistics",
    "Follower",
    "GetResult",
    "KeptLease",
    "KeyValue",
    "PingPolicy",
    "PutResult",
    "ResponseHeader",
    "TxnResult",
}


def folders(root: Path) -> set[str]:
    found = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_dir()}
    return {path for path in found if "__" not in path}


def modules() -> set[str]:
    """Return the modules that need a test, by their paths in the package."""
    found = {path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py")}
    named = {path for path in found if not path.name.startswith("__")}
    return {str(path) for path in named if "_pb" not in path.parts}


def own_test(module: str) -> Path:
    path = Path(module)
    return TESTS / path.parent / f"test_{path.name.removeprefix('_')}"


def test_both_have_the_same_folders() -> None:
    assert folders(TESTS) - ONLY_TESTS.keys() == folders(PACKAGE) - ONLY_PACKAGE.keys()
    assert not ONLY_TESTS.keys() - folders(TESTS)
    assert not ONLY_PACKAGE.keys() - folders(PACKAGE)


def test_each_module_has_a_test() -> None:
    assert not {module for module in modules() - TESTED_BY.keys() if not own_test(module).exists()}


@pytest.mark.parametrize("module", sorted(TESTED_BY))
def test_each_line_of_the_table_is_true(module: str) -> None:
    assert module in modules(), "there is no such module"
    assert not own_test(module).exists(), "it has a test file of its own"
    assert TESTED_BY[module]
    for test in TESTED_BY[module]:
        assert (TESTS / test).name.startswith("test_")
        assert (TESTS / test).is_file()


def homes(package: str) -> dict[str, set[str]]:
    """Return each public name with the modules that it comes from."""
    found = importlib.import_module(package)
    assert found.__file__ is not None
    nodes = ast.walk(ast.parse(Path(found.__file__).read_text()))
    aliases = [
        (alias, node.module)
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.module is not None and not node.level
        for alias in node.names
    ]
    imports = {alias.asname or alias.name: module for alias, module in aliases}
    exported = [alias.name for alias, _ in aliases if alias.asname == alias.name]
    names: dict[str, set[str]] = {}
    for name in vars(found).get("__all__") or exported:
        # An alias of a type, or a constant, does not know where it was made.
        made_in = str(getattr(getattr(found, name), "__module__", ""))
        names[name] = {imports.get(name, package)}
        if made_in.startswith("trio_sched"):
            names[name].add(made_in)
    return names


def is_private(module: str) -> bool:
    return any(part.startswith("_") for part in module.split("."))


@pytest.mark.parametrize("package", PUBLIC)
def test_public_names_come_from_public_modules(package: str) -> None:
    private = {name for name, found in homes(package).items() if any(map(is_private, found))}
    assert private == (STILL_PRIVATE_IN_ETCD_SHIM if package == "trio_sched.etcd_shim" else set())
