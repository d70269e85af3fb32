"""What a host and etcd send to each other, as text: recorded at the etcd in memory.

``python -m tests.docs.conversation`` writes it into ``docs/wire.md``, and `tests.docs.test_wire`
holds that it is the same there.

Nothing is left out but what is different each time: ids of leases are L1, L2 … in the order in
which they occur, moments are TIME, and of an answer's header there is the revision alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import trio
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from tests.places import DOCS
from trio_sched import Result, Slot, schedule
from trio_sched.etcd_shim._pb import messages_pb2 as pb
from trio_sched.simulation import MemoryEtcd, memory_server
from trio_sched.simulation.memory_wire import Frame, Kind, decode_headers
from trio_sched.simulation.seeded import seeded_scheduler
from trio_sched.testing import autojump_clock

__all__ = ["PAGE", "PARTS", "record", "written"]

PAGE = DOCS / "wire.md"
_MESSAGES: dict[str, tuple[Any, Any]] = {
    "Range": (pb.RangeRequest, pb.RangeResponse),
    "Txn": (pb.TxnRequest, pb.TxnResponse),
    "LeaseGrant": (pb.LeaseGrantRequest, pb.LeaseGrantResponse),
    "LeaseRevoke": (pb.LeaseRevokeRequest, pb.LeaseRevokeResponse),
    "LeaseKeepAlive": (pb.LeaseKeepAliveRequest, pb.LeaseKeepAliveResponse),
    "LeaseTimeToLive": (pb.LeaseTimeToLiveRequest, pb.LeaseTimeToLiveResponse),
    "LeaseLeases": (pb.LeaseLeasesRequest, pb.LeaseLeasesResponse),
    "Status": (pb.StatusRequest, pb.StatusResponse),
    "Watch": (pb.WatchRequest, pb.WatchResponse),
}
_TIME = r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00"
_HEX = r"(?<![0-9a-f])[0-9a-f]{14,16}(?![0-9a-f])"
_LEASES = (  # whose number `id` is that of a lease
    *(pb.LeaseGrantRequest, pb.LeaseGrantResponse, pb.LeaseRevokeRequest),
    *(pb.LeaseKeepAliveRequest, pb.LeaseKeepAliveResponse),
)
_NAMES = {"range": "get", "delete_range": "delete"}  # all others are as in etcd's protocol
PARTS = ("a joins and leads", "time passes", "a works", "b joins", "a leaves", "b leaves, the last")


class _Words:
    """Writes messages, with one name for each lease."""

    def __init__(self) -> None:
        self._leases: dict[int, str] = {}

    def _lease(self, number: int) -> str:
        return self._leases.setdefault(number, f"L{len(self._leases) + 1}")

    def lines(self, message: Any) -> Iterator[str]:
        """A message: its first line goes on behind the method's name."""
        if isinstance(message, pb.TxnRequest):
            yield ""
            for name, part in (("if", message.compare), ("then", message.success)):
                yield from self._listed(name, part)
            yield from self._listed("else", message.failure)
        elif isinstance(message, pb.TxnResponse):
            yield "succeeded" if message.succeeded else "did not succeed"
            yield from self._listed("", message.responses)
        elif isinstance(message, pb.WatchResponse) and message.events:
            events, head = [*message.events], pb.WatchResponse()
            head.CopyFrom(message)
            del head.events[:]
            yield self._fields(head)
            yield from (f"    {line}" for each in events for line in self._event(each))
        else:
            yield self._fields(message)

    def _listed(self, name: str, items: Iterable[Any]) -> Iterator[str]:
        """What stands below ``if``, ``then`` and ``else``."""
        for number, each in enumerate(items):
            head, *rest = self._item(each)
            yield f"    {name if not number else '':5}{head}"
            yield from (f"         {line}" for line in rest)

    def _item(self, item: Any) -> Iterator[str]:
        if isinstance(item, pb.Compare):
            yield self._fields(item)
            return
        ((field, inner),) = item.ListFields()
        name = field.name.partition("_")[2]
        head, *rest = self.lines(inner)
        yield f"{_NAMES.get(name, name)} {head}".rstrip()
        yield from rest

    def _event(self, event: Any) -> Iterator[str]:
        yield f"{'DELETE' if event.type else 'PUT'} {self._fields(event.kv)}"

    def _fields(self, message: Message) -> str:
        found = (self._field(message, *each) for each in message.ListFields())
        return ", ".join(each for each in found if each)

    def _field(self, message: Message, field: FieldDescriptor, value: Any) -> str:
        if field.name == "header":
            return f"revision {value.revision}" if value.revision else ""
        if hasattr(value, "append"):  # there may be several
            inner = "; ".join(self._value(message, field, each) for each in value)
            return f"{field.name} [{inner}]"
        return f"{field.name} {self._value(message, field, value)}"

    def _value(self, message: Message, field: FieldDescriptor, value: Any) -> str:
        if isinstance(value, Message):
            return f"({self._fields(value)})"
        if isinstance(value, bytes):
            return self._text(value.decode(errors="backslashreplace"))
        if field.enum_type is not None:
            return str(field.enum_type.values_by_number[value].name)
        is_lease = field.name == "lease" or (
            field.name.lower() == "id" and isinstance(message, _LEASES)
        )
        return self._lease(value) if is_lease else str(value)

    def _text(self, text: str) -> str:
        """A key or a value: leases are in them as hexadecimal numbers."""
        text = re.sub(_TIME, "TIME", text).replace("\0", "\\0")
        text = re.sub(r"(?<=[0-9a-f]{16})\.[0-9a-f]+(?= )", ".MARK", text)
        return re.sub(_HEX, lambda found: self._lease(int(found[0], 16)), text)


