"""What a connection reports."""

from __future__ import annotations

from trio_sched.etcd_shim.channel.http2.events import GoAway


def test_server_complains_of_pings() -> None:
    assert GoAway(0, 11, b"too_many_pings").too_many_pings
    assert not GoAway(0, 11, b"").too_many_pings
