"""A wall clock for every HTTP request: its time-out is how long it may take in all, from connecting to the last byte.

In: the HTTP client that an SDK is to use. Out: the same client, bounded. The SDKs' time-outs are per read, so a server
that sends one byte every few seconds would keep an attempt alive for ever. The decision a reader would question: the
connection itself is bounded, in places of the HTTP library that are not public. Watching the body from outside would
miss a server that drips its headers, and a thread that is given up leaves its connection open; cut here, an attempt
ends as any other time-out, with its connection closed. A request runs on the thread that asks, so the thread knows
when it must end. Looking up a name has no time-out in the system's own library, and so none here.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import httpcore2
import httpx2

WRITE_BYTES = 2**16


class _End(threading.local):
    at: float | None = None
    """When the request of this thread must be over, by the monotonic clock."""


_END = _End()


def bound(client: httpx2.Client) -> httpx2.Client:
    """The client, with each request held to its own read time-out as a whole (a body that is streamed too, if the
    thread that asked reads it)."""
    client.event_hooks = client.event_hooks | {"request": [*client.event_hooks["request"], _start]}
    for transport in (client._transport, *client._mounts.values()):
        if transport is not None:  # None: an address that no proxy is to be used for
            pool: Any = transport._pool  # type: ignore[attr-defined]
            pool._network_backend = _Backend(pool._network_backend)
    return client


def _start(request: httpx2.Request) -> None:
    seconds = request.extensions.get("timeout", {}).get("read")
    _END.at = None if seconds is None else time.monotonic() + seconds


def _left(timeout: float | None, over: type[httpcore2.TimeoutException]) -> float | None:
    """Seconds that this step may take.

    Raises:
        TimeoutException: the request's time is over.
    """
    if _END.at is None:
        return timeout
    left = _END.at - time.monotonic()
    if left <= 0:
        raise over("the request as a whole took longer than its time-out")
    return left if timeout is None else min(timeout, left)


class _Backend(httpcore2.NetworkBackend):
    """Opens connections that are bounded."""

    def __init__(self, inner: httpcore2.NetworkBackend) -> None:
        self._inner = inner

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore2.NetworkStream:
        left = _left(timeout, httpcore2.ConnectTimeout)
        return _Stream(self._inner.connect_tcp(host, port, left, local_address, socket_options))

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Any = None
    ) -> httpcore2.NetworkStream:
        return _Stream(self._inner.connect_unix_socket(path, _left(timeout, httpcore2.ConnectTimeout), socket_options))

    def sleep(self, seconds: float) -> None:
        self._inner.sleep(seconds)


class _Stream(httpcore2.NetworkStream):
    """A connection whose every step ends with the request that it serves."""

    def __init__(self, inner: httpcore2.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, _left(timeout, httpcore2.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), WRITE_BYTES):  # a server that hardly reads must not hold up one long write
            self._inner.write(buffer[start : start + WRITE_BYTES], _left(timeout, httpcore2.WriteTimeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        left = _left(timeout, httpcore2.ConnectTimeout)
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, left))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
