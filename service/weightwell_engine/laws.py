"""Laws: what the elements of a tensor are, once shape, fans and parameters have been settled.

A scheme ends in a law, and a generator knows laws only. Every index here is the flat row-major index into the *whole*
tensor, so that a law needs no shape beside it, and means the same for every slice of the tensor.
"""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Constant:
    """Every element is ``value``."""

    value: float


@dataclass(frozen=True, slots=True)
class Uniform:
    """Independent draws from U[low, high]."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Normal:
    """Independent draws from N(mean, std^2), std >= 0."""

    mean: float
    std: float


@dataclass(frozen=True, slots=True)
class TruncatedNormal:
    """Independent draws from N(mean, std^2) conditioned on [low, high]; the bounds are absolute, as in torch."""

    mean: float
    std: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Lattice:
    """``value`` at the points of a lattice and zero elsewhere: identity matrices and Dirac kernels.

    The points are ``first + i * strides[0] + j * strides[1]`` for ``0 <= i < counts[0]``, ``0 <= j < counts[1]``. They
    ascend: ``(counts[1] - 1) * strides[1] < strides[0]`` whenever there is more than one ``i``.
    """

    value: float
    first: int
    strides: tuple[int, int]
    counts: tuple[int, int]

    def within(self, start: int, stop: int) -> Iterator[range]:
        """Yield the points in ``[start, stop)``, as few progressions of indices."""
        (outer, inner), (rows, points) = self.strides, self.counts
        span = (points - 1) * inner
        begin = max(0, -((self.first + span - start) // outer))
        for i in range(begin, rows):
            origin = self.first + i * outer
            if origin >= stop:
                return
            j = max(0, -((origin - start) // inner))
            k = min(points, -((origin - stop) // inner))
            if j < k:
                yield range(origin + j * inner, origin + k * inner, inner)


@dataclass(frozen=True, slots=True)
class Sparse:
    """A ``(rows, cols)`` matrix of N(0, std^2) in which ``zeros`` elements of every column, at random, are zero."""

    rows: int
    cols: int
    zeros: int
    std: float


@dataclass(frozen=True, slots=True)
class Orthogonal:
    """``gain`` times a Haar-random ``(rows, cols)`` matrix with orthonormal rows or columns, whichever are fewer.

    Element ``(r, c)`` of the matrix is element ``(r * cols + c) * taps + centre`` of the tensor, and the others are
    zero: ``taps`` is 1 for a plain matrix, and the size of the receptive field for a delta-orthogonal kernel.
    """

    rows: int
    cols: int
    gain: float
    taps: int = 1
    centre: int = 0


Law = Constant | Uniform | Normal | TruncatedNormal | Lattice | Sparse | Orthogonal
