"""Orthogonal matrices as a law to be drawn: multiplied out whole when they are first needed, then copied from."""

from concurrent.futures import Executor
from threading import Lock
from typing import Protocol

import numpy as np

from weightwell_service.dtypes import DType
from weightwell_service.generators.philox.formats import UNSIGNED, Patterns, encode
from weightwell_service.generators.philox.orthogonal import Reflectors
from weightwell_service.generators.philox.orthogonal_kernels import Matrix
from weightwell_service.laws import Orthogonal
from weightwell_service.regions import Runs


class Source(Protocol):
    """Draws the standard normals of the reflectors."""

    def fill(self, runs: Runs, out: memoryview) -> None:
        """Write the elements of ``runs`` into ``out``."""


class Orthogonals:
    """An orthogonal matrix, perhaps at the centre of a kernel; ``normals`` are in float32, or float64 for float64."""

    def __init__(self, law: Orthogonal, dtype: DType, normals: Source, executor: Executor | None):
        self._law = law
        self._dtype = dtype
        self._carrier = np.dtype("float64" if dtype.name == "float64" else "float32")
        self._normals = normals
        self._executor = executor
        self._lock = Lock()
        self._patterns: Patterns | None = None

    def fill(self, runs: Runs, out: memoryview) -> None:
        """Write the elements of ``runs`` into ``out``."""
        if not runs.size:
            return
        with self._lock:
            if self._patterns is None:
                self._patterns = encode(self._matrix().reshape(-1), self._dtype)
        target = np.frombuffer(out, UNSIGNED[self._dtype.itemsize]).reshape(runs.count, runs.length)
        if self._law.taps == 1:
            strides = runs.stride * self._dtype.itemsize, self._dtype.itemsize
            target[...] = np.lib.stride_tricks.as_strided(self._patterns[runs.first :], target.shape, strides)
            return
        for row, line in enumerate(target):
            self._fill_centres(runs.first + row * runs.stride, line, self._patterns)

    def _fill_centres(self, first: int, line: Patterns, patterns: Patterns) -> None:
        """Write consecutive elements of a kernel, of which the matrix is at the centres and zero elsewhere."""
        line[:] = 0
        taps = self._law.taps
        skipped = (self._law.centre - first) % taps
        centres = line[skipped::taps]
        begin = (first + skipped) // taps
        centres[:] = patterns[begin : begin + len(centres)]

    def _matrix(self) -> Matrix:
        """Return the (rows, cols) matrix times its gain, in the arithmetic's dtype."""
        rows, cols = self._law.rows, self._law.cols
        matrix: Matrix = np.empty((rows, cols), self._carrier)
        tall = matrix if rows >= cols else matrix.T
        reflectors = Reflectors.of(self._columns, tall.shape, self._carrier, self._executor)
        reflectors.multiply_out(tall, gain=self._law.gain, executor=self._executor)
        # Rounding may carry an element of modulus 1 beyond the gain, and a gain may be the largest of its dtype.
        return np.clip(matrix, -self._dtype.max, self._dtype.max, out=matrix)

    def _columns(self, start: int, stop: int) -> Matrix:
        """Return rows ``start ...`` of columns ``start ... stop - 1`` of the tall matrix of normals.

        The normals are numbered as the elements of the matrix are, row by row, whichever way round it is.
        """
        rows, cols = self._law.rows, self._law.cols
        tall = rows >= cols
        length, count = (stop - start, rows - start) if tall else (cols - start, stop - start)
        normals = np.empty((count, length), self._carrier)
        self._normals.fill(Runs(start * cols + start, length, cols, count), normals.data.cast("B"))
        return normals if tall else normals.T
