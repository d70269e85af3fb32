"""What strategies choose, how they are found, and what is not believed of them."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import EntryPoint, EntryPoints
from types import MappingProxyType

import pytest
import trio
from hypothesis import given, strategies as st

from trio_sched import strategies
from trio_sched.exceptions import StrategyError
from trio_sched.model.records import Host
from trio_sched.strategies import (
    Strategy,
    StrategyFunction,
    StrategyOptions,
    choose,
    get_strategy,
    known_strategies,
    register,
)

BUILT_IN = ("alpha", "priority", "random", "rendezvous", "rr", "spread", "weighted")
RR, ALPHA = get_strategy("rr"), get_strategy("alpha")


def hosts(*names: str, joined: Iterable[int] | None = None) -> Mapping[str, Host]:
    at = iter(range(1, len(names) + 1) if joined is None else joined)
    return MappingProxyType({name: Host(name, 0, next(at)) for name in names})


def ask(strategy: Strategy, pool: Mapping[str, Host], max_count: int, *last: str) -> list[str]:
    return list(choose(strategy, pool, StrategyOptions(max_count, last)))


# The built-in ones


def test_rr_takes_newcomers_as_they_joined() -> None:
    assert ask(RR, hosts("c", "a", "b", joined=[9, 7, 8]), 2) == ["a", "b"]


def test_rr_takes_those_that_joined_together_by_name_bytewise() -> None:
    pool = hosts("\udcff", "日", "z", "\uffff", "Z", joined=[4] * 5)
    assert ask(RR, pool, 9) == ["Z", "z", "日", "\uffff", "\udcff"]  # the last is byte 0xff


def test_f25_rr_keeps_whom_it_chose_in_order_and_appends() -> None:
    pool = hosts("a", "b", "c", "d", "e")
    assert ask(RR, pool, 4, "d", "gone", "b") == ["d", "b", "a", "c"]


def test_rr_cuts_what_it_keeps_to_max_count() -> None:
    assert ask(RR, hosts("a", "b", "c"), 2, "c", "b", "a") == ["c", "b"]


def test_rr_survives_a_last_decision_with_duplicates() -> None:
    assert ask(RR, hosts("a", "b"), 2, "b", "b") == ["b", "a"]


def test_alpha_takes_the_first_by_name_bytewise() -> None:
    pool = hosts("\U00010000", "\uffff", "b", "a10", "a9", "B")
    assert ask(ALPHA, pool, 9, "b") == ["B", "a10", "a9", "b", "\uffff", "\U00010000"]
    assert ask(ALPHA, hosts("\udcff", "\uffff", "z"), 9) == ["z", "\uffff", "\udcff"]
    assert ask(ALPHA, pool, 1, "b") == ["B"]


@pytest.mark.parametrize("strategy", [RR, ALPHA])
def test_nobody_to_choose(strategy: Strategy) -> None:
    assert ask(strategy, hosts(), 3, "a") == []


names = st.lists(st.text("abcde", min_size=1, max_size=2), unique=True, max_size=8)


@given(names, names, st.integers(1, 5), st.sampled_from([RR, ALPHA]), st.data())
def test_the_built_in_ones_are_full_stable_and_blind_to_order(
    living: list[str], last: list[str], max_count: int, strategy: Strategy, data: st.DataObject
) -> None:
    pool = hosts(*living)
    choice = ask(strategy, pool, max_count, *last)
    assert len(choice) == min(max_count, len(living))
    assert ask(strategy, pool, max_count, *choice) == choice
    shuffled = {name: pool[name] for name in data.draw(st.permutations(living))}
    assert ask(strategy, shuffled, max_count, *last) == choice


@given(names, names, st.integers(1, 5))
def test_f25_rr_drops_nobody_that_lives_unless_there_are_too_many(
    living: list[str], last: list[str], max_count: int
) -> None:
    kept = [name for name in last if name in living]
    choice = ask(RR, hosts(*living), max_count, *last)
    assert choice[: len(kept)] == kept[:max_count]


# Finding one


class Mine(Strategy):
    name = "mine"

    def schedule(self, hosts: Mapping[str, Host], options: StrategyOptions) -> Sequence[str]:
        return list(hosts)[: options.max_count]


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no registration outlive its test."""
    monkeypatch.setattr(strategies, "_registry", dict(strategies._registry))


def entry_points(monkeypatch: pytest.MonkeyPatch, *found: EntryPoint) -> list[dict[str, str]]:
    """Install entry points, and return the list of searches that will be made."""
    searches: list[dict[str, str]] = []

    def search(**params: str) -> EntryPoints:
        searches.append(params)
        in_group = [each for each in found if each.group == params["group"]]
        return EntryPoints(e for e in in_group if e.name == params.get("name", e.name))

    monkeypatch.setattr("importlib.metadata.entry_points", search)
    return searches


