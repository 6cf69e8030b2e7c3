"""The philox generator on a CPU: laws prepared for the compiled kernels.

Whatever is prepared is immutable, or guarded, and drawing holds no lock of Python's: any number of threads may draw any
parts of a tensor at once.
"""

from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import lru_cache
from threading import Lock
from typing import Any, Protocol

import numpy as np

from weightwell_engine.dtypes import DTYPES, DType
from weightwell_engine.exceptions import InvalidSpec
from weightwell_engine.generators.philox.cpu import kernels
from weightwell_engine.generators.philox.cpu.narrow import target_of
from weightwell_engine.generators.philox.cpu.orthogonal_law import Orthogonals
from weightwell_engine.generators.philox.cpu.orthogonal_stack import OrthogonalStacks
from weightwell_engine.generators.philox.cpu.sparse_columns import RANKED, rank_columns
from weightwell_engine.generators.philox.specification.draws import Draw, carrier_of, settle
from weightwell_engine.generators.philox.specification.formats import UNSIGNED, encode, pattern
from weightwell_engine.generators.philox.specification.keys import Key, Stream, derive_key
from weightwell_engine.generators.philox.specification.truncation import Narrow, Wide
from weightwell_engine.laws import Constant, Lattice, Law, Normal, Orthogonal, OrthogonalStack, Sparse
from weightwell_engine.regions import Runs

# Words of a sparse matrix's mask that are ranked together, in panels of whole columns.
_PANEL = 1 << 18
# Columns of a panel at most, and locks for the panels.
_WIDEST, _LOCKS = 1 << 12, 64
# Bytes at most for what is zero; of larger matrices only the limits are kept, and the mask's words are drawn again.
_REMEMBERED = 1 << 25
_NO_WORDS = np.empty(0, np.uint32)
_NO_MASK = kernels.Mask(Key(0, 0, 0, 0), 1, _NO_WORDS, _NO_WORDS, np.empty(0, np.uint16), 0, False)


class Prepared(Protocol):
    """A law, ready to be drawn."""

    def fill(self, runs: Runs, out: memoryview) -> None:
        """Write the elements of ``runs``, little-endian, into ``out``: ``runs.size * dtype.itemsize`` bytes."""


def prepare(
    law: Law, dtype: DType, seed: int, name: str, executor: Executor | None = None, *, remember: bool = True
) -> Prepared:
    """Return what draws a law for the tensor ``name``; raise ``InvalidSpec`` for a matrix of too many rows.

    Orthogonal matrices are multiplied out by the threads of ``executor``, none of which may be waiting for this. Of
    sparse ones what is zero is remembered, if they are not too large, unless that is not wanted.
    """
    match law:
        case Constant(value):
            return Constants(dtype, pattern(value, dtype))
        case Lattice():
            return Points(law, dtype, pattern(law.value, dtype))
        case Sparse():
            elements = prepare_elements(settle(Normal(0.0, law.std), dtype), seed, name)
            return Columns(law, elements, derive_key(seed, name, Stream.MASK), remember=remember)
        case Orthogonal() | OrthogonalStack():
            normals = prepare_elements(settle(Normal(0.0, 1.0), carrier_of(dtype)), seed, name, Stream.GAUSSIAN)
            draw = settle(Normal(0.0, law.gain), dtype)
            if isinstance(law, Orthogonal):
                return Orthogonals(law, draw, normals, executor)
            return OrthogonalStacks(law, draw, normals, executor)
        case law:
            return prepare_elements(settle(law, dtype), seed, name)


@dataclass(frozen=True, slots=True)
class Constants:
    """A tensor whose elements all have the same bits."""

    dtype: DType
    bits: int

    def fill(self, runs: Runs, out: memoryview) -> None:
        """Write the elements of ``runs`` into ``out``."""
        np.frombuffer(out, UNSIGNED[self.dtype.itemsize])[: runs.size] = self.bits


@dataclass(frozen=True, slots=True)
class Points:
    """A tensor of zeros, but for the points of a lattice, which all have the same bits."""

    law: Lattice
    dtype: DType
    bits: int

    def fill(self, runs: Runs, out: memoryview) -> None:
        """Write the elements of ``runs`` into ``out``."""
        target = np.frombuffer(out, UNSIGNED[self.dtype.itemsize])
        target[:] = 0
        strides = max(self.law.strides[0], 1), max(self.law.strides[1], 1)
        bits = target.dtype.type(self.bits)
        kernels.fill_lattice(self.law.first, strides, self.law.counts, bits, _run(runs), target)


@dataclass(frozen=True, slots=True)
class Elements:
    """A tensor of independent elements, perhaps with zeros in every column.

    ``law`` is what the kernels of float32 arithmetic take, or those of float64.
    """

    draw: Draw
    law: kernels.Single | kernels.Double
    mask: kernels.Mask = _NO_MASK

    def fill(self, runs: Runs, out: memoryview) -> None:
        """Write the elements of ``runs`` into ``out``."""
        if not runs.size:
            return
        dtype = self.draw.dtype
        target = np.frombuffer(out, UNSIGNED[dtype.itemsize])
        if self.draw.exponent or self.draw.carrier is not carrier_of(dtype):
            values = np.empty(runs.size, self.draw.carrier.name)
            self._fill_carrier(runs, values)
            target[:] = encode(values.astype(carrier_of(dtype).name), dtype, self.draw.exponent)
        elif isinstance(self.law, kernels.Single) and dtype.name != "float32":
            kernels.fill_singles(self.law, self.mask, _run(runs), target_of(dtype), target)
        else:
            self._fill_carrier(runs, target.view(dtype.name))

    def _fill_carrier(self, runs: Runs, values: Any) -> None:
        if isinstance(self.law, kernels.Single):
            kernels.fill_singles(self.law, self.mask, _run(runs), None, values)
        else:
            kernels.fill_doubles(self.law, self.mask, _run(runs), values)


