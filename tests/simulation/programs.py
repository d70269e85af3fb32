"""Random programs for an etcd: lists of steps, as Hypothesis makes and shrinks them.

What a step says is the same for each etcd that it is played to. So revisions are counted from the
program's beginning: see `absolute`. Keys and ids of leases need no such thing, as a program begins
with an etcd that has neither. There are six keys, since beyond that the order of keys that are the
same by what they are sorted by is Go's own business.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar

from google.protobuf.message import Message
from hypothesis import strategies as st

from trio_sched.etcd_shim._pb import messages_pb2 as pb

__all__ = ["Compact", "Program", "Renew", "Step", "Watch", "absolute", "programs", "relative"]

KEYS: Final = (b"a", b"b", b"c", b"ab", b"b\0", b"\xff")
ENDS: Final = (b"", b"", b"\0", b"a", b"b", b"b\0", b"b\0\0", b"c", b"d", b"\xff", b"\xff\xff")
VALUES: Final = (b"", b"1", b"2", b"\xff")
LEASES: Final = (1, 2, 3, 4)
NEWEST: Final = 24  # the highest revision that a step names; a program makes about as many

_REVISIONS: Final = {
    "revision",
    "create_revision",
    "mod_revision",
    "min_create_revision",
    "max_create_revision",
    "min_mod_revision",
    "max_mod_revision",
}


@dataclass(frozen=True)
class Compact:
    """Forget the history before a revision."""

    revision: int


@dataclass(frozen=True)
class Renew:
    """Renew a lease."""

    lease: int


@dataclass(frozen=True)
class Watch:
    """Watch a range from here on to the end. A start of 0 is now."""

    key: bytes
    range_end: bytes
    start: int
    prev_kv: bool
    puts: bool
    deletes: bool


Step: TypeAlias = Message | Compact | Renew | Watch | None
Program: TypeAlias = list[Step]
M = TypeVar("M", bound=Message)


# ---- revisions ---------------------------------------------------------------------


def absolute(message: M, base: int) -> M:
    """Return a request with the revisions that it has at an etcd.

    1 becomes the one before `base`, which is compacted; 2 becomes `base`, at which nothing is
    there. 0 is none, and stays.
    """
    return _shifted(message, base - 2)


def relative(message: M, base: int) -> M:
    """Return an answer with revisions as they are in requests."""
    return _shifted(message, 2 - base)


def _shifted(message: M, by: int) -> M:
    copy = type(message)()
    copy.CopyFrom(message)
    _shift(copy, by)
    return copy


def _shift(message: Message, by: int) -> None:
    for field, value in message.ListFields():
        if field.name in _REVISIONS and value:
            setattr(message, field.name, value + by)
        elif isinstance(value, Message):
            _shift(value, by)
        elif field.message_type is not None:
            for item in value:
                _shift(item, by)


# ---- steps -------------------------------------------------------------------------

_keys = st.sampled_from(KEYS)
_ends = st.sampled_from(ENDS)
_values = st.sampled_from(VALUES)
_leases = st.sampled_from(LEASES)
_revisions = st.integers(1, NEWEST)
_maybe_revisions = st.sampled_from([0] * NEWEST + list(range(1, NEWEST + 1)))
_rarely = st.sampled_from([False] * 7 + [True])
_often = st.booleans()
_ignored = st.sampled_from([(False, False)] * 6 + [(True, False), (False, True), (True, True)])
_maybe_leases = st.sampled_from([0, 0, 0, 0, *LEASES])


_sort_orders = st.sampled_from(
    [pb.RangeRequest.NONE, pb.RangeRequest.ASCEND, pb.RangeRequest.DESCEND]
)
_sort_targets = st.sampled_from(
    [
        pb.RangeRequest.KEY,
        pb.RangeRequest.VERSION,
        pb.RangeRequest.CREATE,
        pb.RangeRequest.MOD,
        pb.RangeRequest.VALUE,
    ]
)
_RANGE_OPTIONS: Final[dict[str, st.SearchStrategy[Any]]] = {
    "limit": st.sampled_from([1, 2, 3, 6, -1]),
    "revision": _revisions,
    "sort_order": _sort_orders,
    "sort_target": _sort_targets,
    "serializable": st.just(value=True),
    "keys_only": st.just(value=True),
    "count_only": st.just(value=True),
    "min_mod_revision": _revisions,
    "max_mod_revision": _revisions,
    "min_create_revision": _revisions,
    "max_create_revision": _revisions,
}
_few_range_options = st.sampled_from(
    [few for size in range(4) for few in itertools.combinations(_RANGE_OPTIONS, size)]
)


@st.composite
def _ranges(draw: st.DrawFn) -> pb.RangeRequest:
    options = {name: draw(_RANGE_OPTIONS[name]) for name in draw(_few_range_options)}
    return pb.RangeRequest(key=draw(_keys), range_end=draw(_ends), **options)


def _reads_of_history() -> st.SearchStrategy[pb.RangeRequest]:
    return st.builds(lambda key, at: pb.RangeRequest(key=key, revision=at), _keys, _revisions)


@st.composite
def _pages(draw: st.DrawFn) -> pb.RangeRequest:
    """Return reads of some of many keys, which is where an order matters."""
    request = pb.RangeRequest(key=b"a", range_end=b"\0", limit=draw(st.integers(1, 3)))
    request.sort_target, request.sort_order = draw(_sort_targets), draw(_sort_orders)
    return request


@st.composite
def _puts(draw: st.DrawFn, *, ignoring: bool = True) -> pb.PutRequest:
    request = pb.PutRequest(key=draw(_keys), prev_kv=draw(_often))
    if ignoring:
        request.ignore_value, request.ignore_lease = draw(_ignored)
    if not request.ignore_value or draw(_rarely):
        request.value = draw(_values)
    if not request.ignore_lease or draw(_rarely):
        request.lease = draw(_maybe_leases)
    return request


_ends_of_deletes = st.sampled_from([b"", b"", b"", *ENDS])
_bounded_ends_of_deletes = st.sampled_from([b"", b"", b"", *(end for end in ENDS if end != b"\0")])


@st.composite
def _deletes(draw: st.DrawFn, *, onwards: bool = True) -> pb.DeleteRangeRequest:
    end = draw(_ends_of_deletes if onwards else _bounded_ends_of_deletes)
    return pb.DeleteRangeRequest(key=draw(_keys), range_end=end, prev_kv=draw(_often))


_OPERANDS: Final[dict[str, st.SearchStrategy[Any]]] = {
    "version": st.integers(0, 3),
    "create_revision": _maybe_revisions,
    "mod_revision": _maybe_revisions,
    "value": _values,
    "lease": st.sampled_from([0, *LEASES]),
}
_TARGETS: Final = (
    pb.Compare.VERSION,
    pb.Compare.CREATE,
    pb.Compare.MOD,
    pb.Compare.VALUE,
    pb.Compare.LEASE,
)


_places_of_targets = st.integers(0, len(_TARGETS) - 1)
_EQUAL, _GREATER = pb.Compare.EQUAL, pb.Compare.GREATER
_results = st.sampled_from(
    [_EQUAL, _EQUAL, _GREATER, _GREATER, pb.Compare.LESS, pb.Compare.NOT_EQUAL]
)
_rare_ends = st.sampled_from([b""] * 11 + list(ENDS))


@st.composite
def _compares(draw: st.DrawFn) -> pb.Compare:
    target, result = draw(_places_of_targets), draw(_results)
    name = list(_OPERANDS)[target]
    compare = pb.Compare(key=draw(_keys), range_end=draw(_rare_ends))
    compare.target, compare.result = _TARGETS[target], result
    setattr(compare, name, draw(_OPERANDS[name]))
    return compare


def _kinds_within(*, ignoring: bool) -> list[st.SearchStrategy[pb.RequestOp]]:
    """Return operations of which any may be in one transaction.

    etcd does not see that a delete of all from a key on and a put are of one key. If the put is to
    ignore what was deleted just then, etcd panics. So either is left out.
    """
    puts = _puts(ignoring=ignoring).map(lambda put: pb.RequestOp(request_put=put))
    reads = st.one_of(_ranges(), _reads_of_history()).map(
        lambda read: pb.RequestOp(request_range=read)
    )
    deletes = _deletes(onwards=not ignoring).map(
        lambda delete: pb.RequestOp(request_delete_range=delete)
    )
    return [puts, puts, reads, deletes]


_KINDS_WITHIN: Final = {ignoring: _kinds_within(ignoring=ignoring) for ignoring in (False, True)}


@functools.cache
def _operations(depth: int, *, ignoring: bool) -> st.SearchStrategy[list[pb.RequestOp]]:
    """Return the operations of one branch; made once, as Hypothesis examines each strategy."""
    kinds = [*_KINDS_WITHIN[ignoring]]
    if depth:
        deeper = _txns(depth - 1, ignoring=ignoring)
        kinds.append(deeper.map(lambda txn: pb.RequestOp(request_txn=txn)))
    return st.lists(st.one_of(kinds), max_size=3)


_some_compares = st.lists(_compares(), max_size=2)


@st.composite
def _txns(draw: st.DrawFn, depth: int, *, ignoring: bool) -> pb.TxnRequest:
    operations = _operations(depth, ignoring=ignoring)
    return pb.TxnRequest(
        compare=draw(_some_compares),
        success=draw(operations),
        failure=draw(operations),
    )


_filters = st.sampled_from(["", "", "puts", "deletes"])
_ends_of_watches = st.sampled_from([b"", b"\0", b"c"])


@st.composite
def _watches(draw: st.DrawFn) -> Watch:
    filtered = draw(_filters)
    key, end = draw(_keys), draw(_ends_of_watches)
    return Watch(
        key=key,
        range_end=b"" if end == b"c" <= key else end,
        start=draw(_maybe_revisions),
        prev_kv=draw(_often),
        puts=filtered != "puts",
        deletes=filtered != "deletes",
    )


_STEPS: Final[tuple[tuple[int, st.SearchStrategy[Any]], ...]] = (
    (5, st.none()),  # first, so that a step that does not matter shrinks to it
    (30, _puts()),
    (10, _deletes()),
    (16, _ranges()),
    (4, _pages()),
    (12, _txns(2, ignoring=False)),
    (8, _txns(2, ignoring=True)),
    (5, _leases.map(lambda lease: pb.LeaseGrantRequest(id=lease, ttl=1000 + lease))),
    (3, _leases.map(lambda lease: pb.LeaseRevokeRequest(id=lease))),
    (2, _leases.map(lambda lease: pb.LeaseTimeToLiveRequest(id=lease, keys=True))),
    (1, _leases.map(Renew)),
    (1, st.just(pb.LeaseLeasesRequest())),
    (2, _revisions.map(Compact)),
    (1, _watches()),
)


@st.composite
def _steps(draw: st.DrawFn) -> Step:
    kind: st.SearchStrategy[Step] = draw(_kinds)
    return draw(kind)


_kinds = st.sampled_from([kind for weight, kind in _STEPS for _ in range(weight)])


def programs(steps: int) -> st.SearchStrategy[Program]:
    """Return programs of so many steps; a None among them does nothing."""
    return st.lists(_steps(), min_size=steps, max_size=steps)