def entry(name: str, value: str, group: str = "trio_sched.strategies") -> EntryPoint:
    return EntryPoint(name, value, group)


def test_a_strategy_passes_through() -> None:
    mine = Mine()
    assert get_strategy(mine) is mine


def test_a_registered_strategy_is_made_anew_for_each_look_up() -> None:
    register("mine", Mine)
    one, other = get_strategy("mine"), get_strategy("mine")
    assert isinstance(one, Mine)
    assert one is not other
    assert known_strategies() == tuple(sorted([*BUILT_IN, "mine"]))


@pytest.mark.parametrize("name", [*BUILT_IN, "mine"])
def test_a_name_is_taken_once(name: str) -> None:
    register("mine", Mine)
    with pytest.raises(ValueError, match="registered already"):
        register(name, Mine)


@pytest.mark.parametrize(
    ("name", "factory", "error"),
    [("", Mine, ValueError), (b"x", Mine, TypeError), (None, Mine, TypeError), ("x", 3, TypeError)],
)
def test_bad_registrations(name: str, factory: type[Mine], error: type[Exception]) -> None:
    with pytest.raises(error):
        register(name, factory)
    assert known_strategies() == BUILT_IN


def test_an_unknown_name_is_answered_with_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    register("mine", Mine)
    entry_points(monkeypatch, entry("theirs", "nowhere:Nothing"))
    with pytest.raises(ValueError, match=r"'alpha', 'mine', .*'rr', 'spread', 'theirs'"):
        get_strategy("nope")


@pytest.mark.parametrize("junk", [None, 3, b"rr", ["rr"], Mine, object()])
def test_what_is_neither_name_nor_strategy(junk: str) -> None:
    with pytest.raises(TypeError, match="strategy must be a name or an instance"):
        get_strategy(junk)


def by_name(hosts: Mapping[str, Host], options: StrategyOptions) -> Sequence[str]:
    return sorted(hosts)[: options.max_count]


class Callable:
    def __call__(self, hosts: Mapping[str, Host], options: StrategyOptions) -> Sequence[str]:
        return by_name(hosts, options)

    def method(self, hosts: Mapping[str, Host], options: StrategyOptions) -> Sequence[str]:
        return by_name(hosts, options)


def with_more(hosts: Mapping[str, Host], options: StrategyOptions, _more: int = 0) -> Sequence[str]:
    return by_name(hosts, options)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (by_name, "by_name"),
        (lambda hosts, options: list(by_name(hosts, options)), "<lambda>"),
        (Callable(), "Callable"),
        (Callable().method, "method"),
        (functools.partial(with_more, _more=1), "with_more"),
        (with_more, "with_more"),
    ],
)
def test_a_plain_function_is_a_strategy_by_its_own_name(
    function: StrategyFunction, name: str
) -> None:
    strategy = get_strategy(function)
    assert strategy.name == name
    assert ask(strategy, hosts("c", "b", "a"), 2) == ["a", "b"]


def test_a_registered_function_goes_by_the_registered_name() -> None:
    register("plain", by_name)
    assert get_strategy("plain").name == "plain"
    assert ask(get_strategy("plain"), hosts("c", "b", "a"), 2) == ["a", "b"]


def test_a_function_at_an_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    entry_points(monkeypatch, entry("theirs", f"{__name__}:by_name"))
    assert get_strategy("theirs").name == "theirs"


def test_a_function_that_makes_a_strategy_is_a_factory() -> None:
    def make(first: int = 1, second: int = 2) -> Strategy:
        del first, second
        return Mine()

    register("made", make)
    assert isinstance(get_strategy("made"), Mine)
    assert isinstance(get_strategy(make), Mine)  # type: ignore[arg-type] # types want no arguments


async def asleep(hosts: object, options: object) -> Sequence[str]:
    del hosts, options
    await trio.lowlevel.checkpoint()
    return []


class Asleep:
    async def __call__(self, hosts: object, options: object) -> Sequence[str]:
        return await asleep(hosts, options)


def keywords(*, hosts: object, options: object) -> Sequence[str]:
    del hosts, options
    return []


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (lambda _one: [], "must take \\(hosts, options\\), or nothing .* takes \\(_one\\)"),
        (lambda _one, _two, _three: [], "must take \\(hosts, options\\)"),
        (keywords, "must take \\(hosts, options\\)"),
        (lambda *_args: [], "takes any arguments, \\(\\*_args\\): name them"),
        (asleep, "must not be async"),
        (functools.partial(asleep, None), "must not be async"),
        (Asleep(), "must not be async"),
        (max, "has no signature"),
    ],
)
def test_what_could_be_neither_function_nor_factory(bad: StrategyFunction, words: str) -> None:
    with pytest.raises(TypeError, match="strategy .*" + words):
        get_strategy(bad)
    with pytest.raises(TypeError, match="strategy 'bad' " + words):
        register("bad", bad)
    assert "bad" not in known_strategies()


