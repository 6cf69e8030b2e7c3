"""Haar-random orthogonal matrices with the same bits on every machine (docs/orthogonal.md).

Take independent normal vectors, each one element shorter than the last. The product of their Householder reflectors is
Haar-distributed: G. W. Stewart, "The efficient generation of random orthogonal matrices with an application to
condition estimators" (SIAM Journal on Numerical Analysis 17, 1980). So no factorization is needed: the normals *are*
the reflectors, and only their product is computed. This takes half of the operations of a QR decomposition that forms
Q. Every operation is an addition, multiplication, division or square root of IEEE 754. Their order does not depend on
the machine, its vector width or its threads.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from weightwell_engine.generators.philox.cpu.orthogonal_kernels import LINE, TILE, multiply_out, prepare_block
from weightwell_engine.generators.philox.specification.orthogonal import BLOCK, Matrix

Normals = Callable[[int, int], Matrix]
"""``normals(start, stop)`` are rows ``start ...`` of columns ``start ... stop - 1`` of a matrix of standard normals."""


def haar(gaussian: Matrix, *, gain: float = 1.0, executor: Executor | None = None) -> Matrix:
    """Return ``gain`` times a Haar-random matrix with orthonormal rows or columns, whichever are fewer.

    ``gaussian`` (rows, cols) holds independent standard normals. Those above the diagonal (below it if cols > rows) are
    not used. All arithmetic is in its dtype, float32 or float64. ``gain`` is rounded to that dtype, and each element is
    multiplied by it once. The threads of ``executor`` do the work. The caller must not be one of them, or it would wait
    for itself. The result does not depend on the number of threads.
    """
    matrix = np.empty(gaussian.shape, gaussian.dtype)
    rows, cols = gaussian.shape
    tall, out = (gaussian, matrix) if rows >= cols else (gaussian.T, matrix.T)
    reflectors = Reflectors.of(lambda start, stop: tall[start:, start:stop], tall.shape, tall.dtype, executor)
    reflectors.multiply_out(out, gain=gain, executor=executor)
    return matrix


@dataclass(frozen=True, slots=True)
class Reflectors:
    """The factors of ``Q = H[0] H[1] ... H[cols - 1] D``, a (rows, cols) matrix with rows >= cols.

    Block ``b`` of 64 reflectors is ``I - V T V'`` with V = ``vectors[b]`` (rows, width), which is zero above its
    diagonal, and T = ``factors[b]`` (width, width), upper triangular. D is the first ``cols`` columns of a diagonal
    matrix of ``signs``. Rows and columns beyond those of Q are padding, and zero.
    """

    rows: int
    vectors: Matrix
    factors: Matrix
    signs: Matrix

    @classmethod
    def of(
        cls, normals: Normals, shape: tuple[int, int], dtype: np.dtype[np.floating], executor: Executor | None = None
    ) -> "Reflectors":
        """Return the reflectors of normals. ``normals`` is called once for every block, from any thread."""
        rows, cols = shape
        width = min(BLOCK, _round_up(cols, LINE // dtype.itemsize))
        blocks = -(-cols // BLOCK)
        reflectors = cls(
            rows,
            np.zeros((blocks, _round_up(rows, TILE), width), dtype),
            np.zeros((blocks, width, width), dtype),
            np.zeros(cols, dtype),
        )

        def prepare(block: int) -> None:
            start, stop = reflectors.columns(block)
            x = normals(start, stop)
            v = reflectors.vectors[block, start:]
            v[: rows - start, : stop - start] = x
            v[: stop - start] = np.tril(v[: stop - start], -1)
            prepare_block(v, np.diagonal(x).copy(), reflectors.signs[start:stop], reflectors.factors[block])

        _each(prepare, range(blocks), executor)
        return reflectors

    def columns(self, block: int) -> tuple[int, int]:
        """Return the start and stop column of a block."""
        return block * BLOCK, min((block + 1) * BLOCK, self.signs.size)

    def multiply_out(self, out: Matrix, *, gain: float, executor: Executor | None = None) -> None:
        """Write ``gain`` times Q into ``out`` (rows, cols)."""
        # The last columns take the most work, so they come first.
        _each(lambda block: self.write_panel(block, out, gain), reversed(range(len(self.vectors))), executor)

    def write_panel(self, block: int, out: Matrix, gain: float) -> None:
        """Write the columns of one block into ``out`` (rows, cols). The cost does not depend on other blocks."""
        start, stop = self.columns(block)
        _, rows, width = self.vectors.shape
        lanes = LINE // out.itemsize
        panel = np.zeros((width // lanes, rows, lanes), out.dtype)
        multiply_out(self.vectors, self.factors, self.signs, block, panel)
        with np.errstate(over="ignore"):
            panel *= out.dtype.type(gain)
        for strip, first in zip(panel, range(start, stop, lanes), strict=False):
            target = out[:, first : min(first + lanes, stop)]
            target[...] = strip[: self.rows, : target.shape[1]]


def nbytes(rows: int, cols: int, itemsize: int, threads: int) -> int:
    """Return the peak bytes of the reflectors and their product, for a number of threads."""
    long, short = _round_up(max(rows, cols), TILE), min(rows, cols)
    width = min(BLOCK, _round_up(short, LINE // itemsize))
    vectors = -(-short // BLOCK) * long * width * itemsize
    # A thread has a panel in the dtype of the arithmetic. While it prepares a block, it also has one in float64 and
    # the normals.
    panels = threads * long * width * (2 * itemsize + 8)
    return vectors + panels + rows * cols * itemsize


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _each(task: Callable[[int], None], items: Iterable[int], executor: Executor | None) -> None:
    for _ in executor.map(task, items) if executor else map(task, items):
        pass
