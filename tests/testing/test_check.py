"""The kit for authors of strategies: what `check_strategy` lets pass, and what it finds."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from itertools import count
from random import Random
from typing import Any

import pytest
from hypothesis import strategies as st

from trio_sched.model.records import Host
from trio_sched.strategies import (
    Strategy,
    StrategyOptions,
    StrategyTracker,
    choose,
    known_strategies,
)
from trio_sched.testing import check_strategy

Asked = Mapping[str, Host]


@pytest.mark.parametrize("name", known_strategies())
def test_the_built_in_ones_keep_the_laws(name: str) -> None:
    check_strategy(name, sticky=name == "rr")


class First(Strategy):
    name = "first"

    def schedule(self, hosts: Asked, options: StrategyOptions) -> Sequence[str]:
        return sorted(hosts)[: options.max_count]


class Slow(Strategy):
    """Needs to be asked twice before it stands by what it chose."""

    name = "slow"

    def schedule(self, hosts: Asked, options: StrategyOptions) -> Sequence[str]:
        return sorted(hosts, key=lambda name: (name in options.last, name))[: options.max_count]


class Moody(Strategy):
    name = "moody"

    def __init__(self) -> None:
        self.times = count()

    def schedule(self, hosts: Asked, options: StrategyOptions) -> Sequence[str]:
        return sorted(hosts, reverse=bool(next(self.times) % 2))[: options.max_count]


class Shared(Strategy):
    """Answers the same, until it is made anew."""

    name = "shared"
    made = count()

    def __init__(self) -> None:
        self.reverse = bool(next(self.made) % 2)

    def schedule(self, hosts: Asked, options: StrategyOptions) -> Sequence[str]:
        return sorted(hosts, reverse=self.reverse)[: options.max_count]


class Forgetful(StrategyTracker):
    """Goes on choosing hosts that are gone, if it may, or those that came first."""

    def __init__(self, *, removes: bool) -> None:
        self.hosts: dict[str, Host] = {}
        self.removes = removes

    def put(self, host: Host) -> None:
        self.hosts[host.name] = host

    def remove(self, name: str) -> None:
        if self.removes:
            del self.hosts[name]

    def schedule(self, options: StrategyOptions) -> Sequence[str]:
        names = list(self.hosts) if self.removes else sorted(self.hosts)
        return names[: options.max_count]


class Tracking(First):
    """Says that it tracks what it chooses."""

    name = "tracking"

    def __init__(self, *, removes: bool) -> None:
        self.removes = removes

    def track(self, path: str) -> StrategyTracker:  # noqa: ARG002 # as `Strategy` has it
        return Forgetful(removes=self.removes)


def make() -> Strategy:
    return First()


@pytest.mark.parametrize("strategy", [First, First(), make, First().schedule, "alpha"])
def test_it_takes_whatever_stands_for_a_strategy(strategy: Any) -> None:
    check_strategy(strategy)


@pytest.mark.parametrize(
    ("strategy", "law", "words"),
    [
        (lambda hosts, _options: sorted(hosts), "names known hosts", "it chose 2 hosts where at"),
        (lambda hosts, _options: ["x", *hosts][:1], "names known hosts", "it named 'x', which is"),
        (Tracking(removes=True), "the same by its tracker", "and by its tracker ["),
        (Tracking(removes=False), "the same by its tracker", "which is not one of the hosts"),
        (lambda hosts, _options: iter(hosts), "names known hosts", "not a sequence"),
        (Moody, "answers the same", "and asked the same again"),
        (Shared, "answers the same", "and made anew"),
        (lambda hosts, options: list(hosts)[: options.max_count], "order", "when the hosts came"),
        (Slow, "stands by what it chose", "and with that as the last decision"),
        (lambda _hosts, _options: [], "chooses max_count", "it chose [], where 1 of 1 hosts"),
    ],
)
def test_each_law_finds_who_breaks_it(strategy: Any, law: str, words: str) -> None:
    with pytest.raises(AssertionError) as caught:
        check_strategy(strategy)
    first, objection = str(caught.value).splitlines()[:2]
    assert law in first
    assert words in objection


def test_a_law_that_is_not_asked_for_is_none() -> None:
    check_strategy(lambda _hosts, _options: [], full=False)
    with pytest.raises(AssertionError, match="keeps the hosts of the last decision"):
        check_strategy(First, sticky=True)


def test_the_counterexample_is_minimal_and_runs_as_it_is_shown() -> None:
    def no_norther(hosts: Asked, options: StrategyOptions) -> Sequence[str]:
        names = sorted(name for name, host in hosts.items() if host.zone != "north")
        return names[: options.max_count]

    with pytest.raises(AssertionError) as caught:
        check_strategy(no_norther)
    message, code = str(caught.value).split("\n\n")
    assert message == (
        "strategy 'no_norther' breaks the law that it chooses max_count hosts if there are as "
        "many\nit chose [], where 1 of 1 hosts could be chosen"
    )
    assert code.count("Host(") == 1
    assert "zone='north')" in code
    assert "StrategyOptions(1, (), " in code
    names = {"Host": Host, "StrategyOptions": StrategyOptions, "choose": choose}
    exec(code, names | {"strategy": First()})


def test_what_a_strategy_raises_is_the_cause() -> None:
    def divides(hosts: Asked, options: StrategyOptions) -> Sequence[str]:
        return sorted(hosts)[: options.max_count * 3 // (len(hosts) - 3)]

    with pytest.raises(AssertionError, match="it raised ZeroDivisionError") as caught:
        check_strategy(divides, full=False)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert str(caught.value).count("Host(") == 3


def test_a_failure_that_only_its_own_answer_brings_about_is_found() -> None:
    def proud(hosts: Asked, options: StrategyOptions) -> Sequence[str]:
        choice = sorted(hosts)[: options.max_count]
        if len(choice) > 3 and tuple(choice) == options.last:
            raise LookupError("that was me")
        return choice

    with pytest.raises(AssertionError, match="it raised LookupError: that was me"):
        check_strategy(proud)


def test_the_same_seed_finds_the_same() -> None:
    def found(seed: int) -> str:
        with pytest.raises(AssertionError) as caught:
            check_strategy(Slow, seed=seed)
        return str(caught.value)

    assert found(1) == found(1)
    assert len({found(seed) for seed in range(5)}) > 1


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="unknown strategy 'nobody'"):
        check_strategy("nobody")
    with pytest.raises(TypeError, match="strategy must be a name"):
        check_strategy(3)  # type: ignore[arg-type] # wrong on purpose
    with pytest.raises(TypeError, match="gave an object of type dict, not a Strategy"):
        check_strategy(dict)  # type: ignore[arg-type] # wrong on purpose
    with pytest.raises(ValueError, match="1 or more, not 0"):
        check_strategy("rr", examples=0)


def by_memory(hosts: Asked, options: StrategyOptions) -> Sequence[str]:
    """Wrong: fails on hosts that publish no number of GiB."""
    sizes: dict[str, int] = {name: host.data["gib"] for name, host in hosts.items()}  # type: ignore[misc] # it trusts them
    return sorted(hosts, key=lambda name: (-sizes[name], name))[: options.max_count]


def sizes(chance: Random) -> dict[str, object]:
    return {"gib": chance.choice([1, 2, 64])} if chance.random() < 0.9 else {"rack": "r1"}


def test_hosts_have_the_data_that_a_function_makes() -> None:
    check_strategy(by_memory, data=lambda chance: {"gib": chance.randint(1, 64)})
    with pytest.raises(AssertionError, match="it raised KeyError: 'gib'") as caught:
        check_strategy(by_memory, data=sizes)
    assert str(caught.value).count("Host(") == 1
    with pytest.raises(AssertionError, match="it raised KeyError: 'gib'"):
        check_strategy(by_memory)  # no data at all


def test_the_counterexample_shows_the_data_that_matters() -> None:
    def odd(hosts: Asked, options: StrategyOptions) -> Sequence[str]:
        return [name for name in sorted(hosts) if "bad" not in hosts[name].data][
            : options.max_count
        ]

    def make_data(chance: Random) -> dict[str, object]:
        return {"good": 1, "bad": chance.random(), "ugly": [1, 2]}

    with pytest.raises(AssertionError) as caught:
        check_strategy(odd, data=make_data)
    assert re.search(r"data=\{'bad': 0\.\d+\}\)", str(caught.value))


def test_data_of_hypothesis_is_made_small_by_it() -> None:
    def greedy(hosts: Asked, options: StrategyOptions) -> Sequence[str]:
        names = [name for name in sorted(hosts) if hosts[name].data["load"] < 517]  # type: ignore[operator] # it is one
        return names[: options.max_count]

    loads = st.fixed_dictionaries({"load": st.integers(0, 10**6)})
    check_strategy(greedy, data=st.just({"load": 3}))
    with pytest.raises(AssertionError) as caught:
        check_strategy(greedy, data=loads)
    assert str(caught.value).count("Host(") == 1
    assert "data={'load': 517})" in str(caught.value)


def test_what_hypothesis_finds_flaky_is_a_broken_law() -> None:
    with pytest.raises(AssertionError, match="answers the same"):
        check_strategy(Moody, data=st.just({}))


@pytest.mark.parametrize("name", known_strategies())
def test_the_built_in_ones_keep_the_laws_whatever_the_data(name: str) -> None:
    values = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text("abc", max_size=3)
    check_strategy(name, data=st.dictionaries(st.text("xyz"), values, max_size=3), examples=60)


def test_data_that_cannot_be_published_is_a_mistake_of_the_test() -> None:
    with pytest.raises(TypeError, match="data must be a function of a random"):
        check_strategy("rr", data={"a": 1})  # type: ignore[arg-type] # wrong on purpose
    with pytest.raises(TypeError, match="data must be what JSON can hold"):
        check_strategy("rr", data=lambda _chance: {"a": object()})
    with pytest.raises(TypeError, match="data must be a mapping, not int"):
        check_strategy("rr", data=st.just(3))  # type: ignore[arg-type] # wrong on purpose


def test_hypothesis_is_not_needed() -> None:
    program = (
        "import sys; sys.modules['hypothesis'] = None\n"
        "from trio_sched.testing import check_strategy\n"
        "check_strategy('rr', data=lambda chance: {'a': chance.random()}, examples=5)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=50)
