"""Searching worlds: what is found is shown, as a chart, a picture and a command."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from trio_sched.simulation.__main__ import main
from trio_sched.simulation.explore import Search, describe, draw, explore
from trio_sched.simulation.plan import Action, Plan
from trio_sched.simulation.world import World

PLAN = Plan(7, hosts=3, members=1, seconds=20.0, actions=(Action(5.0, "die", 0, 2.0),))


def test_a_search_ends_when_its_time_is_over() -> None:
    seen: list[Search] = []
    search = explore(0, 0.5, seen.append, kinds=["leave"])
    assert search.failure is None
    assert seen[-1] == search
    assert [each.worlds for each in seen] == [*range(1, search.worlds + 1)]
    assert search.simulated > search.cpu >= 0.5


def test_a_world_is_drawn_host_by_host() -> None:
    report = World(PLAN).run()
    lines = draw(report).splitlines()
    assert lines[0] == "seed 7: 3 hosts, 1 members, max_count 2, TTL 5 s"
    assert [line.split()[0] for line in lines[1:4]] == ["host-0", "host-1", "host-2"]
    assert any("█" in line for line in lines[1:4])
    assert ET.fromstring(draw(report, svg=True)).tag == "{http://www.w3.org/2000/svg}svg"
    assert "5.000 die 0 for 2 s" in describe(report)


def test_the_command_runs_a_plan_and_draws_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    picture = tmp_path / "world.svg"
    assert main(["--plan", PLAN.as_json(), "--svg", str(picture)]) == 0
    assert "seed 7: 3 hosts" in capsys.readouterr().out
    assert picture.read_text().startswith("<svg")


def test_the_command_searches_from_a_seed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", "3", "--seconds", "0.1"]) == 0
    assert capsys.readouterr().out.startswith("1 worlds from seed 3 on, 0.0 simulated hours")


@pytest.mark.parametrize("arguments", [["--plan", "{}"], ["--seed", "x"], ["--seconds", "x"]])
def test_bad_arguments_are_refused(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert arguments[0] in capsys.readouterr().err
