from __future__ import annotations

import pytest

from trio_sched.serving.address import Address, CannotListen


@pytest.mark.parametrize(
    ("text", "host", "port", "loopback"),
    [
        ("80", "127.0.0.1", 80, True),
        (":80", "127.0.0.1", 80, True),
        ("localhost:0", "localhost", 0, True),
        ("127.1.2.3:80", "127.1.2.3", 80, True),
        ("[::1]:80", "::1", 80, True),
        ("[::ffff:127.0.0.1]:80", "::ffff:127.0.0.1", 80, True),
        ("[::ffff:10.0.0.1]:80", "::ffff:10.0.0.1", 80, False),
        ("0.0.0.0:80", "0.0.0.0", 80, False),
        ("[::]:80", "::", 80, False),
        ("10.0.0.1:65535", "10.0.0.1", 65535, False),
        ("host-a.example:80", "host-a.example", 80, False),
    ],
)
def test_it_is_loopback_unless_it_is_said(
    text: str, host: str, port: int, *, loopback: bool
) -> None:
    address = Address.parse(text)
    assert (address.host, address.port, address.is_loopback) == (host, port, loopback)
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    "text",
    ["", "x", "x:", "1:2:3", "::1:80", "[::x]:1", "-1", "65536", "a b:1", "http://x:1", "\uff11"],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|IPv6|octet|group|ermitted"):
        Address.parse(text)


async def test_what_a_name_stands_for_is_known_when_it_listens() -> None:
    """As that of a machine that its own ``/etc/hosts`` has on loopback."""
    address = Address.parse("127.1:0")
    assert not address.is_loopback
    found, (listener,) = await address.listen()
    async with listener:
        assert found.is_loopback
        assert str(found) == f"127.1:{found.port}"


async def test_it_is_said_when_it_is_taken() -> None:
    found, (listener,) = await Address.parse("0").listen()
    async with listener:
        assert found.port > 0
        with pytest.raises(CannotListen, match=f"cannot listen at {found}: Address already in use"):
            await found.listen()


async def test_it_is_said_when_it_is_another_machines() -> None:
    with pytest.raises(CannotListen, match="Cannot assign requested address"):
        await Address("192.0.2.1", 0).listen()
