"""The write limit: the event loop writes a limited number of bytes in each pass, whatever the number of readers.

A pass of the event loop handles everything that is ready, and a new request needs several passes. If it wrote a chunk
to each of hundreds of readers, one pass would take longer than a small request may.
"""

import asyncio
from collections import deque

# Bytes in one pass, of all connections together: about 2 ms of copying into the kernel.
_LIMIT = 2**22

# Parts of bodies with at most this many bytes do not count and do not wait.
SMALL = 2**16


class WriteLimit:
    """The limit of one event loop. Large parts of bodies are written in the order in which they were claimed.

    A part is written whole, so a pass may exceed ``limit`` bytes by less than one part.
    """

    def __init__(self, limit: int = _LIMIT):
        self._limit = limit
        self._left = limit
        self._counting = False  # whether something was written in this pass
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def claim(self, nbytes: int) -> None:
        """Wait for a pass in which ``nbytes`` may be written."""
        if self._waiting or self._left <= 0:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append((nbytes, turn))
            await turn
        else:
            self._count(nbytes)

    def _count(self, nbytes: int) -> None:
        self._left -= nbytes
        if not self._counting:
            self._counting = True
            asyncio.get_running_loop().call_soon(self._next_pass)

    def _next_pass(self) -> None:
        self._left, self._counting = self._limit, False
        while self._waiting and self._left > 0:
            nbytes, turn = self._waiting.popleft()
            if not turn.done():  # and cancelled, if the client has left
                turn.set_result(None)
                self._count(nbytes)