class Columns:
    """A sparse matrix: independent elements, of which the ``zeros`` lowest ranks of each column are zero.

    A column's limit, the word and the row of the last element to be zero, takes the mask's words of all its rows.
    Limits are found when they are first needed, in panels of columns, and kept: 8 bytes for each column. A bit for each
    element, unless they are too many, spares drawing these words once more.
    """

    def __init__(self, law: Sparse, elements: Elements, key: Key, *, remember: bool = True):
        if law.rows > 1 << 32:
            raise InvalidSpec("shape", got=law.rows, expected="at most 2^32 rows where columns are sparse")
        self._law = law
        self._elements = elements
        self._key = key
        self._limits = np.zeros((2, law.cols), np.uint32)
        self._stride = -(-law.cols // RANKED)
        known = self._remembered(law) if remember else 0
        self._width = self._panel(law, known)
        self._zeros = np.empty(known // 2 + 3 if known else 0, np.uint16)
        # From three quarters on, the others cost less one by one, though each takes a block of four words.
        self._mostly = known > 0 and 4 * law.zeros >= 3 * law.rows
        self._known = bytearray(-(-law.cols // self._width))
        self._locks = [Lock() for _ in range(min(len(self._known), _LOCKS))]

    @classmethod
    def nbytes(cls, law: Sparse, threads: int) -> int:
        """Return the bytes that as many threads work in: limits and flags of columns, bits, and panels of words."""
        known = cls._remembered(law)
        panel = 4 * law.rows * min(cls._panel(law, known), law.cols)
        return 9 * law.cols + known + threads * (panel + 2**24)

    @staticmethod
    def _remembered(law: Sparse) -> int:
        """Return the bytes that it takes to know what is zero; 0 if they are too many."""
        nbytes = 2 * law.rows * -(-law.cols // RANKED)
        return nbytes if nbytes <= _REMEMBERED else 0

    @staticmethod
    def _panel(law: Sparse, known: int) -> int:
        """Return how many columns are ranked at once: a multiple of those whose bits, or words, come together."""
        least = RANKED if known else 4
        return min(max(_PANEL // max(law.rows, 1), least), _WIDEST) // least * least

    def fill(self, runs: Runs, out: memoryview) -> None:
        """Write the elements of ``runs`` into ``out``."""
        if not self._law.zeros or not runs.size:
            return self._elements.fill(runs, out)
        for panel in self._panels(runs):
            with self._locks[panel % _LOCKS]:
                if not self._known[panel]:
                    self._rank(slice(panel * self._width, min((panel + 1) * self._width, self._law.cols)))
                    self._known[panel] = True
        words, rows = self._limits
        mask = kernels.Mask(self._key, self._law.cols, words, rows, self._zeros, self._stride, self._mostly)
        return replace(self._elements, mask=mask).fill(runs, out)

    def _panels(self, runs: Runs) -> Iterable[int]:
        """Return the panels that hold the columns of runs."""
        cols, first = self._law.cols, runs.first % self._law.cols
        stop = first + runs.length
        if (runs.stride % cols and runs.count > 1) or runs.length >= cols:
            return range(len(self._known))
        if stop <= cols:
            return range(first // self._width, (stop - 1) // self._width + 1)
        return {*range((stop - cols - 1) // self._width + 1), *range(first // self._width, len(self._known))}

    def _rank(self, columns: slice) -> None:
        """Find the limits of some columns."""
        rows, width = self._law.rows, columns.stop - columns.start
        words = np.empty(rows * width + RANKED, np.uint32)
        run = kernels.Run(columns.start, width, self._law.cols, rows)
        kernels.fill_words(self._key, run, words[: rows * width])
        last_words, last_rows = self._limits[:, columns]
        zeros = self._zeros[columns.start // RANKED :]
        rank_columns(words, width, self._law.zeros, last_words, last_rows, zeros, self._stride)


@lru_cache(1024)  # immutable, and a small file that is drawn again spends most of its time here
def prepare_elements(draw: Draw, seed: int, name: str, stream: Stream = Stream.DATA) -> Elements:
    """Return what draws a law of independent elements."""
    data, low = (derive_key(seed, name, stream) for stream in (stream, Stream.LOW))
    window = draw.window if isinstance(draw.window, Wide) else Wide(0, 0)
    numbers = draw.scale, draw.shift, draw.low, draw.high
    common = int(draw.variate), np.uint64(window.origin), np.uint64(window.width)
    if draw.carrier is DTYPES["float32"]:
        affine = kernels.Affine(*(np.float32(number) for number in numbers))
        return Elements(draw, kernels.Single(*common, affine, data))
    narrow = draw.window if isinstance(draw.window, Narrow) else Narrow(0, 0.0, 0.0, 0)
    strip = kernels.Strip(narrow.side, narrow.start, narrow.span, narrow.exponent)
    return Elements(draw, kernels.Double(*common, strip, kernels.Affine(*numbers), data, low))


def _run(runs: Runs) -> kernels.Run:
    return kernels.Run(runs.first, runs.length, runs.stride, runs.count)
