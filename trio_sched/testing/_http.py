"""The little HTTP that etcd's /health and /metrics need.

The gRPC client cannot be used to test itself, and a library for two GETs would be a dependency.
"""

from __future__ import annotations

import re

import trio

__all__ = ["get", "parse_metrics"]

_LARGEST = 16 * 2**20  # bytes; etcd's /metrics has some 100 kB
_SAMPLE = re.compile(r"^([^#\s{]+(?:\{.*\})?) (\S+)$", re.MULTILINE)


async def get(host: str, port: int, target: str) -> tuple[int, str]:
    """Status and body of a plain GET.

    The request is HTTP/1.0, so that the answer comes in one piece and ends with the connection.

    Raises:
        OSError: no process listens there.
        trio.BrokenResourceError: the connection broke.
        ValueError: what came is not HTTP, or too large.
    """
    request = f"GET {target} HTTP/1.0\r\nHost: {host}:{port}\r\n\r\n"
    answer = bytearray()
    async with await trio.open_tcp_stream(host, port) as stream:
        await stream.send_all(request.encode())
        async for chunk in stream:
            answer += chunk
            if len(answer) > _LARGEST:
                raise ValueError(f"answer of more than {_LARGEST} bytes from {host}:{port}{target}")
    head, _, body = answer.partition(b"\r\n\r\n")
    status = re.match(rb"HTTP/1\.[01] (\d{3})\b", head)
    if status is None:
        raise ValueError(f"not an HTTP answer from {host}:{port}{target}: {bytes(head[:80])!r}")
    return int(status[1]), body.decode()


def parse_metrics(text: str) -> dict[str, float]:
    """The samples of Prometheus' text format, by name with labels as it is written there."""
    return {name: float(value) for name, value in _SAMPLE.findall(text)}
