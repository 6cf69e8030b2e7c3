"""Streaming: draws a virtual file chunk by chunk, in turn with other streams, as fast as the client reads."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from math import ceil
from threading import Lock
from weakref import finalize

import numpy as np

from weightwell_engine.exceptions import Busy
from weightwell_engine.virtual_file import VirtualFile
from weightwell_service.budget import Account, Matrices
from weightwell_service.scheduler import Requester, Scheduler, checked

# The first chunk of a stream is the smallest: this part of a generator's chunk. Each next one is twice as long.
_SMALLEST = 16

# Approximate number of full chunks of all streams together. With more streams, each has shorter chunks.
_FULL = 256

# Seconds without reading after which a client has stalled.
STALLED = 1.0


def smallest(chunk: int) -> int:
    """Return the bytes of the smallest chunks of a stream, for a generator whose chunks have ``chunk`` bytes."""
    return max(chunk // _SMALLEST, 32)


class Totals:
    """What all streams of a process have done: bytes drawn, seconds of waiting for readers, and stalls of readers."""

    def __init__(self) -> None:
        self.drawn = 0
        self.reading = 0.0
        self.stalls = 0
        self._lock = Lock()

    def drew(self, nbytes: int) -> None:
        """Count bytes that were drawn. Any thread may call this."""
        with self._lock:
            self.drawn += nbytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """The resources of one stream: threads, memory, and ``timeout`` seconds for each chunk.

    ``streams`` returns the number of streams, and ``totals`` counts for all of them. ``matrices`` is None for a file
    without matrices.
    """

    turns: Scheduler
    requester: Requester
    account: Account
    matrices: Matrices | None
    streams: Callable[[], int]
    timeout: float
    totals: Totals


class Stream:
    """The bytes ``start ... stop - 1`` of a file, in chunks. Belongs to one event loop."""

    def __init__(self, file: VirtualFile, start: int, stop: int, share: Share):
        self._file = file
        self._start = start
        self._stop = stop
        self._share = share
        self._position = max(start, len(file.plan.header))  # where the next chunk to be drawn begins
        self._size = smallest(file.generator.chunk)
        self._ahead: deque[_Chunk] = deque()
        self._reader: float | None = None  # since when the reader has a chunk to take
        self._drawing: tuple[float, asyncio.Future[None]] | None = None  # since when a chunk is waited for

    async def chunks(self) -> AsyncGenerator[memoryview]:
        """Yield the bytes in order. Closing the iterator closes the file.

        The first chunk is drawn before anything is yielded, so an early failure comes before the first byte. Raises the
        errors of drawing, and ``Busy`` for a chunk that is not drawn in time.
        """
        header = memoryview(self._file.plan.header)[self._start : self._stop]
        try:
            if self._position < self._stop:
                await self._begin()
                await self._drawn()
            if header:
                self._reader = time.monotonic()
                yield header
                self._read()
            while self._ahead or self._position < self._stop:
                yield await self._take()  # in no variable, as the chunk's memory is the reader's now
                self._read()
        finally:
            self._close()

    def _read(self) -> None:
        """Note that the reader has taken its chunk."""
        if self._reader is not None:
            self._share.totals.reading += time.monotonic() - self._reader
        self._reader = None

    def look(self, now: float) -> None:
        """Check, about once a second, whether the client has stalled or drawing takes too long."""
        if self._reader is not None and now - self._reader >= STALLED:
            self._give_back()
        if self._drawing is not None and now - self._drawing[0] >= (timeout := self._share.timeout):
            busy = Busy(f"nothing was drawn for {timeout:g} s; request less at once", retry_after=ceil(timeout))
            _settle(self._drawing[1], busy)

    def _give_back(self) -> None:
        """Release the chunks that the client has not read. They will be drawn again.

        A file that is drawn in order keeps its one chunk, because going back would mean drawing from the beginning.
        """
        if self._file.generator.concurrency > 1 and self._ahead:
            self._share.totals.stalls += 1
            self._position = self._ahead[0].start
            self._size = smallest(self._file.generator.chunk)
            self._drop()

    async def _take(self) -> memoryview:
        """Return the next chunk, and start drawing the following ones."""
        if not self._ahead:
            await self._begin()
        memory = await self._drawn()
        self._ahead.popleft()
        self._draw_ahead()
        if not self._ahead and self._position >= self._stop:
            self._close()
        self._reader = time.monotonic()
        return memory

    async def _drawn(self) -> memoryview:
        """Wait for the next chunk; raise ``Busy`` if that takes too long."""
        future = self._ahead[0].future
        if not future.done():
            loop = asyncio.get_running_loop()
            waiting = loop.create_future()
            self._drawing = time.monotonic(), waiting
            future.add_done_callback(lambda _: _settle_in(loop, waiting))
            await waiting
            self._drawing = None
        return future.result()

    async def _begin(self) -> None:
        """Start drawing the next chunk and the following ones."""
        if (matrices := self._share.matrices) is not None:
            await matrices.begin_in_turn()
        self._submit(necessary=True)
        self._draw_ahead()

    def _draw_ahead(self) -> None:
        """Start drawing ahead: as many chunks as keep the threads busy, if there is memory."""
        matrices, depth = self._share.matrices, self._file.generator.concurrency
        if not self._share.requester.small:
            depth = -(-depth // max(self._share.streams(), 1))
        if matrices is not None:  # all chunks would wait for the same matrix
            if not self._ahead and self._position < self._stop and matrices.begin():
                self._submit(necessary=True)
            return
        while len(self._ahead) < depth and self._position < self._stop and self._submit():
            pass

    def _submit(self, *, necessary: bool = False) -> bool:
        """Queue the next chunk, and return whether there was memory. A necessary chunk always succeeds."""
        share, file, start = self._share, self._file, self._position
        least, chunk = smallest(file.generator.chunk), file.generator.chunk
        self._size = max(min(self._size, _power_of_two(_FULL * chunk // max(share.streams(), 1)), chunk), least)
        stop = self._end(self._size)
        if not share.account.take(stop - start):
            if not necessary:
                return False
            stop = self._end(least)
            share.account.take(stop - start, necessary=True)
        future = share.turns.submit(_drawn(file, start, stop, share), share.requester)
        if share.matrices is not None:
            matrices = share.matrices
            future.add_done_callback(lambda _: matrices.end())
        self._ahead.append(_Chunk(start, stop, future))
        self._position, self._size = stop, 2 * self._size
        return True

    def _end(self, size: int) -> int:
        """Return the end of a chunk of at most ``size`` bytes. Chunks of all streams end at the same positions."""
        origin = len(self._file.plan.header)
        return min(self._position - (self._position - origin) % size + size, self._stop)

    def _drop(self) -> None:
        for chunk in self._ahead:
            if chunk.future.cancel():  # and otherwise the memory is given back when the chunk is drawn
                self._share.account.give(chunk.stop - chunk.start)
        self._ahead.clear()

    def _close(self) -> None:
        """Stop drawing. Active units end soon."""
        self._file.close()
        self._drop()
        if self._share.matrices is not None:
            self._share.matrices.close()


@dataclass(frozen=True, slots=True)
class _Chunk:
    """A chunk that is queued, being drawn, or ready."""

    start: int
    stop: int
    future: Future[memoryview]


def _settle(waiting: asyncio.Future[None], error: Exception | None = None) -> None:
    """Wake the waiting task, if any."""
    if not waiting.done():
        if error:
            waiting.set_exception(error)
        else:
            waiting.set_result(None)


def _settle_in(loop: asyncio.AbstractEventLoop, waiting: asyncio.Future[None]) -> None:
    with suppress(RuntimeError):  # the event loop has ended
        loop.call_soon_threadsafe(_settle, waiting)


def _drawn(file: VirtualFile, start: int, stop: int, share: Share) -> Generator[None, None, memoryview]:
    """Draw a chunk unit by unit. Its bytes return to the account when its last view is deleted."""
    account = share.account
    try:
        memory = np.frombuffer((yield from checked(file.draw(start, stop), share.requester)), np.uint8)
    except BaseException:
        account.give(stop - start)
        raise
    finalize(memory, account.give, stop - start).atexit = False
    share.totals.drew(stop - start)
    return memory.data


def _power_of_two(number: int) -> int:
    """Return the largest power of two that is at most ``number``."""
    return 1 << (max(number, 1).bit_length() - 1)
