"""Sparse matrices: independent elements. In every column, the elements with the lowest mask words are set to zero."""

from collections.abc import Callable, Iterable
from threading import Lock
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from weightwell_engine.dtypes import DType
from weightwell_engine.generators.philox.cpu.compiling import entry, kernel, uncounted, widest_vectors
from weightwell_engine.generators.philox.cpu.positional import places
from weightwell_engine.generators.philox.cpu.simd import operation, where
from weightwell_engine.generators.philox.cpu.words import (
    Run,
    Scratch,
    expand,
    fill_words,
    held,
    plan,
    scratch,
    write_words,
)
from weightwell_engine.generators.philox.specification.formats import UNSIGNED
from weightwell_engine.generators.philox.specification.keys import Key
from weightwell_engine.generators.philox.specification.words import Words
from weightwell_engine.laws import Sparse
from weightwell_engine.regions import Part, Runs, indices

# Columns that are compared together.
_SIDE_BY_SIDE = 32
# Approximate number of words in a panel of whole columns; more if 32 columns need more.
_PANEL, _LARGEST = 1 << 16, 1 << 23
_WIDEST = 1 << 12
_LOCKS = 64

i64 = np.int64


class Elements(Protocol):
    """Draws all elements, before some of them are set to zero."""

    @property
    def dtype(self) -> DType:
        """The dtype of the elements."""

    @property
    def kernels(self) -> tuple[str, ...]:
        """Names of the kernels that draw them."""

    def fill(self, part: Part, out: memoryview) -> None:
        """Write the elements of ``part`` into ``out``."""


