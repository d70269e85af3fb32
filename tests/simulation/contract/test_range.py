"""Reads of ranges, with every option that etcd has."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from trio_sched.etcd_shim import ALL_KEYS, Client, GetResult, KeyValue, prefix_range
from trio_sched.etcd_shim._pb import messages_pb2 as pb
from trio_sched.etcd_shim.kv import SortOrder, SortTarget


def names(found: GetResult, path: str) -> str:
    """Return what the keys are called below `path`, one letter each."""
    return "".join(kv.key.decode().removeprefix(f"{path}/") for kv in found)


async def put_all(client: Client, path: str, keys: str) -> list[int]:
    return [(await client.put(f"{path}/{key}", key.upper())).revision for key in keys]


# ---- which keys --------------------------------------------------------------------


async def test_a_range_is_half_open_and_in_order(client: Client, path: str) -> None:
    await put_all(client, path, "dbca")
    found = await client.get(f"{path}/a", range_end=f"{path}/d")
    assert (names(found, path), found.count, found.more) == ("abc", 3, False)


async def test_a_key_alone_is_no_prefix(client: Client, path: str) -> None:
    await client.put(f"{path}/a", "1")
    await client.put(f"{path}/ab", "2")
    assert [kv.value for kv in await client.get(f"{path}/a")] == [b"1"]
    assert [kv.value for kv in await client.get_prefix(f"{path}/a")] == [b"1", b"2"]


@pytest.mark.parametrize("end", ["a", "b"])
async def test_a_range_that_ends_before_it_begins_is_empty(
    client: Client, path: str, end: str
) -> None:
    await put_all(client, path, "abc")
    found = await client.get(f"{path}/b", range_end=f"{path}/{end}")
    assert (found.kvs, found.count, found.more) == ((), 0, False)


async def test_bytes_sort_as_bytes(client: Client, path: str) -> None:
    stem = f"{path}/".encode()
    ends = [b"\x00", b"\x00\x00", b"a", b"a\x00", b"ab", b"b", b"\xc3\xa4", b"\xff", b"\xff\xff"]
    for end in reversed(ends):
        await client.put(stem + end, b"")
    found = await client.get_prefix(stem)
    assert [kv.key.removeprefix(stem) for kv in found] == ends
    found = await client.get_prefix(stem + b"\xff")
    assert [kv.key.removeprefix(stem) for kv in found] == [b"\xff", b"\xff\xff"]


async def test_everything_from_a_key_on(client: Client, path: str) -> None:
    await put_all(client, path, "abc")
    found = await client.get(f"{path}/b", range_end=ALL_KEYS)
    assert [kv.value for kv in found][:2] == [b"B", b"C"]
    assert found.count == len(found)
    everything = await client.get(b"\0", range_end=ALL_KEYS)
    keys = [kv.key for kv in everything]
    assert keys == sorted(keys)
    assert {f"{path}/{name}".encode() for name in "abc"} <= set(keys)
    assert prefix_range("") == (b"\0", ALL_KEYS)


# ---- limit, count and more ---------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "expected", "more"),
    [(0, "abc", False), (1, "a", True), (2, "ab", True), (3, "abc", False), (4, "abc", False)],
)
@pytest.mark.parametrize("order", [None, "ascending"])
async def test_a_limit(
    client: Client, path: str, limit: int, expected: str, *, more: bool, order: SortOrder | None
) -> None:
    await put_all(client, path, "cab")
    found = await client.get_prefix(f"{path}/", limit=limit, sort_order=order)
    assert (names(found, path), found.count, found.more) == (expected, 3, more)


async def test_a_limit_is_of_what_was_sorted(client: Client, path: str) -> None:
    await put_all(client, path, "cab")
    found = await client.get_prefix(
        f"{path}/", limit=1, sort_order="descending", sort_target="create_revision"
    )
    assert (names(found, path), found.count, found.more) == ("b", 3, True)


async def test_only_the_count(client: Client, path: str) -> None:
    await put_all(client, path, "cab")
    for limit in (0, 2):
        found = await client.get_prefix(f"{path}/", count_only=True, limit=limit)
        assert (found.kvs, found.count, found.more) == ((), 3, False)
    assert (await client.get(f"{path}/x", count_only=True)).count == 0


async def test_only_the_keys(client: Client, path: str) -> None:
    revisions = await put_all(client, path, "ab")
    found = await client.get_prefix(f"{path}/", keys_only=True)
    assert found.kvs == tuple(
        KeyValue(f"{path}/{name}".encode(), b"", revision, revision, 1, 0)
        for name, revision in zip("ab", revisions, strict=True)
    )


async def test_a_serializable_read_answers_the_same(client: Client, path: str) -> None:
    await put_all(client, path, "ab")
    assert await client.get_prefix(f"{path}/", serializable=True) == await client.get_prefix(
        f"{path}/"
    )


# ---- sorting -----------------------------------------------------------------------

SORT_KEYS: dict[SortTarget, Callable[[KeyValue], bytes | int]] = {
    "key": lambda kv: kv.key,
    "version": lambda kv: kv.version,
    "create_revision": lambda kv: kv.create_revision,
    "mod_revision": lambda kv: kv.mod_revision,
    "value": lambda kv: kv.value,
}


async def put_in_many_orders(client: Client, path: str) -> None:
    """Put keys whose order differs by each target."""
    for name, value in zip("cabd", "3142", strict=True):
        await client.put(f"{path}/{name}", value)
    for name, times in zip("dcba", (2, 3, 0, 1), strict=True):
        kv = (await client.get(f"{path}/{name}")).kv
        assert kv is not None
        for _ in range(times):
            await client.put(f"{path}/{name}", kv.value)


@pytest.mark.parametrize("target", SORT_KEYS)
@pytest.mark.parametrize("order", ["ascending", "descending"])
async def test_sorting(client: Client, path: str, target: SortTarget, order: SortOrder) -> None:
    await put_in_many_orders(client, path)
    everything = await client.get_prefix(f"{path}/")
    expected = sorted(everything, key=SORT_KEYS[target], reverse=order == "descending")
    for limit in (0, 1, 3):
        found = await client.get_prefix(
            f"{path}/", sort_order=order, sort_target=target, limit=limit
        )
        assert list(found) == expected[: limit or None]
        assert (found.count, found.more) == (4, bool(limit))


async def test_the_orders_of_that_test_differ(client: Client, path: str) -> None:
    await put_in_many_orders(client, path)
    everything = await client.get_prefix(f"{path}/")
    orders = [sorted(everything, key=key) for key in SORT_KEYS.values()]
    for one, other in itertools.combinations(orders, 2):
        assert one != other


async def test_a_target_without_an_order_sorts_upwards(client: Client, path: str) -> None:
    await put_all(client, path, "cab")
    found = await client.get_prefix(f"{path}/", sort_target="mod_revision")
    assert names(found, path) == "cab"


async def test_a_limit_without_an_order_comes_before_the_sorting(client: Client, path: str) -> None:
    await put_all(client, path, "dcab")
    found = await client.get_prefix(f"{path}/", sort_target="mod_revision", limit=2)
    assert (names(found, path), found.count, found.more) == ("ca", 4, True), "of a, b and c"


async def test_the_same_by_the_target_stays_in_the_order_of_keys(client: Client, path: str) -> None:
    await put_all(client, path, "cab")
    orders: list[SortOrder] = ["ascending", "descending"]
    for order in orders:
        found = await client.get_prefix(f"{path}/", sort_order=order, sort_target="version")
        assert names(found, path) == "abc"


async def test_sorting_by_values_that_are_left_out(client: Client, path: str) -> None:
    await put_in_many_orders(client, path)
    found = await client.get_prefix(
        f"{path}/", sort_order="ascending", sort_target="value", keys_only=True
    )
    assert names(found, path) == "adcb"
    assert {kv.value for kv in found} == {b""}


# ---- bounds of revisions -----------------------------------------------------------


async def test_bounds_of_revisions(client: Client, path: str) -> None:
    a, b, c = await put_all(client, path, "abc")
    again = (await client.put(f"{path}/a", "A")).revision
    for bounds, expected in (
        ({"min_create_revision": b}, "bc"),
        ({"max_create_revision": b}, "ab"),
        ({"min_create_revision": b, "max_create_revision": b}, "b"),
        ({"min_mod_revision": c}, "ac"),
        ({"max_mod_revision": c}, "bc"),
        ({"min_mod_revision": b, "max_mod_revision": c}, "bc"),
        ({"max_create_revision": a, "min_mod_revision": again}, "a"),
        ({"min_create_revision": again + 1}, ""),
    ):
        found = await client.get_prefix(f"{path}/", **bounds)  # type: ignore[arg-type]
        assert names(found, path) == expected
        assert (found.count, found.more) == (3, False), "the count is of the range"


async def test_a_limit_is_of_what_is_within_bounds(client: Client, path: str) -> None:
    _, b, _ = await put_all(client, path, "abc")
    for limit, expected, more in ((1, "b", True), (2, "bc", False), (3, "bc", False)):
        found = await client.get_prefix(f"{path}/", min_create_revision=b, limit=limit)
        assert (names(found, path), found.count, found.more) == (expected, 3, more)


async def test_bounds_of_history(client: Client, path: str) -> None:
    a, b, _ = await put_all(client, path, "abc")
    await client.put(f"{path}/a", "again")
    found = await client.get_prefix(f"{path}/", revision=b, max_mod_revision=a)
    assert (names(found, path), found.count) == ("a", 2)


async def test_limits_below_zero_are_none(client: Client, path: str) -> None:
    await put_all(client, path, "ab")
    key, end = prefix_range(f"{path}/")
    answer = await client._kv.Range(pb.RangeRequest(key=key, range_end=end, limit=-1))
    assert (len(answer.kvs), answer.count, answer.more) == (2, 2, False)
