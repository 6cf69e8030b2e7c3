"""Queues ("lanes") for parsing long specs, by size: short specs do not wait for much longer ones.

Each lane parses one spec at a time. Parsing holds the GIL, so more threads would not be faster, and would delay the
event loop.
"""

from asyncio import Lock, get_running_loop, timeout
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from weightwell_engine.exceptions import Busy

T = TypeVar("T")

# For each lane, the most bytes of JSON in a spec and the most waiting requests: 64 MiB of bodies.
_LANES = ((2**16, 256), (2**20, 64), (None, 4))

# The most seconds that a request waits in the queue.
_PATIENCE = 30.0


class Lane:
    """One thread that parses specs in the order of arrival.

    At most ``most`` requests wait for their turn, each for at most ``patience`` seconds.
    """

    def __init__(self, name: str, *, most: int, patience: float = _PATIENCE):
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._turn = Lock()
        self._most = most
        self._waiting = 0
        self._patience = patience

    async def run(self, read: Callable[[], T], departed: Callable[[], Awaitable[bool]]) -> T:
        """Call ``read`` in the lane's thread, after the requests before it, and return its result.

        Raises ``Busy`` without a call if the client has ``departed``, if the queue is full, or after ``patience``.
        """
        if self._waiting >= self._most:
            raise Busy(f"{self._most} requests with long specs are waiting; try again")
        self._waiting += 1
        try:
            async with timeout(self._patience):
                await self._turn.acquire()
        except TimeoutError:
            raise Busy(
                f"the spec was not read within {self._patience:g} s, because other requests came first; try again"
            ) from None
        finally:
            self._waiting -= 1
        try:
            if await departed():
                raise Busy("the client closed the connection before its spec was read")
            return await get_running_loop().run_in_executor(self._thread, read)
        finally:
            self._turn.release()

    def shutdown(self) -> None:
        """Start no more work."""
        self._thread.shutdown(wait=False, cancel_futures=True)


class Lanes:
    """The lanes of one application."""

    def __init__(self) -> None:
        self._lanes = [(limit, Lane(f"read-{limit or 'long'}", most=most)) for limit, most in _LANES]

    def of(self, nbytes: int) -> Lane:
        """Return the lane for a spec of so many bytes of JSON."""
        return next(lane for limit, lane in self._lanes if limit is None or nbytes <= limit)

    def shutdown(self) -> None:
        """Start no more work."""
        for _, lane in self._lanes:
            lane.shutdown()
