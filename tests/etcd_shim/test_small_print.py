"""Small things that users of other clients met."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest
import trio
import trustme
from cryptography.hazmat.primitives import serialization
from h2.settings import SettingCodes

from tests.etcd_shim.channel.channel_tools import assert_idle, get, open_pair
from tests.etcd_shim.channel.scripted_server import Manners
from trio_sched import etcd_shim
from trio_sched.etcd_shim import Compare, open_client, tls_context
from trio_sched.etcd_shim.channel import Endpoint
from trio_sched.reaper.owner import check_reapable

SECRET = "horse-battery"


@pytest.mark.parametrize(
    "url",
    [
        f"http://app:{SECRET}@127.0.0.1:2379",
        f"http://app:{SECRET}/x@127.0.0.1:2379",
        f"http://app:1/{SECRET}@127.0.0.1:2379",
        f"http://{SECRET}:{SECRET}@127.0.0.1:0",
        f"https://app:{SECRET}@[::1",
        f"ftp://app:{SECRET}@127.0.0.1",
        f"http://app:{SECRET}@127.0.0.1:2379\n",
    ],
)
def test_a_password_in_a_url_is_in_no_error(url: str) -> None:
    with pytest.raises(ValueError, match="endpoint") as caught:
        Endpoint.parse(url)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("url", ["http://127.0.0.1:0", "https://host:0", "http://host:99999"])
def test_a_port_that_is_none(url: str) -> None:
    with pytest.raises(ValueError, match="is not understood"):
        open_client(url)


@pytest.mark.parametrize("operand", [5.7, "5", None, True])
def test_a_number_is_compared_with_a_whole_number(operand: object) -> None:
    for make in (Compare.version, Compare.create_revision, Compare.mod_revision, Compare.lease):
        with pytest.raises(TypeError):
            make("a", "==", operand)  # type: ignore[arg-type] # what is tested


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(ValueError, match="target"):
        Compare(b"a", "colour", "==", 5)  # type: ignore[arg-type] # what is tested


def test_all_public_names_come_by_a_star() -> None:
    names: dict[str, object] = {}
    exec("from trio_sched.etcd_shim import *", names)  # what is tested
    assert {"open_client", "Client", "Compare", "EtcdError"} <= names.keys()
    assert etcd_shim._HOMES.keys() <= names.keys()


def encrypt(key: bytes, password: str) -> bytes:
    loaded = serialization.load_pem_private_key(key, None)
    return loaded.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(password.encode()),
    )


def test_a_key_with_a_password(tmp_path: Path) -> None:
    issued = trustme.CA().issue_cert("client")
    cert, key = tmp_path / "client.pem", tmp_path / "client.key"
    cert.write_bytes(issued.cert_chain_pems[0].bytes())
    key.write_bytes(encrypt(issued.private_key_pem.bytes(), SECRET))
    context = tls_context(cert=cert, key=key, key_password=SECRET)
    assert SECRET not in repr(context)
    assert SECRET not in repr(vars(context))
    for wrong in ("another", None):
        with pytest.raises(OSError) as caught:  # which one is OpenSSL's to choose
            tls_context(cert=cert, key=key, key_password=wrong)
        assert str(key) in caught.value.__notes__[0]


async def test_a_reaper_takes_no_key_with_a_password(tmp_path: Path) -> None:
    issued = trustme.CA().issue_cert("client")
    cert, key = tmp_path / "client.pem", tmp_path / "client.key"
    cert.write_bytes(issued.cert_chain_pems[0].bytes())
    key.write_bytes(encrypt(issued.private_key_pem.bytes(), SECRET))
    context = tls_context(cert=cert, key=key, key_password=SECRET)
    async with open_client("https://127.0.0.1:1", ssl_context=context) as client:
        with pytest.raises(ValueError, match="without a password"):
            check_reapable(client)


@pytest.mark.parametrize("which", ["cacert", "cert"])
def test_an_error_names_the_file(tmp_path: Path, which: str) -> None:
    absent, broken = tmp_path / "absent.pem", tmp_path / "broken.pem"
    broken.write_text("no certificate")
    for file in (absent, broken):
        with pytest.raises(OSError) as caught:  # which one is OpenSSL's to choose
            tls_context(**{which: file})  # type: ignore[arg-type] # one of the names of files
        assert str(file) in caught.value.__notes__[0]


async def test_ten_thousand_calls_at_once_wait() -> None:
    manners = Manners(settings={SettingCodes.MAX_CONCURRENT_STREAMS: 100})
    answered = 0

    async def call() -> None:
        nonlocal answered
        await get(channel)
        answered += 1

    async with open_pair(manners=manners) as (_, channel):
        await get(channel)
        async with trio.open_nursery() as nursery:
            for _ in range(10_500):
                nursery.start_soon(call)
        assert answered == 10_500
        await assert_idle(channel)
