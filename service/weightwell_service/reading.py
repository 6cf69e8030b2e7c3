"""Lanes in which long specs are read: one at a time in each, so that short ones do not wait for much longer ones.

Reading is Python and holds the GIL, so more threads would read no faster, and hold up the event loop.
"""

from asyncio import Lock, get_running_loop, timeout
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from weightwell_engine.exceptions import Busy

T = TypeVar("T")

# Lanes by the bytes of JSON that they read at most, and how many requests may wait in each: 64 MiB of bodies.
_LANES = ((2**16, 256), (2**20, 64), (None, 4))

# Seconds that a request may wait for its turn.
_PATIENCE = 30.0


class Lane:
    """One thread that reads specs, in the order in which they came.

    At most ``most`` requests wait for their turn, each for at most ``patience`` seconds.
    """

    def __init__(self, name: str, *, most: int, patience: float = _PATIENCE):
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._turn = Lock()
        self._most = most
        self._waiting = 0
        self._patience = patience

    async def run(self, read: Callable[[], T], departed: Callable[[], Awaitable[bool]]) -> T:
        """Return the result of ``read``, called in the lane's thread when its turn comes.

        It is not called if the client has ``departed`` by then. Raises ``Busy`` for that, if too many requests wait
        already, and if the turn does not come in time.
        """
        if self._waiting >= self._most:
            raise Busy(f"{self._most} requests with long specs wait to be read; try again")
        self._waiting += 1
        try:
            async with timeout(self._patience):
                await self._turn.acquire()
        except TimeoutError:
            raise Busy(f"the spec was not read within {self._patience:g} s, as others came before; try again") from None
        finally:
            self._waiting -= 1
        try:
            if await departed():
                raise Busy("the client closed the connection before its spec was read")
            return await get_running_loop().run_in_executor(self._thread, read)
        finally:
            self._turn.release()

    def shutdown(self) -> None:
        """Begin nothing more."""
        self._thread.shutdown(wait=False, cancel_futures=True)


class Lanes:
    """The lanes of one application."""

    def __init__(self) -> None:
        self._lanes = [(limit, Lane(f"read-{limit or 'long'}", most=most)) for limit, most in _LANES]

    def of(self, nbytes: int) -> Lane:
        """Return the lane for a spec of so many bytes of JSON."""
        return next(lane for limit, lane in self._lanes if limit is None or nbytes <= limit)

    def shutdown(self) -> None:
        """Begin nothing more."""
        for _, lane in self._lanes:
            lane.shutdown()
