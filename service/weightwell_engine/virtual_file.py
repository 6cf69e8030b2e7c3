"""Virtual files: the bytes of a plan, drawn in any order, by any number of threads, into the caller's memory."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from ctypes import addressof, c_ubyte
from dataclasses import replace
from functools import cached_property
from itertools import islice
from threading import Lock
from typing import Any

import numpy as np

from weightwell_engine import generators
from weightwell_engine.generators import DeviceDrawing, Drawing, DrawingStopped
from weightwell_engine.generators.devices import no_memory
from weightwell_engine.plan import Piece, Plan

# Every tensor begins at a multiple of its item size, so a multiple of this never splits an element. In most files it
# does not split the groups of four elements that philox draws together.
_ALIGNMENT = 32

# The largest item size in bytes. Generators write each element at a multiple of its size.
_WORD = 8

# Approximate nanoseconds of one unit of work. After each unit, another request can use the thread.
UNIT = 3_000_000

# Bytes that are drawn at once and then copied, if elements in the buffer would be misaligned.
_COPIED = 1 << 20


class VirtualFile:
    """A safetensors file that is not stored: its header, its length, and methods to compute any of its bytes.

    Close it after use: it caches the last matrices that were drawn whole.
    """

    def __init__(self, plan: Plan, generator: generators.Generator):
        self.plan = plan
        self.generator = generator
        self._lock = Lock()
        self._drawing: Drawing | None = None
        self._closed = False

    @property
    def nbytes(self) -> int:
        """Size of the file in bytes."""
        return self.plan.nbytes

    @property
    def etag(self) -> str:
        """Strong entity tag, in quotes: files with the same tag have the same bytes."""
        return self.plan.etag

    @cached_property
    def footprint(self) -> int:
        """The peak bytes of device memory for matrices drawn whole, not counting the buffers."""
        return self.generator.footprint(self.plan)

    @cached_property
    def kept(self) -> int:
        """The bytes of the footprint that stay allocated until the file is closed; the rest is temporary."""
        return self.generator.kept(self.plan)

    def cost(self, start: int, stop: int, *, limit: int) -> int:
        """Estimate the time to draw the bytes ``start ... stop - 1`` in one thread, in nanoseconds, up to a limit.

        ``start`` and ``stop`` count from the start of the file. The estimate includes numbers that must be drawn first.
        """
        total, first = 0, True
        for piece in self._pieces(start, stop):
            total += self.generator.before(piece) if first else 0
            total += self.generator.whole(piece) + self.generator.cost(piece)
            first = False
            if total >= limit:
                return limit
        return total

    def read_into(self, start: int, buffer: memoryview | bytearray) -> int:
        """Write the bytes from ``start`` into ``buffer``, a writable buffer of bytes; return the number of bytes.

        Fills the buffer, or stops at the end of the file. Any number of threads may read at once. Raises
        ``DrawingStopped`` if the file is closed meanwhile, ``Busy`` if memory runs out, and ``DeviceUnavailable``.
        """
        out = memoryview(buffer).cast("B")
        out = out[: max(self.nbytes - start, 0)]
        header = self.plan.header[start : start + len(out)]
        out[: len(header)] = header
        if len(header) < len(out):
            self._read_data(start + len(header) - len(self.plan.header), out[len(header) :])
        return len(out)

    def draw(self, start: int, stop: int) -> Generator[None, None, memoryview]:
        """Draw the bytes ``start ... stop - 1`` unit by unit, and return them in new memory.

        Yields about every ``UNIT`` nanoseconds, so that other requests can use the thread. Raises as ``read_into``.
        """
        memory = self.generator.allocate(stop - start)
        for piece in islice(self._pieces(start, stop), 1):
            with _memory_errors():
                yield from self.generator.approach(self._drawn(), piece)
        while start < stop:
            end = self._unit(start, stop)
            self.read_into(start, memory[len(memory) - (stop - start) :][: end - start])
            start = end
            if start < stop:
                yield
        return memory

    def read(self, start: int, stop: int) -> memoryview:
        """Return the bytes ``start ... stop - 1`` in new memory, ``0 <= start <= stop <= nbytes``."""
        memory = self.generator.allocate(stop - start)
        self.read_into(start, memory)
        return memory

    def fill(self, piece: Piece, out: memoryview | bytearray) -> None:
        """Write the elements of a piece of this file's plan into ``out``, a writable buffer of ``piece.nbytes`` bytes.

        Unlike ``read_into``, this draws no elements of other tensors. Any number of threads may fill at once. Raises as
        ``read_into``, and ``ValueError`` if ``out`` has another size.
        """
        memory = memoryview(out).cast("B")
        if len(memory) != piece.nbytes:
            raise ValueError(f"out must have {piece.nbytes} bytes, the size of the piece, got {len(memory)}")
        if not memory:
            return
        if _is_aligned(memory, piece.tensor.dtype.itemsize):
            self._fill_pieces((piece,), memory)
            return
        size = piece.tensor.dtype.itemsize
        for first, last in _spans(piece.start * size, piece.stop * size):
            drawn = np.empty(last - first, np.uint8).data
            self._fill_pieces((replace(piece, start=first // size, stop=last // size),), drawn)
            memory[first - piece.start * size : last - piece.start * size] = drawn

    def fill_on_device(self, piece: Piece, out: Any) -> None:
        """Write the elements of a piece into ``out`` (piece.nbytes, uint8), a contiguous tensor on the device.

        The elements are drawn after the work of the caller's current stream, and are there when this returns. Raises
        as ``fill``, and ``TypeError`` if the generator draws into memory of the host.
        """
        drawing = self._drawn()
        if not isinstance(drawing, DeviceDrawing):
            raise TypeError(f"generator={self.plan.generator} draws into memory of the host on this device; use fill")
        with _memory_errors():
            drawing.fill_on_device(piece, out)

    def close(self) -> None:
        """Stop drawing and release the cached matrices. Reading data afterwards raises ``DrawingStopped``."""
        with self._lock:
            self._closed = True
            if self._drawing is not None:
                self._drawing.close()

    def _drawn(self) -> Drawing:
        """Return the drawing. It is opened at the first call."""
        with self._lock:
            if self._closed:
                raise DrawingStopped
            if self._drawing is None:
                self._drawing = self.generator.open(self.plan)
            return self._drawing

    def _pieces(self, start: int, stop: int) -> Iterator[Piece]:
        """Yield pieces of whole elements that cover the file's bytes ``start ... stop - 1``."""
        start, stop = max(start - len(self.plan.header), 0), max(stop - len(self.plan.header), 0)
        return self.plan.pieces(start - start % _ALIGNMENT, min(stop + -stop % _ALIGNMENT, self.plan.data_nbytes))

    def _unit(self, start: int, stop: int) -> int:
        """Return the end of the first unit of the file's bytes ``start ... stop - 1``."""
        left, header = UNIT, len(self.plan.header)
        for piece in self._pieces(start, stop):
            cost = self.generator.cost(piece)
            if cost > left:
                size = (piece.stop - piece.start) * left // cost * piece.tensor.dtype.itemsize
                end = piece.tensor.offset + piece.start * piece.tensor.dtype.itemsize + size
                return min(header + max(end - end % _ALIGNMENT, start - header + _ALIGNMENT), stop)
            left -= cost
        return stop

    def _read_data(self, start: int, out: memoryview) -> None:
        """Write the bytes from ``start`` of the data on into ``out``: split elements by a copy."""
        stop = start + len(out)
        begin = min(start + -start % _ALIGNMENT, stop)
        end = stop if stop == self.plan.data_nbytes else max(stop - stop % _ALIGNMENT, begin)
        if start < begin:
            self._read_copied(start, out[: begin - start])
        if begin < end:
            middle = out[begin - start : end - start]
            (self._fill if _is_aligned(middle, _WORD) else self._read_copied)(begin, middle)
        if end < stop:
            self._read_copied(end, out[end - start :])

    def _read_copied(self, start: int, out: memoryview) -> None:
        """Write bytes that may begin and end within elements, or in misaligned memory."""
        for first, last in _spans(start, start + len(out)):
            begin = first - first % _ALIGNMENT
            end = min(last + -last % _ALIGNMENT, self.plan.data_nbytes)
            drawn = np.empty(end - begin, np.uint8).data
            self._fill(begin, drawn)
            out[first - start : last - start] = drawn[first - begin : last - begin]

    def _fill(self, start: int, out: memoryview) -> None:
        self._fill_pieces(tuple(self.plan.pieces(start, start + len(out))), out)

    def _fill_pieces(self, pieces: tuple[Piece, ...], out: memoryview) -> None:
        try:
            self._drawn().fill(pieces, out)
        except MemoryError as error:
            raise no_memory() from error


@contextmanager
def _memory_errors() -> Iterator[None]:
    """Convert a failed allocation of host memory to ``Busy``."""
    try:
        yield
    except MemoryError as error:
        raise no_memory() from error


def _spans(start: int, stop: int) -> Iterator[tuple[int, int]]:
    while start < stop:
        end = min(start + _COPIED - start % _COPIED, stop)
        yield start, end
        start = end


def _is_aligned(out: memoryview, itemsize: int) -> bool:
    return addressof(c_ubyte.from_buffer(out)) % itemsize == 0