def test_f23_a_function_that_breaks_the_rules_is_a_strategy_error() -> None:
    with pytest.raises(StrategyError, match="chose 2 hosts where at most 1") as caught:
        ask(get_strategy(lambda hosts, _options: sorted(hosts)), hosts("a", "b"), 1)
    assert caught.value.strategy == "<lambda>"


def test_a_strategy_without_a_name_is_none() -> None:
    class Nameless(Mine):
        name = ""

    with pytest.raises(TypeError, match=r"Nameless\.name"):
        get_strategy(Nameless())


def test_a_factory_that_makes_something_else() -> None:
    register("odd", dict)  # type: ignore[arg-type] # wrong on purpose
    with pytest.raises(TypeError, match="the factory of 'odd' gave an object of type dict"):
        get_strategy("odd")


def test_entry_points_are_searched_only_for_names_that_are_not_registered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    searches = entry_points(
        monkeypatch,
        entry("theirs", f"{__name__}:Mine"),
        entry("rr", "nowhere:Nothing"),
        entry("other", f"{__name__}:Mine", group="of.others"),
    )
    assert get_strategy("rr").name == "rr"
    assert searches == []
    assert isinstance(get_strategy("theirs"), Mine)
    assert searches == [{"group": "trio_sched.strategies", "name": "theirs"}]
    with pytest.raises(ValueError, match="unknown strategy 'other'"):
        get_strategy("other")
    assert known_strategies() == (*BUILT_IN[:-1], "theirs", "weighted")


def test_an_entry_point_that_is_no_factory(monkeypatch: pytest.MonkeyPatch) -> None:
    entry_points(monkeypatch, entry("theirs", f"{__name__}:__doc__"))
    with pytest.raises(TypeError, match="entry point 'theirs' gives an object of type str"):
        get_strategy("theirs")


# Asking one


class Answers(Strategy):
    """Answers, or raises, what it was made with."""

    name = "answers"

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def schedule(self, hosts: Mapping[str, Host], options: StrategyOptions) -> Sequence[str]:
        del hosts, options
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer  # type: ignore[return-value] # wrong on purpose


@pytest.mark.parametrize("answer", [["b", "a"], ("b", "a"), [], ()])
def test_what_keeps_the_rules_is_believed_in_its_order(answer: Sequence[str]) -> None:
    assert ask(Answers(answer), hosts("a", "b", "c"), 2) == list(answer)


class Raising(Sequence[str]):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: object) -> str:
        raise LookupError("not even here")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("ab", "returned an object of type str, not a sequence"),
        (None, "returned an object of type NoneType, not a sequence"),
        ({"a"}, "not a sequence"),
        (iter(["a"]), "not a sequence"),
        (Mine, "returned the class Mine"),
        (b"ab", "named an object of type int where a host name is due"),
        ([["a"]], "named an object of type list"),
        (["a", "x"], "named 'x', which is not one of the hosts"),
        (["a", "b", "a"], "named 'a' twice"),
        (["a", "b", "c"], "chose 3 hosts where at most 2 are allowed"),
    ],
)
def test_f23_what_breaks_the_rules_is_a_strategy_error(answer: object, reason: str) -> None:
    with pytest.raises(StrategyError) as caught:
        ask(Answers(answer), hosts("a", "b", "c"), 2)
    assert reason in caught.value.reason
    assert caught.value.strategy == "answers"


@pytest.mark.parametrize("answer", [RuntimeError("boom"), ExceptionGroup("two", [OSError()])])
def test_f23_what_a_strategy_raises_is_attached(answer: Exception) -> None:
    with pytest.raises(StrategyError, match=f"raised {type(answer).__name__}: ") as caught:
        ask(Answers(answer), hosts("a"), 1)
    assert caught.value.__cause__ is answer


def test_f23_an_answer_that_raises_when_it_is_read() -> None:
    with pytest.raises(StrategyError, match="LookupError: not even here"):
        ask(Answers(Raising()), hosts("a"), 1)


@pytest.mark.parametrize("exc", [KeyboardInterrupt(), SystemExit(3)])
def test_f27_other_exceptions_pass(exc: BaseException) -> None:
    with pytest.raises(type(exc)) as caught:
        ask(Answers(exc), hosts("a"), 1)
    assert caught.value is exc
