"""How `trio-sched run` connects: flags, etcdctl's variables, TLS, users; and what it says."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
import trustme
from click.testing import CliRunner

from tests.cli.run.run_tools import done
from tests.etcd_shim.test_auth import open_guarded
from tests.etcd_shim.test_transport import write
from tests.helpers import PASSWORD
from trio_sched.cli.connect import Connection, connection_options
from trio_sched.cli.exits import explain
from trio_sched.cli.run.signals import parse_on_lost
from trio_sched.etcd_shim import TLSContext, tls_context
from trio_sched.exceptions import StrategyError, TrioSchedError
from trio_sched.testing import open_etcd

VARIABLES = ("ENDPOINTS", "USER", "PASSWORD", "CACERT", "CERT", "KEY")


def connect(*arguments: str, env: dict[str, str] | None = None, given: str = "") -> Connection:
    """The connection that these flags and these variables, of etcdctl or ours, ask for."""
    found: list[Connection] = []

    @click.command
    @connection_options
    def command(connection: Connection) -> None:
        found.append(connection)

    variables: dict[str, str | None] = {f"ETCDCTL_{name}": None for name in VARIABLES}
    variables |= {f"TRIO_SCHED_{name}": None for name in VARIABLES}
    for name, value in (env or {}).items():
        variables[name if name.startswith("TRIO_SCHED_") else f"ETCDCTL_{name}"] = value
    result = CliRunner().invoke(command, arguments, env=variables, input=given)
    if result.exit_code:
        raise ValueError(result.output)
    return found[0]


@pytest.mark.parametrize(
    ("given", "urls"),
    [
        ("127.0.0.1:2379", ["http://127.0.0.1:2379"]),
        ("a:1,http://b:2, https://c:3", ["http://a:1", "http://b:2", "https://c:3"]),
        ("[::1]:2379", ["http://[::1]:2379"]),
        ("localhost", ["http://localhost"]),
        ("unix:///run/etcd.sock", ["unix:///run/etcd.sock"]),
    ],
)
def test_endpoints_as_etcdctl_takes_them(given: str, urls: list[str]) -> None:
    assert list(connect("--endpoints", given).endpoints) == urls
    assert list(connect(env={"ENDPOINTS": given}).endpoints) == urls


def test_without_anything() -> None:
    assert connect() == Connection(("http://127.0.0.1:2379",))
    assert connect(env={"ENDPOINTS": "", "USER": ""}) == connect()


def test_a_flag_wins() -> None:
    env = {"ENDPOINTS": "a:1", "USER": "a:1", "PASSWORD": "2"}
    found = connect("--endpoints", "b:2", "--user", "b", "--password", "3", env=env)
    assert (found.endpoints, found.user, found.password) == (("http://b:2",), "b", "3")


def test_our_own_variables_hold_for_each_command_and_win() -> None:
    """`run` has them as for all of its options; another command must not ask another etcd."""
    env = {"TRIO_SCHED_ENDPOINTS": "b:2", "TRIO_SCHED_USER": "b", "TRIO_SCHED_PASSWORD": "3"}
    for more in ({}, {"ENDPOINTS": "a:1", "USER": "a", "PASSWORD": "2"}):
        found = connect(env=more | env)
        assert (found.endpoints, found.user, found.password) == (("http://b:2",), "b", "3")
    assert connect("--endpoints", "c:1", env=env).endpoints == ("http://c:1",)
    assert connect(env={"TRIO_SCHED_ENDPOINTS": "", "ENDPOINTS": "a:1"}).endpoints == (
        "http://a:1",
    )


@pytest.mark.parametrize(
    ("arguments", "env", "who"),
    [
        (["--user", "a:b:c"], {}, ("a", "b:c")),
        (["--user", "a", "--password", "b"], {}, ("a", "b")),
        (["--user", "a:b", "--password", "c"], {}, ("a:b", "c")),  # as etcdctl reads it
        ([], {"USER": "a:b"}, ("a", "b")),
        ([], {"USER": "a", "PASSWORD": "b"}, ("a", "b")),
        (["--user", "c"], {"USER": "a", "PASSWORD": "b"}, ("c", "b")),
        ([], {"PASSWORD": "b"}, (None, None)),
    ],
)
def test_users(arguments: list[str], env: dict[str, str], who: tuple[str, str]) -> None:
    found = connect(*arguments, env=env)
    assert (found.user, found.password) == who
    assert "password" not in repr(found)


def test_a_password_is_asked_for() -> None:
    assert connect("--user", "a", given="secret\n").password == "secret"
    with pytest.raises(ValueError, match="ETCDCTL_PASSWORD"):
        connect("--user", "a")  # without a terminal to ask at


def test_files_make_it_https(tmp_path: Path) -> None:
    authority = trustme.CA()
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    cert, key = write(authority.issue_cert("client"), tmp_path, "client")
    flags = ["--cacert", str(ca), "--cert", str(cert), "--key", str(key)]
    env = {"CACERT": str(ca), "CERT": str(cert), "KEY": str(key)}
    for found in (connect(*flags, "--endpoints", "a:1"), connect(env=env | {"ENDPOINTS": "a:1"})):
        assert found.endpoints == ("https://a:1",)
        context = found.ssl_context
        assert isinstance(context, TLSContext)
        assert (context.cacert, context.cert, context.key) == (str(ca), str(cert), str(key))
        assert len(context.get_ca_certs()) == 1
    assert connect(*flags, "--endpoints", "http://a:1").ssl_context is None
    with pytest.raises(ValueError, match="key needs a certificate"):
        connect("--key", str(key))
    with pytest.raises(ValueError, match="cannot use"):
        connect("--cacert", str(key))
    with pytest.raises(ValueError, match="key needs a certificate"):
        tls_context(key=key)


async def test_over_tls_with_a_certificate(tmp_path: Path) -> None:
    authority = trustme.CA()
    cert, key = write(authority.issue_cert("127.0.0.1"), tmp_path, "server")
    mine, my_key = write(authority.issue_cert("client"), tmp_path, "client")
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    async with open_etcd(client_tls=(cert, key, ca)) as server:
        endpoint = server.endpoint.removeprefix("https://")
        env = {"ETCDCTL_ENDPOINTS": endpoint, "ETCDCTL_CACERT": str(ca)}
        both = env | {"ETCDCTL_CERT": str(mine), "ETCDCTL_KEY": str(my_key)}
        assert (await done("/a", "--", "true", env=both))[0] == 0
        code, _, err = await done("/a", "--", "true", env=env)
        assert (code, err.count("\n")) == (69, 1)


async def test_f15_users_and_what_they_may() -> None:
    async with open_guarded() as server:
        env = {"ETCDCTL_ENDPOINTS": server.endpoint, "ETCDCTL_USER": f"app:{PASSWORD}"}
        assert (await done("/app/x", "--", "true", env=env))[0] == 0
        for path, more, hint in (
            ("/other", env, "grant it"),
            ("/app/x", env | {"ETCDCTL_PASSWORD": "wrong"}, "does not know"),
            ("/app/x", {"ETCDCTL_ENDPOINTS": server.endpoint}, "--user"),
        ):
            user = {"ETCDCTL_USER": "app"} if "ETCDCTL_PASSWORD" in more else {}
            code, _, err = await done(path, "--", "true", env=more | user)
            assert (code, err.count("\n")) == (77, 1)
            assert hint in err


def test_errors_of_a_strategy_and_others() -> None:
    connection = Connection(("http://a:1",))
    assert explain(StrategyError("mine", "it raised"), connection)[0] == 70
    code, words = explain(TrioSchedError("what"), connection)
    assert (code, words[:5]) == (70, "what;")


@pytest.mark.parametrize("text", ["term", "signal:TERM", "signal:sigterm"])
def test_on_lost(text: str) -> None:
    assert parse_on_lost(text).name == "SIGTERM"


@pytest.mark.parametrize("text", ["", "signal:", "signal:RTMAX1", "signal:_DFL", "kill", "TERM"])
def test_not_on_lost(text: str) -> None:
    with pytest.raises(ValueError, match="signal:NAME"):
        parse_on_lost(text)
