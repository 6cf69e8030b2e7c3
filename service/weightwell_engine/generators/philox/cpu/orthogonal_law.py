"""An orthogonal matrix as a law. The whole matrix is computed at its first use, and parts are copied from it."""

from concurrent.futures import Executor
from math import gcd
from threading import Lock
from typing import Protocol

import numpy as np

from weightwell_engine.generators.philox.cpu import narrow
from weightwell_engine.generators.philox.cpu.orthogonal import Reflectors
from weightwell_engine.generators.philox.specification.draws import Draw, carrier_of
from weightwell_engine.generators.philox.specification.formats import UNSIGNED, Patterns, encode
from weightwell_engine.generators.philox.specification.orthogonal import Matrix
from weightwell_engine.laws import Orthogonal
from weightwell_engine.regions import Part, Runs, indices


class Source(Protocol):
    """Draws the standard normals of the reflectors."""

    @property
    def kernels(self) -> tuple[str, ...]:
        """Names of the kernels that draw them."""

    def fill(self, runs: Runs, out: memoryview) -> None:
        """Write the elements of ``runs`` into ``out``."""


class Orthogonals:
    """An orthogonal matrix, optionally at the centre of a convolution kernel.

    Its elements are scaled and rounded like draws from N(0, gain^2): ``draw`` is that law, and the elements are its
    variates. The ``normals`` of the reflectors are in float64 for float64, and else in float32.
    """

    def __init__(self, law: Orthogonal, draw: Draw, normals: Source, executor: Executor | None):
        self._law = law
        self._draw = draw
        self._dtype = draw.dtype
        self._carrier = np.dtype(carrier_of(draw.dtype).name)
        self._normals = normals
        self._executor = executor
        self._lock = Lock()
        self._patterns: Patterns | None = None

    @property
    def kernels(self) -> tuple[str, ...]:
        """Names of the kernels that draw it."""
        return (*self._normals.kernels, f"orthogonal {self._dtype.name}")

    def fill(self, part: Part, out: memoryview) -> None:
        """Write the elements of ``part`` into ``out``."""
        if not part.size:
            return
        with self._lock:
            if self._patterns is None:
                self._patterns = self._encode(self._matrix().reshape(-1))
        if isinstance(part, Runs):
            self._fill_runs(part, out, self._patterns)
            return
        place, tap = np.divmod(indices(part), self._law.taps)
        target: Patterns = np.frombuffer(out, UNSIGNED[self._dtype.itemsize])
        target[:] = np.where(tap == self._law.centre, self._patterns[place], 0)

    def _fill_runs(self, runs: Runs, out: memoryview, patterns: Patterns) -> None:
        target = np.frombuffer(out, UNSIGNED[self._dtype.itemsize]).reshape(runs.count, runs.length)
        if self._law.taps == 1:
            strides = runs.stride * self._dtype.itemsize, self._dtype.itemsize
            target[...] = np.lib.stride_tricks.as_strided(patterns[runs.first :], target.shape, strides)
            return
        target[...] = 0
        if runs.length < runs.count:
            for column, line in enumerate(target.T):
                self._fill_centres(runs.first + column, runs.stride, line, patterns)
        else:
            for row, line in enumerate(target):
                self._fill_centres(runs.first + row * runs.stride, 1, line, patterns)

    def _fill_centres(self, first: int, stride: int, line: Patterns, patterns: Patterns) -> None:
        """Write those of the elements ``first, first + stride, ...`` that are at the centre of a kernel.

        Their distance is constant: they are the solutions of ``first + j * stride = centre`` modulo ``taps``.
        """
        taps, missing = self._law.taps, self._law.centre - first
        shared = gcd(stride, taps)
        if missing % shared == 0:
            period = taps // shared
            skipped = missing // shared * pow(stride // shared, -1, period) % period
            centres = line[skipped::period]
            begin = (first + skipped * stride) // taps
            centres[:] = patterns[begin :: stride // shared][: len(centres)]

    def _encode(self, elements: Matrix) -> Patterns:
        """Return the bits of elements (n), rounded to the dtype."""
        if self._draw.exponent:
            return encode(elements, self._dtype, self._draw.exponent)
        if self._dtype is self._draw.carrier:
            return elements.view(UNSIGNED[self._dtype.itemsize])
        return narrow.encode(elements, self._dtype)

    def _matrix(self) -> Matrix:
        """Return the elements of the (rows, cols) matrix, times its gain, in the dtype of the arithmetic."""
        rows, cols = self._law.rows, self._law.cols
        matrix: Matrix = np.empty((rows, cols), self._carrier)
        tall = matrix if rows >= cols else matrix.T
        reflectors = Reflectors.of(self._columns, tall.shape, self._carrier, self._executor)
        reflectors.multiply_out(tall, gain=self._draw.scale, executor=self._executor)
        matrix += self._carrier.type(self._draw.shift)  # zero, which changes -0 to 0
        # By rounding, an element may exceed 1. With the largest gain, the product would exceed the range of the dtype.
        return np.clip(matrix, self._draw.low, self._draw.high, out=matrix)

    def _columns(self, start: int, stop: int) -> Matrix:
        """Return rows ``start ...`` of columns ``start ... stop - 1`` of the tall matrix of normals.

        The normals are numbered like the elements of the matrix, row by row. A wide matrix uses the transpose.
        """
        rows, cols = self._law.rows, self._law.cols
        tall = rows >= cols
        length, count = (stop - start, rows - start) if tall else (cols - start, stop - start)
        normals = np.empty((count, length), self._carrier)
        self._normals.fill(Runs(start * cols + start, length, cols, count), normals.data.cast("B"))
        return normals if tall else normals.T
