"""The door to a server: calls become transfers over httpx."""

import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

import anyio
import anyio.to_thread

from weightwell import calls
from weightwell.calls import Call, Caller
from weightwell.connection import Settings, without_credentials
from weightwell.exceptions import TimedOut
from weightwell.files.remote import HttpReadable, OpenFile
from weightwell.pools import AsyncPool, Pool
from weightwell.spec import ManifestSpec, TensorSpec
from weightwell.threads import in_thread
from weightwell.transfers.destinations import Region
from weightwell.transfers.driver import abring, bring
from weightwell.transfers.progress import Progress
from weightwell.transfers.retry import Retry
from weightwell.transfers.transfer import RangeTransfer, Transfer

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

    def transfer(self, call: Call[Any], progress: Progress, seconds: float) -> Transfer:
        """Return the transfer of the answer of a call, which has to end in some seconds."""
        deadline = self.retry.clock() + seconds
        if isinstance(call.destination, Region):
            return RangeTransfer(call.request, call.destination, self.retry, progress, deadline=deadline)
        connections = call.connections or self.connections
        return Transfer(
            call.request, call.destination, self.retry, progress, connections=connections, deadline=deadline
        )


class HttpDoor(_Http[Pool]):
    """Answers the calls of a synchronous client. ``connections``: the number for a long file."""

    def __init__(self, settings: Settings, retry: Retry, connections: int):
        super().__init__(Pool(settings), retry, connections)
        self.sleep = _sleep

    def answer(self, call: Call[Any], progress: Progress, seconds: float) -> str:
        """Bring the answer of a call to its destination within some seconds, or raise."""
        with self.pool.http() as http:
            transfer = self.transfer(call, progress, seconds)
            bring(http, transfer, self.sleep, time.monotonic() + seconds)
        return transfer.unused_rules

    def open(self, spec: TensorSpec | ManifestSpec, make: Caller) -> OpenFile:
        """Return a file object of the file of a spec, which is read by ranges.

        ``make`` makes a call, and returns its result. Raises ValueError for a file without ranges.
        """
        calls.check_ranges(spec.request)
        plan = make(calls.plan(spec, self.url))
        source = HttpReadable(plan.nbytes, lambda *part: make(calls.read_range(spec.request, plan, *part)))
        return OpenFile(source, without_credentials(plan.url or self.address))

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
                transfer = self.transfer(call, progress, seconds)
                await abring(http, transfer, place, self.sleep)
        if scope.cancelled_caught:
            raise TimedOut("the call took longer than its deadline= allows")
        return transfer.unused_rules

    async def aclose(self) -> None:
        """Close the connections of the running event loop; those of others close when it ends."""
        await self.pool.aclose()


async def _at_once(function: Callable[..., T], *args: Any) -> T:
    """Call a function directly. Used in place of ``in_thread`` for functions that do not block."""
    return function(*args)


def _sleep(seconds: float, until: threading.Event) -> None:
    """Sleep for some seconds, or until an event."""
    until.wait(seconds)
