"""What a host believes of itself, over HTTP: for load balancers, orchestrators and scrapes.

What is answered is what `Result` says at that moment, by the same rules: the clock is asked each
time, and a session whose deadline has passed is neither ready nor scheduled, whatever etcd says
later. Nothing that connects to etcd is shown: no endpoint, user or password.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from math import inf
from typing import Final

import trio

from trio_sched.etcd_shim import EtcdError
from trio_sched.host.reads import read_path
from trio_sched.host.result import Result
from trio_sched.metrics import CONTENT_TYPE, Metrics, openmetrics
from trio_sched.model.keys import PathKeys
from trio_sched.model.path_state import PathState
from trio_sched.serving.address import Address
from trio_sched.serving.document import document_of
from trio_sched.serving.messages import BadRequest, EventStream, Request, Response
from trio_sched.serving.server import open_server

__all__ = ["MetricsPage", "StatusPages", "require_this_machine", "serve_status"]

_FRESH: Final = 1.0  # seconds for which a read of the path serves all who ask
_READ: Final = 3.0  # seconds that a read may take


class StatusPages:
    """Answers for one host.

    Args:
        metrics: what ``/metrics`` shows.
        where: it is served.

    Attributes:
        result: of the host; None while it has not joined.
        where: as given; to be set anew when it listens.
    """

    def __init__(self, metrics: Metrics, where: Address) -> None:
        self.result: Result | None = None
        self.where: Address = where
        self._metrics = metrics
        self._reading = trio.Lock()
        self._read_at = -inf
        self._state: PathState | None = None

    async def __call__(self, request: Request) -> Response | EventStream:
        """Answer a request."""
        match request.path:
            case "/healthz":
                return Response.text(HTTPStatus.OK, "alive")
            case "/readyz":
                return self._ready()
            case "/scheduled":
                return self._scheduled()
            case "/status":
                require_this_machine(request, self.where)
                return await self._status()
            case "/metrics":
                require_this_machine(request, self.where)
                return _numbers(self._metrics)
        words = "there are /healthz, /readyz, /scheduled, /status and /metrics"
        return Response.text(HTTPStatus.NOT_FOUND, words)

    def _ready(self) -> Response:
        if self.result is None:
            return Response.text(HTTPStatus.SERVICE_UNAVAILABLE, "it has not joined")
        if trio.current_time() < self.result.statistics().valid_until:
            return Response.text(HTTPStatus.OK, "ready")
        words = "its session is lost, or its decision may be old"
        return Response.text(HTTPStatus.SERVICE_UNAVAILABLE, words)

    def _scheduled(self) -> Response:
        if self.result is not None and self.result.scheduled:
            return Response.text(HTTPStatus.OK, "scheduled")
        return Response.text(HTTPStatus.SERVICE_UNAVAILABLE, "not scheduled")

    async def _status(self) -> Response:
        if self.result is None:
            return _refusal("it has not joined")
        try:
            with trio.fail_after(_READ):
                state = await self._read(self.result)
        except trio.TooSlowError:
            return _refusal("etcd does not answer")
        except EtcdError as exc:  # its words may name endpoints
            return _refusal(f"etcd could not be read: {type(exc).__name__}")
        age = max(0.0, trio.current_time() - self._read_at)
        trouble = self.result.statistics().trouble
        document = document_of(state, {}, age=age, trouble=None)
        document["this_host"] = {
            "name": self.result.hostname,
            "scheduled": self.result.scheduled,
            "leading": self.result.statistics().leading,
            "waits_for_etcd": trouble is not None,
        }
        return _json(HTTPStatus.OK, document)

    async def _read(self, result: Result) -> PathState:
        """Read the path, once for all who ask within a second."""
        async with self._reading:
            if self._state is None or trio.current_time() - self._read_at > _FRESH:
                keys, asked_at = PathKeys(result.path), trio.current_time()
                found = await read_path(result.client, keys, keys.everything)
                self._state = PathState.decode(keys, found, found.revision)
                self._read_at = asked_at
            return self._state


class MetricsPage:
    """Answers ``/metrics`` alone; arguments as for `StatusPages`."""

    def __init__(self, metrics: Metrics, where: Address) -> None:
        self.where: Address = where
        self._metrics = metrics

    async def __call__(self, request: Request) -> Response | EventStream:
        """Answer a request."""
        await trio.lowlevel.checkpoint()
        if request.path != "/metrics":
            return Response.text(HTTPStatus.NOT_FOUND, "there is /metrics")
        require_this_machine(request, self.where)
        return _numbers(self._metrics)


def _numbers(metrics: Metrics) -> Response:
    return Response(HTTPStatus.OK, openmetrics(metrics.families()).encode(), CONTENT_TYPE)


def require_this_machine(request: Request, where: Address) -> None:
    """Refuse what another site's page may have a browser ask for, of what listens on loopback.

    Raises:
        BadRequest: it is addressed to another name than the one that it listens at.
    """
    if where.is_loopback and not request.names(where.host):
        words = "ask by the address or localhost: another name may be a page's that spies"
        raise BadRequest(HTTPStatus.MISDIRECTED_REQUEST, words)


def _json(status: HTTPStatus, document: object) -> Response:
    return Response(status, json.dumps(document).encode() + b"\n", "application/json")


def _refusal(words: str) -> Response:
    return _json(HTTPStatus.SERVICE_UNAVAILABLE, {"error": words})


@asynccontextmanager
async def serve_status(result: Result, address: str = "127.0.0.1:0") -> AsyncIterator[str]:
    """Answer ``/healthz``, ``/readyz``, ``/scheduled``, ``/status`` and ``/metrics`` in this block.

    It gives the address, as ``HOST:PORT``. Who can connect may ask: on loopback, which it is
    unless you say otherwise, users and programs of this machine.

    Args:
        result: of the host that it is about.
        address: ``PORT``, ``HOST:PORT`` or ``[ADDRESS]:PORT``; port 0 for one that is free.

    Raises:
        ValueError: `address` is not understood.
        CannotListen: the system does not let us listen there.
    """
    where = Address.parse(address)
    metrics = Metrics()
    pages = StatusPages(metrics, where)
    pages.result = result
    with metrics.watching(result):
        async with open_server(where, pages) as found:
            pages.where = found
            yield str(found)
