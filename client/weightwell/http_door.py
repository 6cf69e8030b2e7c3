"""The door to a server: calls become transfers over httpx."""

import threading
import time
from collections.abc import Awaitable, Callable
from threading import Lock
from typing import Any, Generic, TypeVar

import anyio
import anyio.to_thread

from weightwell.calls import Call
from weightwell.connection import Settings, without_credentials
from weightwell.exceptions import TimedOut
from weightwell.pools import AsyncPool, Pool
from weightwell.request import Request
from weightwell.transfers.driver import abring, bring
from weightwell.transfers.progress import Progress
from weightwell.transfers.retry import Retry

T = TypeVar("T")
P = TypeVar("P", Pool, AsyncPool)


class _Http(Generic[P]):
    """What both doors have. ``connections``: the number for a long file."""

    def __init__(self, pool: P, retry: Retry, connections: int):
        self.pool: P = pool
        self.retry = retry
        self.connections = connections

    @property
    def address(self) -> str:
        """The address of the server, without credentials."""
        return without_credentials(self.pool.settings.base_url)

    def url(self, path: str | None) -> str | None:
        """Return the absolute address of a path on the server."""
        return path and self.pool.settings.address(path)


class HttpDoor(_Http[Pool]):
    """Answers the calls of a synchronous client. ``connections``: the number for a long file."""

    def __init__(self, settings: Settings, retry: Retry, connections: int):
        super().__init__(Pool(settings), retry, connections)
        self.sleep = _sleep

    def answer(self, call: Call[Any], progress: Progress, seconds: float) -> str:
        """Bring the answer of a call to its destination within some seconds, or raise."""
        with self.pool.http() as http:
            transfer = call.transfer(self.retry, progress, self.connections, seconds)
            bring(http, transfer, self.sleep, time.monotonic() + seconds)
        return transfer.unused_rules

    def open(self, request: Request) -> None:
        """Return None: the server has the bytes of the file."""
        del request

    def close(self) -> None:
        """Close the connections of this process."""
        self.pool.close()


class AsyncHttpDoor(_Http[AsyncPool]):
    """Answers the calls of an asynchronous client. ``connections``: the number for a long file."""

    def __init__(self, settings: Settings, retry: Retry, connections: int):
        super().__init__(AsyncPool(settings), retry, connections)
        self.sleep: Callable[[float], Awaitable[None]] = anyio.sleep

    async def answer(self, call: Call[Any], progress: Progress, seconds: float) -> str:
        """Bring the answer of a call to its destination within some seconds, or raise."""
        place = in_thread if call.writes else _at_once
        async with self.pool.http() as http:
            with anyio.move_on_after(seconds) as scope:
                transfer = call.transfer(self.retry, progress, self.connections, seconds)
                await abring(http, transfer, place, self.sleep)
        if scope.cancelled_caught:
            raise TimedOut("the call took longer than its deadline= allows")
        return transfer.unused_rules

    async def aclose(self) -> None:
        """Close the connections of the running event loop; those of others close when it ends."""
        await self.pool.aclose()


async def in_thread(function: Callable[..., T], *args: Any) -> T:
    """Call a function in a thread. The function has ended when this returns or raises."""
    turn, over = Lock(), False
    results: list[T] = []

    def call() -> None:
        with turn:
            if not over:
                results.append(function(*args))

    def end() -> None:
        nonlocal over
        with turn:
            over = True

    try:
        await anyio.to_thread.run_sync(call)
    except anyio.get_cancelled_exc_class():
        # anyio waits for its threads after its own cancellations, but not after asyncio's (wait_for, Task.cancel).
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(end)
        raise
    return results[0]


async def _at_once(function: Callable[..., T], *args: Any) -> T:
    """Call a function directly. Used in place of ``in_thread`` for functions that do not block."""
    return function(*args)


def _sleep(seconds: float, until: threading.Event) -> None:
    """Sleep for some seconds, or until an event."""
    until.wait(seconds)