class Recorder:
    """Stands between an etcd in memory and its connections."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self._words = _Words()
        self._methods: dict[tuple[object, int], str] = {}
        self._names: dict[object, str] = {}  # of the hosts, by their connections

    def frame(self, session: object, one: Frame) -> None:
        if one.kind == Kind.OPEN:
            path = decode_headers(one.payload)[b":path"].decode()
            self._methods[session, one.call] = path.rpartition("/")[2]
        elif one.kind == Kind.MESSAGE:
            self._note("->", session, one.call, one.payload)

    def answer(self, session: object, call: int, payload: bytes) -> None:
        self._note("<-", session, call, payload)

    def _note(self, arrow: str, session: object, call: int, payload: bytes) -> None:
        host = self._names.setdefault(session, "ab"[len(self._names) % 2])
        method = self._methods[session, call]
        message = _MESSAGES[method][arrow == "<-"].FromString(payload)
        head, *rest = self._words.lines(message)
        self.parts.append("\n".join([f"{host} {arrow} {method} {head}".rstrip(), *rest]))


def record(patch: Callable[[object, str, object], None]) -> dict[str, list[str]]:
    """Play a short life of a path, and return what was sent in each of its parts.

    Args:
        patch: sets an attribute, and puts it back afterwards: pytest's `monkeypatch.setattr`.
    """
    recorder = Recorder()
    take, send = memory_server.ServerSession._take, memory_server._ServerCall.send

    def taken(session: memory_server.ServerSession, one: Frame) -> None:
        recorder.frame(session, one)
        take(session, one)

    def sent(call: memory_server._ServerCall, message: Message | bytes) -> None:
        payload = message if isinstance(message, bytes) else message.SerializeToString()
        recorder.answer(call.session, call.number, payload)
        send(call, message)

    patch(memory_server.ServerSession, "_take", taken)
    patch(memory_server._ServerCall, "send", sent)
    with seeded_scheduler(0):
        return trio.run(_life, recorder, clock=autojump_clock())


async def _host(
    etcd: MemoryEtcd,
    name: str,
    *,
    task_status: trio.TaskStatus[tuple[trio.CancelScope, Result]],
) -> None:
    with trio.CancelScope() as life:
        async with etcd.open_client() as client, schedule(client, "/jobs", name) as result:
            task_status.started((life, result))
            await trio.sleep_forever()


async def _life(recorder: Recorder) -> dict[str, list[str]]:
    """One host joins, leads, works; another joins, and takes over; it leaves, too."""
    etcd = MemoryEtcd()
    parts: dict[str, list[str]] = {}

    async def part(seconds: float = 0.1) -> None:
        await trio.sleep(seconds)  # by a clock that jumps: all is still
        parts[PARTS[len(parts)]], recorder.parts = recorder.parts, []

    async def work(_slot: Slot) -> None:
        await trio.sleep(0.1)

    async with trio.open_nursery() as nursery:
        first, result = await nursery.start(_host, etcd, "a")
        await part()
        await part(4)
        await result.run_while_scheduled(work)
        await part()
        second, _ = await nursery.start(_host, etcd, "b")
        await part()
        first.cancel()
        await part()
        second.cancel()
        await part()
    return parts


def written(page: str, parts: Mapping[str, list[str]]) -> str:
    """Return the page with these parts in place of those that it has."""
    for name, exchanges in parts.items():
        block = "\n".join(exchanges)
        pattern = rf"(^### {re.escape(name.capitalize())}$.*?^```text\n).*?(^```$)"
        page, count = re.subn(
            pattern,
            lambda found, block=block: f"{found[1]}{block}\n{found[2]}",  # type: ignore[misc] # inferred
            page,
            flags=re.MULTILINE | re.DOTALL,
        )
        assert count == 1, name
    return page


def main(page: Path = PAGE) -> None:
    """Write what is sent into the page."""
    page.write_text(written(page.read_text(), record(setattr)))


if __name__ == "__main__":
    main()