class SparseMatrix:
    """A sparse matrix. The zeros of a column depend on the mask words of all its rows.

    An element is zero if its mask word is below the bound of its column. Bounds are computed at their first use, in
    panels of columns, and cached with 4 bytes for each column. If equal words leave no exact bound, the row decides
    between them. This happens once in 2^32 elements; these zeros are stored by their indices.
    """

    def __init__(self, law: Sparse, elements: Elements, key: Key):
        self.kernels = (*elements.kernels, f"sparse {elements.dtype.name}")
        self._law = law
        self._elements = elements
        self._key = key
        self._bounds: Words = np.zeros(law.cols, np.uint32)
        self._equals: list[int] = []
        self._width = _width(law)
        self._known = bytearray(-(-law.cols // self._width))
        self._locks = [Lock() for _ in range(min(len(self._known), _LOCKS))]

    def fill(self, part: Part, out: memoryview) -> None:
        """Write the elements of ``part`` into ``out``."""
        self._elements.fill(part, out)
        if self._law.zeros and part.size:
            self._rank(self._panels(part))
            target = np.frombuffer(out, UNSIGNED[self._elements.dtype.itemsize])
            set_zeros(self._key, self._bounds, Run.of(part), target, scratch())
            target[places(np.array(tuple(self._equals), np.int64), part)] = 0

    def _panels(self, part: Part) -> Iterable[int]:
        """Return the panels that hold the columns of a part."""
        if not isinstance(part, Runs):
            panels: list[int] = np.unique(indices(part) % self._law.cols // self._width).tolist()
            return panels
        cols, first, runs = self._law.cols, part.first % self._law.cols, part
        stop = first + runs.length
        if (runs.stride % cols and runs.count > 1) or runs.length >= cols:
            return range(len(self._known))
        if stop <= cols:
            return range(first // self._width, (stop - 1) // self._width + 1)
        return {*range((stop - cols - 1) // self._width + 1), *range(first // self._width, len(self._known))}

    def _rank(self, panels: Iterable[int]) -> None:
        """Compute the bounds of the columns of panels, if they are not cached yet."""
        missing = [panel for panel in panels if not self._known[panel]]
        words = np.empty(self._law.rows * self._width if missing else 0, np.uint32)
        for panel in missing:
            with self._locks[panel % _LOCKS]:
                if not self._known[panel]:
                    start = panel * self._width
                    self._rank_columns(start, min(start + self._width, self._law.cols), words)
                    self._known[panel] = True

    def _rank_columns(self, start: int, stop: int, memory: Words) -> None:
        """Compute the bounds of columns ``start ... stop - 1``; their words fit into ``memory``."""
        rows, cols, zeros = self._law.rows, self._law.cols, self._law.zeros
        words = memory[: rows * (stop - start)]
        fill_words(self._key, Run(start, stop - start, cols, rows), words)
        bounds, below = self._bounds[start:stop], np.empty(stop - start, np.int64)
        find_bounds(words, zeros, bounds, below)
        for column in np.flatnonzero(below < zeros):
            equal = np.flatnonzero(words[column :: bounds.size] == bounds[column])
            self._equals += (equal[: zeros - below[column]] * cols + start + column).tolist()


def nbytes(law: Sparse, threads: int) -> int:
    """Return the bytes for a number of threads: bounds and flags of columns, and panels of words."""
    return 5 * law.cols + threads * (4 * law.rows * min(_width(law), law.cols) + (1 << 20))


def _width(law: Sparse) -> int:
    """Return the number of columns in a panel: a multiple of four, since Philox gives four words at a time."""
    rows = max(law.rows, 1)
    return min(max(_PANEL // rows, min(_LARGEST // rows, _SIDE_BY_SIDE), 4), _WIDEST) // 4 * 4


@entry
def find_bounds(words: Words, zeros: int, bounds: Words, below: NDArray[np.int64]) -> None:
    """Find a bound for each column of a panel (rows, columns) such that ``zeros`` words are below it; zeros <= rows.

    If equal words leave no such bound, the bound is their value. ``below`` counts the words below each bound. Words are
    uniform, so interpolation comes close at once. Every fourth step is a bisection, so the search always ends.
    """
    rows, width = words.size // bounds.size, bounds.size
    low, high = np.zeros(width, np.int64), np.full(width, 1 << 32, np.int64)
    fewer, more = np.zeros(width, np.int64), np.full(width, rows, np.int64)
    counts = np.empty(width, np.uint32)
    step, searching = 0, True
    while searching:
        step += 1
        for column in range(width):
            span = high[column] - low[column]
            share = (zeros - fewer[column] + 0.5) / (more[column] - fewer[column] + 1.0) if step % 4 else 0.5
            bounds[column] = low[column] + min(max(i64(share * span), 1), max(span - 1, 0))
        _count_below(words, bounds, counts)
        searching = False
        for column in range(width):
            if counts[column] <= zeros:
                low[column], fewer[column] = bounds[column], counts[column]
            if counts[column] >= zeros:
                high[column], more[column] = bounds[column], counts[column]
            searching |= high[column] - low[column] > 1
    for column in range(width):
        bounds[column], below[column] = low[column], fewer[column]


@kernel
def _count_below(words: Words, bounds: Words, counts: Words) -> None:
    """Count the words of each column that are below its bound."""
    widest_vectors()
    width = bounds.size
    whole = width & -_SIDE_BY_SIDE
    counts[:] = 0
    for first in range(0, words.size, width):
        for column in range(0, whole, _SIDE_BY_SIDE):
            _count_many(words, first + column, bounds, column, counts)
        for column in range(whole, width):
            _count_one(words, first + column, bounds, column, counts)


@entry
def set_zeros(key: Key, bounds: Words, run: Run, out: Any, scratch: Scratch) -> None:
    """Set elements of runs to 0 if their words are below the bounds of their columns."""
    widest_vectors()
    work, limits, elements, done = held(scratch), uncounted(bounds), uncounted(out), i64(0)
    expand(key, work.keys)
    while done < elements.size:
        planned = plan(run, done, work)
        at = write_words(work, planned, work.keys, work.raw, work.words)
        for piece in range(planned.pieces):
            column, left = work.starts[piece] % limits.size, work.sizes[piece]
            while left:
                size = min(left, limits.size - column)
                whole = size & -_SIDE_BY_SIDE
                for e in range(0, whole, _SIDE_BY_SIDE):
                    _set_many(work.words, at + e, limits, column + e, elements, done + e)
                for e in range(whole, size):
                    _set_one(work.words, at + e, limits, column + e, elements, done + e)
                at, done, left, column = at + size, done + size, left - size, 0


def _counting(count: int | None) -> Callable[..., None]:
    @operation
    def count_(words: Any, at: Any, bounds: Any, column: Any, counts: Any) -> None:
        below, before = words.load(at, count) < bounds.load(column, count), counts.load(column, count)
        counts.store(column, where(below, before + 1, before))

    return count_


def _setting(count: int | None) -> Callable[..., None]:
    @operation
    def set_(words: Any, at: Any, bounds: Any, column: Any, out: Any, place: Any) -> None:
        zero = words.load(at, count) < bounds.load(column, count)
        out.store(place, where(zero, 0, out.load(place, count)))

    return set_


_count_many, _count_one = _counting(_SIDE_BY_SIDE), _counting(None)
_set_many, _set_one = _setting(_SIDE_BY_SIDE), _setting(None)
