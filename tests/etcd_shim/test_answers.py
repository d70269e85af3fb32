"""Values of messages: the same as those that are made at once, and frozen."""

from __future__ import annotations

import inspect
import pickle
from typing import Any

import pytest

from trio_sched.etcd_shim._answers import KeyValue, PutResult
from trio_sched.etcd_shim._pb import messages_pb2 as pb
from trio_sched.etcd_shim.watch import Event, EventType

KV = KeyValue(b"key", b"value", 3, 5, 2, 7)
KV_MESSAGE = pb.KeyValue(
    key=b"key", value=b"value", create_revision=3, mod_revision=5, version=2, lease=7
)

PAIRS = {
    "KeyValue": (KV, KeyValue.decode(KV_MESSAGE)),
    "Event": (
        Event(EventType.DELETE, KV, KV),
        Event.decode(pb.Event(type=pb.Event.DELETE, kv=KV_MESSAGE, prev_kv=KV_MESSAGE)),
    ),
    "PutResult": (PutResult(9, None), PutResult.decode(pb.PutResponse(), 9)),
}


@pytest.mark.parametrize(("made", "filled"), PAIRS.values(), ids=PAIRS)
def test_it_is_the_same(made: Any, filled: Any) -> None:
    assert type(filled) is type(made)
    assert filled == made
    assert hash(filled) == hash(made)
    assert repr(filled) == repr(made)
    assert pickle.loads(pickle.dumps(filled)) == made


@pytest.mark.parametrize(("made", "filled"), PAIRS.values(), ids=PAIRS)
def test_it_is_frozen(made: Any, filled: Any) -> None:
    for name in inspect.signature(type(made)).parameters:
        with pytest.raises(AttributeError):
            setattr(filled, name, None)
    with pytest.raises((AttributeError, TypeError)):
        filled.another = None
