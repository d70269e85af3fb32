"""What is measured, and of which clients: the rows and the columns of the table."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "AT_ONCE",
    "BURST",
    "COLUMNS",
    "FRESH",
    "GO",
    "KEY",
    "OURS",
    "ROWS",
    "VALUE",
    "WATCHED",
    "Column",
    "Row",
]

AT_ONCE = 64  # calls under way in the row "conc"

# Events that are under way at most. etcd 3.5 holds 128 messages for the watches of a call; events
# beyond that wait for up to 100 ms and come in one message. A slow client would seem cheap for it.
BURST = 100

KEY, VALUE = b"bench/0001", b"0123456789"
WATCHED = b"watched/"


OURS, GO = "ours", "go"
_PB = "trio_sched.etcd_shim._pb"


@dataclass(frozen=True, slots=True)
class Row:
    """What one operation is.

    Attributes:
        name: what ``--rows`` calls it.
        title: what the table calls it.
        count: operations in one round.
        quick: the same with ``--quick``.
    """

    name: str
    title: str
    count: int = 1
    quick: int = 1


@dataclass(frozen=True, slots=True)
class Column:
    """A client.

    Attributes:
        name: what ``--only`` and the table call it.
        module: our module that drives it, in this folder.
        package: what pip calls it.
        imports: the modules that a program which uses it imports.
        compiled: whether it is a program of its own, which `_go` builds.
    """

    name: str
    module: str
    package: str
    imports: tuple[str, ...]
    compiled: bool = False

    @property
    def borrows(self) -> bool:
        """Whether it is used with our messages."""
        return any(name.startswith(_PB) for name in self.imports)


# Each operation in these is repeated by a process that lives through all rounds.
ROWS = (
    Row("seq", "sequential put", 1500, 400),
    Row("conc", f"{AT_ONCE} puts at once", 6400, 1280),
    Row("get", "serializable get", 1500, 400),
    Row("watch", "watch event", 60 * BURST, 20 * BURST),
    Row("event", "put to event", 1000, 300),
    Row("renew", "lease renewal", 1500, 400),
    Row("connect", "connect, first put", 100, 30),
)

# These are of a process that has just begun, one in each round.
FRESH = (
    Row("import", "import, ms"),
    Row("cold", "connect, first put, ms"),
    Row("process", "memory of the process, MB"),
    Row("memory", "memory of one more client, kB"),
)

COLUMNS = (
    Column(OURS, "_ours", "trio-sched", ("trio", "trio_sched.etcd_shim.opening")),
    Column(GO, "go_client", "", (), compiled=True),
    Column("aetcd", "_aetcd", "aetcd", ("asyncio", "aetcd")),
    Column("grpc.aio", "_grpc_aio", "grpcio", ("asyncio", "grpc.aio", f"{_PB}.messages_pb2")),
    Column("etcd-client-py", "_rust", "etcd-client-py", ("asyncio", "etcd_client")),
    Column("grpclib", "_grpclib", "grpclib", ("asyncio", "grpclib.client", f"{_PB}.services_grpc")),
)
