"""Streaming: the bytes of a virtual file, drawn in threads, chunk by chunk, only as fast as they are taken."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager

from weightwell_service.exceptions import Busy, TooLarge
from weightwell_service.generators import Drawing, Generator
from weightwell_service.plan import Plan

# Four elements of the largest: every tensor of a file begins at a multiple of its item size, so this is on the border
# of an element whatever the dtypes, and in most files on that of the four that the philox generator draws together.
_ALIGNMENT = 32
# The first span is this part of a chunk, and those that follow are up to twice as long as all before them, and a chunk.
_FIRST = 16


async def stream(
    plan: Plan,
    generator: Generator,
    executor: Executor,
    start: int,
    stop: int,
    *,
    whole: bool = False,
    drawn: Callable[[], object] = lambda: None,
) -> AsyncGenerator[memoryview]:
    """Yield the bytes ``start ... stop - 1`` of a file in order.

    A few chunks are drawn ahead of the reader, ``generator.concurrency`` of them at once; of a file for which something
    is drawn ``whole`` just one, as all would wait for the same thing. Closing the iterator stops the drawing: what has
    not begun is cancelled, and what has is waited for. ``drawn`` is called when only the sending is left.
    """
    prefix = len(plan.header)
    drawing = generator.open(plan)
    spans = _spans(max(start - prefix, 0), stop - prefix, generator.chunk)
    ahead: deque[_Chunk] = deque()

    def draw_next() -> None:
        if (span := next(spans, None)) is not None:
            ahead.append(_Chunk(executor.submit(draw, plan, drawing, *span)))

    try:
        for _ in range(1 if whole else generator.concurrency):
            draw_next()
        if ahead:
            await ahead[0].ready()  # so that a failure to draw comes before the first byte
        if start < prefix:
            yield memoryview(plan.header)[start:stop]
        while ahead:
            chunk = await ahead[0].ready()
            ahead.popleft()
            draw_next()
            if not ahead:
                drawing.close()
                drawn()
            yield chunk
    finally:
        drawing.close()
        for chunk_begun in [each for each in ahead if not each.cancel()]:
            await chunk_begun.end()


class _Chunk:
    """A chunk in the drawing."""

    def __init__(self, future: Future[memoryview]):
        self._future = future
        self._done = asyncio.wrap_future(future)

    async def ready(self) -> memoryview:
        """Return the chunk when it is drawn. Not to be waited for any more does not cancel it."""
        await asyncio.wait({self._done})
        return self._done.result()

    def cancel(self) -> bool:
        """Cancel the drawing, and return whether that was possible: it is not once it has begun."""
        return self._future.cancel()

    async def end(self) -> None:
        """Wait for the end of the drawing; what came of it is nobody's concern any more."""
        await asyncio.wait({self._done})
        self._done.exception()


def draw(plan: Plan, drawing: Drawing, start: int, stop: int) -> memoryview:
    """Return the bytes ``start ... stop - 1`` of a file's data.

    Whole elements are drawn, from the multiple of 32 bytes before the start to the one after the stop.
    """
    begin = start - start % _ALIGNMENT
    end = min(stop + -stop % _ALIGNMENT, plan.data_nbytes)
    return drawing.draw(tuple(plan.pieces(begin, end)))[start - begin : stop - begin]


def _spans(start: int, stop: int, chunk: int) -> Iterator[tuple[int, int]]:
    """Cut a range at multiples of the chunk size, but its beginning, for which a reader waits, at smaller ones."""
    size = max(chunk // _FIRST, _ALIGNMENT)
    while start < stop:
        end = min(start - start % size + size, stop)
        yield start, end
        start, size = end, min(2 * size, chunk)


class Memory:
    """The memory for tensors that can only be drawn whole, shared by all requests."""

    def __init__(self, limit: int):
        self.limit = limit
        self.used = 0

    def admit(self, nbytes: int) -> None:
        """Raise ``TooLarge`` for more bytes than there ever are."""
        if nbytes > self.limit:
            raise TooLarge(
                f"what is drawn whole, whatever part of it is wanted, takes {nbytes} bytes of memory here, and this "
                f"server allows {self.limit} (WEIGHTWELL_MAX_RESIDENT_BYTES); ask for smaller tensors, or for fewer"
            )

    @contextmanager
    def reserve(self, nbytes: int) -> Iterator[None]:
        """Hold a number of bytes; raise ``Busy`` if there are not as many now."""
        if self.used + nbytes > self.limit:
            raise Busy("the memory for tensors that are drawn as a whole is in use by other requests")
        self.used += nbytes
        try:
            yield
        finally:
            self.used -= nbytes
