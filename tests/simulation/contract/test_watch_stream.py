"""The watch stream, message by message."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from tests.simulation.servers import version
from trio_sched.etcd_shim import Client, Put
from trio_sched.etcd_shim._pb import messages_pb2 as pb

if TYPE_CHECKING:
    from grpclib.client import Stream

pytestmark = pytest.mark.at_the_root

INVALID = -1  # the watch id of an answer that is about no watch


class WatchStream:
    """One call of Watch."""

    def __init__(self, call: Stream[pb.WatchRequest, pb.WatchResponse]) -> None:
        self._call = call

    async def create(
        self,
        key: str | bytes,
        range_end: bytes = b"",
        *,
        watch_id: int = 0,
        start_revision: int = 0,
    ) -> None:
        request = pb.WatchCreateRequest(
            key=key.encode() if isinstance(key, str) else key,
            range_end=range_end,
            watch_id=watch_id,
            start_revision=start_revision,
        )
        await self._call.send_message(pb.WatchRequest(create_request=request))

    async def cancel(self, watch_id: int) -> None:
        request = pb.WatchCancelRequest(watch_id=watch_id)
        await self._call.send_message(pb.WatchRequest(cancel_request=request))

    async def ask_for_progress(self) -> None:
        request = pb.WatchProgressRequest()
        await self._call.send_message(pb.WatchRequest(progress_request=request))

    async def receive(self) -> pb.WatchResponse:
        with trio.fail_after(20):
            answer = await self._call.recv_message()
        assert answer is not None
        return answer

    async def receive_events(self) -> tuple[int, list[bytes]]:
        answer = await self.receive()
        assert not answer.created
        assert not answer.canceled
        return answer.watch_id, [event.kv.value for event in answer.events]

    async def receive_created(self) -> int:
        answer = await self.receive()
        assert answer.created
        assert not answer.canceled
        assert not answer.events
        return answer.watch_id

    async def receive_after_progress(self, *, allowed: bool) -> pb.WatchResponse:
        """Receive what is no progress that was asked for; that is first only if allowed."""
        answer = await self.receive()
        while answer.watch_id == INVALID:
            assert allowed
            answer = await self.receive()
        return answer


@asynccontextmanager
async def open_stream(client: Client) -> AsyncIterator[WatchStream]:
    async with client._watches._stub.Watch.open() as call:
        await call.send_request()
        yield WatchStream(call)
        await call.cancel()


@pytest.fixture
async def stream(client: Client) -> AsyncIterator[WatchStream]:
    async with open_stream(client) as stream:
        yield stream


# ---- creating ----------------------------------------------------------------------


async def test_a_creation_is_answered_with_the_revision(
    client: Client, stream: WatchStream, path: str
) -> None:
    revision = (await client.put(path, "1")).revision
    await stream.create(path)
    answer = await stream.receive()
    header = (await client._kv.Range(pb.RangeRequest(key=b"k"))).header
    assert answer.header == header
    assert (answer.header.revision, answer.created, answer.canceled) == (revision, True, False)
    assert (answer.compact_revision, answer.cancel_reason, len(answer.events)) == (0, "", 0)


async def test_etcd_counts_the_watches_of_a_stream(
    client: Client, stream: WatchStream, path: str
) -> None:
    for expected in range(3):
        await stream.create(path)
        assert await stream.receive_created() == expected
    async with open_stream(client) as other:
        await other.create(path)
        assert await other.receive_created() == 0


async def test_ids_of_ones_own(client: Client, stream: WatchStream, path: str) -> None:
    await stream.create(path, watch_id=7)
    assert await stream.receive_created() == 7
    await stream.create(path, watch_id=1)
    assert await stream.receive_created() == 1
    await stream.create(path)
    assert await stream.receive_created() == 0
    await stream.create(path)
    assert await stream.receive_created() == 2, "1 is taken"
    await client.put(path, "x")
    assert {(await stream.receive_events())[0] for _ in range(4)} == {0, 1, 2, 7}


async def test_an_id_that_is_taken(client: Client, stream: WatchStream, path: str) -> None:
    await stream.create(path, watch_id=7)
    assert await stream.receive_created() == 7
    await stream.create(f"{path}/other", watch_id=7)
    answer = await stream.receive()
    assert (answer.watch_id, answer.created, answer.canceled) == (INVALID, True, True)
    assert answer.cancel_reason == "mvcc: duplicate watch ID provided on the WatchStream"
    await client.put(path, "x")
    assert await stream.receive_events() == (7, [b"x"])


@pytest.mark.parametrize(("key", "end"), [(b"b", b"a"), (b"b", b"b")])
async def test_a_range_that_ends_before_it_begins(
    stream: WatchStream, key: bytes, end: bytes
) -> None:
    await stream.create(key, end)
    answer = await stream.receive()
    assert (answer.watch_id, answer.created, answer.canceled) == (INVALID, True, True)
    assert answer.cancel_reason == "mvcc: watcher range is empty"
    await stream.create(key)
    assert await stream.receive_created() == 0, "a refused watch takes no number"


async def test_no_key_is_the_first_key(client: Client, stream: WatchStream, path: str) -> None:
    await stream.create(b"", b"\0")
    await stream.receive_created()
    await stream.create(b"")
    await stream.receive_created()
    await client.put(path, "x")
    assert await stream.receive_events() == (0, [b"x"])
    await client.put(b"\0", "y")
    received = [await stream.receive_events() for _ in range(2)]
    assert sorted(received) == [(0, [b"y"]), (1, [b"y"])]
    await client.delete(b"\0")


# ---- events ------------------------------------------------------------------------


async def test_each_watch_is_given_its_events_of_a_revision_in_one_message(
    client: Client, stream: WatchStream, path: str
) -> None:
    await stream.create(f"{path}/", f"{path}0".encode())
    await stream.create(f"{path}/b")
    await stream.create(f"{path}/c")
    assert [await stream.receive_created() for _ in range(3)] == [0, 1, 2]
    done = await client.txn(success=[Put(f"{path}/b", "1"), Put(f"{path}/a", "2")])
    answers = [await stream.receive() for _ in range(2)]
    assert {answer.header.revision for answer in answers} == {done.revision}
    found = sorted((one.watch_id, [event.kv.value for event in one.events]) for one in answers)
    assert found == [(0, [b"1", b"2"]), (1, [b"1"])]


async def test_history_comes_after_the_creation(
    client: Client, stream: WatchStream, path: str
) -> None:
    start = (await client.put(path, "1")).revision
    now = (await client.put(path, "2")).revision
    await stream.create(path, start_revision=start)
    answer = await stream.receive()
    assert (answer.created, answer.header.revision) == (True, now)
    assert await stream.receive_events() == (0, [b"1", b"2"])


# ---- ending ------------------------------------------------------------------------


async def test_cancelling(client: Client, stream: WatchStream, path: str) -> None:
    for expected in range(2):
        await stream.create(path)
        assert await stream.receive_created() == expected
    await stream.cancel(0)
    answer = await stream.receive()
    assert (answer.watch_id, answer.created, answer.canceled) == (0, False, True)
    assert (answer.cancel_reason, answer.compact_revision) == ("", 0)
    await client.put(path, "x")
    assert await stream.receive_events() == (1, [b"x"])


async def test_cancelling_what_is_not_there_is_not_answered(
    client: Client, stream: WatchStream, path: str
) -> None:
    await stream.cancel(12)
    await stream.create(path)
    assert await stream.receive_created() == 0
    await client.put(path, "x")
    assert await stream.receive_events() == (0, [b"x"])


async def test_history_that_is_compacted_ends_a_watch(
    client: Client, stream: WatchStream, path: str
) -> None:
    first, second = [(await client.put(path, value)).revision for value in "12"]
    await client.compact(second, physical=True)
    await stream.create(path, start_revision=first)
    assert await stream.receive_created() == 0
    answer = await stream.receive()
    assert (answer.watch_id, answer.created, answer.canceled) == (0, False, True)
    assert (answer.compact_revision, answer.cancel_reason) == (second, "")
    assert not answer.events
    assert answer.header.revision == 0


async def test_a_start_below_zero(client: Client, stream: WatchStream, path: str) -> None:
    """Refused since etcd 3.5.24; before, all history that there is, or that it is compacted."""
    revision = (await client.put(path, "1")).revision
    await stream.create(path, start_revision=-1)
    answer = await stream.receive()
    assert (answer.created, answer.header.revision) == (True, revision)
    if await version(client) < (3, 5, 24):
        assert (answer.watch_id, answer.canceled) == (0, False)
        return
    assert (answer.watch_id, answer.canceled) == (INVALID, True)
    assert answer.cancel_reason == "etcdserver: mvcc: required revision has been compacted"
    assert answer.compact_revision == 0
    await stream.create(path)
    assert await stream.receive_created() == 0


# ---- progress ----------------------------------------------------------------------


async def test_asking_for_progress(client: Client, stream: WatchStream, path: str) -> None:
    await stream.create(path)
    await stream.receive_created()
    revision = (await client.put(f"{path}/other", "1")).revision
    with trio.fail_after(20):
        while True:
            await stream.ask_for_progress()
            answer = await stream.receive()
            assert (answer.watch_id, len(answer.events), answer.created) == (INVALID, 0, False)
            if answer.header.revision == revision:
                break


async def test_progress_does_not_overtake_history(
    client: Client, stream: WatchStream, path: str
) -> None:
    """Since etcd 3.5.8; before, it may."""
    overtakes = await version(client) < (3, 5, 8)
    start = (await client.put(path, "1")).revision
    await stream.create(path, start_revision=start)
    await stream.ask_for_progress()
    assert (await stream.receive_after_progress(allowed=overtakes)).created
    answer = await stream.receive_after_progress(allowed=overtakes)
    assert [event.kv.value for event in answer.events] == [b"1"]


async def test_no_progress_of_what_has_not_begun(
    client: Client, stream: WatchStream, path: str
) -> None:
    """Since etcd 3.5.22; before, there is some."""
    progress = await version(client) < (3, 5, 22)
    now = (await client.put(path, "0")).revision
    await stream.create(path, start_revision=now + 2)
    await stream.receive_created()
    await stream.ask_for_progress()
    if progress:
        answer = await stream.receive()
        assert (answer.watch_id, answer.header.revision) == (INVALID, now)
    for value in "12":
        await client.put(path, value)
    assert await stream.receive_events() == (0, [b"2"])


async def test_no_progress_of_no_watches(client: Client, stream: WatchStream, path: str) -> None:
    """Since etcd 3.5.8; before, there is some."""
    progress = await version(client) < (3, 5, 8)
    await stream.ask_for_progress()
    await stream.create(path)
    assert (await stream.receive_after_progress(allowed=progress)).created
