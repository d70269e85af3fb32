"""Our classes of methods do what grpclib's do, which type checkers take them for."""

from __future__ import annotations

from typing import Any

import grpclib.client
import pytest

from trio_sched.etcd_shim import _methods
from trio_sched.etcd_shim._pb import services_grpc
from trio_sched.etcd_shim.channel import Channel


class Recorder:
    """A channel that keeps what it is asked for, and a call that answers."""

    def __init__(self) -> None:
        self.log: list[tuple[object, ...]] = []

    def request(self, *arguments: object, **options: object) -> Recorder:
        self.log.append((*arguments, options))
        return self

    async def __aenter__(self) -> Recorder:
        self.log.append(("enter",))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.log.append(("leave",))

    async def send_message(self, message: object, *, end: bool) -> None:
        self.log.append(("send", message, end))

    async def recv_message(self) -> str:
        return "the reply"


@pytest.mark.parametrize("name", _methods.__all__)
def test_a_call_is_opened_as_grpclib_opens_it(name: str) -> None:
    logs = []
    for module in (_methods, grpclib.client):
        channel: Any = Recorder()
        method = getattr(module, name)(channel, "/a.B/C", str, bytes)
        assert method.open() is channel
        assert method.open(timeout=1.5, metadata={"a": "b"}) is channel
        logs.append(channel.log)
    assert logs[0] == logs[1]


async def test_a_unary_call_is_made_as_grpclib_makes_it() -> None:
    logs = []
    for module in (_methods, grpclib.client):
        channel: Any = Recorder()
        method: Any = module.UnaryUnaryMethod(channel, "/a.B/C", str, bytes)
        assert await method("the request") == "the reply"
        assert await method("the request", timeout=2, metadata={"a": "b"}) == "the reply"
        logs.append(channel.log)
    assert logs[0] == logs[1]


def test_the_stubs_are_made_of_them() -> None:
    channel: Any = object.__new__(Channel)
    stubs = [cls(channel) for name, cls in vars(services_grpc).items() if name.endswith("Stub")]
    methods = [method for stub in stubs for method in vars(stub).values()]
    assert len(stubs) >= 6
    assert {type(method).__module__ for method in methods} == {"trio_sched.etcd_shim._methods"}
