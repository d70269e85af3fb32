"""docs/howto/fencing.md is true: its code refuses what is late."""

from __future__ import annotations

import hashlib
import io
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.docs.postgres import Postgres, find_postgres, open_postgres
from tests.docs.terminals import blocks
from tests.places import DOCS, ROOT
from trio_sched import Roster

BLOCKS = {
    block.caption: block.text for block in blocks(DOCS.joinpath("howto", "fencing.md").read_text())
}
PATH = "/jobs/backup"


def module(name: str) -> dict[str, Any]:
    """What a file of the page defines."""
    names: dict[str, Any] = {"__name__": name}
    exec(compile(BLOCKS[name], name, "exec"), names)
    return names


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A database with the tables of all examples."""
    with closing(sqlite3.connect(tmp_path / "db", timeout=20)) as found:
        for name in ("fenced_sqlite.py", "rostered_sqlite.py"):
            found.execute(module(name)["TABLE"])
        found.execute("CREATE TABLE done (what TEXT)")
        yield found


INSERT = "INSERT INTO done VALUES (?)"


def done(db: sqlite3.Connection) -> list[str]:
    return [what for (what,) in db.execute("SELECT what FROM done ORDER BY rowid")]


def test_sqlite_refuses_an_old_token(db: sqlite3.Connection) -> None:
    page = module("fenced_sqlite.py")
    write, refused = page["write"], page["Refused"]
    write(db, PATH, 10, INSERT, ["first"])
    write(db, PATH, 10, INSERT, ["again"])
    write(db, PATH, 20, INSERT, ["next"])
    with pytest.raises(refused):
        write(db, PATH, 10, INSERT, ["late"])
    write(db, "/another", 10, INSERT, ["another path"])
    with pytest.raises(sqlite3.OperationalError):
        write(db, PATH, 30, "INSERT INTO nowhere VALUES (1)")
    write(db, PATH, 20, INSERT, ["a token whose write failed has not been seen"])
    assert done(db)[:4] == ["first", "again", "next", "another path"]
    assert len(done(db)) == 5


def test_sqlite_lets_nothing_in_between(db: sqlite3.Connection, tmp_path: Path) -> None:
    """While a newer token's transaction is open, an older one's waits, and is refused then."""
    page = module("fenced_sqlite.py")
    with closing(sqlite3.connect(tmp_path / "db", timeout=0)) as older:
        assert db.execute(page["PASS"], (PATH, 20)).rowcount == 1
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            page["write"](older, PATH, 10, INSERT, ["late"])
        db.execute(INSERT, ["next"])
        db.commit()
        with pytest.raises(page["Refused"]):
            page["write"](older, PATH, 10, INSERT, ["late"])
    assert done(db) == ["next"]


def test_sqlite_with_rosters_refuses_a_slot_that_is_gone_and_lets_those_in_that_are_held(
    db: sqlite3.Connection,
) -> None:
    page = module("rostered_sqlite.py")
    write, refused = page["write"], page["Refused"]
    write(db, PATH, 10, Roster(12, frozenset({10, 12})), INSERT, ["a"])
    write(db, PATH, 12, Roster(12, frozenset({10, 12})), INSERT, ["b"])
    write(db, PATH, 17, Roster(19, frozenset({12, 17})), INSERT, ["c, in the place of a"])
    with pytest.raises(refused):
        write(db, PATH, 10, Roster(12, frozenset({10, 12})), INSERT, ["a, late"])
    write(db, PATH, 12, Roster(12, frozenset({10, 12})), INSERT, ["b, by an old roster"])
    write(db, PATH, 25, Roster(19, frozenset({12, 17})), INSERT, ["d, newer than all"])
    assert [what[0] for what in done(db)] == ["a", "b", "c", "b", "d"]


def test_the_program_with_sqlite_runs(tmp_path: Path, endpoint: str) -> None:
    for name in ("fenced_sqlite.py", "backup.py"):
        (tmp_path / name).write_text(BLOCKS[name])
    env = os.environ | {"PYTHONPATH": str(ROOT), "ETCDCTL_ENDPOINTS": endpoint}
    ended = subprocess.run(
        [sys.executable, "backup.py"], cwd=tmp_path, env=env, capture_output=True, check=True
    )
    assert ended.stdout == b"[('monday',)]\n"


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    programs = find_postgres()
    if programs is None:
        pytest.skip("there is no PostgreSQL")
    with open_postgres(programs) as server:
        made = server.run(
            BLOCKS["fence.sql"] + BLOCKS["roster.sql"] + "CREATE TABLE done (what text);"
        )
        assert made.returncode == 0, made.stderr
        yield server


@pytest.fixture
def sql(postgres: Postgres) -> Iterator[Callable[[str], str]]:
    """Run some SQL; give what it prints, or the code of its error."""

    def run(text: str) -> str:
        ended = postgres.run(text)
        if ended.returncode == 0:
            return ended.stdout.strip()
        return ended.stderr.partition("ERROR:")[2].split(":")[0].strip()

    yield run
    run("TRUNCATE fence, roster, done")


def test_postgresql_refuses_an_old_token(sql: Callable[[str], str]) -> None:
    block = BLOCKS["write.sql"]
    assert "17" in block
    for number, what in ((17, "a"), (17, "b"), (20, "c")):
        text = block.replace("17", str(number)).replace("monday", what)
        assert sql(text) == ""
    assert sql(block.replace("monday", "late")) == "TS001"
    assert sql("SELECT string_agg(what, ' ') FROM done") == "a b c"


def test_postgresql_lets_an_old_token_wait_and_refuses_it(
    postgres: Postgres, sql: Callable[[str], str]
) -> None:
    newer, older = (
        subprocess.Popen(
            postgres.psql, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(2)
    )
    assert newer.stdin is not None
    assert newer.stdout is not None
    newer.stdin.write(b"BEGIN; SELECT fence('/jobs/backup', 20); SELECT 'passed';\n")
    newer.stdin.flush()
    while newer.stdout.readline() != b"passed\n":
        pass
    assert older.stdin is not None
    older.stdin.write(BLOCKS["write.sql"].encode())
    older.stdin.close()
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    while sql(waiting) != "1":  # there is no event for that; the test's timeout is the bound
        assert older.poll() is None
    newer.stdin.write(b"INSERT INTO done VALUES ('next'); COMMIT;\n")
    newer.stdin.close()
    assert newer.wait(30) == 0
    assert older.stderr is not None
    assert b"TS001" in older.stderr.read()
    assert older.wait(30) != 0
    for process in (newer, older):
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()
    assert sql("SELECT string_agg(what, ' ') FROM done") == "next"


def test_postgresql_with_rosters_refuses_a_slot_that_is_gone(sql: Callable[[str], str]) -> None:
    block = BLOCKS["admit.sql"]

    def text(token: int, roster: str, what: str) -> str:
        found = block.replace("17, '19 12 17'", f"{token}, '{roster}'")
        assert found != block or token == 17
        return found.replace("monday", what)

    assert sql(text(10, "12 10 12", "a")) == ""
    assert sql(text(12, "12 10 12", "b")) == ""
    assert sql(text(17, "19 12 17", "c")) == ""
    assert sql(text(10, "12 10 12", "late")) == "TS001"
    assert sql(text(12, "12 10 12", "d")) == ""
    assert sql(text(25, "19 12 17", "e")) == ""
    assert sql("SELECT string_agg(what, ' ') FROM done") == "a b c d e"


class Bucket:
    """What the documentation of conditional writes says, in memory."""

    class exceptions:  # noqa: N801 # as in boto3
        class ClientError(Exception):
            response: dict[str, Any]

        class NoSuchKey(ClientError):
            pass

    def __init__(self) -> None:
        self.body: bytes | None = None
        self.meanwhile: list[Callable[[], object]] = []  # what others do after a read

    @property
    def etag(self) -> str | None:
        return None if self.body is None else hashlib.md5(self.body).hexdigest()

    def get_object(self, **_names: str) -> dict[str, Any]:
        body, etag = self.body, self.etag
        if self.meanwhile:
            self.meanwhile.pop(0)()
        if body is None:
            raise self.exceptions.NoSuchKey
        return {"Body": io.BytesIO(body), "ETag": etag}

    def put_object(self, *, Body: bytes, **condition: str) -> str:  # noqa: N803 # as in boto3
        absent = condition.get("IfNoneMatch") == "*"
        if self.etag != (None if absent else condition["IfMatch"]):
            error = self.exceptions.ClientError()
            error.response = {"ResponseMetadata": {"HTTPStatusCode": 412}}
            raise error
        self.body = Body
        return "done"


def test_the_code_for_s3_by_a_bucket_in_memory() -> None:
    page = module("fenced_s3.py")
    bucket = Bucket()

    def write(token: int, data: str) -> object:
        return page["write"](bucket, "b", "k", token, data)

    bucket.meanwhile = [lambda: write(5, "another is the first")]
    for token, data in ((10, "a"), (10, "b"), (20, "b")):
        assert write(token, data) == "done"
    bucket.meanwhile = [lambda: write(30, "b")]  # the same data
    for token in (10, 25):
        with pytest.raises(page["Refused"]):
            write(token, "late")
    assert bucket.body == b'{"token": 30, "data": "b"}'
