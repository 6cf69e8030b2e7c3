"""Virtual files: the bytes of a plan, drawn in any order, by any number of threads, into the caller's memory."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from ctypes import addressof, c_ubyte
from functools import cached_property
from itertools import islice
from threading import Lock

import numpy as np

from weightwell_engine import generators
from weightwell_engine.generators import Drawing, DrawingStopped
from weightwell_engine.generators.devices import no_memory
from weightwell_engine.plan import Piece, Plan

# Every tensor of a file begins at a multiple of its item size, so a multiple of this is on the border of an element of
# any dtype, and in most files on that of the four elements that philox draws together.
_ALIGNMENT = 32

# Generators write elements of up to this many bytes, each at a multiple of its size.
_WORD = 8

# Nanoseconds of one thread after which a drawing pauses, so that others can have their turn, about.
UNIT = 3_000_000

# Bytes that are drawn at once and then copied, for a buffer whose elements would be misaligned.
_COPIED = 1 << 20


class VirtualFile:
    """A safetensors file that is stored nowhere: its header, its length, and a way to have any of its bytes.

    Close it when no more bytes are needed: it keeps the last matrices that were drawn whole.
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
        """Bytes of the device's memory that drawing takes at most, besides the buffers: matrices drawn whole."""
        return self.generator.footprint(self.plan)

    @cached_property
    def kept(self) -> int:
        """Bytes of the footprint that stay until the file is closed; the rest is in use while bytes are drawn."""
        return self.generator.kept(self.plan)

    def cost(self, start: int, stop: int, *, limit: int) -> int:
        """Return about how many nanoseconds one thread takes to draw the bytes ``start ... stop - 1``, up to a limit.

        ``start`` and ``stop`` are in the file. The estimate includes what has to be drawn before them.
        """
        total = 0
        for piece in self._pieces(start, stop):
            total += self.generator.before(piece) if total == 0 else 0
            total += self.generator.cost(piece)
            if total >= limit:
                return limit
        return total

    def read_into(self, start: int, buffer: memoryview | bytearray) -> int:
        """Write the bytes from ``start`` on into ``buffer``, a writable buffer of bytes; return how many.

        They are as many as the buffer has room for, or as the file has left. Any number of threads may read at once.
        Raises ``DrawingStopped`` if the file is closed meanwhile, ``Busy`` where memory is missing, and
        ``DeviceUnavailable``.
        """
        out = memoryview(buffer).cast("B")
        out = out[: max(self.nbytes - start, 0)]
        header = self.plan.header[start : start + len(out)]
        out[: len(header)] = header
        if len(header) < len(out):
            self._read_data(start + len(header) - len(self.plan.header), out[len(header) :])
        return len(out)

    def draw(self, start: int, stop: int) -> Generator[None, None, memoryview]:
        """Draw the bytes ``start ... stop - 1`` unit by unit, and return them in memory of their own.

        Pauses about every ``UNIT`` nanoseconds of one thread, so that others can have their turn. Raises as
        ``read_into`` does.
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
        """Return the bytes ``start ... stop - 1`` in memory of their own, ``0 <= start <= stop <= nbytes``."""
        memory = self.generator.allocate(stop - start)
        self.read_into(start, memory)
        return memory

    def close(self) -> None:
        """Stop what is being drawn, and release what is kept. Reading data from then on raises ``DrawingStopped``."""
        with self._lock:
            self._closed = True
            if self._drawing is not None:
                self._drawing.close()

    def _drawn(self) -> Drawing:
        """Return the drawing, which is opened with the first byte that has to be drawn."""
        with self._lock:
            if self._closed:
                raise DrawingStopped
            if self._drawing is None:
                self._drawing = self.generator.open(self.plan)
            return self._drawing

    def _pieces(self, start: int, stop: int) -> Iterator[Piece]:
        """Yield the pieces that have some of the file's bytes ``start ... stop - 1``, with whole elements."""
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
        """Write the bytes from ``start`` of the data on into ``out``: whole elements directly, cut ones by a copy."""
        stop = start + len(out)
        begin = min(start + -start % _ALIGNMENT, stop)
        end = stop if stop == self.plan.data_nbytes else max(stop - stop % _ALIGNMENT, begin)
        if start < begin:
            self._read_copied(start, out[: begin - start])
        if begin < end:
            middle = out[begin - start : end - start]
            (self._fill if _is_aligned(middle) else self._read_copied)(begin, middle)
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
        with _memory_errors():
            self._drawn().fill(tuple(self.plan.pieces(start, start + len(out))), out)


@contextmanager
def _memory_errors() -> Iterator[None]:
    """Raise ``Busy`` where the host has no memory."""
    try:
        yield
    except MemoryError as error:
        raise no_memory() from error


def _spans(start: int, stop: int) -> Iterator[tuple[int, int]]:
    while start < stop:
        end = min(start + _COPIED - start % _COPIED, stop)
        yield start, end
        start = end


def _is_aligned(out: memoryview) -> bool:
    return addressof(c_ubyte.from_buffer(out)) % _WORD == 0
