"""What the etcd in memory finds by an index is what a search of everything finds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from trio_sched.etcd_shim._pb import messages_pb2 as pb
from trio_sched.simulation import memory_store
from trio_sched.simulation.memory_leases import Leases
from trio_sched.simulation.memory_store import Commit, Store
from trio_sched.simulation.memory_watches import Watch, WatchIndex

KEYS = st.sampled_from([b"a", b"b", b"b\0", b"b/1", b"b/2", b"c", b"d"])
ENDS = st.sampled_from([b"\0", b"b/3", b"c", b"z", b"a"])


def put(key: bytes) -> pb.RequestOp:
    return pb.RequestOp(request_put=pb.PutRequest(key=key, value=b"x"))


@st.composite
def stores(draw: st.DrawFn) -> Store:
    """Return a store in which keys were put, alone and together, deleted, and restored."""
    store = Store(lambda _: None, Leases())
    for _ in range(draw(st.integers(0, 12))):
        key = draw(KEYS)
        match draw(st.sampled_from(["put", "together", "delete", "restore"])):
            case "put":
                store.put(pb.PutRequest(key=key, value=b"x"))
            case "together":
                keys = sorted(draw(st.sets(KEYS, min_size=1)), reverse=draw(st.booleans()))
                store.txn(pb.TxnRequest(success=[put(each) for each in keys]))
            case "delete":
                store.delete_range(pb.DeleteRangeRequest(key=key))
            case "restore":
                store.restore(store.snapshot())
    return store


@given(
    store=stores(),
    start=KEYS,
    end=ENDS,
    limit=st.integers(1, 4),
    most=st.integers(0, 12),
    keys_only=st.booleans(),
)
def test_the_newest_are_found_as_by_a_sort_of_all(
    store: Store, start: bytes, end: bytes, limit: int, most: int, keys_only: bool
) -> None:
    request = pb.RangeRequest(
        key=start,
        range_end=end,
        limit=limit,
        sort_order=pb.RangeRequest.DESCEND,
        sort_target=pb.RangeRequest.CREATE,
        max_create_revision=most,
        keys_only=keys_only,
    )
    found = store.range(request)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory_store, "_is_of_the_newest", lambda _: False)
        assert found == store.range(request)


@given(
    ranges=st.lists(st.tuples(KEYS, st.sampled_from([b"", b"own", b"c", b"\0"])), max_size=6),
    gone=st.sets(st.integers(0, 5)),
    changed=st.lists(KEYS, min_size=1, unique=True),
)
def test_a_commit_reaches_the_watches_whose_range_it_is_in(
    ranges: list[tuple[bytes, bytes]], gone: set[int], changed: list[bytes]
) -> None:
    index = WatchIndex()
    received: dict[int, list[bytes]] = {}
    watches: list[Watch] = []

    def receive(number: int, data: bytes) -> None:
        events = pb.WatchResponse.FromString(data).events
        received.setdefault(number, []).extend(event.kv.key for event in events)

    for number, (start, end) in enumerate(ranges):
        end_of_range = start + b"\0" if end == b"own" else end
        options: Any = (1, False, False, False, lambda data, number=number: receive(number, data))
        watches.append(Watch(number, start, end_of_range, *options))
        index.add(watches[-1])
    for number in gone & {*range(len(watches))}:
        index.discard(watches[number])
    events = tuple(pb.Event(kv=pb.KeyValue(key=key, mod_revision=5)) for key in changed)
    commit: Commit = (5, events)
    index.notify(commit, pb.ResponseHeader(revision=5))
    for number, watch in enumerate(watches):
        wanted = [] if number in gone else [event.kv.key for event in watch.wanted(events)]
        assert received.get(number, []) == wanted
