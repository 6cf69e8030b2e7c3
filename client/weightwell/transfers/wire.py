"""Reading from the network: through httpx, and for long bodies straight from the socket.

httpx hands out 64 KiB at a time and copies each byte about four times, which limits a local transfer to 1 GB/s. A long
body on a plain HTTP/1.1 connection is therefore read from the connection itself, once httpx has read the head. The
connection cannot be used again, and httpx closes it. Everything else (TLS, HTTP/2, other transports) goes through
httpx. Bodies are never decoded.
"""

import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import ref

import httpx

LONG = 16 << 20  # bytes; for less, a reusable connection saves more time than the higher rate
PIECE = 256 << 10  # bytes read at once from an asynchronous stream: what asyncio receives at once

# Events of httpcore whose result is a connection.
_CONNECTED = {
    "connection.connect_tcp.complete",
    "connection.connect_unix_socket.complete",
    "connection.start_tls.complete",
}

_reads = threading.local()  # ``until``: when the reads of this thread have to end


class Body:
    """The body of a response, in the synchronous client. It is read until ``until``, a time of ``time.monotonic``."""

    def __init__(self, response: httpx.Response, until: float):
        self._request = response.request
        self._chunks: Iterator[bytes] = response.iter_bytes() if response.is_stream_consumed else response.iter_raw()
        self._rest = memoryview(b"")
        self._until = until
        self._left = _length(response)
        self._sock = _socket(response) if self._left >= LONG else None
        self._past = False  # whether the socket stands at the body
        if self._sock is not None:
            self._sock.settimeout(read_timeout(self._request))

    def read_into(self, buffer: memoryview) -> int:
        """Read the next bytes into a buffer; return how many, 0 at the end."""
        if not self._rest and self._past and self._sock is not None:
            count = self._recv_into(self._sock, buffer[: self._left]) if self._left else 0
        else:
            if not self._rest:
                self._rest = memoryview(self._next())
                self._past = True  # the first chunk is all that httpx has read beyond the head
            count, self._rest = _moved(self._rest, buffer)
        self._left -= count
        return count

    def _next(self) -> bytes:
        with _errors_of(self._request), reads_until(self._until):
            return next((chunk for chunk in self._chunks if chunk), b"")

    def _recv_into(self, sock: socket.socket, buffer: memoryview) -> int:
        """Receive some bytes; raise the errors of httpx."""
        try:
            if self._until < float("inf"):
                sock.settimeout(shortened(read_timeout(self._request), self._until))
            return sock.recv_into(buffer)
        except TimeoutError as error:
            raise httpx.ReadTimeout(str(error), request=self._request) from error
        except OSError as error:
            raise httpx.ReadError(str(error), request=self._request) from error


class AsyncBody:
    """The body of a response, in the asynchronous client."""

    def __init__(self, response: httpx.Response):
        self._request = response.request
        consumed = response.is_stream_consumed
        self._chunks: AsyncIterator[bytes] = response.aiter_bytes() if consumed else response.aiter_raw()
        self._rest = memoryview(b"")
        self._left = _length(response)
        self._stream: Any = _plain_stream(response) if self._left >= LONG else None
        self._past = False

    async def read_into(self, buffer: memoryview) -> int:
        """Read the next bytes into a buffer; return how many, 0 at the end."""
        if not self._rest:
            self._rest = memoryview(await self._next())
            self._past = True
        count, self._rest = _moved(self._rest, buffer)
        self._left -= count
        return count

    async def _next(self) -> bytes:
        if self._past and self._stream is not None:
            return await self._read(min(PIECE, self._left)) if self._left else b""
        with _errors_of(self._request):
            async for chunk in self._chunks:
                if chunk:
                    return chunk
        return b""

    async def _read(self, size: int) -> bytes:
        """Read at most ``size`` bytes; raise the errors of httpx."""
        import httpcore  # by now httpx has imported it; at the top it would slow down ``import weightwell``

        try:
            chunk: bytes = await self._stream.read(size, timeout=read_timeout(self._request))
        except httpcore.TimeoutException as error:
            raise httpx.ReadTimeout(str(error), request=self._request) from error
        except httpcore.NetworkError as error:
            raise httpx.ReadError(str(error), request=self._request) from error
        return chunk


def send(http: httpx.Client, request: httpx.Request, until: float) -> httpx.Response:
    """Send a request and return the response, whose body has not been read.

    The head must come within the read timeout, however many informational (1xx) responses come before it.
    """
    request.extensions["trace"] = _limit_reads
    limit = time.monotonic() + (read_timeout(request) or float("inf"))
    with reads_until(min(limit, until)):
        return http.send(request, stream=True)


@contextmanager
def reads_until(until: float) -> Iterator[None]:
    """End the reads of this thread from connections of httpx at ``until``, a time of ``time.monotonic``."""
    _reads.until = until
    try:
        yield
    finally:
        del _reads.until


def shortened(timeout: float | None, until: float) -> float | None:
    """Return a timeout in seconds that ends at ``until`` at the latest, or None for no timeout. Raises TimeoutError."""
    if until == float("inf"):
        return timeout
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError("the time for this answer is over")
    return left if timeout is None else min(left, timeout)


def _limit_reads(event: str, info: dict[str, Any]) -> None:
    """Apply ``reads_until`` to a new connection. httpcore calls this at each step of a request."""
    if event not in _CONNECTED:
        return
    stream = info["return_value"]
    kind: Any = type(stream)
    weak = ref(stream)  # a reference cycle would keep the socket open

    def read(max_bytes: int, timeout: float | None = None) -> bytes:
        import httpcore

        try:
            timeout = shortened(timeout, getattr(_reads, "until", float("inf")))
        except TimeoutError as error:
            raise httpcore.ReadTimeout(str(error)) from error
        data: bytes = kind.read(weak(), max_bytes, timeout)
        return data

    stream.read = read


@contextmanager
def _errors_of(request: httpx.Request) -> Iterator[None]:
    """Attach the request to every error of httpx."""
    try:
        yield
    except httpx.RequestError as error:
        error.request = request
        raise


def _moved(data: memoryview, buffer: memoryview) -> tuple[int, memoryview]:
    """Copy as much data into a buffer as fits; return the number of bytes copied and the rest."""
    count = min(len(data), len(buffer))
    buffer[:count] = data[:count]
    return count, data[count:]


def _length(response: httpx.Response) -> int:
    length = response.headers.get("Content-Length", "")
    return int(length) if re.fullmatch("[0-9]{1,18}", length) else 0


def _plain_stream(response: httpx.Response) -> Any:
    """Return the network stream that carries a response's plain body, or None if the body is framed or encrypted."""
    stream = response.extensions.get("network_stream")
    plain = (
        stream is not None
        and response.extensions.get("http_version") == b"HTTP/1.1"
        and "Transfer-Encoding" not in response.headers
        and stream.get_extra_info("ssl_object") is None
    )
    return stream if plain else None


def _socket(response: httpx.Response) -> socket.socket | None:
    """Return the socket that carries the plain body of a response, or None if the body is framed or encrypted."""
    stream = _plain_stream(response)
    sock = stream.get_extra_info("socket") if stream is not None else None
    return sock if type(sock) is socket.socket else None


def read_timeout(request: httpx.Request) -> float | None:
    """Return the read timeout of a request in seconds, or None for no timeout."""
    timeout: float | None = request.extensions.get("timeout", {}).get("read")
    return timeout
