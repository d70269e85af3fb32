"""Lose the answers of transactions, whether they were carried out or not."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from trio_sched.etcd_shim import Client, TxnResult
from trio_sched.etcd_shim.errors import ConnectionLost

__all__ = ["lose_answer"]


def lose_answer(
    monkeypatch: pytest.MonkeyPatch,
    client: Client,
    *,
    carried_out: bool,
    then: Callable[[], Awaitable[object]] | None = None,
) -> None:
    """Lose the answer of the next transaction.

    Args:
        monkeypatch: undoes it.
        client: whose it is.
        carried_out: whether etcd carries it out.
        then: what is done before the error is raised.
    """
    txn = client.txn
    left = 1

    async def without_answer(*arguments: Any) -> TxnResult:
        nonlocal left
        if not left:
            return await txn(*arguments)
        left -= 1
        if carried_out:
            await txn(*arguments)
        if then is not None:
            await then()
        raise ConnectionLost("the answer is lost")

    monkeypatch.setattr(client, "txn", without_answer)
