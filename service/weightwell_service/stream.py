"""Streaming: the bytes of a virtual file, drawn in threads, chunk by chunk, only as fast as they are taken."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import Executor, Future

from weightwell_engine.virtual_file import VirtualFile

# The first span is this part of a chunk, and those that follow are up to twice as long as all before them, and a chunk.
_FIRST = 16
_SMALLEST = 32


async def stream(
    file: VirtualFile,
    executor: Executor,
    start: int,
    stop: int,
    *,
    whole: bool = False,
    drawn: Callable[[], object] = lambda: None,
) -> AsyncGenerator[memoryview]:
    """Yield the bytes ``start ... stop - 1`` of a file in order.

    A few chunks are drawn ahead of the reader, ``generator.concurrency`` of them at once; only one of a file of which
    a matrix is drawn ``whole``, as all chunks would wait for the same matrix. Closing the iterator closes the file:
    chunks that have not begun are cancelled, and the others are waited for. ``drawn`` is called when all is drawn.
    """
    header = file.plan.header
    spans = _spans(max(start, len(header)), stop, len(header), file.generator.chunk)
    ahead: deque[_Chunk] = deque()

    def draw_next() -> None:
        if (span := next(spans, None)) is not None:
            ahead.append(_Chunk(executor.submit(file.read, *span)))

    try:
        for _ in range(1 if whole else file.generator.concurrency):
            draw_next()
        if ahead:
            await ahead[0].ready()  # so that a failure to draw comes before the first byte
        if start < len(header):
            yield memoryview(header)[start:stop]
        while ahead:
            chunk = await ahead[0].ready()
            ahead.popleft()
            draw_next()
            if not ahead:
                file.close()
                drawn()
            yield chunk
    finally:
        file.close()
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


def _spans(start: int, stop: int, origin: int, chunk: int) -> Iterator[tuple[int, int]]:
    """Cut a range at multiples of the chunk size from the origin on, and its beginning into smaller parts."""
    size = max(chunk // _FIRST, _SMALLEST)
    while start < stop:
        end = min(start - (start - origin) % size + size, stop)
        yield start, end
        start, size = end, min(2 * size, chunk)
