"""Receiving bodies: through httpx, and past it where a body is long.

httpx hands out 64 KiB at a time and copies each byte about four times, which holds a local transfer under 1 GB/s. A
long body on a plain HTTP/1.1 connection is therefore read from the connection itself, once httpx has read the head:
into its place in the synchronous client, in larger pieces in the asynchronous one. The connection is then spent, and
httpx closes it. Whatever is unusual (TLS, HTTP/2, a transport of another kind) goes through httpx as ever.

After every piece ``between`` is called, so that whoever receives can look about.
"""

import socket
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from weightwell.transfers.transfer import Receiver

Place = Callable[..., Awaitable[None]]  # calls a function, with arguments, without holding up the event loop

LONG = 16 << 20  # bytes; for less, a connection that can be used again is worth more than the rate
PIECE = 256 << 10  # bytes read at once from an asynchronous stream: what asyncio receives at once


def receive(response: httpx.Response, receiver: Receiver, between: Callable[[], None]) -> None:
    """Receive the body of a response that ``receiver`` has begun."""
    chunks = response.iter_bytes()  # held to the end: collecting this generator would close the connection
    sock = _socket(response) if receiver.remaining >= LONG else None
    for chunk in chunks:
        # The first chunk is all that httpx has read beyond the head; from there on the socket stands at the body.
        receiver.feed(chunk)
        between()
        if sock is not None:
            return _drain(sock, receiver, response.request, between)
        if receiver.satisfied:
            return None
    return None


async def areceive(response: httpx.Response, receiver: Receiver, place: Place, between: Callable[[], None]) -> None:
    """Receive the body of a response that ``receiver`` has begun; ``place`` calls what may wait for a disk."""
    chunks = response.aiter_bytes()
    stream = _plain_stream(response) if receiver.remaining >= LONG else None
    async for chunk in chunks:
        await place(receiver.feed, chunk)
        between()
        if stream is not None:
            return await _adrain(stream, receiver, response.request, place, between)
        if receiver.satisfied:
            return None
    return None


def _plain_stream(response: httpx.Response) -> Any:
    """Return the network stream under a response whose body it carries as it is; None if there is no such thing."""
    stream = response.extensions.get("network_stream")
    plain = (
        stream is not None
        and response.extensions.get("http_version") == b"HTTP/1.1"
        and "Transfer-Encoding" not in response.headers
        and stream.get_extra_info("ssl_object") is None
    )
    return stream if plain else None


def _socket(response: httpx.Response) -> socket.socket | None:
    """Return the socket that carries the body as it is; None if there is no such thing."""
    stream = _plain_stream(response)
    sock = stream.get_extra_info("socket") if stream is not None else None
    return sock if type(sock) is socket.socket else None


def _drain(sock: socket.socket, receiver: Receiver, request: httpx.Request, between: Callable[[], None]) -> None:
    """Receive what remains of a body, or what comes of it, into its place."""
    sock.settimeout(_read_timeout(request))
    while receiver.remaining:
        count = _recv_into(sock, receiver.window(), request)
        if not count:
            return
        receiver.advance(count)
        between()


def _recv_into(sock: socket.socket, window: memoryview, request: httpx.Request) -> int:
    """Receive some bytes, with the errors that httpx would have raised."""
    try:
        return sock.recv_into(window)
    except TimeoutError as error:
        raise httpx.ReadTimeout(str(error), request=request) from error
    except OSError as error:
        raise httpx.ReadError(str(error), request=request) from error


async def _adrain(
    stream: Any, receiver: Receiver, request: httpx.Request, place: Place, between: Callable[[], None]
) -> None:
    """Receive what remains of a body, or what comes of it."""
    while receiver.remaining:
        chunk = await _read(stream, min(PIECE, receiver.remaining), request)
        if not chunk:
            return
        await place(receiver.feed, chunk)
        between()


async def _read(stream: Any, size: int, request: httpx.Request) -> bytes:
    """Read at most ``size`` bytes, with the errors that httpx would have raised."""
    import httpcore  # by now httpx has imported it; at the top it would slow down ``import weightwell``

    try:
        chunk: bytes = await stream.read(size, timeout=_read_timeout(request))
    except httpcore.TimeoutException as error:
        raise httpx.ReadTimeout(str(error), request=request) from error
    except httpcore.NetworkError as error:
        raise httpx.ReadError(str(error), request=request) from error
    return chunk


def _read_timeout(request: httpx.Request) -> float | None:
    """Return the seconds of silence that a request allows its server; None for any."""
    timeout: float | None = request.extensions.get("timeout", {}).get("read")
    return timeout
